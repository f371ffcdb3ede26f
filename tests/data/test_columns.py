"""u from columns: answers on paper, the laws of the interval variable, and one line for each bad table."""

from __future__ import annotations

import json
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idiff_hf.data.auxiliary import Interval
from idiff_hf.data.bound_columns import BoundColumns, bound_column_names
from idiff_hf.data.column_values import RowError
from idiff_hf.data.observed_columns import MAX_CATEGORIES, ObservedColumns

NAN = math.nan
ROOT12 = math.sqrt(12)


def table(**columns: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in columns.items()}


def objects(*values: object) -> np.ndarray:
    return np.array(values, dtype=object)


# Observed columns


def test_numbers_that_name_categories_are_one_hot_whatever_their_type() -> None:
    columns = table(site=[10, 2, 10], age=[1.0, 2.0, 3.0])
    fitted = ObservedColumns.fit(columns, categorical=["site"])
    assert fitted.columns[0].categories == ("10", "2")  # type: ignore[union-attr]
    u = fitted.transform(columns)
    assert u[:, :2].tolist() == [[1, 0], [0, 1], [1, 0]]
    again = ObservedColumns.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    np.testing.assert_array_equal(again.transform(table(site=[10.0, 2.0, 10.0], age=[1.0, 2.0, 3.0])), u)
    with pytest.raises(RowError, match="column 'site' holds '3', none of the fitted categories"):
        fitted.transform(table(site=[3], age=[1.0]))
    with pytest.raises(RowError, match="column 'site' is NaN or empty in row 1"):
        fitted.transform(table(site=[10.0, NAN], age=[1.0, 2.0]))


def test_observed_by_hand() -> None:
    columns = table(age=[1.0, 2.0, 3.0], sex=["m", "f", "m"], smokes=[True, False, False], count=[4, 8, 8])
    fitted = ObservedColumns.fit(columns)
    u = fitted.transform(columns)
    # age: mean 2, variance 2/3; count: mean 20/3, variance 32/9
    a, b = math.sqrt(3 / 2), math.sqrt(2)
    expected = [[-a, 0, 1, 0, 1, -b], [0, 1, 0, 1, 0, b / 2], [a, 0, 1, 1, 0, b / 2]]
    assert u.dtype == np.float32 and u.shape == (3, fitted.size) == (3, 6)
    assert np.allclose(u, expected, atol=1e-6)


def test_observed_reads_other_rows_with_the_statistics_of_the_first() -> None:
    fitted = ObservedColumns.fit(table(age=[1.0, 3.0], sex=objects("m", "f")))
    assert fitted.transform(table(sex=["f"], other=[0], age=[7.0])).tolist() == [[5.0, 1.0, 0.0]]


def test_a_new_category_is_an_error_or_zeros_with_a_warning() -> None:
    fitted = ObservedColumns.fit(table(sex=["m", "f", "x"]))
    with pytest.warns(
        UserWarning,
        match="column 'sex' holds texts that are none of the fitted categories .*: such rows get zeros",
    ):
        u = fitted.transform(table(sex=["m", "n"]), strict=False)
    assert u.tolist() == [[0, 1, 0], [0, 0, 0]]
    with pytest.raises(
        ValueError, match=r"'n', none of the fitted categories \(f, m, x\), in row 1: correct"
    ):
        fitted.transform(table(sex=["m", "n"]))


