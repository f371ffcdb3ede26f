"""Writes the figures of the fault tests into the table of `docs/reliability.md`:

pytest -m faults --fault-figures figures.json && python -m tests.faults.table figures.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.faults.figures import FAULTS

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = "| | fault | figure | `pytest -m faults` |\n|---|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"((?:\|.*\n)*)")


def table(rows: list[dict[str, str]]) -> str:
    """A line for each fault, its figures joined, and the files that hold its tests."""
    lines = []
    for fault in sorted({row["fault"] for row in rows}, key=lambda fault: int(fault[1:])):
        own = [row for row in rows if row["fault"] == fault]
        figures = "; ".join(row["figure"] for row in own)
        files = dict.fromkeys(file for row in own for file in row["tests"].split())
        lines.append(
            f"| {fault} | {FAULTS[fault]} | {figures} | {', '.join(f'`{file}`' for file in files)} |\n"
        )
    return HEAD + "".join(lines)


def main() -> None:
    """Replace the table by that of one JSON file, or of the parts of a run in several."""
    rows = [row for path in sys.argv[1:] for row in json.loads(Path(path).read_text(encoding="utf-8"))]
    text, found = TABLE.subn(lambda _: table(rows), DOCS.read_text(encoding="utf-8"))
    assert found == 1, f"{DOCS} must hold the table's head once"
    DOCS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
