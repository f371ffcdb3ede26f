"""Publishing: one commit with all that belongs to a model and nothing else, or a line that says why not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.folders import MANIFEST, manifest_bytes
from idiff_hf.publishing import collect
from tests.faults.figures import Figure
from tests.hub.conftest import ROOT, Client, environment
from tests.hub.loopback import TOKEN, Fault, Hub, Repo
from tests.tiny import tiny_config

PUBLISHED = {
    "MANIFEST.json",
    "README.md",
    "conditioning/config.json",
    "conditioning/diffusion_pytorch_model.safetensors",
    "config.yaml",
    "figures/latents.png",
    "figures/reconstructions.png",
    "figures/scatter.png",
    "figures/traversal_ddpm.png",
    "figures/traversal_ivae.png",
    "ivae/config.json",
    "ivae/diffusion_pytorch_model.safetensors",
    "model_index.json",
    "results.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


DRAW = """
import torch
from idiff_hf import IVAEDiffusionPipeline
pipe = IVAEDiffusionPipeline.from_pretrained({name!r})
pipe.set_progress_bar_config(disable=True)
images = pipe(latents=torch.zeros(1, 6), num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
print("drawn", images.double().sum().item())
"""


def drawn(output: str) -> str:
    found = re.search(r"^drawn .*$", output, re.MULTILINE)
    assert found is not None, output
    return found[0]


def test_a_run_is_published_loaded_by_name_sampled_and_loaded_offline(
    hub: Hub, client: Client, run: Path
) -> None:
    before = contents(run)
    code, output = client.idiff("publish", run, "--repo", "user/model")
    assert code == 0, output
    assert contents(run) == before
    repo = hub.repos["user/model"]
    assert repo.messages == ["initial commit", "Upload a model of idiff_hf"]
    assert output.splitlines()[-1] == f"{hub.endpoint}/user/model/commit/{repo.branches['main']}"
    files = repo.files()
    assert files.keys() == PUBLISHED | {".gitattributes"}
    assert all(
        files[name] == before.get(name, before.get(f"pipeline/{name}"))
        for name in PUBLISHED - {"README.md", MANIFEST}
    )
    # the manifest is of all that was sent but the card
    sent = {name: files[name] for name in PUBLISHED - {"README.md", MANIFEST}}
    assert files[MANIFEST] == manifest_bytes(sent, {"step": 8})

    local = drawn(client(DRAW.format(name=str(run / "pipeline")))[1])
    hub.log.clear()
    assert drawn(client(DRAW.format(name="user/model"))[1]) == local
    assert set(hub.fetched()) == {
        name for name in PUBLISHED if "/" in name or name in ("model_index.json", MANIFEST, "config.yaml")
    } - {name for name in PUBLISHED if name.startswith("figures/")}
    hub.log.clear()
    code, output = client(DRAW.format(name="user/model"), HF_HUB_OFFLINE="1")
    assert (code, drawn(output), hub.log) == (0, local, [])


def test_weights_are_sent_by_lfs_and_only_once(hub: Hub, client: Client, run: Path) -> None:
    weights = {name for name in PUBLISHED if name.endswith(".safetensors")}
    assert client.idiff("publish", run, "--repo", "user/model")[0] == 0
    assert len([line for line in hub.log if line.startswith("PUT /objects/")]) == len(weights)
    files = hub.repos["user/model"].files()
    assert set(hub.objects.values()) == {files[name] for name in weights}
    hub.log.clear()
    assert client.idiff("publish", run, "--repo", "user/other")[0] == 0
    assert "POST /user/other.git/info/lfs/objects/batch" in hub.log
    assert not any(line.startswith("PUT ") for line in hub.log)
    assert hub.repos["user/other"].files().keys() == files.keys()


def test_a_space_is_published_beside_its_model(hub: Hub, client: Client, run: Path) -> None:
    arguments = ("publish", run, "--repo", "user/model", "--space", "user/show", "--private")
    code, output = client.idiff(*arguments, "--dry_run", "--json", HF_TOKEN="")
    listed = json.loads(output)
    assert code == 0 and hub.log == []
    code, output = client.idiff(*arguments, "--no_data", "--json")
    assert code == 0, output
    space = hub.repos["spaces/user/show"]
    of_space = {"app.py", "requirements.txt", "README.md"}
    assert listed.keys() == PUBLISHED | {f"user/show: {name}" for name in of_space}
    assert json.loads(output[output.index("{") :]) == {
        "model": f"{hub.endpoint}/user/model/commit/{hub.repos['user/model'].branches['main']}",
        "space": f"{hub.endpoint}/spaces/user/show/commit/{space.branches['main']}",
    }
    assert space.private and hub.repos["user/model"].private
    assert space.messages == ["initial commit", "Show user/model in the latent explorer"]
    files = space.files()
    assert files.keys() == of_space | {".gitattributes"}
    assert files["app.py"].decode().endswith('\nserve_space("user/model", data=False)\n')
    header = files["README.md"].decode().split("---\n")[1]
    assert "sdk: gradio\n" in header and "- user/model\n" in header
    # what its owner added stays, and a model's own repository of that name is another thing
    space.add({**files, "config.yaml": b"mine"}, "by hand")
    assert client.idiff(*arguments)[0] == 0
    assert space.files().keys() == {*files, "config.yaml"} and "user/show" not in hub.repos


def test_a_space_that_is_refused_says_where_the_model_is(hub: Hub, client: Client, run: Path) -> None:
    publish = ("publish", run, "--repo", "user/model")
    for flags, message in (
        (["--no_data"], "--no_data and --requirement are of a Space: give --space USER/NAME too"),
        (["--space", "show"], "a repository is named user/name, got 'show'"),
        (
            ["--space", "user/show", "--requirement", ""],
            "the requirement must be one line of a requirements.txt, got ''",
        ),
        (
            ["--space", "user/show", "--revision", "x"],
            "a Space shows the main branch: leave out --revision and --create_pr, or --space",
        ),
    ):
        assert client.idiff(*publish, *flags) == (2, f"error: {message}\n")
    assert hub.log == []
    hub.faults.append(Fault("POST /api/spaces/.*/commit/", 403))
    code, output = client.idiff(*publish, "--space", "user/show")
    commit = hub.repos["user/model"].branches["main"]
    assert code == 2 and output.splitlines()[-1].endswith(
        f"or the repository asks for its terms to be accepted on its page (the model is at {hub.endpoint}/user/model/commit/{commit})"
    )
    assert hub.repos["spaces/user/show"].messages == ["initial commit"]


def test_the_published_card_shows_its_figures_and_its_snippet_runs_as_printed(
    hub: Hub, client: Client, run: Path
) -> None:
    assert client.idiff("publish", run, "--repo", "user/model")[0] == 0
    files = hub.repos["user/model"].files()
    card = files["README.md"].decode()
    figures = set(re.findall(r"\]\(([^)]+\.png)\)", card))
    assert len(figures) == 5 and figures <= files.keys()
    assert "In this folder" not in card
    assert "`DiffusionPipeline.from_pretrained` of diffusers does not know this class" in card
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert snippet is not None and 'from_pretrained("user/model")' in snippet[1]
    code, output = client(snippet[1] + "print(images[0].size, latents.shape)")
    assert code == 0 and "(16, 16) torch.Size([1, 6])" in output, output


def test_the_list_of_a_dry_run_is_what_is_sent_and_asks_nobody(hub: Hub, client: Client, run: Path) -> None:
    code, output = client.idiff("publish", run, "--repo", "user/model", "--dry_run", HF_TOKEN="")
    assert code == 0, output
    listed = dict(reversed(line.split()) for line in output.splitlines())  # type: ignore[misc]
    assert listed.keys() == PUBLISHED
    assert int(listed["results.json"].replace(",", "")) == (run / "results.json").stat().st_size
    code, output = client.idiff("publish", run, "--repo", "bad", "--dry_run", HF_TOKEN="")
    assert (code, output) == (2, "error: a repository is named user/name, got 'bad'\n")
    assert hub.log == [] and hub.repos == {}


def test_a_branch_a_pull_request_and_a_private_repository(hub: Hub, client: Client, run: Path) -> None:
    assert client.idiff("publish", run, "--repo", "user/model", "--private")[0] == 0
    repo = hub.repos["user/model"]
    assert repo.private
    main = repo.branches["main"]
    (run / "figures" / "latents.png").write_bytes(b"another")
    assert client.idiff("publish", run, "--repo", "user/model", "--revision", "seed-1")[0] == 0
    assert repo.branches["main"] == main
    on_branch = repo.files("seed-1")
    assert on_branch["figures/latents.png"] == b"another"
    assert b'from_pretrained("user/model", revision="seed-1")' in on_branch["README.md"]
    code, output = client.idiff("publish", run, "--repo", "user/model", "--create_pr")
    assert code == 0 and output.splitlines()[-1] == f"{hub.endpoint}/user/model/discussions/1"
    assert repo.branches["main"] == main and repo.files(repo.pull_request).keys() == on_branch.keys()


def test_a_pipeline_alone_says_that_nothing_was_measured_and_takes_an_earlier_model_out(
    hub: Hub, client: Client, run: Path
) -> None:
    assert client.idiff("publish", run, "--repo", "user/model")[0] == 0
    repo = hub.repos["user/model"]
    repo.add({**repo.files(), "notes.md": b"by hand", "vae/config.json": b"{}"}, "by hand")
    source = f"""
from idiff_hf import IVAEDiffusionPipeline
pipe = IVAEDiffusionPipeline.from_pretrained({str(run / "pipeline")!r})
print(pipe.push_to_hub("user/model"), pipe.push_to_hub("user/model", subfolder="second"))
"""
    code, output = client(source)
    assert code == 0, output
    *_, alone, both = repo.commits.values()
    figures = {name for name in PUBLISHED if name.startswith("figures/")}
    kept = PUBLISHED - figures - {"results.json", "config.yaml"}
    assert alone.keys() == kept | {".gitattributes", "notes.md"}
    assert both.keys() == alone.keys() | {f"second/{name}" for name in kept - {"README.md"}}
    card = alone["README.md"].decode()
    assert "It was saved without measurements" in card and "library_name: diffusers" in card
    assert str(run).encode() not in b"".join(both.values())
    found = [drawn(client(DRAW.format(name="user/model").replace("'user/model'", f"'user/model'{more}"))[1])
             for more in ("", ", subfolder='second'")]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: (run / "figures" / "latents.png").unlink(),
            r"the card shows figures/latents.png, which is not in",
        ),
        (lambda run: (run / "results.json").write_text("{"), r"results.json is no JSON"),
        (
            lambda run: (run / "results.json").write_text(
                (run / "results.json").read_text().replace('"steps": 8,', '"steps": 9,')
            ),
            r"results.json is of a model of 9 steps, .*pipeline has 8: evaluate the run again",
        ),
        (
            lambda run: (run / "pipeline" / "config.yaml").write_text("train: {}"),
            r"'config.yaml' was altered",
        ),
        (
            lambda run: (
                (run / "figures" / "latents.png").unlink(),
                (run / "figures" / "latents.png").symlink_to("/etc/hostname"),
            ),
            r"'figures/latents.png' is a link that leads elsewhere",
        ),
        (
            lambda run: (run / "pipeline" / "model_index.json").unlink(),
            r"holds no saved pipeline: there is no model_index.json in it, nor",
        ),
    ],
    ids=["figure", "no JSON", "other results", "altered", "link", "no pipeline"],
)
def test_what_is_not_whole_or_not_of_this_model_is_not_sent(
    run: Path, change: Callable[[Path], object], message: str
) -> None:
    change(run)
    with pytest.raises(ValueError, match=message):
        collect(run, "user/model")


def test_a_refused_argument_is_one_line(hub: Hub, client: Client, run: Path) -> None:
    for arguments, env, message in (
        (["--repo", "model"], {}, "error: a repository is named user/name, got 'model'"),
        (["--repo", "user/model"], {"HF_TOKEN": ""}, "error: no access token of the Hub: log in by"),
        (
            ["--repo", "user/model", "--create_pr", "--revision", "x"],
            {},
            "error: a pull request is made against the main branch: leave out revision=x",
        ),
        (
            ["--repo", "user/model", f"--token={TOKEN}"],
            {},
            "error: unknown argument '--token': see idiff --help",
        ),
    ):
        code, output = client.idiff("publish", run, *arguments, **env)
        assert code == 2 and output.startswith(message) and len(output.splitlines()) == 1, output
    assert hub.log == []


ERRORS = {
    "401": (Fault("POST /api/repos/create", 401), "HTTP 401: log in by `hf auth login` or set HF_TOKEN"),
    "403": (Fault("POST /api/repos/create", 403), "HTTP 403: the access token has no right to do this"),
    "404": (Fault("POST .*/commit/", 404), "HTTP 404: no such repository or revision"),
    "429": (Fault("POST .*/commit/", 429), "HTTP 429: too many requests: wait, and try again"),
    "LFS": (Fault("PUT /objects/", 403), "HTTP 403: the access token has no right to do this"),
    "500": (Fault("POST .*/commit/", 500), "HTTP 500: the Hub has a problem: try again later"),
    "dropped": (Fault("POST .*/commit/", "drop"), "Server disconnected without sending a response"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", ERRORS)
def test_a_hub_that_refuses_has_no_half_commit_and_the_folder_is_as_it_was(
    hub: Hub, client: Client, run: Path, name: str, figure: Figure
) -> None:
    fault, message = ERRORS[name]
    hub.faults.append(fault)
    before = contents(run)
    code, output = client.idiff("publish", run, "--repo", "user/model")
    last = output.splitlines()[-1]
    assert code == 2 and last.startswith("error: cannot publish to user/model: ") and message in last, output
    assert "Traceback" not in output
    assert contents(run) == before
    assert all(repo.messages == ["initial commit"] for repo in hub.repos.values())
    hub.faults.clear()
    assert client.idiff("publish", run, "--repo", "user/model")[0] == 0
    assert hub.repos["user/model"].messages == ["initial commit", "Upload a model of idiff_hf"]
    figure(
        "F23",
        "publishing refused in one line, no half commit, the folder as it was, sent whole the next time",
    )


@pytest.mark.faults
def test_a_publishing_hub_that_stumbles_is_asked_again(
    hub: Hub, client: Client, run: Path, figure: Figure
) -> None:
    hub.faults.append(Fault("POST .*/preupload/", 503, times=1, headers={"Retry-After": "0"}))
    code, output = client.idiff("publish", run, "--repo", "user/model")
    assert code == 0, output
    assert hub.repos["user/model"].messages == ["initial commit", "Upload a model of idiff_hf"]
    figure("F23", "one 503 while publishing: asked again, one commit")


def test_no_network_is_one_line(client: Client, run: Path) -> None:
    code, output = client.idiff("publish", run, "--repo", "user/model", HF_HUB_OFFLINE="1")
    assert code == 2 and len(output.splitlines()) == 1
    assert "cannot publish to user/model: Cannot reach" in output and "offline mode is enabled" in output


@pytest.mark.faults
def test_a_token_is_in_no_file_and_no_output(
    hub: Hub, client: Client, run: Path, repo: Callable[..., Repo], figure: Figure
) -> None:
    outputs = [client.idiff("publish", run, "--repo", "user/model")[1]]
    hub.repos["user/model"].private = True
    outputs.append(client(DRAW.format(name="user/model"))[1])
    drawn(outputs[-1])
    # in the environment and given, right and wrong, refused and crashed
    for given in (TOKEN, TOKEN + "x", TOKEN + "\n"):
        outputs.append(
            client(
                f"from idiff_hf import IVAEDiffusionPipeline\nIVAEDiffusionPipeline.from_pretrained('user/other', token={given!r})"
            )[1]
        )
        assert "ValueError: user/other is no folder here, and cannot be loaded from the Hub: " in outputs[-1]
    hub.faults.append(Fault("POST .*/commit/", 500))
    outputs.append(client.idiff("publish", run, "--repo", "user/model", HF_TOKEN=TOKEN)[1])
    hub.faults.clear()
    # a config that holds one, say in a path, is not sent
    named = (run / "results.json").read_text(encoding="utf-8").replace("EPYC", f"EPYC {TOKEN}")
    (run / "results.json").write_text(named, encoding="utf-8")
    commits = len(hub.repos["user/model"].commits)
    code, output = client.idiff("publish", run, "--repo", "user/model")
    assert code == 2 and re.search(
        r"error: (README.md|results.json) holds an access token of the Hub and was not sent", output
    )
    assert len(hub.repos["user/model"].commits) == commits
    (run / "results.json").write_text(named.replace(f" {TOKEN}", ""), encoding="utf-8")
    outputs.append(output)
    assert not any(TOKEN in text for text in outputs)
    written = [p for p in client.folder.rglob("*") if p.is_file() and p.name != "output.txt"]
    sent = [data for r in hub.repos.values() for files in r.commits.values() for data in files.values()]
    assert len(written) > 30 and not any(
        TOKEN.encode() in data for data in (*(p.read_bytes() for p in written), *sent)
    )
    figure(
        "F25",
        f"a token in the environment and arguments: 0 times in {len(outputs)} outputs, {len(written)} files here, {len(sent)} on the Hub",
    )


TRAIN = """
import sys
sys.argv = ["train_ivae_ddpm.py"]
from train_ivae_ddpm import main
sys.exit(main(["--config", "tiny.yaml", "--hub.push_to_hub", "true", "--hub.hub_model_id", "user/trained"]))
"""


def test_a_run_that_cannot_be_published_is_refused_before_it_begins(hub: Hub, client: Client) -> None:
    (client.folder / "tiny.yaml").write_text(config_to_yaml(tiny_config("trained")), encoding="utf-8")
    code, output = client(TRAIN, HF_TOKEN="")
    assert (code, output) == (
        2,
        "error: no access token of the Hub: log in by `hf auth login`, or set HF_TOKEN\n",
    )
    hub.faults.append(Fault("POST /api/repos/create", 403))
    code, output = client(TRAIN)
    assert code == 2 and output.startswith("error: cannot publish to user/trained: HTTP 403: "), output
    assert not (client.folder / "trained").exists()


@pytest.mark.slow
def test_training_publishes_at_its_end_and_the_name_can_be_evaluated(hub: Hub, client: Client) -> None:
    (client.folder / "tiny.yaml").write_text(config_to_yaml(tiny_config("trained")), encoding="utf-8")
    hub.faults.append(Fault("POST .*/commit/", 500, times=1))
    code, output = client(TRAIN)
    assert code == 2 and output.splitlines()[-1].endswith(
        "(the run is complete; `idiff publish trained --repo user/trained` sends it)"
    )
    assert client.idiff("publish", "trained", "--repo", "user/trained")[0] == 0
    repo = hub.repos["user/trained"]
    assert repo.messages == ["initial commit", "Upload a model of idiff_hf"]
    assert repo.files().keys() == PUBLISHED | {".gitattributes"}
    assert json.loads(repo.files()["results.json"])["config"]["hub"]["hub_model_id"] == "user/trained"

    code, output = client.idiff("evaluate", "user/trained", "--num_samples", 64, "--metrics", "mig")
    assert code == 0 and "posterior means" in output, output
    scored = json.loads((client.folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
    assert scored["pipeline"] == f"user/trained@{repo.branches['main']}"
    code, output = client.idiff("sensitivity", "user/trained", "--num_images", 2, "--num_times", 2)
    assert code == 0 and (client.folder / "sensitivity" / "jacobian.png").is_file(), output


@pytest.mark.slow
def test_a_process_of_its_own_publishes_and_loads_offline(hub: Hub, run: Path, tmp_path: Path) -> None:
    """The same as the first test, with nothing warm and nothing set but the environment."""
    env = {**environment(hub, tmp_path / "home"), "HF_TOKEN": TOKEN}

    def python(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env={**env, **more}, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-m", "idiff_hf.cli", "publish", str(run), "--repo", "user/model")
    online = drawn(python("-c", DRAW.format(name="user/model")))
    hub.log.clear()
    assert drawn(python("-c", DRAW.format(name="user/model"), HF_HUB_OFFLINE="1")) == online
    assert hub.log == [] and ROOT.is_dir()
