"""The figure that each fault test reports: printed after a run of pytest, kept as JSON for the table in `docs/reliability.md`.

A test that establishes what a run survives takes the fixture `figure` and calls it at its end:

    @pytest.mark.faults
    def test_kills(figure: Figure) -> None:
        ...
        figure("F1", f"{resumed} of {kills} kills resumed")

Lines that are equal, as those of a parametrised test, are counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

FAULTS = {
    "F1": "`kill -9` at a random moment of a run that saves at every step",
    "F2": "the same run, finished after its kill",
    "F3": "resumed at each step: start, middle and end of an epoch, between stages, inside accumulation",
    "F4": "resumed on two processes, and on another number of processes",
    "F5": "several resumes in a row; a finished run resumed",
    "F6": "state after a resume: weights, moving averages, moments, learning rates, buffers",
    "F7": "killed inside a save and its rotation, two checkpoints kept",
    "F8": "disk full at each write",
    "F9": "read-only or vanished folder, files and links that do not belong",
    "F10": "a file of a checkpoint deleted, emptied, cut, extended, or one bit of it flipped",
    "F11": "SIGTERM in set-up, a wait for data, a step, validation, a save, export, evaluation, sampling",
    "F12": "SIGTERM to `torchrun`, one process killed, restarted",
    "F13": "NaN or infinity in an input, a loss, a gradient",
    "F14": "a checkpoint that holds NaN or infinity",
    "F15": "out of memory",
    "F16": "a config with typos, wrong types, wrong choices",
    "F17": "resumed under another config",
    "F18": "data of a wrong rank, type, order, size or range; twice, none, or one",
    "F20": "a pickle in place of every file of a saved pipeline",
    "F21": "`model_index.json` mutated",
    "F22": "code, pickles, paths with `..` and a huge file in a repository of the Hub",
    "F23": "a Hub that answers 401, 403, 404, 429, 500, drops, stalls, or sends another file",
    "F24": "no network: in the cache, not in it, partly",
    "F25": "an access token in the environment and in arguments",
    "F26": "published weights with a tensor missing, too many, of another shape or type",
    "F28": "the explorer, asked by another site, by a hundred clicks at once, for more than it offers or for other files",
    "F29": "the same seed again, other workers, another batch",
    "F30": "two runs in one folder",
    "F31": "clock that jumps, locale that does not exist, odd paths, no HOME, no terminal",
    "F32": "a long run: 2,000 steps with saves and samples",
}
"""What is done, by its number in the plan of the fault tests; the numbers that are left out are tested beside what they belong to."""

Figure = Callable[[str, str], None]
_PROPERTY = "fault figure"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Report a figure: the number of a fault, and a line."""
    test = request.node.nodeid.partition("[")[0]
    assert request.node.get_closest_marker("faults"), f"{test} reports a figure: mark it `faults`"

    def report(fault: str, line: str) -> None:
        assert fault in FAULTS, f"no fault {fault}: name it in FAULTS"
        # a property of the test's report, which comes back from the worker that ran it
        request.node.user_properties.append((_PROPERTY, (fault, line, test)))

    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-figures", type=Path, metavar="FILE.json", help="write the figures of the fault tests here"
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print the figures, and write them where nothing failed and a file was named."""
    reports = (report for kind in terminalreporter.stats.values() for report in kind)
    rows = merged(
        Counter(
            tuple(value)
            for report in reports
            if isinstance(report, pytest.TestReport) and report.when == "call"
            for name, value in report.user_properties
            if name == _PROPERTY
        )
    )
    if rows:
        terminalreporter.section("faults")
        for row in rows:
            terminalreporter.write_line(f"{row['fault']:<4} {row['figure']}")
    path: Path | None = config.getoption("--fault-figures")
    # a worker of pytest-xdist comes here too, and knows its own share only
    if path is not None and exitstatus == 0 and not hasattr(config, "workerinput"):
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(reported: Counter[tuple[str, str, str]]) -> list[dict[str, str]]:
    """Rows of `fault`, `figure` and `tests`, the file, by number; equal lines of a fault become one with their count."""
    counts: Counter[tuple[str, str]] = Counter()
    files: dict[tuple[str, str], list[str]] = {}
    for (fault, line, test), count in reported.items():
        counts[fault, line] += count
        file = test.partition("::")[0]
        if file not in files.setdefault((fault, line), []):
            files[fault, line].append(file)
    rows = [
        {
            "fault": fault,
            "figure": line if count == 1 else f"{count:,} x {line}",
            "tests": " ".join(files[fault, line]),
        }
        for (fault, line), count in counts.items()
    ]
    return sorted(rows, key=lambda row: int(row["fault"][1:]))
