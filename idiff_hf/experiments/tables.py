"""A table of the paper at a scale: its runs, those that are finished, what they come to, and the file that holds it."""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..arguments import config_from_yaml, config_to_yaml, load_config, with_values
from ..baselines import supervised_probe, supervision_baseline
from ..config import Config
from ..evaluation import supervision_statement
from ..folders import os_errors, waited_for
from ..metrics import over_seeds
from ..provenance import refuse_no_file, write_text
from .paper_tables import SEEDS, TABLES, Column
from .records import TrialRecord, load_record, record_from_json, record_to_json, trial_id
from .reported import PAPER_METRICS, REPORTED
from .reproduction import SCHEMA, by_number, read_document
from .scales import SCALES, Grid, Scale
from .trials import refuse_taken, run_trials


@dataclass(frozen=True)
class PlannedColumn:
    """A column with the runs that it is the mean of.

    Attributes:
        name: As in the paper, or of a supervision baseline.
        source: The file that its config is from.
        grid: What its runs differ in.
        configs: One for each run.
    """

    name: str
    source: str
    grid: Grid
    configs: tuple[Config, ...]

    @cached_property
    def ids(self) -> list[str]:
        """The trial of each config."""
        return [trial_id(config) for config in self.configs]


def plan(
    table: int, scale: str, configs: Path = Path("configs"), flags: Sequence[str] = ()
) -> list[PlannedColumn]:
    """The columns of a table with all their configs, the paper's columns first, then the supervision baselines.

    Args:
        table: Its number, 2 to 9.
        scale: A name in `SCALES`.
        configs: The folder of `paper/NAME.yaml`.
        flags: Flags of training, on top of the scale.

    Raises:
        ValueError: One line: no such file, or a flag that the grid varies.
        SystemExit: As in `load_config`, for flags that are refused.
    """
    definition, sized = TABLES[table], SCALES[scale]
    columns = []
    for column in definition.columns:
        base = read_config(configs / "paper" / f"{column.config}.yaml", sized, flags)
        grid = _grid(column, sized, base)
        refuse_taken(flags, grid, f"is what the runs of {column.name!r} in Table {table} differ in")
        runs = tuple(with_values(base, values) for values in _combinations(grid))
        columns.append(PlannedColumn(column.name, f"paper/{column.config}.yaml", grid, runs))
    for suffix, name in definition.supervised_as.items():
        base = read_config(configs / "paper" / f"{name}.yaml", sized, flags)
        for title, baseline in (("u alone", supervision_baseline), ("labels", supervised_probe)):
            columns.append(PlannedColumn(title + suffix, f"paper/{name}.yaml", {}, (baseline(base),)))
    return columns


