"""The compiled kernel's lane of row weights."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.kernels.compiled import CompiledKernel
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

KERNEL = CompiledKernel()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("d", "dtype"), [(3, "float64"), (17, "float64"), (17, "float32")])
def test_weights_count_rows(family: str, d: int, dtype: str) -> None:
    p = random_mixture(11, family, 4, d, spread=5.0)
    rows = draw(12, p, 1100).astype(dtype)
    times = np.random.default_rng(1).integers(0, 4, size=1100)
    (weighted,) = KERNEL.statistics(Rows(rows, times.astype(np.float64)), [Candidate(p)])
    (repeated,) = KERNEL.statistics(Rows(np.repeat(rows, times, axis=0)), [Candidate(p)])
    rtol = 1e-12 if dtype == "float64" else 1e-5
    assert weighted.weight == repeated.weight == times.sum()
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=rtol)
    for name in ("counts", "first", "second"):
        a, b = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=name)
    ones = KERNEL.statistics(Rows(rows, np.ones(1100)), [Candidate(p)])
    assert ones == KERNEL.statistics(Rows(rows), [Candidate(p)])


@pytest.mark.parametrize("d", [3, 17])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_small_weights_are_as_good_as_large_ones(d: int, dtype: str) -> None:
    """A power of two, so that every product is exact: only what counts as nothing could differ."""
    p = random_mixture(11, "full", 4, d, spread=2.0)
    rows = draw(12, p, 1100).astype(dtype)
    scale = 2.0**-70
    (small,) = KERNEL.statistics(Rows(rows, np.full(1100, scale)), [Candidate(p)])
    (whole,) = KERNEL.statistics(Rows(rows, np.full(1100, 1.0)), [Candidate(p)])
    for name in ("counts", "first", "second"):
        a, b = getattr(small, name) / scale, getattr(whole, name)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * np.abs(b).max(), err_msg=name)
