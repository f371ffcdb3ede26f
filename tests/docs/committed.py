"""What is measured, read from the committed files, and written as the documentation writes it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from tests.docs.conftest import ROOT

DOCS = ROOT / "docs"


def read(path: str) -> dict[str, Any]:
    return dict(json.loads((DOCS / path).read_text(encoding="utf-8")))


def records(name: str) -> list[dict[str, Any]]:
    return list(read(f"experiments/{name}.json")["records"])


def card(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "model_cards" / name / "results.json").read_text(encoding="utf-8")))


def row(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def short(value: float, places: int) -> str:
    """Without the zero before the point."""
    return f"{value:.{places}f}".removeprefix("0")


def spread(values: Sequence[float], places: int) -> str:
    return f"{short(statistics.mean(values), places)} ± {short(statistics.stdev(values), places)}"
