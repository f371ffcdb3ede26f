"""The table of docs/results.md is that of the committed files, and README has rows of it."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest

from idiff_hf import Shapes3D
from tests.docs.committed import DOCS, card, read, records, row, short, spread
from tests.docs.conftest import ROOT

PAGE = (DOCS / "results.md").read_text(encoding="utf-8")
IVAES = ("best_ivae_32", "best_paper_u_shapes3d_32")
UNETS = ("best_ddpm_32", "best_ddpm_paper_u_32")


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def least(generation: dict[str, Any], scale: str = "1.0") -> str:
    assert generation["num_images"] == 480
    return percent(min(generation["ddpm"][scale]["readback"].values()))


def minutes(name: str) -> str:
    found = [record["facts"]["seconds"] / 60 for record in records(name)]
    return f"{min(found):.0f} to {max(found):.0f}"


@pytest.mark.parametrize(
    ("label", "score"),
    [
        ("MIG", "mig"),
        ("DCI disentanglement", "dci_disentanglement"),
        ("DCI completeness", "dci_completeness"),
        ("modularity", "modularity"),
        ("Spearman MCC", "mcc_spearman"),
    ],
)
def test_scores_over_seeds(label: str, score: str) -> None:
    known, paper = (spread([record["scores"][score] for record in records(name)], 3) for name in IVAES)
    assert f"| {label} | {known} | {paper}" in PAGE


def test_spearman_correlations_of_factors_without_a_circle() -> None:
    found = [record["scores"]["mcc_spearman_per_factor"] for record in records(IVAES[1])]
    rates = [{short(each[name], 2) for each in found} for name in ("scale", "shape", "orientation")]
    assert "scale, shape and orientation have {}, {} and {} |".format(*(rate for (rate,) in rates)) in PAGE


def test_u_alone_and_labels() -> None:
    known = [
        short(sum(record["scores"]["mig"] for record in records(name)) / 2, 3)
        for name in ("u_alone", "labels")
    ]
    assert [record["seed"] for record in records("u_alone")] == [0, 1]
    found = card(IVAES[1])
    paper = [short(found[kind]["metrics"]["mig"], 3) for kind in ("supervision_baseline", "supervised_probe")]
    cells = [f"{', '.join(known)} (seeds 0, 1)", f"{', '.join(paper)} (seed 22)"]
    assert row(["MIG of u alone, and of the labels", *cells]) in PAGE


def test_factor_vae_and_beta_vae() -> None:
    paths = list((DOCS / "factor_vae").iterdir())
    assert len(paths) == 6
    for path in paths:
        values = read(f"factor_vae/{path.name}")["values"]
        assert values["factor_vae"] == values["beta_vae"] == 1
    assert "| 1.000, 1.000 (seed 0) | 1.000, 1.000 on each seed |" in PAGE


def test_real_images() -> None:
    known, paper = (card(name)["real_images"] for name in (UNETS[0], IVAES[1]))
    for found in (known, paper):
        assert found["num_images"] == 50 and set(found["within_one"].values()) == {1}
        assert {rate for name, rate in found["exact"].items() if name != "orientation"} == {1}
    first, second = (short(found["exact"]["orientation"], 2) for found in (known, paper))
    cells = [
        f"each factor within one class; exactly, orientation {first}, the others 1 (seed 0)",
        f"the same; orientation {second} (seed 22)",
    ]
    assert row(["the 50 real images, by an iVAE of rendered ones", *cells]) in PAGE


def test_minutes() -> None:
    for name in IVAES:
        assert f", {minutes(name)} |" in PAGE
    for name in UNETS:
        (record,) = records(name)
        assert f"| `configs/{name}.yaml`, {record['facts']['seconds'] / 60:.0f} |" in PAGE


def test_drawings() -> None:
    """Cards are of seeds 0 and 22, records of seeds 1 and 21."""
    known, paper = ([card(name)["generation"], records(name)[0]["generation"]] for name in UNETS)
    rates = [[least(found) for found in pair] for pair in (known, paper)]
    ratios = [[short(found["ddpm"]["1.0"]["mse_ratio"], 2) for found in pair] for pair in (known, paper)]
    (old, new), others = rates
    cells = [f"{new} % (seed 1); {old} % (seed 0, chosen on)", f"{', '.join(others)} % (seeds 22, 21)"]
    assert row(["factors read back from 480 drawings, guidance 1, the least", *cells]) in PAGE
    (old, new), others = ratios
    cells = [f"{new} (seed 1); {old} (seed 0)", f"{', '.join(others)} (seeds 22, 21)"]
    assert row(["squared error of drawings, over that of the iVAE's decoder", *cells]) in PAGE


def test_guidance() -> None:
    """At 4 at all times: the least factor, and the others; then at t from .2 on."""
    cells = []
    for path, name in (("guidance_seed1", "seed 1"), ("guidance_paper_u", "seed 22")):
        found = read(f"sampling/{path}.json")
        assert found["num_images"] == 480
        of_4 = {
            tuple(record["interval"]): record["readback"]
            for record in found["records"]
            if record["guidance_scale"] == 4
        }
        everywhere = dict(zip(found["factors"], of_4[0.0, 1.0], strict=True))
        worst, second, third = sorted(everywhere, key=everywhere.__getitem__)[:3]
        assert worst == "orientation"
        rest = (
            f"the others {percent(everywhere[second])} % or more"
            if name == "seed 1"
            else f"{second} {percent(everywhere[second])}, the others {percent(everywhere[third])} or more"
        )
        cells.append(
            f"{percent(everywhere[worst])} % ({worst}; {rest}); {percent(min(of_4[0.2, 1.0]))} % ({name})"
        )
    assert row(["the same at guidance 4, at all times; at t from .2 on", *cells]) in PAGE


def test_twice_the_steps() -> None:
    known = records("best_ddpm_32_longer")
    paper = records("best_ddpm_paper_u_32_longer") + records("best_ddpm_paper_u_32_longer_seed21")
    assert [record["seed"] for record in known + paper] == [0, 22, 21]
    cells = [
        "{} %; {} % ({})".format(
            *(", ".join(least(record["generation"], scale) for record in found) for scale in ("1.0", "4.0")),
            seeds,
        )
        for found, seeds in ((known, "seed 0"), (paper, "seeds 22, 21"))
    ]
    assert row(["the least with twice the U-Net's steps, guidance 1; 4 at all times", *cells]) in PAGE


def test_latents_set_to_a_class() -> None:
    """Of all drawings in which one latent was set, as many for each class of its factor."""
    cells, together = [], []
    for path, name in (("interventions", "seed 0"), ("interventions_paper_u", "seed 22")):
        found = read(f"sampling/{path}.json")
        drawn = [
            record
            for record in found["records"]
            if record["decoder"] == "ddpm" and record["factor"] is not None
        ]
        weights = [Shapes3D.factor_space.sizes[record["factor"]] for record in drawn]
        kept = [statistics.mean(rate for rate in record["kept"] if rate is not None) for record in drawn]
        together.append(percent(float(np.average(kept, weights=weights))))
        follows = [record["follows"] for record in drawn]
        cells.append(f"{percent(min(follows))} to {100 * max(follows):.0f} %; {together[-1]} % ({name})")
    assert row(["one latent set to a class: its factor follows; the others are kept", *cells]) in PAGE
    sampling = " ".join((DOCS / "sampling.md").read_text(encoding="utf-8").split())
    known, paper = together
    assert f"Of all other factors together {known} % are kept with u = interval and {paper} %" in sampling


def test_readme_has_rows_of_the_table() -> None:
    section = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Experiments\n")[1].split("\n## ")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`configs/" not in line]
    assert len(rows) == 7
    assert [line for line in rows if f"{line}\n" not in PAGE] == []
