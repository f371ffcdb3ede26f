"""What was reproduced, in Markdown, from the files of the tables alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..arguments import read_yaml
from ..markdown import markdown_table
from ..provenance import write_text
from .paper_tables import TABLES
from .records import record_from_json
from .reported import PAPER_METRICS, Spread
from .scales import SCALES

SCHEMA = 1
EXPLAINED, OVERALL = "explained.yaml", "all"
"""Beside the files of tables: in words, what agrees, what does not and why, by `tableN.SCALE`, and over all tables."""
VERDICTS = {True: "yes", False: "no", None: "not measured"}
_HEADER = """\
# Reproduction of the paper's tables

Made from the files in `{folder}` by `idiff table --report`; the same files give the same text. Each table has the paper's row and,
below it, ours: mean ± standard deviation / greatest over N runs, as in the paper, scored on held-out images (`docs/metrics.md`; DCI by
gradient boosting). Except for Table 9, the paper's spreads, and so ours, are over a sweep of hyperparameters and not over seeds: they
are not the quality of one model.

{baselines}
"""
_BASELINES = (
    "`u alone` is the same encoder trained on the KL to the known prior of u, without reconstruction or U-Net, and `labels` the same "
    "trained to regress the factors. Where u tells no side, the means of `u alone` stay at 0, and its log-variances are scored. What a "
    "model reaches beyond `u alone` is what the generative model adds."
)


def read_document(path: Path) -> dict[str, Any]:
    """What `tables.make_table` or `paper_figures.make_figure` wrote.

    Raises:
        ValueError: One line, for a file that holds something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}, this reads {SCHEMA}")
        wanted = {"flags", "columns", "records"} if "table" in document else {"figure", "runs", "files"}
        if missing := wanted - document.keys():
            raise ValueError(f"{', '.join(sorted(missing))} is missing")
        if "table" in document:
            _check_records(document["records"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"{path} is no file of idiff table or idiff figure: {reason}; move it elsewhere"
        ) from None
    return document


def _check_records(records: Any) -> None:
    """Refuse records that are none, or that lack a score of the paper; raises ValueError in one line."""
    if not isinstance(records, list):
        raise ValueError(f"records must be a list, got {type(records).__name__}")
    for row, values in enumerate(records):
        try:
            scores = record_from_json(values).scores
        except ValueError as error:
            raise ValueError(f"records[{row}]: {error}") from None
        for score in PAPER_METRICS:
            if score not in scores or not isinstance(scores[score], int | float | None):
                raise ValueError(
                    f"records[{row}]: scores.{score} must be a number or null, got {scores.get(score, 'nothing')}"
                )


def table_markdown(document: Mapping[str, Any], level: int = 1, folder: str = "") -> str:
    """A table's document (`tables.table_document`) as Markdown.

    Args:
        document: As read from its file.
        level: Of the heading.
        folder: Where its file lies, as seen from the text: empty, or a path that ends in a slash.
    """
    number, scale = document["table"], document["scale"]
    flags = f", {' '.join(document['flags'])}" if document["flags"] else ""
    parts = [
        f"{'#' * level} Table {number}, scale {scale}{flags}",
        f"{document['title']}. {document['done']} of {document['runs']} runs done.",
        _rows(document),
    ]
    if document["directions"]:
        parts.append(_directions(document))
    # on the page of all tables it is said once
    told = [*_told(document), *([_BASELINES] if level == 1 else [])]
    parts.append("\n".join(f"- {line}" for line in [*told, *TABLES[number].notes, *_made(document, folder)]))
    return "\n\n".join(parts) + "\n"


def _rows(document: Mapping[str, Any]) -> str:
    rows = []
    for column in document["columns"]:
        if column["paper"] is not None:
            rows.append([column["name"], "paper", "", *_cells(column["paper"]), ""])
        best = column["greatest_mig"]
        weights = "" if best is None else ", ".join(f"{k} {v}" for k, v in column["runs"][best].items())
        name = column["name"] if column["paper"] is None else ""
        count = f"{column['done']} of {len(column['runs'])}"
        rows.append([name, "ours", count, *_cells(column["ours"]), weights])
    return markdown_table(["", "", "N", *PAPER_METRICS.values(), "greatest MIG at"], rows)


def _cells(spreads: Mapping[str, Any]) -> list[str]:
    return ["-" if spreads[score] is None else _text(spreads[score]) for score in PAPER_METRICS]


def _text(spread: Mapping[str, Any]) -> str:
    return Spread(spread["mean"], spread["std"], spread["max"]).text()


def _directions(document: Mapping[str, Any]) -> str:
    rows = []
    for claim in document["directions"]:
        ours, error = claim["ours"], claim["standard_error"]
        text = (
            ""
            if ours is None
            else f"{ours:+.3f}" + ("" if error is None else f" (standard error {error:.3f})")
        )
        if ours is None:
            doubt = ""
        elif error is None:
            doubt = ", of a single run"
        else:
            doubt = "" if abs(ours) >= error else ", by less than the standard error"
        rows.append(
            [
                f"{PAPER_METRICS[claim['score']]}: {claim['greater']} > {claim['less']}",
                f"{claim['paper']:+.2f}",
                text,
                VERDICTS[claim["agrees"]] + doubt,
            ]
        )
    return markdown_table(["the paper's direction", "its difference", "ours", "agrees"], rows)


def _told(document: Mapping[str, Any]) -> list[str]:
    """What each column was told, columns that were told the same together."""
    by_statement: dict[str, list[str]] = {}
    for column in document["columns"]:
        by_statement.setdefault(column["supervision"], []).append(column["name"])
    return [f"{'; '.join(names)}: {statement}." for statement, names in by_statement.items()]


def _made(document: Mapping[str, Any], folder: str) -> list[str]:
    """The budget, what it took, on what, and where the numbers are."""
    machines = [
        f"{machine['name']} ({machine['device']}, {machine['cores']} cores)"
        for machine in document["hardware"]
    ]
    took = f"{document['seconds']:,} s of training on {'; '.join(machines)}" if machines else "no run yet"
    file = f"table{document['table']}.{document['scale']}.json"
    return [
        f"Scale {document['scale']}: {SCALES[document['scale']].text}.",
        f"{took}. Numbers of each run: [{file}]({folder}{file}). Command: `{document['command']}`.",
    ]


def read_explained(folder: Path, names: Collection[str]) -> dict[str, str]:
    """The texts of `folder/explained.yaml`, none where it is missing.

    Args:
        folder: The folder of the tables.
        names: The tables that are there, `tableN.SCALE`.

    Raises:
        ValueError: One line: no YAML, another key than `all` and these tables, or no text.
    """
    path = folder / EXPLAINED
    if not path.exists():
        return {}
    texts = read_yaml(path)
    if not isinstance(texts, dict):
        raise ValueError(f"{path} must be lines of NAME: TEXT, got {texts!r}")
    for name, text in texts.items():
        if name not in {OVERALL, *names} or not isinstance(text, str):
            raise ValueError(
                f"{path}: {name}: {text!r}: give a text for {OVERALL} or for a table that is there, {', '.join(names)}"
            )
    return {name: text.strip() for name, text in texts.items()}


def report(folder: Path) -> str:
    """`docs/reproduction.md`: all tables of a folder, which of the paper's directions they agree with, and the words of `explained.yaml`.

    Raises:
        ValueError: One line: no table is there, or as in `tables.read_document` and `read_explained`.
    """
    found = {path.stem: read_document(path) for path in by_number(folder, "table")}
    if not found:
        raise ValueError(
            f"{folder} holds no table: make one first, idiff table 2 --scale tiny --out {folder}"
        )
    explained = read_explained(folder, found)
    summary = []
    for document in found.values():
        verdicts = [claim["agrees"] for claim in document["directions"]]
        summary.append(
            [
                f"{document['table']}",
                document["scale"],
                f"{document['done']} of {document['runs']}",
                *(f"{verdicts.count(verdict)}" for verdict in VERDICTS),
            ]
        )
    header = ["Table", "scale", "runs", "directions that agree", "that do not", "not measured"]
    inside = f"{folder.name}/"
    parts = [
        _HEADER.format(folder=folder.name, baselines=_BASELINES),
        "## Directions\n\n" + markdown_table(header, summary) + "\n",
        *([f"{explained[OVERALL]}\n"] if OVERALL in explained else []),
    ]
    for name, document in found.items():
        parts.append(table_markdown(document, level=2, folder=inside))
        if name in explained:
            parts.append(f"**In words.** {explained[name]}\n")
    figures = [_figure(path, inside) for path in by_number(folder, "figure")]
    return "\n".join([*parts, *(["## Figures\n", *figures] if figures else [])])


def by_number(folder: Path, kind: str) -> list[Path]:
    """The files of tables, or of figures, by their number and then by scale; any other file is left alone."""
    numbered = [
        (int(found[1]), path.name, path)
        for path in folder.glob(f"{kind}*.json")
        if (found := re.fullmatch(rf"{kind}(\d+)(\.\w+)?\.json", path.name))
    ]
    return [path for *_, path in sorted(numbered)]


def _figure(path: Path, inside: str) -> str:
    """A figure's pictures, and the run that they show."""
    document = read_document(path)
    runs = [f"run `{run['id']}`, MIG {run['mig']:.2f}" for run in document["runs"]]
    caption = "; ".join([f"Figure {document['figure']}: {document['title']}", *runs])
    pictures = " ".join(f"![{caption}]({inside}{name})" for name in document["files"])
    return f"{pictures}\n\n*{caption}. Command: `{document['command']}`.*\n"


def report_path(folder: Path) -> Path:
    """Where `write_report` writes: beside the folder, as `FOLDER.md`.

    Raises:
        ValueError: One line: the folder is named by no name of its own, such as `.`.
    """
    if folder.name in ("", ".."):
        raise ValueError(f"--out {folder} has no name that its report could have: name the folder")
    return folder.with_name(f"{folder.name}.md")


def write_report(folder: Path) -> Path:
    """Write `report` as `report_path`, and return that."""
    path = report_path(folder)
    write_text(path, report(folder))
    return path
