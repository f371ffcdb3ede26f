"""A pipeline, or one model of it, on the Hugging Face Hub as a folder here: which files are fetched, and what is said where that fails.

Fetching, its cache, retries and offline mode are huggingface_hub's. What is ours is the list of files: JSON, YAML and safetensors by name,
so that code, pickles and whatever else lies in a repository stay there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .folders import MANIFEST

COMPONENTS = ("ivae", "unet", "conditioning", "scheduler", "vae")
"""The parts of a pipeline, each in a folder of this name."""

INDEX = "model_index.json"
MODEL_CONFIG = "config.json"
TOP_FILES = (INDEX, MANIFEST, "config.yaml")
"""What is read beside the components: the index, the hashes, and the configuration that the model was trained by."""

LARGEST_TEXT = 16 * 2**20
"""Bytes of a JSON or YAML file above which a repository is not fetched; real ones have kilobytes."""

_HINTS = {
    401: "log in by `hf auth login` or set HF_TOKEN, and see that the name is right",
    403: "the access token has no right to do this, or the repository asks for its terms to be accepted on its page",
    404: "no such repository or revision: see that the name is right",
    429: "too many requests: wait, and try again",
}
_TOKEN = re.compile(r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{20,}")
_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<of_file>[^/]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
    r"|diffusion_pytorch_model\.safetensors\.index(?:\.(?P<of_index>[^/]+))?\.json"
)
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def pipeline_in(folder: Path) -> Path:
    """The saved pipeline that a folder is, or that the folder of a run holds; nothing is asked of the Hub.

    Raises:
        ValueError: One line, where there is none.
    """
    for place in (folder, folder / "pipeline"):
        if (place / INDEX).is_file():
            return place
    raise ValueError(
        f"{folder} holds no saved pipeline: there is no {INDEX} in it, nor in {folder / 'pipeline'}"
    )


def is_repo_id(name: str | os.PathLike[str]) -> bool:
    """Whether a name has the form `user/name`; a relative path may have it, too."""
    text = str(name)
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def file_patterns(variant: str | None = None) -> list[str]:
    """Shell patterns of the files that loading a pipeline reads, relative to its folder.

    Args:
        variant: Of weights, such as `fp16`.
    """
    files = model_patterns(variant)
    models = [f"{part}/{file}" for part in COMPONENTS if part != "scheduler" for file in files]
    return [*TOP_FILES, "scheduler/scheduler_config.json", *models]


def model_patterns(variant: str | None = None) -> list[str]:
    """The same of one model of it."""
    _check_plain("variant", variant)
    mark = "" if variant is None else f".{variant}"
    return [
        MODEL_CONFIG,
        f"diffusion_pytorch_model{mark}.safetensors",
        f"diffusion_pytorch_model{mark}-?????-of-?????.safetensors",
        f"diffusion_pytorch_model.safetensors.index{mark}.json",
    ]


def files_to_read(folder: Path, variant: str | None = None) -> list[str]:
    """The files of a saved pipeline that match `file_patterns`, as relative POSIX paths."""
    patterns = file_patterns(variant)
    found = [path for place in ("", *COMPONENTS) for path in (folder / place).glob("*")]
    names = [path.relative_to(folder).as_posix() for path in found]
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def files_of_all_variants(folder: Path) -> list[str]:
    """The same for every variant that has weights in the folder."""
    variants: set[str | None] = {None}
    for path in (path for place in COMPONENTS for path in (folder / place).glob("*")):
        if found := _WEIGHTS.fullmatch(path.name):
            variants.add(found["of_file"] or found["of_index"])
    named = [variant for variant in variants if variant is None or _is_plain(variant)]
    return sorted({name for variant in named for name in files_to_read(folder, variant)})


def download_pipeline(repo_id: str, *, variant: str | None = None, **hub: Any) -> Path:
    """Fetch a pipeline into the Hub's cache, or find it there.

    Args:
        repo_id: `user/name`.
        variant: Of weights, such as `fp16`: only those are fetched.
        **hub: `revision` (branch, tag or commit), `subfolder` (where the pipeline lies in the repository, by default at its top), `token`
            (by default that of HF_TOKEN or of `hf auth login`), `cache_dir` (by default that of HF_HUB_CACHE), `local_files_only` (take
            what is in the cache and ask nobody, as HF_HUB_OFFLINE=1 does) and `force_download` (fetch again what is in the cache).

    Returns:
        The pipeline's folder in the cache.

    Raises:
        ValueError: One line: no such repository, no access, no connection and nothing in the cache, no pipeline in the repository.
    """
    return _download(repo_id, file_patterns(variant), "pipeline", INDEX, **hub)


def download_model(repo_id: str, *, variant: str | None = None, **hub: Any) -> Path:
    """Fetch one model, such as the iVAE of a pipeline with `subfolder="ivae"`; see `download_pipeline`."""
    return _download(repo_id, model_patterns(variant), "model", MODEL_CONFIG, **hub)


def _download(
    repo_id: str,
    patterns: list[str],
    what: str,
    must_hold: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    prefix = path_prefix(subfolder)
    allowed = [prefix + pattern for pattern in patterns]
    silent: HTTPError | None = None
    with hub_errors(f"{repo_id} is no folder here, and cannot be loaded from the Hub", token):
        if not local_files_only:
            try:
                _refuse_large_texts(repo_id, revision, allowed, token)
            except OSError:
                pass  # refused or offline: snapshot_download looks into the cache, and says so if nothing is there
            except HTTPError as error:
                silent = error
        try:
            snapshot = snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                token=token,
                # a Hub that does not answer would be waited for without end
                local_files_only=local_files_only or silent is not None,
                force_download=force_download,
                allow_patterns=allowed,
                # the stars of shell patterns match slashes, too
                ignore_patterns=["*..*", f"{prefix}*/*/*"],
                library_name="idiff_hf",
            )
        except LocalEntryNotFoundError as error:
            raise silent or error from error.__cause__
    folder = Path(snapshot) / prefix
    if not (folder / must_hold).is_file():
        where = f"{repo_id}/{subfolder}" if subfolder else repo_id
        raise ValueError(f"{where} on the Hub holds no {what}: there is no {must_hold} in it")
    return folder


def _refuse_large_texts(
    repo_id: str, revision: str | None, patterns: list[str], token: str | bool | None
) -> None:
    info = HfApi(token=token).model_info(
        repo_id, revision=revision, files_metadata=True, timeout=HF_HUB_ETAG_TIMEOUT
    )
    for file in info.siblings or ():
        text = not file.rfilename.endswith(".safetensors")
        wanted = any(fnmatchcase(file.rfilename, pattern) for pattern in patterns)
        if text and wanted and (file.size or 0) > LARGEST_TEXT:
            raise ValueError(
                f"{file.rfilename} has {file.size:,} bytes, more than {LARGEST_TEXT:,}: that is no pipeline"
            )


def cached_repository(folder: Path) -> Path | None:
    """The part of the Hub's cache that a folder of a snapshot belongs to; None for a folder elsewhere."""
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots" and part.parent.parent.name.startswith("models--"):
            return part.parent.parent
    return None


