"""One config under several seeds: how much of a score is luck."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from scipy.stats import spearmanr

from ..baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE
from ..config import Config
from ..markdown import markdown_table
from ..metrics import over_seeds
from .records import TrialRecord

UNSIGNED = "mcc_spearman_unsigned"
"""A score of models whose u tells no sign alone."""
ELBO = "elbo"
"""A score that needs no labels: the greater, the better, among seeds of one config."""
RESTARTS = (3, 5)
"""How many trainings to choose among by the ELBO, of which `chosen_by_elbo` says what they come to."""
MAX_SEEDS = 10_000
"""More are a slip of the keyboard: each is a run, and all are planned before the first begins."""
SCORES = {
    "mig": "MIG",
    "mcc_spearman": "Spearman MCC",
    "mcc_pearson": "Pearson MCC",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness_test": "DCI informativeness",
    "modularity": "Modularity",
    UNSIGNED: "Spearman MCC of distances from 0",
    ELBO: "ELBO, nats up to a constant",
}
"""What the table shows of `TrialRecord.scores`, and in which words."""
IMAGES = {
    "mse_ivae": "Squared error of the decoder",
    "mse_ddpm": "Squared error of the DDPM",
    "readback_ddpm": "Least read back from the DDPM",
}
"""What it shows of `image_scores`."""
COLUMNS = SCORES | IMAGES
"""What a seed has a figure of, and in which words."""
BY_FACTOR = {
    "mig_per_factor": "MIG",
    "mcc_spearman_per_factor": "Spearman correlation, absolute",
    "mcc_spearman_unsigned_per_factor": "Spearman correlation of distances from 0",
}
BASELINES = {SUPERVISION_BASELINE: "supervision baseline", SUPERVISED_PROBE: "supervised probe"}


def parse_seeds(text: str) -> list[int]:
    """Seeds written as `0..9`, both ends included, or `0,3,5`.

    Raises:
        ValueError: One line: something else, a seed given twice, or more than `MAX_SEEDS`.
    """
    # Python reads no number of thousands of digits
    if span := re.fullmatch(r"(\d{1,99})\.\.(\d{1,99})", text):
        first, last = int(span[1]), int(span[2])
        count = last - first + 1
    else:
        count = text.count(",") + 1
    if count > MAX_SEEDS:
        raise ValueError(f"--seeds names {count} seeds: give {MAX_SEEDS} at most")
    if span:
        seeds = list(range(first, last + 1))
    elif re.fullmatch(r"\d{1,99}(,\d{1,99})*", text):
        seeds = [int(number) for number in text.split(",")]
    else:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must be as in 0..9 or 0,3,5, each once, got {text!r}")
    return seeds


def seed_configs(config: Config, seeds: Sequence[int]) -> list[Config]:
    """The config under each seed."""
    return [replace(config, train=replace(config.train, seed=seed)) for seed in seeds]


def image_scores(record: TrialRecord) -> dict[str, float]:
    """How well the images of held-out z are drawn, as far as it was measured.

    Returns:
        Of `IMAGES`: the squared errors of the decoder and of the DDPM at guidance 1, pixels in [-1, 1]; and the share of the DDPM's images
        whose nearest rendered image has the right class, of the factor for which it is least.
    """
    generation = record.generation or {}
    decoded, drawn = generation.get("ivae") or {}, generation.get("ddpm", {}).get("1.0", {})
    found = {"mse_ivae": decoded.get("mse"), "mse_ddpm": drawn.get("mse")}
    if read := drawn.get("readback"):
        found["readback_ddpm"] = min(read.values())
    return {key: value for key, value in found.items() if value is not None}


def seeds_table(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """What the records of one config under several seeds have in common.

    Args:
        records: One for each seed, one or more.

    Returns:
        Plain JSON values: of each of `SCORES`, of `ELBO` and each of `IMAGES` that was measured, and of each factor's (`BY_FACTOR`),
        `mean`, `std` (n - 1 in the denominator), `min`, `max` and `n`, the seeds for which it is defined; `baselines`, the same of what
        was trained beside the models, None where it was not; `seeds`, the scores of each; `num_samples`, `supervision`, `hardware` and
        `versions` of the first.
    """
    first = records[0].facts
    figures = [record.scores | image_scores(record) for record in records]
    optional = {UNSIGNED, ELBO, *IMAGES}
    keys = [key for key in COLUMNS if key not in optional or any(key in figure for figure in figures)]
    seeds = [{key: figure.get(key) for key in keys} for figure in figures]
    return {
        "scores": summaries(seeds),
        "factors": {
            name: summaries([record.scores.get(name, {}) for record in records]) for name in BY_FACTOR
        },
        "baselines": {name: _baseline(records, name) for name in BASELINES},
        "seeds": [
            {"seed": record.seed, "id": record.id, **seed}
            for record, seed in zip(records, seeds, strict=True)
        ],
        **{name: first[name] for name in ("num_samples", "supervision", "hardware", "versions")},
    }


def summaries(values: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, deviation, extremes and number of each key, over what is defined; `metrics.over_seeds` with the least value."""
    least = {
        key: min((one[key] for one in values if one.get(key) is not None), default=None)
        for one in values
        for key in one
    }
    return {key: {**asdict(summary), "min": least[key]} for key, summary in over_seeds(values).items()}


