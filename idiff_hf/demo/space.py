"""A Space of the Hugging Face Hub that shows a model of the Hub in the latent explorer."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import yaml

from ..pipelines.hub_folder import is_repo_id
from ..provenance import write_text

GRADIO = "6.31.0"
PYTHON = "3.11"

_APP = '''"""The latent explorer of {repo_id}."""

from idiff_hf.demo.app import serve_space

serve_space("{repo_id}"{data})
'''


def write_space(
    folder: Path, repo_id: str, *, data: bool = True, requirement: str | None = None
) -> list[Path]:
    """Write `app.py`, `requirements.txt` and `README.md` with the metadata that the Hub reads.

    Args:
        folder: Made where it is missing.
        repo_id: The model, `user/name`; nothing is asked of the Hub.
        data: Whether the explorer opens the dataset of the model's training, which a Space can where it is rendered or on the Hub.
        requirement: How pip finds this package; by default this version of `idiff-hf[demo]`.

    Returns:
        The files.

    Raises:
        ValueError: One line: no name on the Hub, a folder that has files of these names, or a requirement of more than one line.
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
        "sdk": "gradio",
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
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise ValueError(f"{folder} already has {', '.join(there)}: give another folder, or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