@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=40).filter(
        lambda values: max(values) - min(values) > 1e-2
    ),
    st.lists(st.sampled_from("abcd"), min_size=40, max_size=40),
)
def test_observed_laws(values: list[float], texts: list[str]) -> None:
    texts = ["a", "b", *texts[2 : len(values)]]
    columns = table(number=values, text=texts)
    fitted = ObservedColumns.fit(columns)
    u = fitted.transform(columns).astype(np.float64)
    assert abs(u[:, 0].mean()) < 1e-5 and u[:, 0].std() == pytest.approx(1, abs=1e-5)
    assert (u[:, 1:].sum(axis=1) == 1).all() and set(np.unique(u[:, 1:])) == {0, 1}
    sorted_texts = sorted(set(texts))
    assert [sorted_texts[i] for i in u[:, 1:].argmax(axis=1)] == texts
    again = ObservedColumns.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted and np.array_equal(again.transform(columns), fitted.transform(columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column was named for an observed u: name at least one in data.aux_columns"),
        (table(age=[]), "column 'age' has no rows: give at least one"),
        (table(age=[2, 2]), "column 'age' is 2 in every row: it tells nothing, leave it out"),
        (table(age=[0.1] * 3), "column 'age' is 0.1 in every row"),
        (table(sex=["m", "m"]), "column 'sex' is 'm' in every row"),
        (
            table(age=[1, NAN]),
            "column 'age' is NaN or empty in row 1: an observed u needs every value; .* where NaN means",
        ),
        (table(age=[1, math.inf]), "column 'age' is inf in row 1: give finite numbers"),
        (table(age=[0, 1e308]), r"column 'age' goes from 0 to 1e\+308, too far or too near to be squared"),
        (table(age=[0, 5e-324]), "column 'age' goes from 0 to .*, too far or too near to be squared"),
        (table(age=objects(None, None)), "column 'age' is NaN or empty in row 0"),
        (table(age=objects(1.0, None)), "column 'age' is NaN or empty in row 1"),
        (table(sex=objects(NAN, "m")), "column 'sex' is NaN or empty in row 0"),
        (table(sex=["m", ""]), "column 'sex' is NaN or empty in row 1"),
        (table(sex=objects("m", 1.0)), "column 'sex' mixes texts with 1.0 in row 1: give one kind"),
        (table(age=objects(1.0, "m")), "column 'age' is 'm' in row 1: give numbers"),
        (table(age=objects([1], [2, 3])), r"column 'age' is \[1\] in row 0: give numbers"),
        (table(age=[[1, 2], [3, 4]]), r"column 'age' has shape \(2, 2\): give one number or text a row"),
        (
            table(born=np.array(["2001-01-01"], "M8[D]")),
            r"column 'born' is datetime64\[D\]: give numbers, texts or",
        ),
        (
            table(name=[str(i) for i in range(MAX_CATEGORIES + 1)]),
            "column 'name' holds 1001 different values, '0' among them",
        ),
    ],
)
def test_bad_observed_columns(columns: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ObservedColumns.fit(columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (table(age=[1.0], size=[1]), "there is no column 'sex': there are age, size"),
        (table(age=[NAN], sex=["m"]), "column 'age' is NaN or empty in row 0"),
        (table(age=["old"], sex=["m"]), "column 'age' is 'old' in row 0: give numbers"),
        (
            table(age=[1.0], sex=[1.0]),
            "column 'sex', fitted to texts, is 1.0 in row 0: give texts",
        ),
        (table(age=[-math.inf], sex=["m"]), "column 'age' is -inf in row 0"),
    ],
)
def test_bad_rows_of_observed_columns(columns: dict[str, np.ndarray], message: str) -> None:
    fitted = ObservedColumns.fit(table(age=[1.0, 2.0], sex=["m", "f"]))
    with pytest.raises(ValueError, match=message):
        fitted.transform(columns)


# Bounds


def test_bounds_by_hand() -> None:
    columns = table(age_lower=[10, 20, NAN, NAN, 20], age_upper=[20, 50, 30, NAN, 20], bin=[0, 3, NAN, 1, 2])
    fitted = BoundColumns.fit(["age_lower:age_upper", "bin"], columns)
    assert fitted.names == ("age", "bin") and fitted.size == 4
    # Fractions of the range 10 to 50, and quarters: (low, high) of each row and factor.
    ends = [
        [(0, 0.25), (0, 0.25)],
        [(0.25, 1), (0.75, 1)],
        [(0, 0.5), (0, 1)],
        [(0, 1), (0.25, 0.5)],
        [(0.25, 0.25), (0.5, 0.75)],
    ]
    expected = [
        [ROOT12 * ((low + high) / 2 - 0.5) for low, high in row] + [(high - low) ** 2 for low, high in row]
        for row in ends
    ]
    u = fitted.transform(columns)
    assert u.dtype == np.float32 and np.allclose(u, expected, atol=1e-6)
    # Nothing known is the whole range, exactly; a point has no length.
    assert u[3, [0, 2]].tolist() == u[2, [1, 3]].tolist() == [0, 1]
    assert u[4, 2] == 0


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("age_lower:age_upper", "age"),
        ("age_min:age_max", "age"),
        ("age.low:age.lim", "age"),
        ("ageMin:ageMax", "age"),
        ("BODY_MASS_MIN:BODY_MASS_MAX", "BODY_MASS"),
        ("wall hue from:wall hue to", "wall hue"),
        ("x1:x2", "x1:x2"),
        ("low:high", "low:high"),
        ("age:age", "age"),
        ("_a:_b", "_a:_b"),
    ],
)
def test_a_factor_has_the_words_that_both_names_begin_with(spec: str, name: str) -> None:
    lower, upper = bound_column_names([spec])
    assert BoundColumns.fit([spec], {lower: np.array([0.0, 1.0]), upper: np.array([0.0, 1.0])}).names == (
        name,
    )