def _baseline(records: Sequence[TrialRecord], name: str) -> dict[str, Any] | None:
    found = [metrics for record in records if (metrics := record.facts[name]) is not None]
    if not found:
        return None
    return summaries([{key: metrics.get(key) for key in SCORES if key in metrics} for metrics in found])


def seeds_markdown(table: Mapping[str, Any]) -> str:
    """The table of `seeds_table` in Markdown: scores, factors, seeds."""
    trained = [name for name in BASELINES if table["baselines"][name] is not None]
    scores = [
        [
            COLUMNS[key],
            *_cells(table["scores"][key]),
            *(mean_and_std(table["baselines"][name].get(key)) for name in trained),
        ]
        for key in table["scores"]
    ]
    parts = [
        markdown_table(
            ["score", "mean ± std", "min", "max", "N", *(BASELINES[name] for name in trained)], scores
        )
    ]
    for key, words in BY_FACTOR.items():
        if table["factors"][key]:
            rows = [[name, *_cells(summary)] for name, summary in table["factors"][key].items()]
            parts.append(markdown_table([f"{words} of", "mean ± std", "min", "max", "N"], rows))
    seeds = [[str(row["seed"]), *(number(row[key]) for key in table["scores"])] for row in table["seeds"]]
    parts.append(markdown_table(["seed", *(COLUMNS[key] for key in table["scores"])], seeds))
    if chosen := chosen_by_elbo(table):
        parts.append(f"{chosen[0].upper()}{chosen[1:]}.")
    parts.append(f"{table['num_samples']} held-out images; {table['supervision']}.")
    return "\n\n".join(parts)


def chosen_by_elbo(table: Mapping[str, Any]) -> str | None:
    """In words, which seed has the greatest ELBO, its MIG, the rank correlation of the two, and `best_of` where there are seeds to spare.

    None below three seeds that have an ELBO.

    Args:
        table: That of `seeds_table`.
    """
    seeds = [row for row in table["seeds"] if row.get(ELBO) is not None]
    if len(seeds) < 3:
        return None
    best = max(seeds, key=lambda row: row[ELBO])
    text = f"chosen without labels, by the greatest ELBO: seed {best['seed']}"
    if any(row["mig"] is None for row in seeds):
        return text
    elbos, migs = ([row[key] for row in seeds] for key in (ELBO, "mig"))
    # all alike have no ranks, of which SciPy warns
    ranked = len(set(elbos)) > 1 and len(set(migs)) > 1
    rank = f"{spearmanr(elbos, migs).statistic:+.2f}" if ranked else "undefined"
    text += f", MIG {number(best['mig'])}; rank correlation of both over {len(seeds)} seeds {rank}"
    for trained in RESTARTS:
        if trained < len(seeds):
            text += f"; out of any {trained} it chooses {mean_and_std(best_of(seeds, trained))} in the mean"
    return text


def best_of(seeds: Sequence[Mapping[str, Any]], trained: int) -> dict[str, float]:
    """What training several seeds and keeping the one with the greatest ELBO comes to.

    Args:
        seeds: Rows with `ELBO` and `mig`.
        trained: How many of them are trained, at most all.

    Returns:
        `mean` and `std` of the kept one's MIG over all choices of that many of the seeds. The choices overlap, so that `std` is that of one
        such model and no error of `mean`.
    """
    ranked = sorted(seeds, key=lambda row: row[ELBO])
    choices = math.comb(len(ranked), trained)
    # The row above `place` others is the greatest where the rest of a choice is among these.
    shares = [math.comb(place, trained - 1) / choices for place in range(len(ranked))]
    mean = sum(share * row["mig"] for share, row in zip(shares, ranked, strict=True))
    square = sum(share * (row["mig"] - mean) ** 2 for share, row in zip(shares, ranked, strict=True))
    return {"mean": mean, "std": math.sqrt(square)}


def number(value: float | None) -> str:
    """Three decimals, a dash for what is undefined."""
    return "-" if value is None else f"{value:.3f}"


def _cells(summary: Mapping[str, Any]) -> list[str]:
    return [mean_and_std(summary), number(summary["min"]), number(summary["max"]), str(summary["n"])]


def mean_and_std(summary: Mapping[str, Any] | None) -> str:
    """Of an entry of `seeds_table`, a dash for what is undefined."""
    if summary is None or summary["mean"] is None:
        return "-"
    spread = "" if summary["std"] is None else f" ± {summary['std']:.3f}"
    return f"{summary['mean']:.3f}{spread}"
