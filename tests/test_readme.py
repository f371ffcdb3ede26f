"""What the README prints is what is run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ci_runs_the_test_command_word_for_word() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [
        line.strip() for block in blocks for line in block.splitlines() if line.strip().endswith("pytest")
    ]
    assert len(commands) == 1, (
        f"expected one line of the README's bash blocks to end with pytest, got {commands}"
    )
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
