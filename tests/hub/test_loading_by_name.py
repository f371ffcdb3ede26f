"""`from_pretrained("user/model")`: what is fetched, what never is, and one line where that fails."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from idiff_hf.folders import MANIFEST
from tests.faults.figures import Figure
from tests.hub.conftest import Client
from tests.hub.loopback import Fault, Hub, Repo
from tests.hub.test_hub_folder import Bomb
from tests.hub.test_publishing import DRAW, PUBLISHED, drawn

Put = Callable[..., Repo]
LOAD = "from idiff_hf import IVAEDiffusionPipeline\npipe = IVAEDiffusionPipeline.from_pretrained('user/model'{})\nprint('loaded')"
READ = {
    name
    for name in PUBLISHED
    if not name.startswith("figures/") and name not in ("README.md", "results.json")
}
REFUSED = "ValueError: user/model is no folder here, and cannot be loaded from the Hub: "


def load(client: Client, arguments: str = "", **env: str) -> tuple[int, str]:
    """Exit code, and the last line."""
    code, output = client(LOAD.format(arguments and f", {arguments}"), **env)
    return code, output.splitlines()[-1]


def test_a_local_folder_of_that_name_wins(hub: Hub, client: Client, saved: Path, repo: Put) -> None:
    repo()
    shutil.copytree(saved, client.folder / "user" / "model")
    assert load(client) == (0, "loaded")
    assert hub.log == []


def test_revision_subfolder_variant_and_cache(hub: Hub, client: Client, saved: Path, tmp_path: Path) -> None:
    source = f"""
import torch
from idiff_hf import IVAEDiffusionPipeline
pipe = IVAEDiffusionPipeline.from_pretrained({str(saved)!r})
pipe.save_pretrained("both")
pipe.to(torch.float16).save_pretrained("both", variant="fp16")
"""
    code, output = client(source)
    assert code == 0, output
    assert client.idiff("publish", "both", "--repo", "user/model", "--revision", "two")[0] == 0
    repo = hub.repos["user/model"]
    both = repo.files("two")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in both
    half = "revision='two', variant='fp16', torch_dtype=__import__('torch').float16"
    # the manifest names the other weights, too, which are not fetched
    assert load(client, half) == (0, "loaded")
    weights = {name for name in hub.fetched() if name.endswith(".safetensors")}
    assert len(weights) == 3 and all(".fp16." in name for name in weights)
    assert load(client, half, HF_HUB_OFFLINE="1") == (0, "loaded")
    code, line = load(client, "revision='two'", HF_HUB_OFFLINE="1")
    assert code == 1 and line.startswith(REFUSED) and "is incomplete: 3 file(s) are missing" in line

    repo.add({f"a/b/{name}": data for name, data in both.items()} | {"model_index.json": b"{}"}, "deeper")
    place = "subfolder='a/b', cache_dir='elsewhere'"
    assert load(client, place) == (0, "loaded")
    assert load(client, f"{place}, local_files_only=True") == (0, "loaded")
    assert any((tmp_path / "elsewhere").glob("models--user--model/snapshots/*/a/b/model_index.json"))
    code, line = load(client)
    assert code == 1 and line.endswith("model_index.json must name _class_name 'IVAEDiffusionPipeline'")
    code, line = load(client, "subfolder='c'")
    assert line == "ValueError: user/model/c on the Hub holds no pipeline: there is no model_index.json in it"
    code, line = load(client, "revision='three'")
    assert line == REFUSED + "HTTP 404: no such repository or revision: see that the name is right"


def test_a_variant_is_pushed_loaded_and_never_takes_other_weights_out(
    hub: Hub, client: Client, saved: Path
) -> None:
    push = f"""
