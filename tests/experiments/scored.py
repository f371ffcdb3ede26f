"""Records of trials that nobody has run, for what is computed from them."""

from __future__ import annotations

from idiff_hf.config import Config
from idiff_hf.experiments.records import FACTS, TrialRecord, trial_id
from idiff_hf.experiments.reported import PAPER_METRICS

HARDWARE = {"device": "cpu", "name": "abacus", "cores": 2, "memory_gib": 1}


def scored(config: Config, mig: float | None, others: float = 0.5) -> TrialRecord:
    """The record of a config with this MIG, and all other scores alike."""
    return TrialRecord(
        id=trial_id(config),
        seed=config.train.seed,
        config=config.to_dict(),
        scores={**dict.fromkeys(PAPER_METRICS, others), "mig": mig, "matched_latent": {"shape": 1}},
        generation=None,
        facts={**dict.fromkeys(FACTS), "seconds": 2.5, "hardware": HARDWARE, "versions": {"torch": "0"}},
    )
