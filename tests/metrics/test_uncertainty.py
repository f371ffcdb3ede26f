from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from idiff_hf.metrics import evaluate_codes, mcc, mig, sampling_intervals
from idiff_hf.metrics.uncertainty import Interval, SeedSummary, confidence_intervals, over_seeds


def draw(rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Three latents, mixed and noisy, of two factors of 4 and 3 classes."""
    factors = np.stack([rng.integers(0, 4, num_samples), rng.integers(0, 3, num_samples)], axis=1)
    mixing = np.array([[1, 0.2, 0.5], [0.3, 1, 0.5]])
    return (factors / [3, 2]) @ mixing + rng.uniform(-0.4, 0.4, (num_samples, 3)), factors


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return draw(np.random.default_rng(0), 300)


def mean_of_codes(codes: np.ndarray, factors: np.ndarray) -> float:
    return float(codes.mean())


def both(codes: np.ndarray, factors: np.ndarray) -> dict[str, object]:
    return {"mig": mig(codes, factors).mean, "mcc": mcc(codes, factors).mean}


@pytest.mark.parametrize("size", [None, 30, 225])
def test_the_standard_error_of_a_mean_is_that_known_on_paper(size: int | None) -> None:
    rng = np.random.default_rng(0)
    codes, factors = rng.normal(size=(400, 1)), rng.integers(0, 2, size=(400, 1))
    expected = codes.std(ddof=1) / np.sqrt(400)
    interval = confidence_intervals(mean_of_codes, codes, factors, subsample_size=size, num_resamples=3000)
    assert interval.standard_error == pytest.approx(expected, rel=0.05)
    assert interval.value == codes.mean()
    assert interval.low == pytest.approx(codes.mean() - 1.96 * expected, abs=0.1 * expected)
    assert interval.high == pytest.approx(codes.mean() + 1.96 * expected, abs=0.1 * expected)


def test_the_bootstrap_of_a_mean_is_that_known_on_paper() -> None:
    rng = np.random.default_rng(0)
    codes, factors = rng.normal(size=(400, 1)), rng.integers(0, 2, size=(400, 1))
    interval = confidence_intervals(mean_of_codes, codes, factors, method="bootstrap", num_resamples=3000)
    assert interval.standard_error == pytest.approx(codes.std() / np.sqrt(400), rel=0.05)


def test_a_wider_level_gives_a_wider_interval_around_the_narrower(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    half, most = (confidence_intervals(mean_of_codes, *rows, level=level) for level in (0.5, 0.99))
    assert most.low < half.low < half.value < half.high < most.high  # type: ignore[operator]
    assert half.high - half.low < 0.4 * (most.high - most.low)  # type: ignore[operator]


def test_a_metric_that_no_sample_moves_has_no_width() -> None:
    factors = np.random.default_rng(0).integers(0, 3, size=(60, 2))
    for method in ("subsample", "bootstrap"):
        interval = confidence_intervals(
            lambda codes, factors: mcc(codes, factors).mean, factors, factors, method=method
        )
        assert interval.low == pytest.approx(1, abs=1e-12) and interval.high == pytest.approx(1, abs=1e-12)


def test_subsamples_hold_half_the_rows_once_and_bootstraps_as_many_as_there_are() -> None:
    codes, factors = np.arange(50.0)[:, None], np.arange(50)[:, None] % 2
    seen: list[np.ndarray] = []

    def metric(codes: np.ndarray, factors: np.ndarray) -> float:
        np.testing.assert_array_equal(factors[:, 0], codes[:, 0] % 2)
        seen.append(codes[:, 0])
        return 0.0

    confidence_intervals(metric, codes, factors, num_resamples=5)
    assert [len(rows) for rows in seen] == [50] + [25] * 5
    assert all(len(np.unique(rows)) == 25 for rows in seen[1:])
    assert len({tuple(rows) for rows in seen}) == 6
    # Metrics that fit on the leading rows need them in random order.
    assert not any((np.diff(rows) > 0).all() for rows in seen[1:])
    seen.clear()
    confidence_intervals(metric, codes, factors, method="bootstrap", num_resamples=5)
    assert [len(rows) for rows in seen] == [50] * 6
    assert all(20 < len(np.unique(rows)) < 45 for rows in seen[1:])


def test_a_mapping_gives_an_interval_for_each_number(rows: tuple[np.ndarray, np.ndarray]) -> None:
    def metric(codes: np.ndarray, factors: np.ndarray) -> dict[str, object]:
        return {**both(codes, factors), "count": np.float32(len(codes)), "matrix": [0.5], "undefined": None}

    intervals = confidence_intervals(metric, *rows, num_resamples=50)
    assert list(intervals) == ["mig", "mcc", "count"]
    assert intervals["count"] == Interval(300.0, 300.0, 300.0, 0.0)
    alone = confidence_intervals(lambda codes, factors: mig(codes, factors).mean, *rows, num_resamples=50)
    assert intervals["mig"] == alone
    json.dumps({key: asdict(interval) for key, interval in intervals.items()})


def test_a_number_that_a_resample_lacks_has_no_interval(rows: tuple[np.ndarray, np.ndarray]) -> None:
    def metric(codes: np.ndarray, factors: np.ndarray) -> dict[str, object]:
        values: dict[str, object] = {"a": 0.5, "b": 0.5 if len(codes) == 300 else None}
        return values if len(codes) < 300 else {**values, "c": 0.5}

    intervals = confidence_intervals(metric, *rows)
    assert intervals["a"] == Interval(0.5, 0.5, 0.5, 0.0)
    assert intervals["b"] == intervals["c"] == Interval(0.5, None, None, None)


def test_a_seed_gives_the_same_interval_and_leaves_numpy_s_global_state_alone(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    before = np.random.get_state()[1].copy()
    one, same, other = (confidence_intervals(mean_of_codes, *rows, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert one == same
    assert one.low != other.low and one.value == other.value


def test_repeated_rows_raise_mutual_information_but_halves_are_centred(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    bootstrap = confidence_intervals(both, *rows, method="bootstrap", num_resamples=200)["mig"]
    halves = confidence_intervals(both, *rows, num_resamples=200)["mig"]
    assert halves.low < halves.value < halves.high  # type: ignore[operator]
    middle = (halves.low + halves.high) / 2  # type: ignore[operator]
    assert middle == pytest.approx(halves.value, abs=0.3 * halves.standard_error)  # type: ignore[operator]
    shift = (bootstrap.low + bootstrap.high) / 2 - bootstrap.value  # type: ignore[operator]
    assert abs(shift) > 0.4 * bootstrap.standard_error  # type: ignore[operator]


@pytest.mark.slow
def test_coverage_is_the_level_for_halves_and_not_for_the_bootstrap_of_mutual_information() -> None:
    rng = np.random.default_rng(0)
    values = np.array([list(both(*draw(rng, 300)).values()) for _ in range(2000)])
    expected = dict(zip(("mig", "mcc"), values.mean(axis=0), strict=True))
    covered: dict[tuple[str, str], list[bool]] = {}
    for _ in range(120):
        sample = draw(rng, 300)
        for method in ("subsample", "bootstrap"):
            intervals = confidence_intervals(both, *sample, method=method, num_resamples=100)  # type: ignore[call-overload]
            for key, interval in intervals.items():
                inside = interval.low <= expected[key] <= interval.high
                covered.setdefault((method, key), []).append(inside)
    share = {key: np.mean(inside) for key, inside in covered.items()}
    # 95 % of 120, give or take three standard deviations of 2 %.
    assert share["subsample", "mig"] > 0.89 and share["subsample", "mcc"] > 0.89
    assert share["bootstrap", "mcc"] > 0.87
    assert share["bootstrap", "mig"] < 0.90 < share["subsample", "mig"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "jackknife"}, r"^method must be 'subsample' or 'bootstrap', got 'jackknife'$"),
        ({"num_resamples": 1}, r"^num_resamples must be at least 2, got 1$"),
        ({"level": 1.0}, r"^level must be between 0 and 1, got 1\.0$"),
        ({"level": 95}, r"^level must be between 0 and 1, got 95$"),
        ({"subsample_size": 300}, r"^subsample_size must be in \[2, 299\] for 300 rows, got 300$"),
        ({"subsample_size": 1}, r"^subsample_size must be in \[2, 299\] for 300 rows, got 1$"),
    ],
)
def test_settings_without_an_interval_are_refused(
    settings: dict[str, Any], message: str, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_intervals(mean_of_codes, *rows, **settings)


def test_metrics_that_fail_are_named_with_the_resample(rows: tuple[np.ndarray, np.ndarray]) -> None:
    def only_all_rows(codes: np.ndarray, factors: np.ndarray) -> float:
        if len(codes) < 300:
            raise ValueError("no full grid")
        return 1.0

    with pytest.raises(
        ValueError, match=r"^the metric is undefined on resample 0 of 150 rows: no full grid$"
    ):
        confidence_intervals(only_all_rows, *rows)
    with pytest.raises(ValueError, match=r"^the metric must be finite, or None .*, got nan$"):
        confidence_intervals(lambda codes, factors: float("nan"), *rows)
    with pytest.raises(ValueError, match=r"^mig must be finite, or None .*, got inf$"):
        confidence_intervals(lambda codes, factors: {"mig": float("inf")}, *rows)
    with pytest.raises(ValueError, match=r"^codes and factors must have the same number of rows"):
        confidence_intervals(mean_of_codes, rows[0][1:], rows[1])
    with pytest.raises(
        ValueError, match=r"^the metric must return a number or a mapping of numbers, got None$"
    ):
        confidence_intervals(lambda codes, factors: None, *rows)  # type: ignore[arg-type,return-value]


def test_an_array_of_one_number_is_a_number(rows: tuple[np.ndarray, np.ndarray]) -> None:
    as_array = confidence_intervals(
        lambda codes, factors: np.array(mean_of_codes(codes, factors)), *rows, num_resamples=5
    )  # type: ignore[arg-type,return-value]
    assert as_array == confidence_intervals(mean_of_codes, *rows, num_resamples=5)


def test_a_class_that_subsamples_lack_costs_the_interval_and_not_the_score() -> None:
    rng = np.random.default_rng(0)
    factors = np.column_stack([np.arange(40) == 7, rng.integers(0, 3, 40)]).astype(int)
    codes = rng.normal(size=(40, 2))
    intervals = sampling_intervals(codes, factors, num_resamples=20)
    score = evaluate_codes(codes, factors, metrics=["mig"])["mig"]
    assert intervals["mig"] == {"value": score, "low": None, "high": None, "standard_error": None}
    with pytest.raises(ValueError, match=r"^factors column 0 is constant"):
        sampling_intervals(codes[8:], factors[8:])


def test_seeds_are_summed_up_by_mean_sample_deviation_and_maximum() -> None:
    summary = over_seeds([{"mig": 0.1, "mcc": 1}, {"mig": 0.3, "mcc": 1}, {"mig": 0.8, "mcc": 1}])
    assert summary["mig"].mean == pytest.approx(0.4)
    assert summary["mig"].std == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert summary["mig"].max == 0.8 and summary["mig"].n == 3
    assert summary["mcc"] == SeedSummary(mean=1.0, std=0.0, max=1.0, n=3)


def test_seeds_without_a_value_are_not_counted() -> None:
    summary = over_seeds([{"a": None, "b": 0.5, "c": None}, {"a": 0.2, "c": None}, {"a": 0.4, "c": None}])
    assert summary["a"].mean == pytest.approx(0.3) and summary["a"].n == 2
    assert summary["b"] == SeedSummary(mean=0.5, std=None, max=0.5, n=1)
    assert summary["c"] == SeedSummary(mean=None, std=None, max=None, n=0)
    assert list(summary) == ["a", "b", "c"]
    json.dumps({key: asdict(value) for key, value in summary.items()})


def test_lists_of_an_evaluation_are_left_out() -> None:
    results = [{"mig": np.float64(0.1), "mig_per_factor": [0.1], "active": True}, {"mig_per_factor": None}]
    assert list(over_seeds(results)) == ["mig"]


def test_results_without_a_summary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^results must hold one evaluation a seed, got none$"):
        over_seeds([])
    with pytest.raises(ValueError, match=r"^mig must be finite, or None where it is undefined, got nan$"):
        over_seeds([{"mig": 0.1}, {"mig": float("nan")}])
