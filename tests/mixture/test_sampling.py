"""Rows drawn from a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dask_gmm.errors import InputError
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.sampling import sample_mixture
from tests.mixture.problems import FAMILIES, random_mixture


@pytest.mark.parametrize("family", FAMILIES)
def test_has_the_moments_of_the_mixture(family: str) -> None:
    k, d, n = 3, 4, 60_000
    p = random_mixture(0, family, k, d)
    rows, labels = sample_mixture(p, n, np.random.RandomState(0))
    assert rows.shape == (n, d)
    assert rows.dtype == np.float64
    assert labels.dtype == np.int64
    assert np.all(np.diff(labels) >= 0)
    dense = p.family.form.dense(p.covariances, k, d)
    for j in range(k):
        mine = rows[labels == j]
        assert len(mine) / n == pytest.approx(p.weights[j], abs=0.01)
        np.testing.assert_allclose(mine.mean(axis=0), p.means[j], atol=0.06)
        np.testing.assert_allclose(np.cov(mine.T), dense[j], atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_dense_formula(family: str) -> None:
    k, d = 3, 4
    p = random_mixture(1, family, k, d)
    rows, labels = sample_mixture(p, 40, np.random.RandomState(7))
    state = np.random.RandomState(7)
    state.multinomial(40, p.weights / p.weights.sum())
    white = state.standard_normal(size=(40, d))
    whitened = [
        p.family.form.whiten(p.precisions_cholesky, j, (row - p.means[j])[None])[0]
        for row, j in zip(rows, labels, strict=True)
    ]
    np.testing.assert_allclose(whitened, white, atol=1e-12)


def test_components_without_weight_or_luck_are_left_out() -> None:
    base = random_mixture(2, "full", 3, 2)
    p = MixtureParameters.create("full", [0.0, 1.0, 0.0], base.means, base.covariances)
    rows, labels = sample_mixture(p, 5, np.random.RandomState(0))
    assert rows.shape == (5, 2)
    assert labels.tolist() == [1] * 5


@pytest.mark.parametrize("count", [3, np.int64(3), np.uint8(3)])
def test_any_integer_will_do(count: Any) -> None:
    rows, _ = sample_mixture(random_mixture(3, "diag", 2, 2), count, np.random.RandomState(0))
    assert len(rows) == 3


@pytest.mark.parametrize("count", [2.5, 2.0, np.float64(2.0), "2", None])
def test_what_is_no_number_of_rows(count: Any) -> None:
    with pytest.raises(InputError, match=r"'n_samples'.*should be an integer"):
        sample_mixture(random_mixture(3, "diag", 2, 2), count, np.random.RandomState(0))


@pytest.mark.parametrize("count", [0, -1])
def test_too_few_rows(count: int) -> None:
    with pytest.raises(InputError, match="at least one sample"):
        sample_mixture(random_mixture(3, "diag", 2, 2), count, np.random.RandomState(0))
