"""What a trial is: the id of what decides its result, and the record of what it came to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE
from ..config import Config
from ..folders import MANIFEST, json_bytes

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
    return record


def trial_id(config: Config) -> str:
    """12 hexadecimal digits of the SHA-256 of what decides a run's result.

    That is every key but `NOT_DECISIVE`, so that a key which is new to the configuration changes all of them, and of a pretrained iVAE its
    files instead of its folder. The number of processes is not part of it: give `train.global_batch_size` where it may change.
    """
    values = _decisive(config.to_dict())
    pretrained = config.model.pretrained_ivae
    if pretrained is not None and (manifest := Path(pretrained) / MANIFEST).is_file():
        values["model"]["pretrained_ivae"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return hashlib.sha256(json_bytes(values)).hexdigest()[:12]


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
    path = root / trial_id(config) / RECORD
    if not path.is_file():
        return None
    try:
        record = record_from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}: remove it, and the trial is scored again") from None
    if _decisive(record.config) != _decisive(config.to_dict()):
        raise ValueError(f"{path} is of another config than its folder is named by: remove the folder")
    return record