import torch
from idiff_hf import IVAEDiffusionPipeline
pipe = IVAEDiffusionPipeline.from_pretrained({str(saved)!r})
pipe.to(torch.float16).push_to_hub("user/model", variant="fp16")
"""
    code, output = client(push)
    assert code == 0, output
    files = hub.repos["user/model"].files()
    weights = {name for name in files if name.endswith(".safetensors")}
    assert len(weights) == 3 and all(name.endswith(".fp16.safetensors") for name in weights)
    assert b'from_pretrained("user/model", variant="fp16")' in files["README.md"]
    assert load(client, "variant='fp16', torch_dtype=__import__('torch').float16") == (0, "loaded")
    code, line = load(client, "cache_dir='anew'")
    assert code == 1 and "diffusion_pytorch_model" in line
    # again is fine, and so is the whole pipeline in its place; but not beside it
    assert client(push)[0] == 0
    assert client(push.replace(', variant="fp16"', ""))[0] == 0
    assert not any("fp16" in name for name in hub.repos["user/model"].files())
    code, output = client(push)
    assert code == 1 and output.splitlines()[-1] == (
        "ValueError: cannot publish to user/model: it holds other weights, conditioning/diffusion_pytorch_model.safetensors, which would "
        "be taken out: save all variants into one folder, and publish that by `idiff publish`"
    )


def test_one_model_of_a_pipeline_by_its_name(hub: Hub, client: Client, repo: Put, saved: Path) -> None:
    """Its configuration and safetensors are fetched, and nothing else, whatever lies beside them."""
    canary = client.folder / "canary"
    code = f"open({str(canary)!r}, 'w')\n".encode()
    repo(
        **{
            "ivae/diffusion_pytorch_model.bin": pickle.dumps(Bomb(canary)),
            "ivae/pytorch_model.bin": pickle.dumps(Bomb(canary)),
            "ivae/ivae.py": code,
            "ivae/diffusion_pytorch_model.fp16.safetensors": b"0",
            "config.json": b"{}",
        }
    )
    source = f"""
import torch
from idiff_hf import AdditiveConditioning, IVAEModel
for cls, part in ((IVAEModel, "ivae"), (AdditiveConditioning, "conditioning")):
    model = cls.from_pretrained("user/model", subfolder=part, use_safetensors=True)
    local = cls.from_pretrained({str(saved)!r}, subfolder=part)
    print("same:", all(map(torch.equal, model.state_dict().values(), local.state_dict().values())))
"""
    code, output = client(source)
    assert code == 0 and output.count("same: True") == 2, output
    assert sorted(hub.fetched()) == sorted(
        name for name in READ if name.startswith(("ivae/", "conditioning/"))
    )
    hub.log.clear()
    assert client(source, HF_HUB_OFFLINE="1")[1].count("same: True") == 2 and hub.log == []
    assert not canary.exists()
    one = "from idiff_hf import IVAEModel\nIVAEModel.from_pretrained({})"
    for arguments, message in (
        (
            "'user/model', subfolder='unet/deep'",
            "user/model/unet/deep on the Hub holds no model: there is no config.json in it",
        ),
        (
            "'user/other', subfolder='ivae'",
            "user/other is no folder here, and cannot be loaded from the Hub: HTTP 401: log in by",
        ),
        (
            "'user/model', subfolder='ivae', use_safetensors=False",
            "use_safetensors=False is refused: IVAEModel never reads pickles",
        ),
        ("'user/model', subfolder='../ivae'", "subfolder must be letters, digits"),
        ("'nowhere', subfolder='ivae'", "nowhere/ivae/config.json is missing"),
    ):
        code, output = client(one.format(arguments))
        assert code == 1 and output.splitlines()[-1].startswith(f"ValueError: {message}"), output


def test_latents_of_a_model_from_the_hub_have_the_names_that_its_prior_knows(
    client: Client, repo: Put
) -> None:
    repo()
    code, output = client.idiff("sensitivity", "user/model", "--num_images", 2, "--num_times", 2)
    assert code == 0, output
    rows = [line.split()[:2] for line in output.splitlines() if re.match(r"z\d", line)]
    assert rows == [
        [f"z{number}", name]
        for number, name in enumerate(
            ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
        )
    ]


def test_download_gives_the_folder_and_forcing_it_fetches_again(hub: Hub, client: Client, repo: Put) -> None:
    repo()
    source = """
