"""The table of figures in the docs is that of the tests."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.figures import FAULTS, merged
from tests.faults.table import DOCS, HEAD, TABLE, table

ROOT = Path(__file__).parents[2]


def test_equal_lines_are_counted_and_a_fault_has_one_row() -> None:
    reported = Counter(
        {
            ("F10", "damage found", "tests/b.py::test_b"): 1,
            ("F2", "refused", "tests/a.py::test_a"): 1200,
            ("F2", "refused", "tests/b.py::test_b"): 34,
            ("F2", "9 of 9", "tests/b.py::test_c"): 1,
        }
    )
    rows = merged(reported)
    assert rows == [
        {"fault": "F2", "figure": "1,234 x refused", "tests": "tests/a.py tests/b.py"},
        {"fault": "F2", "figure": "9 of 9", "tests": "tests/b.py"},
        {"fault": "F10", "figure": "damage found", "tests": "tests/b.py"},
    ]
    assert table(rows) == HEAD + (
        f"| F2 | {FAULTS['F2']} | 1,234 x refused; 9 of 9 | `tests/a.py`, `tests/b.py` |\n"
        f"| F10 | {FAULTS['F10']} | damage found | `tests/b.py` |\n"
    )


def test_the_docs_name_each_fault_that_a_test_reports_and_no_other() -> None:
    found = TABLE.search(DOCS.read_text(encoding="utf-8"))
    assert found is not None
    in_docs = {
        fault: set(re.findall(r"`(tests/[^`]+)`", files))
        for fault, files in re.findall(r"^\| (F\d+) \|.*\| ([^|]*) \|$", found[1], re.MULTILINE)
    }
    reported: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for fault in re.findall(r"\bfigure\(\s*\"(F\d+)\"", path.read_text(encoding="utf-8")):
            reported.setdefault(fault, set()).add(path.relative_to(ROOT).as_posix())
    assert in_docs == reported


def test_a_test_that_reports_has_to_be_marked(request: pytest.FixtureRequest) -> None:
    with pytest.raises(
        AssertionError, match=r"test_a_test_that_reports_has_to_be_marked reports a figure: mark it"
    ):
        request.getfixturevalue("figure")