def read_config(path: Path, scale: Scale, flags: Sequence[str]) -> Config:
    """The config of a file at a scale, with flags of training on top.

    Raises:
        ValueError: One line: no such file.
        SystemExit: As in `load_config`, for flags that are refused.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: run this where configs/ is, or name that folder by --configs")
    config = scale.shrink(config_from_yaml(path.read_text(encoding="utf-8")))
    if not flags:
        return config
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(config_to_yaml(config), encoding="utf-8")
        return load_config(["--config", str(file), *flags], prog="idiff")[0]


def _grid(column: Column, scale: Scale, config: Config) -> Grid:
    grids: dict[str, Grid] = {
        "weights": scale.sweep(config),
        "kl_reverse": {"loss.kl_reverse": scale.kl_reverse},
        "seeds": {"train.seed": SEEDS},
        "nothing": {},
    }
    return grids[column.over]


def _combinations(grid: Grid) -> Iterable[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def finished(
    columns: Sequence[PlannedColumn], root: Path, folders: Iterable[Path] = ()
) -> dict[str, TrialRecord]:
    """Records of the runs that are done, by their id: those in `root`, and those in files of tables that another machine has written.

    Args:
        columns: The plan.
        root: Folder of the runs.
        folders: Folders of such files, `table*.json`.
    """
    wanted = _trials(columns)
    found: dict[str, TrialRecord] = {}
    for path in (path for folder in folders for path in by_number(folder, "table")):
        records = (record_from_json(record) for record in read_document(path)["records"])
        found |= {record.id: record for record in records if record.id in wanted}
    for id, config in wanted.items():
        record = load_record(root, config)
        if record is not None:
            found[id] = record
    return found


def make_table(
    table: int,
    scale: str,
    root: Path,
    out: Path,
    *,
    configs: Path = Path("configs"),
    records: Path | None = None,
    flags: Sequence[str] = (),
    launcher: Sequence[str] = (),
    jobs: int = 1,
    limit: int | None = None,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Run what is missing of a table and write `out/tableN.SCALE.json` after each run.

    Args:
        table: Its number, 2 to 9.
        scale: A name in `SCALES`.
        root: Folder of the runs, which all tables share: equal experiments of two tables run once.
        out: Folder of the files. Runs that one of them holds are not run again.
        configs: The folder of `paper/NAME.yaml`.
        records: A further folder of such files.
        flags: Flags of training, on top of the scale.
        launcher: What starts the training program, see `trials.run_trial`.
        jobs: Runs at a time.
        limit: Begin so many runs at most.
        show: Called with the document (`table_document`) when the runs end, even where one failed or they were interrupted.

    Raises:
        ValueError: One line: as in `plan` and `read_document`, no folder `records`, a file that was made with other flags, or a run
            that failed.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"--limit must be 0 or more, got {limit}")
    if records is not None and not records.is_dir():
        raise ValueError(f"--records {records} is no folder: name one that holds files of idiff table")
    path = out / f"table{table}.{scale}.json"
    columns = plan(table, scale, configs, flags)
    refuse_no_file(path)  # before the runs, which take long
    if path.is_file():
        _refuse_other_plan(path, columns, flags)
    with os_errors(f"cannot write {path}"):
        out.mkdir(parents=True, exist_ok=True)
    done = finished(columns, root, [out] if records is None else [out, records])
    missing = {id: config for id, config in _trials(columns).items() if id not in done}

    def write() -> dict[str, Any]:
        # other processes write the file too
        with waited_for(out):
            written = finished(columns, root, [out])
            done.update({id: record for id, record in written.items() if id not in done})
            document = table_document(table, scale, columns, done, flags)
            write_text(path, json.dumps(document, indent=1) + "\n")
        return document

    def add(record: TrialRecord) -> None:
        done[record.id] = record
        write()

    try:
        run_trials(list(missing.values())[:limit], root, launcher=launcher, jobs=jobs, done=add)
    finally:
        show(write())


def _refuse_other_plan(path: Path, columns: Sequence[PlannedColumn], flags: Sequence[str]) -> None:
    """Refuse to replace the file of a table of which anything would be lost."""
    document = read_document(path)
    if document["flags"] != list(flags):
        raise ValueError(
            f"{path} was made with flags {document['flags']}, not {list(flags)}: give another --out, or move it elsewhere"
        )
    others = {record["id"] for record in document["records"]} - _trials(columns).keys()
    if others:
        raise ValueError(
            f"{path} has {len(others)} runs of other configs, {min(others)} among them: give another --out, or move it elsewhere"
        )


def _trials(columns: Sequence[PlannedColumn]) -> dict[str, Config]:
    """The config of each trial, once."""
    return {id: config for column in columns for id, config in zip(column.ids, column.configs, strict=True)}


def table_document(
    table: int,
    scale: str,
    columns: Sequence[PlannedColumn],
    done: Mapping[str, TrialRecord],
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """A table as JSON values: for each column the paper's figures and ours, the directions of the paper, and all records behind them.

    Args:
        table: Its number.
        scale: Name of the scale.
        columns: The plan.
        done: Records by id; runs that are missing are counted, and left out of the means.
        flags: Flags of training that the plan was made with.
    """
    trials = _trials(columns)
    there = [done[id] for id in trials if id in done]
    described = [_column(table, column, done) for column in columns]
    by_name = {column["name"]: column for column in described}
    facts = [record.facts for record in there]
    return {
        "schema": SCHEMA,
        "table": table,
        "title": TABLES[table].title,
        "scale": scale,
        "flags": list(flags),
        "done": len(there),
        "runs": len(trials),
        "columns": described,
        "directions": [
            {**asdict(direction), **_compare(by_name, direction.score, direction.greater, direction.less)}
            for direction in TABLES[table].directions
        ],
        "seconds": round(sum(fact["seconds"] for fact in facts)),
        "hardware": _distinct(fact["hardware"] for fact in facts),
        "versions": _distinct(fact["versions"] for fact in facts),
        "command": shlex.join(["idiff", "table", f"{table}", "--scale", scale, *flags]),
        "records": [record_to_json(record) for record in there],
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of their first appearance."""
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


def _column(table: int, column: PlannedColumn, done: Mapping[str, TrialRecord]) -> dict[str, Any]:
    records = [done[id] for id in column.ids if id in done]
    runs = dict(zip(column.ids, _combinations(column.grid), strict=True))
    paper = REPORTED[table].get(column.name)
    best = max(
        (record for record in records if record.scores["mig"] is not None),
        key=lambda record: record.scores["mig"],
        default=None,
    )
    return {
        "name": column.name,
        "config": column.source,
        "supervision": supervision_statement(column.configs[0]),
        "grid": {flag: list(values) for flag, values in column.grid.items()},
        "runs": runs,
        "done": len(records),
        "paper": None if paper is None else {score: asdict(value) for score, value in paper.items()},
        "ours": _spreads(records),
        "greatest_mig": None if best is None else best.id,
    }


def _spreads(records: Sequence[TrialRecord]) -> dict[str, dict[str, Any] | None]:
    """Mean, sample standard deviation, greatest and N of each score over the runs for which it is defined; None where there is none."""
    scores = [{score: record.scores[score] for score in PAPER_METRICS} for record in records]
    found = over_seeds(scores) if scores else {}
    return {
        score: asdict(found[score]) if score in found and found[score].n > 0 else None
        for score in PAPER_METRICS
    }


def _compare(columns: Mapping[str, Mapping[str, Any]], score: str, greater: str, less: str) -> dict[str, Any]:
    """The difference of two columns' means in the paper and here, ours with its standard error where both have two runs or more.

    The error takes the runs of the two columns as unpaired.
    """
    found: dict[str, Any] = {"paper": None, "ours": None, "standard_error": None, "agrees": None}
    for key in ("paper", "ours"):
        one, other = (columns[name][key][score] for name in (greater, less))
        if one is not None and other is not None:
            found[key] = one["mean"] - other["mean"]
            if key == "ours" and one["std"] is not None and other["std"] is not None:
                found["standard_error"] = (one["std"] ** 2 / one["n"] + other["std"] ** 2 / other["n"]) ** 0.5
    if found["ours"] is not None:
        found["agrees"] = found["ours"] > 0
    return found
