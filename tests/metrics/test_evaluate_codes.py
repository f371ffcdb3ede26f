from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from idiff_hf.metrics import (
    METRICS,
    dci,
    evaluate,
    evaluate_codes,
    explicitness,
    infomec,
    irs,
    mcc,
    mig,
    modularity,
    sap,
    unsupervised_scores,
)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    factors = rng.integers(0, 2, size=(45, 2))
    codes = np.column_stack([factors @ rng.normal(size=(2, 3)) + rng.normal(size=(45, 3)), np.zeros(45)])
    return codes.astype(np.float32), factors


def test_default_is_every_metric_that_is_not_on_request(rows: tuple[np.ndarray, np.ndarray]) -> None:
    expected = [key for spec in METRICS.values() if not spec.on_request for key in spec.keys]
    assert list(evaluate_codes(*rows)) == expected
    assert [name for name, spec in METRICS.items() if spec.on_request] == ["dci"]


def test_all_is_every_metric(rows: tuple[np.ndarray, np.ndarray]) -> None:
    result = evaluate(*rows, metrics="all", dci_regressor="presorted_boosting")
    assert list(result.values) == [key for spec in METRICS.values() for key in spec.keys]
    assert list(result.estimators) == list(METRICS)


def test_names_pick_metrics_in_their_order(rows: tuple[np.ndarray, np.ndarray]) -> None:
    assert list(evaluate_codes(*rows, metrics=iter(["irs", "mig"]))) == [
        *METRICS["irs"].keys,
        *METRICS["mig"].keys,
    ]
    assert evaluate_codes(*rows, metrics=[]) == {}


def test_values_are_those_of_the_functions(rows: tuple[np.ndarray, np.ndarray]) -> None:
    names = [name for name in METRICS if not name.endswith("_vae")]
    values = evaluate_codes(*rows, metrics=names, num_train=25, seed=2)
    train_rows = tuple(array[:25] for array in rows)
    gap, blocks, trees = mig(*rows), modularity(*rows), dci(*rows, num_train=25, seed=2)
    linear, dependence = explicitness(*rows, num_train=25), unsupervised_scores(rows[0])
    information = infomec(*rows, seed=2)
    pearson, spearman = mcc(*rows).mean, mcc(*rows, correlation="spearman").mean
    assert values == {
        "mig": gap.mean,
        "mig_per_factor": gap.per_factor.tolist(),
        "mi_matrix": gap.mi_matrix.tolist(),
        "factor_entropy": gap.factor_entropy.tolist(),
        "modularity": blocks.mean,
        "modularity_active_dims": blocks.mean_active,
        "modularity_train_rows": modularity(*train_rows).mean,
        "explicitness": linear.mean,
        "explicitness_train": linear.mean_train,
        "explicitness_all_rows": explicitness(*rows, all_rows=True).mean,
        "explicitness_active_dims": linear.mean,
        "sap": sap(*rows, num_train=25).mean,
        "sap_discrete": sap(*rows, num_train=25).mean,
        "sap_continuous": sap(*rows, form="r2").mean,
        "mcc_pearson": pearson,
        "mcc_spearman": spearman,
        "mcc_pearson_active_dims": pearson,
        "mcc_spearman_active_dims": spearman,
        "irs": irs(*rows).mean,
        "irs_quantile_1": irs(*rows, quantile=1.0).mean,
        "infom": information.infom,
        "infoe": information.infoe,
        "infoc": information.infoc,
        "nmi_matrix": information.nmi_matrix.tolist(),
        "active_latents": information.active.tolist(),
        "gaussian_total_correlation": dependence.total_correlation,
        "gaussian_total_correlation_active_dims": dependence.total_correlation,
        "gaussian_wasserstein_correlation": dependence.wasserstein_correlation,
        "gaussian_wasserstein_correlation_norm": dependence.wasserstein_correlation_norm,
        "mutual_info_score": dependence.mutual_information,
        "dci_disentanglement": trees.disentanglement,
        "dci_completeness": trees.completeness,
        "dci_informativeness_train": trees.informativeness_train,
        "dci_informativeness_test": trees.informativeness_test,
        "dci_importance_matrix": trees.importance.tolist(),
    }