from idiff_hf import IVAEDiffusionPipeline
folder = IVAEDiffusionPipeline.download("user/model")
IVAEDiffusionPipeline.from_pretrained(folder)
print(IVAEDiffusionPipeline.from_pretrained("user/model").config._name_or_path)
"""
    code, output = client(source)
    assert code == 0 and output.splitlines()[-1] == "user/model"
    assert sorted(hub.fetched()) == sorted(READ)
    hub.log.clear()
    assert load(client) == (0, "loaded") and hub.fetched() == []
    assert load(client, "force_download=True") == (0, "loaded")
    assert sorted(hub.fetched()) == sorted(READ)


def test_a_repository_without_a_manifest_loads(hub: Hub, client: Client, repo: Put) -> None:
    files = repo().files()
    hub.repos["user/model"].add({k: v for k, v in files.items() if k != MANIFEST}, "without")
    assert load(client) == (0, "loaded")


def test_what_diffusers_itself_says_of_a_repository_and_of_a_folder(client: Client, repo: Put) -> None:
    """The text is diffusers': without code in the repository there is no other. The card says what to do instead."""
    repo()
    source = """
from diffusers import DiffusionPipeline
from idiff_hf import IVAEDiffusionPipeline
for name in ("user/model", IVAEDiffusionPipeline.download("user/model")):
    try:
        DiffusionPipeline.from_pretrained(name)
    except (AttributeError, ValueError) as error:
        print("said:", error)
"""
    said = [line for line in client(source)[1].splitlines() if line.startswith("said:")]
    assert len(said) == 2
    assert "conditioning/idiff_hf.py as defined in `model_index.json` does not exist in user/model" in said[0]
    assert "IVAEDiffusionPipeline" in said[1]


@pytest.mark.faults
def test_what_else_lies_in_a_repository_is_never_fetched(
    hub: Hub, client: Client, repo: Put, figure: Figure
) -> None:
    canary = client.folder / "canary"
    bomb = pickle.dumps(Bomb(canary))
    code = f"open({str(canary)!r}, 'w')\n".encode()
    planted = {
        "pipeline.py": code,
        "idiff_hf.py": code,
        "conditioning/idiff_hf.py": code,
        "unet/unet.py": code,
        "unet/diffusion_pytorch_model.bin": bomb,
        "ivae/pytorch_model.bin": bomb,
        "training_args.bin": bomb,
        "../outside.json": b"{}",
        "../../model_index.json": b"{}",
        "unet/../../config.json": b"{}",
        "unet/deep/config.json": b"{}",
        "huge.safetensors": b"0",
        "unet/huge.safetensors": b"0",
    }
    repo(**planted)
    hub.sizes |= {name: 10**13 for name in planted if "huge" in name}
    assert load(client) == (0, "loaded")
    assert sorted(hub.fetched()) == sorted(READ)
    asked = [line for line in hub.log if "/resolve/" in line]
    assert not any(name in line for name in planted for line in asked)
    assert not canary.exists()
    # a file that would be read, and is no text of a pipeline
    hub.sizes["model_index.json"] = 10**10
    code, line = load(client, "cache_dir='anew'")
    assert code == 1 and line == REFUSED + (
        "model_index.json has 10,000,000,000 bytes, more than 16,777,216: that is no pipeline"
    )
    assert not (client.folder / "anew").exists()
    figure(
        "F22",
        f"{len(planted)} files planted: none fetched, none run; a text of 10 GB refused before it was fetched",
    )


