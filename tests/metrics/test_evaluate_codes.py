from __future__ import annotations

import json

import numpy as np
import pytest

from idiff_hf.metrics import METRICS, dci, evaluate_codes, mcc, mig, modularity

KEYS = {
    "mig": {"mig", "mig_per_factor", "mi_matrix", "factor_entropy"},
    "modularity": {"modularity", "modularity_active_dims"},
    "mcc": {"mcc_pearson", "mcc_spearman"},
    "dci": {
        "dci_disentanglement",
        "dci_completeness",
        "dci_informativeness_train",
        "dci_informativeness_test",
        "dci_importance_matrix",
    },
}


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    factors = rng.integers(0, 2, size=(45, 2))
    codes = np.column_stack([factors @ rng.normal(size=(2, 3)), np.zeros(45)])
    return codes.astype(np.float32), factors


def test_default_is_every_metric_but_dci(rows: tuple[np.ndarray, np.ndarray]) -> None:
    assert set(evaluate_codes(*rows)) == KEYS["mig"] | KEYS["modularity"] | KEYS["mcc"]


def test_keys_of_each_metric(rows: tuple[np.ndarray, np.ndarray]) -> None:
    assert set(METRICS) == set(KEYS)
    for name, keys in KEYS.items():
        assert set(evaluate_codes(*rows, metrics=[name])) == keys
    assert evaluate_codes(*rows, metrics=[]) == {}


def test_values_are_those_of_the_functions(rows: tuple[np.ndarray, np.ndarray]) -> None:
    values = evaluate_codes(*rows, metrics=METRICS, num_train=25, seed=2)
    gap, blocks, trees = mig(*rows), modularity(*rows), dci(*rows, num_train=25, seed=2)
    assert values == {
        "mig": gap.mean,
        "mig_per_factor": gap.per_factor.tolist(),
        "mi_matrix": gap.mi_matrix.tolist(),
        "factor_entropy": gap.factor_entropy.tolist(),
        "modularity": blocks.mean,
        "modularity_active_dims": blocks.mean_active,
        "mcc_pearson": mcc(*rows).mean,
        "mcc_spearman": mcc(*rows, correlation="spearman").mean,
        "dci_disentanglement": trees.disentanglement,
        "dci_completeness": trees.completeness,
        "dci_informativeness_train": trees.informativeness_train,
        "dci_informativeness_test": trees.informativeness_test,
        "dci_importance_matrix": trees.importance.tolist(),
    }


def test_values_survive_json_exactly(rows: tuple[np.ndarray, np.ndarray]) -> None:
    values = evaluate_codes(*rows, metrics=METRICS)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_collapsed_codes_are_scored_0_not_nan(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    values = evaluate_codes(np.zeros_like(codes), factors)
    for key in ("mig", "modularity", "modularity_active_dims", "mcc_pearson", "mcc_spearman"):
        assert values[key] == 0


def test_an_unknown_metric_is_refused_with_the_known_ones(rows: tuple[np.ndarray, np.ndarray]) -> None:
    message = r"^metrics must be among mig, modularity, mcc, dci, got 'sap', 'irs'$"
    with pytest.raises(ValueError, match=message):
        evaluate_codes(*rows, metrics=["mig", "sap", "irs"])