def test_the_columns_that_specs_read() -> None:
    assert bound_column_names(["a:b", "c"]) == ("a", "b", "c")


def test_a_cut_of_a_uniform_factor_gives_the_interval_variable() -> None:
    """Bounds as `Interval` cuts them, one side known and the other NaN: bit for bit its u, in units that were shifted and scaled."""
    source = torch.Generator().manual_seed(0)
    z = torch.rand(4096, 1, generator=source, dtype=torch.float64) - 0.5
    # Multiples of 1/1024: exact in every step. The first two rows make the range whole.
    uniform = torch.randint(1, 1024, (4096, 1), generator=source) / 1024.0
    cut = (100 + 8 * (uniform - 0.5)).double().numpy()[:, 0]
    right = (z + 0.5 >= uniform).numpy()[:, 0]
    columns = table(
        x_low=np.concatenate([[96.0, NAN], np.where(right, cut, NAN)]),
        x_high=np.concatenate([[NAN, 104.0], np.where(right, NAN, cut)]),
    )
    u = BoundColumns.fit(["x_low:x_high"], columns).transform(columns)[2:]
    expected = Interval(1).sample(z, uniform.double()).float()
    assert np.array_equal(u, expected.numpy())


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=30
    ),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
)
def test_laws_of_bounds(rows: list[tuple[float, float, bool, bool]], shift: float, scale: float) -> None:
    ends = np.sort(np.array([row[:2] for row in rows]), axis=1)
    low, high = (shift + scale * np.append(ends[:, i], i) for i in (0, 1))  # one row spans the whole range
    lower = np.where([*(row[2] for row in rows), False], NAN, low)
    upper = np.where([*(row[3] for row in rows), False], NAN, high)
    columns = table(a_lower=lower, a_upper=upper)
    fitted = BoundColumns.fit(["a_lower:a_upper"], columns)
    u = fitted.transform(columns).astype(np.float64)
    mean, length = u[:, 0] / ROOT12, np.sqrt(u[:, 1])
    assert (length >= 0).all() and (length <= 1).all()
    assert (mean - length / 2 >= -0.5 - 1e-6).all() and (mean + length / 2 <= 0.5 + 1e-6).all()
    # The bounds can be read back from u, in their order.
    for sign, values, end in ((-0.5, lower, -0.5), (0.5, upper, 0.5)):
        expected = np.where(np.isnan(values), end, (values - low.min()) / (high.max() - low.min()) - 0.5)
        assert np.allclose(mean + sign * length, expected, atol=1e-3)
    assert u[-1].tolist() == [0, 1]
    again = BoundColumns.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted and np.array_equal(again.transform(columns), fitted.transform(columns))


def test_whole_numbers_and_none_are_read_as_they_come_from_files() -> None:
    fitted = BoundColumns.fit(["bin"], {"bin": objects(0, None, 1)})
    assert fitted.transform({"bin": np.array([1], dtype=np.int8)}).tolist() == [
        [pytest.approx(ROOT12 / 4), 0.25]
    ]


