"""Which latent stands for which factor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from idiff_hf.latent_names import named_latents

FACTORS = ("hue", "scale")


@pytest.mark.parametrize("prior", ["known", "released", "per_dimension"])
def test_a_prior_that_is_told_of_the_factors_names_latents_in_their_order(prior: str, tmp_path: Path) -> None:
    config = {"prior_type": prior, "factor_names": FACTORS, "latent_dim": 6}
    assert named_latents(tmp_path, config) == {"hue": 0, "scale": 1}


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_any_other_prior_names_none(prior: str, tmp_path: Path) -> None:
    assert named_latents(tmp_path, {"prior_type": prior, "factor_names": FACTORS, "latent_dim": 6}) == {}


def test_what_a_run_measured_comes_first(tmp_path: Path) -> None:
    metrics: dict[str, Any] | None
    for metrics, expected in (
        ({"matched_latent": {"hue": 4, "scale": 1}}, {"hue": 4, "scale": 1}),
        (None, {"hue": 0, "scale": 1}),
    ):
        (tmp_path / "results.json").write_text(json.dumps({"model": {"metrics": metrics}}), encoding="utf-8")
        config = {"prior_type": "known", "factor_names": FACTORS, "latent_dim": 6}
        assert named_latents(tmp_path / "pipeline", config) == expected
        # a file of results beside another folder is of something else
        assert named_latents(tmp_path / "other", config) == {"hue": 0, "scale": 1}


def test_a_factor_that_has_no_latent_has_no_name(tmp_path: Path) -> None:
    metrics = {"matched_latent": {"hue": 0, "scale": -1}}
    (tmp_path / "results.json").write_text(json.dumps({"model": {"metrics": metrics}}), encoding="utf-8")
    config = {"prior_type": "learned", "factor_names": FACTORS, "latent_dim": 6}
    assert named_latents(tmp_path / "pipeline", config) == {"hue": 0}


def test_what_was_measured_is_beside_what_the_prior_says(tmp_path: Path) -> None:
    """Bounds of one column, and the factor of another column that was scored."""
    metrics = {"matched_latent": {"slant": 1}}
    (tmp_path / "results.json").write_text(json.dumps({"model": {"metrics": metrics}}), encoding="utf-8")
    config = {"prior_type": "known", "factor_names": ("ink",), "latent_dim": 6}
    assert named_latents(tmp_path / "pipeline", config) == {"ink": 0, "slant": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *(
            (content, r"results\.json holds no model\.metrics\.matched_latent: evaluate the run again$")
            for content in (
                "xx",
                "[]",
                "3",
                "{}",
                '{"model": null}',
                "[" * 100_000,
                '{"model": {"metrics": {}}}',
            )
        ),
        ('{"model": {"metrics": {"matched_latent": [3]}}}', r"holds no model\.metrics\.matched_latent"),
        *(
            (
                f'{{"model": {{"metrics": {{"matched_latent": {{"scale": {number}}}}}}}}}',
                rf"results\.json has {shown} for the latent of scale, which is no number below 6: evaluate the run",
            )
            for number, shown in (
                ("99", "99"),
                ("6", "6"),
                ("-2", "-2"),
                ("1.0", "1.0"),
                ('"x"', "'x'"),
                ("true", "True"),
            )
        ),
    ],
)
def test_results_that_are_damaged_or_of_another_model_are_one_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    config = {"prior_type": "known", "factor_names": FACTORS, "latent_dim": 6}
    with pytest.raises(ValueError, match=message) as caught:
        named_latents(tmp_path / "pipeline", config)
    assert "\n" not in str(caught.value)
