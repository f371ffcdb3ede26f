"""A Space of the Hugging Face Hub that shows a model of the Hub in the latent explorer."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import yaml

from ..hub_folder import is_repo_id
from ..pipelines.hub_commit import commit_files
from ..provenance import write_text

SDK = "gradio"
GRADIO = "6.31.0"
PYTHON = "3.11"

_APP = '''"""The latent explorer of {repo_id}."""

from idiff_hf.demo.app import serve_space

serve_space("{repo_id}"{data})
'''


def space_files(repo_id: str, *, data: bool = True, requirement: str | None = None) -> dict[str, bytes]:
    """`app.py`, `requirements.txt` and `README.md` with the metadata that the Hub reads, by name.

    Args:
        repo_id: The model, `user/name`; nothing is asked of the Hub.
        data: Whether the explorer opens the dataset of the model's training, which a Space can where it is rendered or on the Hub.
        requirement: How pip finds this package; by default this version of `idiff-hf[demo]`.

    Raises:
        ValueError: One line: no name on the Hub, or a requirement of more than one line.
    """
    if not is_repo_id(repo_id):
        raise ValueError(
            f"a Space loads its model from the Hub: give its name there, user/name, got {repo_id}"
        )
    needed = f"idiff-hf[demo]=={version('idiff-hf')}" if requirement is None else requirement
    if len(needed.splitlines()) != 1:
        raise ValueError(f"the requirement must be one line of a requirements.txt, got {needed!r}")
    title = f"{repo_id.partition('/')[2]} explorer"
    header = {
        "title": title,
        "sdk": SDK,
        "sdk_version": GRADIO,
        "app_file": "app.py",
        "python_version": PYTHON,
        "models": [repo_id],
        "license": "apache-2.0",
    }
    texts = {
        "app.py": _APP.format(repo_id=repo_id, data="" if data else ", data=False"),
        "requirements.txt": f"{needed}\n",
        "README.md": f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n"
        f"# {title}\n\nA slider for each latent of [{repo_id}](https://huggingface.co/{repo_id}).\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def write_space(
    folder: Path, repo_id: str, *, data: bool = True, requirement: str | None = None
) -> list[Path]:
    """Write the files of a Space.

    Args:
        folder: Made where it is missing.
        repo_id: As in `space_files`, like what follows.
        data: As there.
        requirement: As there.

    Returns:
        The files.

    Raises:
        ValueError: One line: a folder that has files of these names, or as in `space_files`.
    """
    files = space_files(repo_id, data=data, requirement=requirement)
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ValueError(f"{folder} already has {', '.join(there)}: give another folder, or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_text(folder / name, content.decode())
    return [folder / name for name in files]


def publish_space(
    space_id: str,
    repo_id: str,
    *,
    private: bool | None = None,
    data: bool = True,
    requirement: str | None = None,
) -> str:
    """Send the files of a Space in one commit; other files that it has are left alone.

    Args:
        space_id: The Space, `user/name`, created where it is missing.
        repo_id: The model that it shows, as in `space_files`, like the last two.
        private: Whether a Space that is created is private; None is the owner's default.
        data: As there.
        requirement: As there.

    Returns:
        The address of the commit.

    Raises:
        ValueError: One line, as in `space_files` and `hub_commit.commit_files`.
    """
    return commit_files(
        space_files(repo_id, data=data, requirement=requirement),
        space_id,
        private=private,
        commit_message=f"Show {repo_id} in the latent explorer",
        space_sdk=SDK,
    )
