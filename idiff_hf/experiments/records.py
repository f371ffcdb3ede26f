"""What a trial is: the id of what decides its result, and the record of what it came to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE
from ..config import Config
from ..data.tables import METADATA, PICTURE_SUFFIXES
from ..folders import MANIFEST, json_bytes, os_errors

RECORD = "trial.json"
"""In a trial's folder, whose name is its id."""
NOT_DECISIVE = {
    "data": ("num_workers", "cache_dir"),
    "train": (
        "output_dir",
        "resume_from_checkpoint",
        "report_to",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "logging_steps",
        "validation_steps",
    ),
}
"""Keys that a trial's id leaves out, with all of `hub`: a run comes to the same result whatever they say."""


FACTS = {
    "num_samples",
    "estimators",
    "undefined",
    "supervision",
    "seconds",
    "images_per_second",
    "num_processes",
    "global_batch_size",
    "hardware",
    "versions",
    "command",
    SUPERVISION_BASELINE,
    SUPERVISED_PROBE,
}
"""The keys of `TrialRecord.facts`."""


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        id: See `trial_id`.
        seed: `train.seed`.
        config: The whole configuration as plain values; its `train.output_dir` is relative to the root of the trials.
        scores: Each number of `scoring.METRICS` by the key of `metrics.evaluate`, None where it is undefined; by factor `mig_per_factor`,
            `mcc_spearman_per_factor` and `matched_latent`; `scoring.unsigned_scores` where u tells no sign; `scoring.elbo` of an iVAE that
            learned by it, which is all there is where no factor is known. Empty for a model without latents.
        generation: `generation` of the run's `results.json`.
        facts: `num_samples` scored, `estimators`, `undefined` scores with the reason, `supervision` in words, `seconds` of training,
            `images_per_second`, `num_processes`, `global_batch_size`, `hardware`, `versions`, `command` as given in the root, and the
            metrics of the `supervision_baseline` and the `supervised_probe`, None where they were not trained.
    """

    id: str
    seed: int
    config: dict[str, Any]
    scores: dict[str, Any]
    generation: dict[str, Any] | None
    facts: dict[str, Any]


def record_to_json(record: TrialRecord) -> dict[str, Any]:
    """A record as plain values that `json.dumps` takes."""
    return asdict(record)


def record_from_json(values: dict[str, Any]) -> TrialRecord:
    """The record of such values; raises ValueError, in one line, where they are of something else."""
    try:
        record = TrialRecord(**values)
    except TypeError as error:
        raise ValueError(f"not the record of a trial: {error}") from None
    groups = (record.config, record.scores, record.facts)
    if not all(isinstance(group, dict) for group in groups) or not record.facts.keys() >= FACTS:
        raise ValueError("not the record of a trial: config, scores or facts are incomplete")
    for group, keys in record.config.items():
        if not isinstance(keys, dict):
            raise ValueError(f"not the record of a trial: config.{group} is no group of keys")
    if not isinstance(record.id, str):
        raise ValueError(f"not the record of a trial: its id must be a text, got {record.id!r}")
    if record.seed != (seed := record.config.get("train", {}).get("seed")):
        raise ValueError(f"not the record of a trial: its seed is {record.seed!r}, its train.seed {seed!r}")
    return record


def trial_id(config: Config) -> str:
    """12 hexadecimal digits of the SHA-256 of what decides a run's result.

    That is every key but `NOT_DECISIVE`, so that a key which is new to the configuration changes all of them. Where a key names files that
    are here, they count and not how the path to them is written (`hashed_files`). The number of processes is not part of it: give
    `train.global_batch_size` where it may change.

    Raises:
        CheckpointError: One line: those files cannot be read.
    """
    return _id(config, hashed_files(config))


def _id(config: Config, hashes: Mapping[tuple[str, str], str]) -> str:
    values = _decisive(config.to_dict())
    for (group, name), digest in hashes.items():
        values[group][name] = digest
    return hashlib.sha256(json_bytes(values)).hexdigest()[:12]


def hashed_files(config: Config) -> dict[tuple[str, str], str]:
    """The keys, as group and name, that `trial_id` takes a hash of files for.

    - `model.pretrained_ivae`: the manifest of its folder.
    - `data.path` of `data.name=own` that is not streamed: names, sizes and times of the files that `data.tables.open_table` reads, and the
      text of `metadata.csv`. No picture is opened. One that is not here is a Hub id and counts as it is written.

    Raises:
        CheckpointError: One line: the files cannot be read.
    """
    hashes = {}
    pretrained, data = config.model.pretrained_ivae, config.data
    if pretrained is not None and (manifest := Path(pretrained) / MANIFEST).is_file():
        hashes["model", "pretrained_ivae"] = _sha256(manifest)
    if data.name == "own" and data.path is not None and not data.streaming:
        place = Path(data.path).expanduser()
        with os_errors(f"cannot read data.path={data.path}"):
            if place.exists():
                hashes["data", "path"] = _files_hash(place)
    return hashes


def _files_hash(place: Path) -> str:
    """Of a file, or of all that lie in a folder and are read."""
    lines = []
    for path in sorted(_read_files(place)) if place.is_dir() else [place]:
        name, stat = path.relative_to(place).as_posix(), path.stat()
        # a table is small, and often written again as it was
        told = _sha256(path) if name == METADATA else f"{stat.st_size}\0{stat.st_mtime_ns}"
        lines.append(f"{name}\0{told}\n")
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _read_files(folder: Path) -> Iterator[Path]:
    """The files of a folder that hold pictures or their columns."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            kept = path.suffix.lower() in PICTURE_SUFFIXES or path.suffix in (".npy", ".parquet")
            if not name.startswith(".") and (kept or path == folder / METADATA):
                yield path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _decisive(values: dict[str, Any]) -> dict[str, Any]:
    return {
        group: {name: value for name, value in keys.items() if name not in NOT_DECISIVE.get(group, ())}
        for group, keys in values.items()
        if group != "hub"
    }


def load_record(root: Path, config: Config) -> TrialRecord | None:
    """The record of a config's trial, None where it is not finished.

    Raises:
        ValueError: One line: the file was damaged, or is of another config.
    """
    hashes = hashed_files(config)
    path = root / _id(config, hashes) / RECORD
    if not path.is_file():
        return None
    try:
        with os_errors("it cannot be read"):
            text = path.read_text(encoding="utf-8")
        record = record_from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: {reason}: remove it, and the trial is scored again") from None
    there, wanted = _flat(record.config), _flat(config.to_dict())
    for group, name in hashes:
        # by the folder's name they are the same files, wherever these lay
        there.pop(f"{group}.{name}", None)
        del wanted[f"{group}.{name}"]
    for key in sorted(there.keys() | wanted.keys()):
        one, other = (values.get(key, "not there") for values in (there, wanted))
        if one != other:
            raise ValueError(
                f"{path} is of another config than its folder is named by: {key} is {one} in it, and {other} is asked for: "
                "give another --root"
            )
    return record


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{group}.{name}": value for group, keys in _decisive(config).items() for name, value in keys.items()
    }