ERRORS = {
    "401": (Fault("models/user/model", 401), "HTTP 401: log in by `hf auth login` or set HF_TOKEN"),
    "gated": (
        Fault("resolve", 403, headers={"X-Error-Code": "GatedRepo"}),
        "HTTP 403: the access token has no right to do this, or the repository asks for its terms to be accepted",
    ),
    "404": (
        Fault("models/user/model", 404, headers={"X-Error-Code": "RepoNotFound"}),
        "HTTP 404: no such repository or revision: see that the name is right",
    ),
    "429": (Fault("models/user/model", 429), "HTTP 429: too many requests: wait, and try again"),
    "500": (Fault("models/user/model", 500), "HTTP 500: the Hub has a problem: try again later"),
    "stall": (Fault("models/user/model", "stall"), "timed out"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", ERRORS)
def test_a_hub_that_refuses_is_one_line_and_what_is_in_the_cache_still_loads(
    hub: Hub, client: Client, repo: Put, name: str, figure: Figure
) -> None:
    repo()
    fault, message = ERRORS[name]
    hub.faults.append(fault)
    code, line = load(client)
    assert code == 1 and line.startswith(REFUSED + message), line
    hub.faults.clear()
    assert load(client) == (0, "loaded")
    hub.faults.append(fault)
    assert load(client) == (0, "loaded")
    figure(
        "F23", "loading refused in one line; loads afterwards, and from the cache while the Hub still refuses"
    )


@pytest.mark.slow
@pytest.mark.faults
def test_a_hub_that_stumbles_is_asked_again(hub: Hub, client: Client, repo: Put, figure: Figure) -> None:
    weights = "GET .*unet/diffusion_pytorch_model.safetensors"
    again = {"Retry-After": "0"}
    for fault in (
        Fault(weights, "drop", times=1),
        Fault(weights, "stall", times=1),
        Fault(weights, 429, times=1, headers=again),
        Fault("HEAD .*unet/config.json", 503, times=2, headers=again),
        Fault("GET .*/tree/", 500, times=1, headers=again),
    ):
        repo().add(
            {**hub.repos["user/model"].files(), "more": fault.match.encode() + str(fault.answer).encode()},
            f"{fault}",
        )
        hub.faults[:] = [fault]
        code, line = load(client, f"cache_dir={fault.match + str(fault.answer)!r}")
        assert (code, line, fault.times) == (0, "loaded", 0), line
        figure("F23", "dropped in the middle, stalled, 429, 503 or 500 once: asked again, loaded")


@pytest.mark.faults
def test_other_bytes_than_were_published_are_found(
    hub: Hub, client: Client, repo: Put, figure: Figure
) -> None:
    repo()
    cache = client.folder / "cache" / "models--user--model"
    # two files under one name in the cache: the second is served from what the first left there
    hub.faults.append(Fault("(HEAD|GET) .*(unet|ivae)/config.json", "etag"))
    code, line = load(client)
    assert (
        code == 1 and "config.json' was altered" in line and line.endswith(f"remove {cache} to fetch it anew")
    )
    hub.faults.clear()
    shutil.rmtree(cache)
    assert load(client) == (0, "loaded")
    # the repository itself was changed after it was published
    files = dict(hub.repos["user/model"].files())
    files["unet/config.json"] = json.dumps({**json.loads(files["unet/config.json"]), "dropout": 0.5}).encode()
    hub.repos["user/model"].add(files, "by another hand")
    code, line = load(client)
    assert code == 1 and "'unet/config.json' was altered" in line
    figure("F23", "a file under another's ETag, a file changed after publishing: both found")


@pytest.mark.faults
def test_offline(hub: Hub, client: Client, repo: Put, figure: Figure) -> None:
    repo()
    code, line = load(client, HF_HUB_OFFLINE="1")
    assert code == 1 and line.startswith(REFUSED + "Cannot find an appropriate cached snapshot folder"), line
    assert hub.log == []
    assert load(client) == (0, "loaded")
    hub.log.clear()
    assert load(client, HF_HUB_OFFLINE="1") == load(client, "local_files_only=True") == (0, "loaded")
    assert drawn(client(DRAW.format(name="user/model"), HF_HUB_OFFLINE="1")[1])
    assert hub.log == []
    next((client.folder / "cache").glob("**/unet/diffusion_pytorch_model.safetensors")).unlink()
    code, line = load(client, HF_HUB_OFFLINE="1")
    assert code == 1 and line.startswith(REFUSED) and "is incomplete: 1 file(s) are missing" in line
    figure(
        "F24",
        "in the cache: loads and draws; not: one line; partly: one line that names what is missing; no request",
    )


def test_a_mistyped_path_on_the_command_line_is_one_line(hub: Hub, client: Client) -> None:
    for command in ("evaluate", "sensitivity"):
        assert client.idiff(command, "runs/tyni") == (
            2,
            "error: runs/tyni is no folder here, and cannot be loaded from the Hub: HTTP 401: log in by `hf auth login` or set "
            "HF_TOKEN, and see that the name is right\n",
        )