def test_more_bins_keep_more_classes_apart() -> None:
    """40 classes, each its own code: 20 bins merge them in pairs and lose ln 2 of ln 40, 40 bins lose nothing."""
    classes = np.arange(40)
    factors = np.stack([classes.repeat(2), np.tile([0, 1], 40)], axis=1)
    names = ["mig", "modularity", "unsupervised"]
    merged, apart = (evaluate(factors, factors, metrics=names, num_bins=bins) for bins in (20, 40))
    assert merged.values["mig_per_factor"][0] == pytest.approx(1 - np.log(2) / np.log(40), abs=1e-12)
    assert apart.values["mig_per_factor"][0] == pytest.approx(1.0, abs=1e-12)
    assert (merged.num_bins, apart.num_bins) == (20, 40)
    assert all("40 equal-width bins" in text for text in apart.estimators.values())
    with pytest.raises(ValueError, match=r"^num_bins must be at least 2, got 1: "):
        evaluate(factors, factors, num_bins=1)


def test_the_record_says_how_the_values_came_about(rows: tuple[np.ndarray, np.ndarray]) -> None:
    result = evaluate(
        *rows, metrics=["dci", "factor_vae"], num_train=30, seed=7, dci_regressor="presorted_boosting"
    )
    assert (result.num_samples, result.num_train, result.num_latents, result.num_factors) == (45, 30, 4, 2)
    assert (result.num_bins, result.seed) == (20, 7)
    assert result.estimators["dci"].startswith("the trees of GradientBoostingClassifier")
    assert result.values["factor_vae"] is None
    assert set(result.undefined) == {"factor_vae", "factor_vae_default_prune"}
    assert result.undefined["factor_vae"].startswith("this score needs a code for each of the 4 combinations")
    reference = evaluate(*rows, metrics=["dci"])
    assert reference.num_train == 30
    assert reference.estimators["dci"].startswith("scikit-learn's GradientBoostingClassifier")
    with pytest.raises(FrozenInstanceError):
        result.seed = 8  # type: ignore[misc]


def test_the_record_survives_json_exactly_and_is_a_copy(rows: tuple[np.ndarray, np.ndarray]) -> None:
    result = evaluate(*rows, metrics=["mig", "factor_vae", "infomec"])
    record = result.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["values"] == result.values
    record["values"].clear()  # type: ignore[attr-defined]
    assert result.values


def test_collapsed_codes_are_scored_0_or_chance_not_nan(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    result = evaluate(np.zeros_like(codes), factors)
    for key in (
        "mig",
        "modularity",
        "modularity_active_dims",
        "mcc_pearson",
        "sap",
        "irs",
        "mutual_info_score",
    ):
        assert result.values[key] == 0
    assert result.values["explicitness"] == 0.5
    assert result.values["infom"] is None
    assert result.undefined["infom"].startswith("InfoM compares ")


def test_the_dci_regressor_and_workers_reach_dci(rows: tuple[np.ndarray, np.ndarray]) -> None:
    values = evaluate_codes(*rows, metrics=["dci"], dci_regressor="presorted_boosting", n_jobs=1)
    expected = dci(*rows, regressor="presorted_boosting").importance.tolist()
    assert values["dci_importance_matrix"] == expected


def test_an_unknown_metric_is_refused_with_the_known_ones(rows: tuple[np.ndarray, np.ndarray]) -> None:
    message = rf"^metrics must be 'all' or names among {', '.join(METRICS)}, got 'sip', 'uris'$"
    with pytest.raises(ValueError, match=message):
        evaluate_codes(*rows, metrics=["mig", "sip", "uris"])
    with pytest.raises(ValueError, match=r"^metrics must be 'all' or names among .*, got 'mig'$"):
        evaluate_codes(*rows, metrics="mig")


def test_settings_without_a_meaning_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(
        ValueError, match=r"^num_train must leave rows to test on, in \[1, 44\] here, got 45$"
    ):
        evaluate(*rows, metrics=["mig"], num_train=45)
    message = r"^dci_regressor must be among gradient_boosting, presorted_boosting, got 'lasso'$"
    with pytest.raises(ValueError, match=message):
        evaluate(*rows, dci_regressor="lasso")  # type: ignore[arg-type]
