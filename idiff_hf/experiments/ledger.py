"""The ledger of experiments: what was changed, what came of it by paired seeds, and the verdict.

Made from `ledger.yaml`, whose entries name files of `idiff seeds --out` that lie beside it:

    - title: A prior of the right family
      question: Does a uniform prior serve u = interval better than a Gaussian one?
      runs: {gaussian: gaussian.json, uniform: uniform.json}   # the first is what the others are compared with
      verdict: Yes, in each seed.

Two runs are compared on the seeds that both have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..arguments import read_yaml
from ..markdown import markdown_table
from ..provenance import write_text
from .seeds import BASELINES, BY_FACTOR, COLUMNS, IMAGES, chosen_by_elbo, mean_and_std

LEDGER = "ledger.yaml"
KEYS = {"title", "question", "runs", "verdict"}
SHOWN = (
    "mig",
    "mcc_spearman",
    "dci_disentanglement",
    "dci_completeness",
    "modularity",
    "mcc_spearman_unsigned",
    *IMAGES,
)
"""Of `COLUMNS`, those that the ledger has room for; the files have all."""
_HEADER = """\
# Experiments

One change at a time, under the same seeds. Made from `{folder}/ledger.yaml` and the files that it names by
`python -m idiff_hf.experiments.ledger docs/{folder}`; a test makes it again and compares. A difference is the mean over paired seeds with
its standard error, and in how many seeds it is above zero. All scores are on held-out images; what u tells stands under each table. Errors
of images have pixels in [-1, 1], the DDPM at guidance 1; read back is the class of the nearest rendered image, here of the factor for which
it is right least often.
"""


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The entries of `folder/ledger.yaml`, each with the files of its runs as `results`.

    Raises:
        ValueError: One line: no such file, no YAML, an entry without one of its keys, or a run whose file is missing or is none of
            `idiff seeds`.
    """
    entries = []
    for position, entry in enumerate(read_yaml(folder / LEDGER)):
        if set(entry) != KEYS:
            raise ValueError(
                f"{folder / LEDGER}: entry {position} has {sorted(entry)}: give {', '.join(sorted(KEYS))}"
            )
        results = {name: _read(folder / file) for name, file in entry["runs"].items()}
        entries.append({**entry, "results": results})
    return entries


def _read(path: Path) -> dict[str, Any]:
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"file": path.name, "command": written["command"], **written["table"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of idiff seeds --out: {error}") from None


def difference(one: Mapping[str, Any], other: Mapping[str, Any], score: str) -> dict[str, Any] | None:
    """What `other` has more of a score than `one`, by paired seeds.

    Args:
        one: The table of `seeds.seeds_table`.
        other: Likewise.
        score: One of `COLUMNS`.

    Returns:
        `mean`, `standard_error` (None for one pair), `above`, the pairs in which it is above zero, and `n`; None without a pair.
    """
    before = {row["seed"]: row.get(score) for row in one["seeds"]}
    pairs = [
        row[score] - before[row["seed"]]
        for row in other["seeds"]
        if row.get(score) is not None and before.get(row["seed"]) is not None
    ]
    if not pairs:
        return None
    return {
        "mean": fmean(pairs),
        "standard_error": stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None,
        "above": sum(pair > 0 for pair in pairs),
        "n": len(pairs),
    }


def ledger_markdown(folder: Path) -> str:
    """The page of all entries; raises ValueError as `read_ledger`."""
    parts = [_HEADER.format(folder=folder.name)]
    for entry in read_ledger(folder):
        parts.append(f"## {entry['title']}\n\n{entry['question']}\n")
        parts.append(_scores(entry["results"]) + "\n")
        if by_factor := _scores_by_factor(entry["results"]):
            parts.append(by_factor + "\n")
        parts.append(_provenance(entry["results"], folder.name))
        parts.append(f"**Verdict.** {entry['verdict'].strip()}\n")
    return "\n".join(parts)


def _scores(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    first, *_ = results
    shown = [score for score in SHOWN if any(score in result["scores"] for result in results.values())]
    for name, result in results.items():
        seeds = ", ".join(str(row["seed"]) for row in result["seeds"])
        rows.append([name, seeds, *(mean_and_std(result["scores"].get(score)) for score in shown)])
        if name != first:
            differences = [_text(difference(results[first], result, score)) for score in shown]
            rows.append([f"{name} - {first}", "", *differences])
        for baseline, words in BASELINES.items():
            if (trained := result["baselines"][baseline]) is not None:
                rows.append(
                    [f"{words} of {name}", seeds, *(mean_and_std(trained.get(score)) for score in shown)]
                )
    return markdown_table(["", "seeds", *(COLUMNS[score] for score in shown)], rows)


def _scores_by_factor(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Empty where no run has a score of a factor."""
    factors = list(
        dict.fromkeys(
            name for result in results.values() for key in BY_FACTOR for name in result["factors"][key]
        )
    )
    rows = [
        [f"{run}, {words}", *(mean_and_std(result["factors"][key].get(name)) for name in factors)]
        for key, words in BY_FACTOR.items()
        for run, result in results.items()
        if result["factors"][key]
    ]
    return markdown_table(["by factor", *factors], rows) if rows else ""


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.3f}"
    return f"{found['mean']:+.3f}{error} ({found['above']} of {found['n']})"


def _provenance(results: Mapping[str, Mapping[str, Any]], folder: str) -> str:
    lines = [
        f"- {name}: `{result['command']}`; [{result['file']}]({folder}/{result['file']}); {result['num_samples']} held-out images, "
        f"{result['hardware']['name']}, {result['hardware']['cores']} core(s)"
        for name, result in results.items()
    ]
    lines += [f"- {name}: {chosen}" for name, result in results.items() if (chosen := chosen_by_elbo(result))]
    told = dict.fromkeys(result["supervision"] for result in results.values())
    return "\n".join([*lines, *(f"- {statement}" for statement in told)]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write `FOLDER.md` beside each folder that is named; returns the exit code, 2 where one is refused."""
    try:
        for name in arguments:
            folder = Path(name)
            write_text(folder.with_name(f"{folder.name}.md"), ledger_markdown(folder))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
