"""Tables in the documentation are those of the committed files that the text names."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest

from idiff_hf.sampler_curve import SamplerRecord, VariantRecord, curve_table, precision_table
from tests.docs.committed import DOCS, read, row, short, spread


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


@pytest.mark.parametrize("kind", ["additive", "tokens"])
def test_additive_and_tokens_in_models(kind: str) -> None:
    runs = [read(f"conditioning/{kind}_{seed}.json") for seed in range(3)]
    assert [run["config"]["train"]["seed"] for run in runs] == [0, 1, 2]
    plain, strong = ([run["generation"]["ddpm"][scale] for run in runs] for scale in ("1.0", "4.0"))
    errors = [drawn["mse"] for drawn in plain]
    back, back_strong = (
        [statistics.mean(drawn["readback"].values()) for drawn in every] for every in (plain, strong)
    )
    cells = [
        kind,
        f"{' '.join(short(error, 4) for error in errors)} ({spread(errors, 4)})",
        " ".join(f"{drawn['mse_ratio']:.2f}" for drawn in plain),
        " ".join(short(rate, 3) for rate in back),
        spread([drawn["mse"] for drawn in strong], 4),
        short(statistics.mean(back_strong), 3),
    ]
    assert row(cells) in (DOCS / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["additive", "tokens"])
def test_effects_on_x_0_in_sensitivity(kind: str) -> None:
    """Means over three seeds of two latents, of those that stand for no factor, and of all together; at five times."""
    effects: dict[str, list[np.ndarray]] = {
        "floor hue": [],
        "shape": [],
        "a spare latent": [],
        "all, against none": [],
    }
    for seed in range(3):
        found = read(f"sensitivity/{kind}_{seed}.json")
        times = [int(np.abs(np.subtract(found["times"], t)).argmin()) for t in (0.001, 0.2, 0.5, 0.8, 1.0)]
        scale = np.array(found["sigma_over_alpha"])[times]
        latents = np.array(found["normalized"])[times] * scale[:, None]
        names = [label.partition(" ")[2] for label in found["latents"]]
        effects["floor hue"].append(latents[:, names.index("floor_hue")])
        effects["shape"].append(latents[:, names.index("shape")])
        effects["a spare latent"].append(latents[:, [name == "" for name in names]].mean(axis=1))
        effects["all, against none"].append(np.array(found["condition"])[times] * scale)
    page = (DOCS / "sensitivity.md").read_text(encoding="utf-8")
    for name, values in effects.items():
        places = 1 if name != "a spare latent" else 2 if kind == "additive" else 3
        label = f"`{kind}`: {name}" if name == "floor hue" else name
        assert row([label, *(f"{value:.{places}f}" for value in np.mean(values, axis=0))]) in page


def test_shares_by_integrated_gradients_in_sensitivity() -> None:
    found = read("sensitivity/additive_0_captum.json")
    names = np.array([label.partition(" ")[2] for label in found["latents"]])
    hues = np.isin(names, ["floor_hue", "wall_hue", "object_hue"])
    forms = np.isin(names, ["scale", "shape", "orientation"])
    shares = np.array(found["sensitivity"]) / np.array(found["condition"])[:, None]
    late, early = shares[-1], shares[1]
    assert found["times"][1] == pytest.approx(0.1, abs=0.01)
    page = " ".join((DOCS / "sensitivity.md").read_text(encoding="utf-8").split())
    assert f"the hues make {late[hues].sum():.0%}".replace("%", " %") in page
    assert f"size, shape and orientation {late[forms].sum():.0%}".replace("%", " %") in page
    assert f"at t = 0.1 it is {early[hues].sum():.0%} and {early[forms].sum():.0%}".replace("%", " %") in page
