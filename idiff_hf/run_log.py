"""JSON lines that a run writes as it goes, and that a resumed run goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .folders import os_errors


class RunLog:
    """A file of JSON lines.

    Args:
        path: The file; it is made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one line; raises `CheckpointError` where it cannot be written."""
        with os_errors(f"cannot write {self.path}"), self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Every line; none where there is no file."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def last(self) -> dict[str, Any]:
        """The last value of each name."""
        return {name: value for line in self.read() for name, value in line.items()}

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines that are not wanted, among them one that a kill cut short."""
        if not self.path.exists():
            return
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                kept = wanted(json.loads(line))
            except json.JSONDecodeError:
                kept = False
            if kept:
                lines.append(line)
        staged = self.path.with_name(f".tmp-{self.path.name}")
        staged.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(staged, self.path)
