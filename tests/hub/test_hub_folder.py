"""Which files are fetched and read, links, names, and damage that is never run: on folders, without a Hub."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.cli.shared import local_folder
from idiff_hf.folders import MANIFEST, DamagedFolderError, verify_files
from idiff_hf.hub_folder import (
    download_pipeline,
    file_patterns,
    files_to_read,
    hub_name,
    is_repo_id,
    redact,
)
from idiff_hf.pipelines.hub_commit import pipeline_files, plain_card
from tests.faults.figures import Figure
from tests.pipelines.pipes import one

WEIGHTS = "diffusion_pytorch_model"


def fetched(names: list[str], variant: str | None = None) -> set[str]:
    """As `download_pipeline` lets huggingface_hub choose."""
    return set(
        filter_repo_objects(names, allow_patterns=file_patterns(variant), ignore_patterns=["*..*", "*/*/*"])
    )


def test_only_files_that_are_read_are_fetched() -> None:
    wanted = {
        "model_index.json",
        "MANIFEST.json",
        "config.yaml",
        "unet/config.json",
        f"unet/{WEIGHTS}.safetensors",
        f"ivae/{WEIGHTS}-00001-of-00002.safetensors",
        f"ivae/{WEIGHTS}.safetensors.index.json",
        "scheduler/scheduler_config.json",
    }
    others = {
        "README.md",
        "results.json",
        "pipeline.py",
        "unet/unet.py",
        "unet/config.py",
        f"unet/{WEIGHTS}.bin",
        f"unet/{WEIGHTS}.fp16.safetensors",
        f"unet/{WEIGHTS}.safetensors.py",
        "unet/other.safetensors",
        f"text_encoder/{WEIGHTS}.safetensors",
        f"unet/deep/{WEIGHTS}.safetensors",
        f"unet/../{WEIGHTS}.safetensors",
        "../model_index.json",
        "x/../model_index.json",
        "scheduler/config.json.bak",
        "UNET/config.json",
    }
    assert fetched([*wanted, *others]) == wanted
    variant = {
        f"unet/{WEIGHTS}.fp16.safetensors",
        f"unet/{WEIGHTS}.fp16-00001-of-00002.safetensors",
        f"unet/{WEIGHTS}.safetensors.index.fp16.json",
    }
    texts = {name for name in wanted if WEIGHTS not in name}
    assert fetched([*wanted, *others, *variant], "fp16") == texts | variant


@pytest.mark.parametrize("value", ["../x", "*", "a/b", "a..b", "", "[a]", "a\n"])
def test_a_variant_or_subfolder_is_a_plain_word(value: str) -> None:
    with pytest.raises(ValueError, match="variant must be letters, digits"):
        file_patterns(value)
    if value not in ("", "a/b"):
        with pytest.raises(ValueError, match="subfolder must be letters, digits"):
            download_pipeline("user/model", subfolder=value)


def test_names_of_repositories() -> None:
    assert all(map(is_repo_id, ("user/model", "runs/quickstart", "a-b/c.d_e", Path("user/model"))))
    others = (
        "model",
        "",
        "/user/model",
        "user/model/pipeline",
        "../model",
        "user/..",
        "a--b/c",
        "u/" + "x" * 97,
    )
    assert not any(map(is_repo_id, others))


def test_a_folder_in_the_cache_is_named_by_repository_and_commit(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--user--my-model" / "snapshots" / "0123abc"
    assert hub_name(snapshot) == "user/my-model@0123abc"
    assert hub_name(snapshot / "sub") == "user/my-model@0123abc/sub"
    assert hub_name(tmp_path / "snapshots" / "x") == str(tmp_path / "snapshots" / "x")


def test_tokens_are_taken_out_and_names_that_begin_like_one_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-of-a-mirror")
    token = "hf_" + "aB3" * 11
    assert redact(f"Bearer {token}, secret-of-a-mirror, given", "given\n") == "Bearer hf_***, ***, ***"
    plain = "runs/idiff_hf_experiment_with_a_very_long_name, hf_hub_download"
    assert redact(plain) == plain


def test_a_mistyped_path_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="nowhere does not exist: give a folder, or a model on the Hub as user/name"
    ):
        local_folder(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"^runs/quikstart is no folder here, and cannot be loaded from the Hub: .*[^\n]$"
    ):
        local_folder(Path("runs/quikstart"))
    assert local_folder(tmp_path) == tmp_path


# Links


def as_snapshot(saved: Path, cache: Path) -> Path:
    """The same files as huggingface_hub lays them out: links into blobs."""
    repository = cache / "models--user--model"
    snapshot = repository / "snapshots" / "0123abc"
    for number, source in enumerate(path for path in sorted(saved.rglob("*")) if path.is_file()):
        blob, link = repository / "blobs" / str(number), snapshot / source.relative_to(saved)
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_snapshot_of_links_is_verified_and_loads(saved: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(saved, tmp_path)
    IVAEDiffusionPipeline.from_pretrained(snapshot)
    # a blob that several repositories share
    link = snapshot.parent.parent / "blobs" / "0"
    (tmp_path / "blobs" / "ab").mkdir(parents=True)
    link.rename(tmp_path / "blobs" / "ab" / "cd")
    link.symlink_to("../../blobs/ab/cd")
    assert verify_files(snapshot, files_to_read(snapshot)[1:])["metadata"] == {"step": 8}
    weights = snapshot / "ivae" / f"{WEIGHTS}.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.resolve().write_bytes(data)
    with pytest.raises(DamagedFolderError, match=r"'ivae/diffusion_pytorch_model.safetensors' was altered"):
        IVAEDiffusionPipeline.from_pretrained(snapshot)


@pytest.mark.parametrize("target", ["outside", "other snapshot", "chain", "folder"])
def test_a_link_that_leaves_is_refused_though_its_bytes_are_right(
    saved: Path, tmp_path: Path, target: str
) -> None:
    snapshot = as_snapshot(saved, tmp_path / "cache")
    config = snapshot / "unet" / "config.json"
    outside = tmp_path / "config.json"
    shutil.copy(config, outside)
    blobs = snapshot.parent.parent / "blobs"
    goals = {
        "outside": outside,
        "chain": blobs / "x",
        "folder": blobs,
        "other snapshot": snapshot.parent / "other" / "x",
    }
    goal = goals[target]
    (blobs / "x").symlink_to(outside)
    (snapshot.parent / "other").mkdir()
    shutil.copy(outside, snapshot.parent / "other" / "x")
    config.unlink()
    config.symlink_to(goal)
    with pytest.raises(
        DamagedFolderError, match=r"'unet/config.json' is a link that leads elsewhere, or no file"
    ):
        IVAEDiffusionPipeline.from_pretrained(snapshot)


def test_a_folder_with_what_a_clone_adds_loads_and_one_with_other_weights_does_not(
    saved: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "clone"))
    for name in ("README.md", ".gitattributes", "notes.txt", "unet/unet.py"):
        (folder / name).write_text("by hand")
    (folder / "config.yaml").unlink()
    IVAEDiffusionPipeline.from_pretrained(folder)
    (folder / "unet" / f"{WEIGHTS}.safetensors.index.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"'unet/diffusion_pytorch_model.safetensors.index.json' is not in the manifest"
    ):
        IVAEDiffusionPipeline.from_pretrained(folder)


def test_arguments_as_diffusers_users_give_them(saved: Path) -> None:
    IVAEDiffusionPipeline.from_pretrained(
        saved.parent, subfolder="pipeline", use_safetensors=True, revision="main", token=None
    )
    with pytest.raises(ValueError, match="use_safetensors=False is refused"):
        IVAEDiffusionPipeline.from_pretrained(saved, use_safetensors=False)
    with pytest.raises(ValueError, match="trust_remote_code is refused"):
        IVAEDiffusionPipeline.from_pretrained("user/model", trust_remote_code=True)
    with pytest.raises(
        ValueError, match=r"unknown argument for IVAEDiffusionPipeline.from_pretrained: lantents"
    ):
        IVAEDiffusionPipeline.download("user/model", lantents=1)


def test_a_saved_pipeline_names_no_folder_of_this_machine(saved: Path, tmp_path: Path) -> None:
    IVAEDiffusionPipeline.from_pretrained(saved).save_pretrained(tmp_path)
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(texts) > 4 and not any(str(saved) in text or "_name_or_path" in text for text in texts)


# Damage


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.faults
def test_a_pickle_in_place_of_any_file_does_not_run(saved: Path, tmp_path: Path, figure: Figure) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    pickle.loads(bomb)  # it is one
    assert canary.exists()
    canary.unlink()
    names = [path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()]
    planted = [*names, *(f"{part}/{WEIGHTS}.bin" for part in ("ivae", "unet", "conditioning")), "pipeline.py"]
    refused = 0
    for number, name in enumerate(planted):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        # nothing vouches for the files: the reader is alone
        (folder / MANIFEST).unlink()
        (folder / name).write_bytes(bomb)
        if name.endswith(".bin"):
            (folder / name).with_suffix(".safetensors").unlink()
        try:
            IVAEDiffusionPipeline.from_pretrained(folder)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        assert not canary.exists(), name
    # what is not read does no harm: the config of the training, a file of code
    assert refused == len(planted) - 2
    figure("F20", f"{len(planted)} places, 0 ran; {refused} refused in one line, 2 not read")


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "os",
    "system",
    "../../etc/passwd",
    "/etc/passwd",
    "IVAEModel",
    "idiff_hf",
    "diffusers",
    [],
    {},
    ["os", "system"],
    ["subprocess", "Popen"],
    ["idiff_hf.training", "TrainingRun"],
    ["antigravity", "x"],
    ["this", "s"],
    ["diffusers", "DiffusionPipeline"],
    ["diffusers", "FluxPipeline"],
    ["idiff_hf", "IVAEModel", "more"],
    [["idiff_hf"], "IVAEModel"],
    [None, "IVAEModel"],
)
KEYS = ("ivae", "unet", "scheduler", "vae", "_class_name", "__class__", "../x", "pipeline", "_module", "")


def mutate(text: str, source: random.Random) -> str:
    """One to three changes: of the tree that the text stands for, or of the text itself."""
    for _ in range(source.randint(1, 3)):
        kind = source.randrange(6)
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            kind = 5
        if kind < 5 and isinstance(tree, dict) and tree:
            key = source.choice(list(tree))
            if kind == 0:
                tree[key] = source.choice(VALUES)
            elif kind == 1:
                del tree[key]
            elif kind == 2:
                tree[source.choice(KEYS)] = tree.pop(key)
            elif kind == 3 and isinstance(tree[key], list) and tree[key]:
                tree[key][source.randrange(len(tree[key]))] = source.choice(VALUES)
            else:
                tree[source.choice(KEYS)] = source.choice(VALUES)
            text = json.dumps(tree)
        else:
            at = source.randrange(len(text) + 1)
            piece = source.choice(
                ("", "[", '{"', "\x00", "\ud800", '"', "," * 9, "[" * 20000, "9" * 5000, "é", "NaN")
            )
            text = text[:at] + piece + text[at + source.randint(0, 9) :]
    return text


@pytest.fixture
def watched() -> Iterator[dict[str, list[Any]]]:
    """Modules that are imported, files that are opened, commands that are run, while the test says so."""
    events: dict[str, list[Any]] = {"import": [], "open": [], "run": []}
    on = [True]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if not on[0]:
            return
        if name == "import" and arguments[0] not in sys.modules:
            events["import"].append(arguments[0])
        elif name == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            events["open"].append(os.fsdecode(arguments[0]))
        elif name in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
            events["run"].append((name, arguments))

    sys.addaudithook(hook)
    yield events
    on[0] = False


@pytest.mark.faults
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_mutated_index_imports_nothing_and_opens_nothing_elsewhere(
    saved: Path, tmp_path: Path, watched: dict[str, list[Any]], figure: Figure, count: int
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "pipeline"))
    (folder / MANIFEST).unlink()
    path = folder / "model_index.json"
    intact = path.read_text()
    IVAEDiffusionPipeline.from_pretrained(folder)  # what is imported late is imported now
    for events in watched.values():
        events.clear()
    source = random.Random(count)
    loaded = refused = 0
    for _ in range(count):
        text = intact
        while text == intact:
            text = mutate(intact, source)
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        try:
            IVAEDiffusionPipeline.from_pretrained(folder)
            loaded += 1
        except ValueError as error:
            assert re.match(rf"{re.escape(str(folder))}(/[\w.]+)*[: ]", str(error)), str(error)[:300]
            assert "\n" not in str(error)
            refused += 1
    elsewhere = [
        name for name in watched["open"] if not Path(name).resolve().is_relative_to(folder.resolve())
    ]
    assert watched["import"] == watched["run"] == []
    assert not [name for name in elsewhere if not name.endswith((".py", ".pyc"))], elsewhere
    assert loaded + refused == count and refused > count // 2
    figure(
        "F21",
        f"{count:,} mutations: {refused:,} refused in one line, {loaded} without effect; nothing imported, nothing read elsewhere",
    )


def test_only_what_the_index_names_and_loading_reads_is_sent(tmp_path: Path) -> None:
    one("kl").save_pretrained(tmp_path)
    one("additive").save_pretrained(tmp_path)
    one("additive").save_pretrained(tmp_path, variant="fp16", max_shard_size="4KB")
    assert (tmp_path / "vae" / f"{WEIGHTS}.safetensors").is_file()
    for name in ("ivae/note.json", "ivae/other.safetensors", "note.json", f"ivae/{WEIGHTS}.a..b.safetensors"):
        (tmp_path / name).write_text("of something else")
    sent = set(pipeline_files(tmp_path))
    read = {*files_to_read(tmp_path), *files_to_read(tmp_path, "fp16")}
    assert sent == read - {"vae/config.json", f"vae/{WEIGHTS}.safetensors"}
    assert {"model_index.json", "scheduler/scheduler_config.json", f"ivae/{WEIGHTS}.safetensors"} <= sent
    assert f"ivae/{WEIGHTS}.safetensors.index.fp16.json" in sent
    assert any(name.startswith(f"ivae/{WEIGHTS}.fp16-00001-of-") for name in sent)


def test_the_card_names_the_class_of_a_compiled_part() -> None:
    parts = {**one("additive").components, "unet": torch.compile(one("additive").unet, backend="eager")}
    card = plain_card(parts, "user/model")
    assert "`UNet2DModel`" in card and "OptimizedModule" not in card