def hub_name(folder: Path) -> str:
    """`user/name@commit` for a folder in the Hub's cache, which is the same everywhere; elsewhere the path."""
    repository = cached_repository(folder)
    if repository is None:
        return str(folder)
    commit, *below = folder.relative_to(repository / "snapshots").parts
    name = repository.name.removeprefix("models--").replace("--", "/")
    return "/".join([f"{name}@{commit}", *below])


@contextmanager
def hub_errors(problem: str, token: str | bool | None = None) -> Iterator[None]:
    """Turns whatever a call of huggingface_hub raises into a one-line `ValueError` that begins with `problem` and names no token.

    Args:
        problem: What did not work.
        token: The access token that was given to the call, if one was.
    """
    try:
        yield
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        # a miss in the cache names as its cause why the Hub was not asked
        answer = next((e for e in (error, error.__cause__) if isinstance(e, HfHubHTTPError)), None)
        if answer is not None:
            status = answer.response.status_code
            hint = _HINTS.get(status, "the Hub has a problem: try again later" if status >= 500 else reason)
            reason = f"HTTP {status}: {hint}"
        raise ValueError(redact(f"{problem}: {reason}", token)) from None


def redact(text: str, token: str | bool | None = None) -> str:
    """`text` without access tokens: the one in use, the one given, and whatever has the form of one."""
    for known in (token, get_token()):
        if isinstance(known, str) and known.strip():
            text = text.replace(known.strip(), "***")
    return _TOKEN.sub("hf_***", text)


def holds_token(content: bytes) -> bool:
    """Whether a text holds an access token: the one in use, or what has the form of one."""
    text = content.decode("utf-8", errors="replace")
    return redact(text) != text


def path_prefix(subfolder: str | None) -> str:
    """What paths in a repository begin with for a pipeline that lies in `subfolder`."""
    if not subfolder:
        return ""
    for part in subfolder.split("/"):
        _check_plain("subfolder", part)
    return f"{subfolder}/"


def _check_plain(name: str, value: str | None) -> None:
    """Refuse what could be another place or a pattern."""
    if value is not None and not _is_plain(value):
        raise ValueError(f"{name} must be letters, digits, '-', '_' and single dots, got {value!r}")


def _is_plain(value: str) -> bool:
    return bool(_PLAIN.fullmatch(value)) and ".." not in value


def folder_of(
    name: str | os.PathLike[str], given: Mapping[str, Any], download: Callable[..., Path]
) -> tuple[Path, dict[str, Any]]:
    """The folder that a `from_pretrained` is given, from the Hub where there is none here, and the arguments left to load it."""
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"give a folder, or user/name on the Hub, got {name!r}")
    hub = hub_arguments(given)
    rest = {key: value for key, value in given.items() if key not in hub or key == "variant"}
    if Path(name).is_dir() or not is_repo_id(name):
        return Path(name) / (hub.get("subfolder") or ""), rest
    return download(str(name), **hub), rest


def hub_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments that say which files of the Hub are meant."""
    names = ("revision", "variant", "subfolder", "token", "cache_dir", "local_files_only", "force_download")
    return {name: given[name] for name in names if name in given}
