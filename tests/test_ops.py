"""Every form of a primitive against its definition on the array standard."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otcluster._ops import select
from otcluster._ops.generic import GenericOps
from tests.strategies import to_numpy

LAY = {"numpy": np.asarray, "torch": lambda array: torch.from_numpy(np.array(array))}
STRICT = array_api_strict.asarray


@st.composite
def tiles(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 40)))
    values = rng.uniform(-1, 1, shape)
    values[rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = -np.inf
    return values


@pytest.mark.parametrize("library", LAY)
@given(values=tiles(), after=st.booleans())
def test_row_exponents(library, values, after):
    rng = np.random.default_rng(0)
    g = rng.uniform(-1, 1, (values.shape[0], 1, values.shape[2]))
    rest = 1e-3 * g if after else None
    lay, ops = LAY[library], select(LAY[library](values), "values")
    laid = lay(values.copy())
    with ops.quiet():
        exponents, top = ops.row_exponents(laid, lay(g), None if rest is None else lay(rest), 0.1)
    strict = GenericOps(array_api_strict, STRICT(values).device)
    with strict.quiet():
        expected, best = strict.row_exponents(STRICT(values), STRICT(g), None if rest is None else STRICT(rest), 0.1)
    np.testing.assert_allclose(to_numpy(exponents), np.asarray(expected), atol=1e-14)
    np.testing.assert_array_equal(to_numpy(top), np.asarray(best))
    np.testing.assert_array_equal(to_numpy(laid), values)


@pytest.mark.parametrize("library", LAY)
@given(values=tiles())
def test_reductions(library, values):
    finite = np.where(np.isfinite(values), values, 0)
    lay, ops = LAY[library], select(LAY[library](values), "values")
    np.testing.assert_array_equal(to_numpy(ops.row_max(lay(values))), values.max(-1))
    np.testing.assert_array_equal(to_numpy(ops.column_max(lay(values))), values.max(-2))
    np.testing.assert_array_equal(to_numpy(ops.argmax(lay(values))), values.argmax(-1))
    rows = np.arange(values.shape[1])[::-2]
    for form, own in ((ops, lay), (GenericOps(array_api_strict, STRICT(values).device), STRICT)):
        picked = to_numpy(form.picked(own(values[0]), own(rows.copy()), values.shape[2] - 1))
        np.testing.assert_array_equal(picked, values[0, rows, -1])
    np.testing.assert_allclose(to_numpy(ops.row_sum(lay(finite))), finite.sum(-1), atol=1e-13)
    np.testing.assert_allclose(to_numpy(ops.column_sum(lay(finite))), finite.sum(-2), atol=1e-13)


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("library", [*LAY, "array-api-strict"])
@given(values=tiles(), dtype=st.sampled_from(["float32", "float64"]), odd=st.sampled_from([None, np.nan, -np.nan, np.inf]))
def test_extremes(library, compiled, values, dtype, odd):
    values = values.astype(dtype)
    if odd is not None:
        values.flat[values.size // 2] = odd
    lay = STRICT if library == "array-api-strict" else LAY[library]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTCLUSTER_COMPILED", compiled)
        for given in (values, values.swapaxes(1, 2)):
            found = [float(each) for each in select(lay(given), "values").extremes(lay(given))]
            np.testing.assert_array_equal(found, [values.min(), values.max()])


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("library", [*LAY, "array-api-strict"])
@given(values=tiles(), dtype=st.sampled_from(["float32", "float64"]), ties=st.booleans())
def test_two_best_of_each_row(library, compiled, values, dtype, ties):
    matrix = (np.round(values[0], 1) if ties else values[0]).astype(dtype)
    rows = np.arange(len(matrix))
    first, others = matrix.argmax(-1), matrix.copy()
    others[rows, first] = -np.inf
    second = others.argmax(-1)
    lay = STRICT if library == "array-api-strict" else LAY[library]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTCLUSTER_COMPILED", compiled)
        where, what = select(lay(matrix), "values").two_best(lay(matrix))
    np.testing.assert_array_equal(to_numpy(where), [first, second])
    np.testing.assert_array_equal(to_numpy(what), [matrix[rows, first], others[rows, second]])
    assert to_numpy(what).dtype == dtype


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("library", [*LAY, "array-api-strict"])
@given(n=st.integers(0, 60), n_segments=st.integers(1, 9), columns=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_segments(library, compiled, n, n_segments, columns, seed):
    rng = np.random.default_rng(seed)
    values, segments = rng.standard_normal((n, columns)), rng.integers(0, n_segments, n)
    sums, tops = np.zeros((n_segments, columns)), np.full((n_segments, columns), -np.inf)
    np.add.at(sums, segments, values)
    np.maximum.at(tops, segments, values)
    lay = STRICT if library == "array-api-strict" else LAY[library]
    ops = select(lay(values), "values")
    np.testing.assert_allclose(to_numpy(ops.segment_sum(lay(values), lay(segments), n_segments)), sums, atol=1e-13)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTCLUSTER_COMPILED", compiled)
        np.testing.assert_array_equal(to_numpy(ops.segment_max(lay(values), lay(segments), n_segments)), tops)


@pytest.mark.parametrize("library", LAY)
def test_long_float32_sums_keep_their_digits(library):
    values = np.random.default_rng(0).uniform(0, 1, (1, 200_000, 2)).astype(np.float32)
    exact = values.astype(np.float64).sum(-2)
    lay = LAY[library]
    ops = select(lay(values), "values")
    np.testing.assert_allclose(to_numpy(ops.column_sum(lay(values))), exact, rtol=2e-7)
    segments = lay(np.zeros(200_000, np.int64))
    np.testing.assert_allclose(to_numpy(ops.segment_sum(lay(values[0]), segments, 1)), exact, rtol=1e-12)


@pytest.mark.parametrize("library", LAY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_columns_have_equal_sums(library, dtype):
    rows = np.random.default_rng(0).uniform(0, 1, (1, 1037, 1)).astype(dtype)
    for k in (3, 4, 17, 130):
        lay = LAY[library]
        sums = to_numpy(select(lay(rows), "rows").column_sum(lay(np.repeat(rows, k, axis=2))))
        assert len(np.unique(sums)) == 1


@pytest.mark.parametrize("library", LAY)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_of_columns_and_systems(library, batch):
    rng = np.random.default_rng(0)
    values, right = rng.uniform(0, 1, (*batch, 40, 5)), rng.uniform(-1, 1, (*batch, 5))
    ops, lay = select(LAY[library](values), "values"), LAY[library]
    strict = GenericOps(array_api_strict, STRICT(values).device)
    products = np.asarray(strict.gram(STRICT(values)))
    np.testing.assert_allclose(to_numpy(ops.gram(lay(values))), products, rtol=1e-13)
    assert to_numpy(ops.gram(lay(values.astype(np.float32)))).dtype == np.float64
    solution = np.asarray(strict.solve(STRICT(products), STRICT(right)))
    np.testing.assert_allclose(to_numpy(ops.solve(lay(products), lay(right))), solution, rtol=1e-10)
    np.testing.assert_allclose((products @ solution[..., None])[..., 0], right, atol=1e-12)


@pytest.mark.parametrize("library", LAY)
def test_logarithms_of_masses_and_of_none(library):
    values = np.array([[0.0, 1e-300, 1.0, 3.5, 1e300]])
    with np.errstate(divide="ignore"):
        expected = np.log(values)
    ops = select(LAY[library](values), "values")
    with ops.quiet():
        found = ops.log(LAY[library](values))
    assert type(found) is type(LAY[library](values))
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-15)
