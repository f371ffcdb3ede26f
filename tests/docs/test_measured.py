"""Tables in the documentation are those of the committed files that the text names."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from idiff_hf.sampler_curve import SamplerRecord, VariantRecord, curve_table, precision_table
from tests.docs.conftest import ROOT

DOCS = ROOT / "docs"


def read(path: str) -> dict[str, Any]:
    return dict(json.loads((DOCS / path).read_text(encoding="utf-8")))


def row(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def guidance_rows(found: dict[str, Any]) -> list[str]:
    """Scale, times, error, and how often are read back: the hue that is so least, scale, shape and orientation."""
    assert found["factors"] == ["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"]
    return [
        row(
            [
                f"{record['guidance_scale']:g}",
                "{:g} to {:g}".format(*record["interval"]),
                f"{record['mse']:.4f}",
                rate(min(record["readback"][:3])),
                *map(rate, record["readback"][3:]),
            ]
        )
        for record in found["records"]
    ]


def intervention_rows(found: dict[str, Any]) -> list[str]:
    names = [name.replace("_", " ") for name in found["factors"]]
    return [
        row(
            [
                "nothing" if record["factor"] is None else names[record["factor"]],
                rate(record["follows"]),
                *map(rate, record["kept"]),
            ]
        )
        for record in found["records"]
        if record["decoder"] == "ddpm"
    ]


def sampler_rows(found: dict[str, Any]) -> list[str]:
    """Some numbers of steps only, and the reference, which is the last."""
    records = [SamplerRecord(**record) for record in found["records"]]
    shown = [r for r in records if r.steps in (5, 10, 20, 100)] + records[-1:]
    return curve_table(shown).splitlines()[2:]


def precision_rows(found: dict[str, Any]) -> list[str]:
    records = [VariantRecord(**record) for record in found["records"]]
    return precision_table(records).splitlines()[2:]


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("guidance.json", guidance_rows),
        ("guidance_seed1.json", guidance_rows),
        ("guidance_plain_seed1.json", guidance_rows),
        ("guidance_paper_u.json", guidance_rows),
        ("interventions.json", intervention_rows),
        ("interventions_paper_u.json", intervention_rows),
        ("samplers.json", sampler_rows),
        ("precision.json", precision_rows),
    ],
)
def test_tables_of_sampling(path: str, rows: Any) -> None:
    page = (DOCS / "sampling.md").read_text(encoding="utf-8")
    assert f"(sampling/{path})" in page
    assert "\n".join(rows(read(f"sampling/{path}"))) + "\n\n" in page


def summary(path: str, score: str) -> str:
    """As README writes it: mean and standard deviation of a score over the seeds, to three places."""
    records = read(f"experiments/{path}.json")["records"]
    values = [record["scores"][score] for record in records]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.3f} ± {deviation:.3f}".replace("0.", ".")


@pytest.mark.parametrize(
    ("label", "score"),
    [("MIG", "mig"), ("DCI disentanglement", "dci_disentanglement"), ("Spearman MCC", "mcc_spearman")],
)
def test_scores_in_readme(label: str, score: str) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    known, paper = (summary(path, score) for path in ("best_ivae_32", "best_paper_u_shapes3d_32"))
    assert f"| {label} | {known} | {paper}" in page
