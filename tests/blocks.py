"""The blocks of code in a Markdown file, and how they are run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and what is in it."""

    language: str
    source: str


def blocks(text: str, *languages: str) -> list[Block]:
    """Those in these languages, in the order of the text."""
    found = (Block(*match.groups()) for match in _BLOCK.finditer(text))
    return [block for block in found if block.language in languages]


def section(text: str, title: str) -> str:
    """What is under a second-level heading."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def run_python(source: str, names: dict[str, Any]) -> str:
    """Run a block in the working directory; `names` goes from one block of a page to the next. Returns what was printed.

    Where a line is `print(...)  # TEXT`, TEXT is what it has to print: then each line that prints has such a comment.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "block", "exec"), names)  # noqa: S102
    lines, expected = printed.getvalue().splitlines(), _PRINTED.findall(source)
    assert not expected or lines == expected, f"printed {lines}, and the page says {expected}"
    return printed.getvalue()


def run_bash(source: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a block in a folder, its programs those of this environment; returns what it wrote, errors too."""
    own = {**os.environ, **(env or {})}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", source],
        cwd=folder,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
