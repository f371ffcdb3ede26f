"""Every value of the field's own code that the package has a counterpart of, on all eleven cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idiff_hf.metrics import (
    METRICS,
    completeness_from_importance,
    disentanglement_from_importance,
    evaluate_codes,
)

FOLDER = Path(__file__).parents[1] / "reference" / "metrics"
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
CASES = REFERENCE["cases"]
KEYS = sorted({key for case in CASES.values() for key in case["values"]})

# A key of the reference that starts like one of these belongs to a metric of the package: it must be checked.
FAMILIES = ("mig", "mi_matrix", "factor_entropy", "modularity", "mcc", "dci")
# Given to the aggregation, which the `_from_matrix` keys check.
INPUT_KEYS = {"dci_importance_matrix_seed0"}
# Two seconds of a core; the other cases take up to half a minute each.
CASE_WITH_FAST_DCI = "p02_permuted_signflip"


@cache
def load(case: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(FOLDER / f"{case}.npz") as arrays:
        return arrays["codes"], arrays["factors"]


@cache
def evaluation(case: str, *metrics: str) -> dict[str, Any]:
    return evaluate_codes(*load(case), metrics=metrics)


def modularity_of_train_rows(case: str) -> Any:
    codes, factors = load(case)
    if CASES[case]["continuous_factors"]:
        # The reference cuts factors by all rows, whichever rows it then looks at.
        edges = np.linspace(factors.min(axis=0).astype(float), factors.max(axis=0).astype(float), 21)[:-1]
        factors = (factors[:, None, :].astype(float) >= edges).sum(axis=1)
    train = slice(CASES[case]["n_train"])
    return evaluate_codes(codes[train], factors[train], metrics=["modularity"])["modularity"]


def mcc_of_active_dims(case: str, key: str) -> Any:
    codes, factors = load(case)
    return evaluate_codes(codes[:, codes.std(axis=0) > 0], factors, metrics=["mcc"])[key]


def importance(case: str) -> Any:
    return CASES[case]["values"]["dci_importance_matrix_seed0"]


CHECKS: dict[str, Callable[[str], Any]] = {
    "mig": lambda case: evaluation(case, "mig")["mig"],
    "mig_per_factor": lambda case: evaluation(case, "mig")["mig_per_factor"],
    "mi_matrix": lambda case: evaluation(case, "mig")["mi_matrix"],
    "factor_entropy": lambda case: evaluation(case, "mig")["factor_entropy"],
    "modularity": lambda case: evaluation(case, "modularity")["modularity"],
    "modularity_active_dims": lambda case: evaluation(case, "modularity")["modularity_active_dims"],
    "modularity_train_rows": modularity_of_train_rows,
    "mcc_pearson": lambda case: evaluation(case, "mcc")["mcc_pearson"],
    "mcc_spearman": lambda case: evaluation(case, "mcc")["mcc_spearman"],
    "mcc_pearson_active_dims": lambda case: mcc_of_active_dims(case, "mcc_pearson"),
    "mcc_spearman_active_dims": lambda case: mcc_of_active_dims(case, "mcc_spearman"),
    "dci_disentanglement": lambda case: evaluation(case, "dci")["dci_disentanglement"],
    "dci_completeness": lambda case: evaluation(case, "dci")["dci_completeness"],
    "dci_informativeness_train": lambda case: evaluation(case, "dci")["dci_informativeness_train"],
    "dci_informativeness_test": lambda case: evaluation(case, "dci")["dci_informativeness_test"],
    "dci_disentanglement_from_matrix": lambda case: disentanglement_from_importance(importance(case)),
    "dci_completeness_from_matrix": lambda case: completeness_from_importance(importance(case)),
}


def tolerance(key: str) -> float:
    if key.endswith("_from_matrix"):
        return 1e-9
    return float(REFERENCE["suggested_abs_tolerance"][key.removesuffix("_active_dims")])


def case_and_key() -> list[Any]:
    parameters = []
    for case, content in CASES.items():
        for key in content["values"]:
            if key in INPUT_KEYS or not key.startswith(FAMILIES):
                continue
            fits_trees = key.startswith("dci_") and not key.endswith("_from_matrix")
            slow = fits_trees and case != CASE_WITH_FAST_DCI
            parameters.append(pytest.param(case, key, id=f"{case}-{key}", marks=[pytest.mark.slow] * slow))
    return parameters


@pytest.mark.parametrize(("case", "key"), case_and_key())
def test_value_agrees_with_the_field_s_own_code(case: str, key: str) -> None:
    values = CASES[case]["values"]
    assert key in CHECKS, f"{key} is a reference value of an implemented metric, and nothing here checks it"
    expected = values[key]
    if expected is None:
        # The peer's MCC fails on a constant latent. Ours counts it as 0, and with latents to spare that is the
        # same as leaving it out.
        expected = values[f"{key}_active_dims"]
    np.testing.assert_allclose(
        CHECKS[key](case), expected, rtol=0, atol=tolerance(key), err_msg=f"{case} {key}"
    )


def test_all_eleven_cases_and_every_implemented_key_are_checked() -> None:
    assert len(CASES) == 11
    checked = {parameter.values[1] for parameter in case_and_key()}
    assert checked == set(CHECKS)
    factors = np.indices((2, 2, 2)).reshape(3, -1).T
    produced = set(evaluate_codes(factors, factors, metrics=METRICS, num_train=7))
    assert produced & set(KEYS) <= checked
    assert produced - set(KEYS) == {"dci_importance_matrix"}


def test_continuous_factors_passed_raw_are_cut_into_bins_not_taken_as_classes() -> None:
    codes, factors = load("p11_continuous")
    assert factors.dtype == np.float32
    assert evaluation("p11_continuous", "mig")["mig"] == pytest.approx(0.4920729495, abs=1e-6)
    as_classes = np.stack([np.unique(column, return_inverse=True)[1] for column in factors.T], axis=1)
    raw = REFERENCE["cases"]["p11_continuous"]["other_peers"]["disentanglement_lib"][
        "mig_on_raw_continuous_labels"
    ]
    assert evaluate_codes(codes, as_classes, metrics=["mig"])["mig"] == pytest.approx(raw, abs=1e-6)
