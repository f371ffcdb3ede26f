"""A pipeline to the Hugging Face Hub: one commit, all of it or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelCardData,
    get_token,
)

from ..folders import MANIFEST, file_behind, manifest_bytes, verify_files
from ..hub_folder import (
    COMPONENTS,
    TOP_FILES,
    files_of_all_variants,
    holds_token,
    hub_errors,
    is_repo_id,
    path_prefix,
)
from .loading import read_index, unwrapped

CARD = "README.md"
RESULTS = "results.json"
_OURS = re.compile(
    "|".join(
        (
            *map(re.escape, (*TOP_FILES, RESULTS, CARD)),
            rf"(?:{'|'.join(COMPONENTS)})/[^/]+\.(?:json|safetensors)",
            r"figures/[a-z0-9_]+\.png",
        )
    )
)
"""Every path that publishing writes; what it does not write again is taken out of the repository, for it belonged to another model."""

_PLAIN_CARD = """---
{{ card_data }}
---

# {{ repo_id }}

A model of `idiff_hf`: {{ parts }}. It was saved without measurements: no figure says how good it is.

```python
from idiff_hf import IVAEDiffusionPipeline

pipe = IVAEDiffusionPipeline.from_pretrained({{ reference }})
```

`DiffusionPipeline.from_pretrained` of diffusers does not know this class, and would look for code in this repository, where there is none.
"""


def pipeline_files(folder: Path) -> dict[str, Path | bytes]:
    """What is sent of a saved pipeline, by path in the repository: what `from_pretrained` reads of any variant; verified first.

    What lies there of a component that the index does not name, or under another name, is of something else and stays.

    Raises:
        ValueError: One line: the index is none that is loaded, a file differs from the manifest, or is a link that leads elsewhere.
    """
    parts = {name for name, cls in read_index(folder).items() if cls is not None}
    names = [name for name in files_of_all_variants(folder) if "/" not in name or name.split("/")[0] in parts]
    if MANIFEST in names:
        names.remove(MANIFEST)
        verify_files(folder, names)
    return {name: file_behind(folder, name) for name in sorted(names)}


def with_manifest(
    files: Mapping[str, Path | bytes], metadata: Mapping[str, Any] | None = None
) -> dict[str, Path | bytes]:
    """`files` and a manifest of them. The card is not in it: people edit cards on the Hub."""
    kept = {name: content for name, content in files.items() if name != CARD}
    return {**files, MANIFEST: manifest_bytes(kept, metadata or {})}


def reference(repo_id: str, revision: str | None = None, variant: str | None = None) -> str:
    """The arguments of `from_pretrained` that load it, as Python."""
    given = {"revision": revision, "variant": variant}
    return ", ".join([f'"{repo_id}"', *(f'{key}="{value}"' for key, value in given.items() if value)])


def plain_card(
    components: Mapping[str, Any], repo_id: str, revision: str | None = None, variant: str | None = None
) -> str:
    """The card of a pipeline of which nothing was measured.

    Args:
        components: Of the pipeline, None for those that it does not have.
        repo_id: Where it goes.
        revision: The branch, where it is not the main one.
        variant: Of its weights, where there is no other.
    """
    has_ivae = components["ivae"] is not None
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image" if has_ivae else "unconditional-image-generation",
        tags=["idiff_hf"],
    )
    parts = [f"`{type(unwrapped(part)).__name__}`" for part in components.values() if part is not None]
    card = ModelCard.from_template(
        data,
        template_str=_PLAIN_CARD,
        repo_id=repo_id,
        parts=", ".join(parts),
        reference=reference(repo_id, revision, variant),
    )
    return str(card) + "\n"


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload a pipeline of idiff_hf",
    token: str | bool | None = None,
    subfolder: str | None = None,
    space_sdk: str | None = None,
    keep_weights: bool = False,
) -> str:
    """Send files in one commit, after which the repository holds none of an earlier model; it is created where it is missing.

    Args:
        files: By path in the repository.
        repo_id: `user/name`.
        private: Whether a repository that is created can be seen by its owner only; None is the owner's default.
        revision: A branch, created where it is missing, instead of the main one.
        create_pr: Open a pull request instead.
        commit_message: Its first line.
        token: Access token, by default that of HF_TOKEN or of `hf auth login`.
        subfolder: Put the files there; what lies elsewhere is left alone.
        keep_weights: Refuse to take weights out that these files do not replace.
        space_sdk: Send them to a Space of this kind instead of a model's repository, and take nothing out of it.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ValueError: One line: no token, no right, no connection, or a text with an access token in it. Nothing was changed then, except
            that the repository or branch may exist.
    """
    check_target(repo_id, revision, create_pr, token)
    for name, content in files.items():
        if not name.endswith((".safetensors", ".png")) and holds_token(_bytes(content)):
            raise ValueError(
                f"{name} holds an access token of the Hub and was not sent: take it out, and revoke the token"
            )
    prefix = path_prefix(subfolder)
    api = HfApi(token=token, library_name="idiff_hf")
    create_repository(repo_id, private, token, space_sdk)
    repo_type = "model" if space_sdk is None else "space"
    with hub_errors(f"cannot publish to {repo_id}", token):
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        there = api.list_repo_files(repo_id, revision=revision) if space_sdk is None else []
        stale = [
            name
            for name in there
            if name.startswith(prefix)
            and _OURS.fullmatch(name.removeprefix(prefix))
            and name.removeprefix(prefix) not in files
        ]
        if keep_weights and (others := [name for name in stale if name.endswith(".safetensors")]):
            raise ValueError(
                f"it holds other weights, {others[0]}, which would be taken out: save all variants into one folder, and publish that "
                "by `idiff publish`"
            )
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(prefix + name, content) for name, content in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=commit_message,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.pr_url or commit.commit_url)


def create_repository(
    repo_id: str,
    private: bool | None = None,
    token: str | bool | None = None,
    space_sdk: str | None = None,
) -> None:
    """Create a model's repository, or a Space, where it is missing; `ValueError` in one line where that may not be done."""
    with hub_errors(f"cannot publish to {repo_id}", token):
        HfApi(token=token, library_name="idiff_hf").create_repo(
            repo_id,
            private=private,
            exist_ok=True,
            repo_type="model" if space_sdk is None else "space",
            space_sdk=space_sdk,
        )


def check_name(repo_id: str) -> None:
    """Refuse what is no name of a repository."""
    if not is_repo_id(repo_id):
        raise ValueError(f"a repository is named user/name, got {repo_id!r}")


def check_target(
    repo_id: str, revision: str | None = None, create_pr: bool = False, token: str | bool | None = None
) -> None:
    """Refuse what cannot be published to, as far as that is known without asking the Hub."""
    check_name(repo_id)
    if create_pr and revision is not None:
        raise ValueError(f"a pull request is made against the main branch: leave out revision={revision}")
    if not token and get_token() is None:
        raise ValueError("no access token of the Hub: log in by `hf auth login`, or set HF_TOKEN")


def describe_files(files: Mapping[str, Path | bytes]) -> Sequence[tuple[str, int]]:
    """Path and bytes of each file that would be sent."""
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size
        for name, content in files.items()
    }
    return sorted(sizes.items())


def _bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