@pytest.mark.parametrize(
    ("specs", "columns", "message"),
    [
        ([], table(a=[0, 1]), "no factor was named for bounds: name at least one in data.bound_columns"),
        (
            ["a:b:c"],
            table(a=[0, 1]),
            "data.bound_columns holds 'a:b:c': give LOWER:UPPER, or one column of ordered bins",
        ),
        (["a:"], table(a=[0, 1]), "data.bound_columns holds 'a:'"),
        ([":a"], table(a=[0, 1]), "data.bound_columns holds ':a'"),
        (["a", "a"], table(a=[0, 1]), r"names the factor 'a' more than once \(a, a\): leave one"),
        (["a:b"], table(a=[0.0], c=[1]), "there is no column 'b': there are a, c"),
        (["b"], {}, "there is no column 'b': there are no columns"),
        (["a:b"], table(a=[], b=[]), "column 'a' has no rows"),
        (
            ["a:b"],
            table(a=[0, 3], b=[1, 2]),
            "column 'a' is 3, above 'b', which is 2, in row 1: swap or correct them",
        ),
        (["a:b"], table(a=[NAN, NAN], b=[1, 2]), "column 'a' is NaN in all 2 rows: give at least one value"),
        (["a:b"], table(a=[1, 2], b=objects(None, None)), "column 'b' is NaN in all 2 rows"),
        (["a"], table(a=[NAN]), "column 'a' is NaN in all 1 rows"),
        (
            ["a:b"],
            table(a=[1, 1], b=[1, NAN]),
            "columns 'a' and 'b' have a range from 1 to 1: give bounds that span",
        ),
        (["a:b"], table(a=[-1e308], b=[1e308]), r"have a range from -1e\+308 to 1e\+308"),
        (["a:b"], table(a=[0, -math.inf], b=[1, 1]), "column 'a' is -inf in row 1: give finite numbers"),
        (["a:b"], table(a=[0, 1], b=["x", "y"]), "column 'b' is 'x' in row 0: give numbers"),
        (
            ["a:b"],
            table(a=[5, NAN], b=[9, 3]),
            "column 'b' is 3, outside the range 5 to 9 of the fitted rows, in row 1",
        ),
        (["a"], table(a=[True, False]), "column 'a' is True in row 0: give numbers"),
        (["a"], table(a=[0, -1]), "column 'a' is -1 in row 1: give bins 0, 1, 2 ..., or LOWER:UPPER"),
        (["a"], table(a=[NAN, 0.5]), "column 'a' is 0.5 in row 1: give bins"),
        (["a"], table(a=[0, NAN]), "column 'a' holds no bin but 0: it tells nothing, leave it out"),
    ],
)
def test_bad_bounds(specs: list[str], columns: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        BoundColumns.fit(specs, columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message", "moved"),
    [
        (
            table(a=[0, -2], b=[1, 1], n=[0, 0]),
            "column 'a' is -2, outside the range 0 to 4 of the fitted rows",
            (0, 0.25),
        ),
        (
            table(a=[0, 1], b=[1, 9], n=[0, 0]),
            "column 'b' is 9, outside the range 0 to 4 of the fitted rows",
            (0.25, 1),
        ),
        (
            table(a=[0, 5], b=[1, 6], n=[0, 0]),
            "column 'a' is 5, outside the range 0 to 4 of the fitted rows",
            (1, 1),
        ),
    ],
)
def test_bounds_outside_the_range(
    columns: dict[str, np.ndarray], message: str, moved: tuple[float, float]
) -> None:
    fitted = BoundColumns.fit(["a:b", "n"], table(a=[0, 1], b=[1, 4], n=[0, 2]))
    with pytest.raises(ValueError, match=re.escape(message + ", in row 1: correct it")):
        fitted.transform(columns)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        u = fitted.transform(columns, strict=False)
    # One warning a column, the same for every such value, so that Python shows it once.
    assert {str(warning.message) for warning in caught} <= {
        f"column {name!r} leaves the range 0 to 4 of the fitted rows: such values are moved to its end"
        for name in "ab"
    }
    assert len(caught) == 1 + (columns["a"][1] > 4)
    assert u[1, [0, 2]].tolist() == pytest.approx(
        [ROOT12 * (sum(moved) / 2 - 0.5), (moved[1] - moved[0]) ** 2]
    )


def test_a_bin_beyond_the_last() -> None:
    fitted = BoundColumns.fit(["n"], table(n=[0, 3]))
    with pytest.raises(
        ValueError, match="column 'n' is 4, outside the range 0 to 3 of the fitted rows, in row 0"
    ):
        fitted.transform(table(n=[4]))
    with pytest.warns(UserWarning, match="column 'n' leaves the range 0 to 3 of the fitted rows"):
        u = fitted.transform(table(n=[4]), strict=False)
    assert np.array_equal(u, fitted.transform(table(n=[3])))


def test_an_error_of_a_row_can_be_told_with_another_name_of_the_row() -> None:
    with pytest.raises(RowError) as caught:
        ObservedColumns.fit(table(age=[1.0, 2.0])).transform(table(age=[1.0, NAN]))
    error = caught.value
    assert error.row == 1 and str(error) == f"{error.problem} in row 1: {error.advice}"


@pytest.mark.parametrize(
    "payload", [{}, {"columns": [{"name": "a"}]}, {"columns": 3}, {"factors": [{"name": "a"}]}]
)
def test_foreign_statistics(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="these are no statistics of observed columns"):
        ObservedColumns.from_dict(payload)
    with pytest.raises(ValueError, match="these are no statistics of bounds"):
        BoundColumns.from_dict(payload)
