"""Imputed values: conditional means by the definition, draws with the right distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dask_gmm.mixture.imputation import drawn_values, expected_values
from dask_gmm.mixture.kernels import MarginalKernel, get_kernel
from tests.mixture.gappy import with_gaps
from tests.mixture.problems import FAMILIES, draw, random_mixture

KERNEL = MarginalKernel(get_kernel("blas"))


@pytest.mark.parametrize("family", FAMILIES)
def test_means_by_the_definition(family: str) -> None:
    p = random_mixture(1, family, 3, 4, offset=2.0)
    rows = with_gaps(2, draw(3, p, 120), 0.4)
    rows[5] = np.nan
    r = KERNEL.posteriors(rows, p)
    dense = p.form.dense(p.covariances, 3, 4)
    expected = rows.copy()
    for n, row in enumerate(rows):
        o, m = ~np.isnan(row), np.isnan(row)
        means = [
            p.means[k][m]
            + dense[k][np.ix_(m, o)]
            @ np.linalg.inv(dense[k][np.ix_(o, o)])
            @ (row[o] - p.means[k][o])
            for k in range(3)
        ]
        expected[n, m] = r[n] @ np.asarray(means)
    np.testing.assert_allclose(expected_values(rows, p, r), expected, rtol=1e-10)
    np.testing.assert_allclose(expected_values(rows, p, r)[5], p.weights @ p.means)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("present", [[0, 2], []])
def test_draws_have_the_conditional_distribution(family: str, present: list[int]) -> None:
    p = random_mixture(4, family, 2, 3, spread=1.0)
    n = 20_000
    rows = np.full((n, 3), np.nan)
    rows[:, present] = draw(5, p, 1)[0][present]
    r = KERNEL.posteriors(rows[:1], p)
    drawn = drawn_values(rows, p, np.broadcast_to(r, (n, 2)), np.arange(n), 7)
    np.testing.assert_array_equal(drawn[:, present], rows[:, present])
    # Rows of the whole mixture that happen to have nearly these values would tell; here the law.
    missing = [i for i in range(3) if i not in present]
    dense = p.form.dense(p.covariances, 2, 3)
    for j, i in enumerate(missing):
        means, deviations = [], []
        for k in range(2):
            block = np.ix_(missing, present)
            slopes = dense[k][block] @ np.linalg.inv(dense[k][np.ix_(present, present)])
            mean = p.means[k][missing] + slopes @ (rows[0, present] - p.means[k][present])
            left = dense[k][np.ix_(missing, missing)] - slopes @ dense[k][block].T
            means.append(mean[j])
            deviations.append(np.sqrt(left[j, j]))

        x = np.sort(drawn[:, i])
        law = r[0] @ np.stack(
            [stats.norm(a, b).cdf(x) for a, b in zip(means, deviations, strict=True)]
        )
        distance = np.abs(law - (np.arange(n) + 0.5) / n).max()
        assert distance < 2.2 / np.sqrt(n), "Kolmogorov and Smirnov: one in 8,000 is farther"


def test_a_draw_depends_on_its_row_and_the_seed_alone() -> None:
    p = random_mixture(6, "full", 3, 4)
    rows, numbers = with_gaps(7, draw(8, p, 300), 0.3), np.arange(300)
    r = KERNEL.posteriors(rows, p)
    whole = drawn_values(rows, p, r, numbers, 1)
    order = np.random.default_rng(9).permutation(300)
    parts = [drawn_values(rows[i], p, r[i], numbers[i], 1) for i in np.array_split(order, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole[order], rtol=1e-12)
    other = drawn_values(rows, p, r, numbers, 2)
    gaps = np.isnan(rows)
    assert np.all(other[gaps] != whole[gaps])
    shifted = drawn_values(rows, p, r, numbers + 300, 1)
    assert np.all(shifted[gaps] != whole[gaps])
