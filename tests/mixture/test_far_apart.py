"""Components further apart than float64 has digits for a centre that they could share."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.rounding import far_apart
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture


@pytest.mark.parametrize("kernel", ["compiled", "blas"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("distance", [1e8, 1e14, 1e100])
def test_components_far_apart_keep_their_digits(kernel: str, family: str, distance: float) -> None:
    """Rows are near their own component, whatever lies between it and the others."""
    near = random_mixture(0, family, 4, 3)
    far = np.array([[0.0], [1.0], [-1.0], [0.5]]) * distance
    p = MixtureParameters.create(near.family, near.weights, near.means + far, near.covariances)
    rows = draw(1, p, 400)
    oracle, used = get_kernel("reference"), get_kernel(kernel)
    # At 1e8 the program's common centre still does, with an error of u·1e8.
    slack = 1e-6 if distance == 1e8 else 1e-12
    np.testing.assert_allclose(
        used.log_densities(rows, p), oracle.log_densities(rows, p), rtol=slack
    )
    np.testing.assert_array_equal(used.labels(rows, p), oracle.labels(rows, p))
    posteriors = oracle.posteriors(rows, p)
    np.testing.assert_allclose(used.posteriors(rows, p), posteriors, atol=slack)
    (found,), (right,) = (k.statistics(Rows(rows), [Candidate(p)]) for k in (used, oracle))
    assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=slack)
    np.testing.assert_allclose(found.first, right.first, atol=400 * slack)
    np.testing.assert_allclose(found.second, right.second, rtol=slack, atol=400 * slack)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e12])
def test_a_common_offset_is_no_distance(family: str, offset: float) -> None:
    """One that all components share goes with the centre; ill-conditioned is not far either."""
    p = random_mixture(0, family, 4, 3, offset=offset)
    assert not far_apart(p, p.weights @ p.means)


def test_ill_conditioned_is_not_far() -> None:
    """Differences to the means have no digits there that x − c has not."""
    thin, means = np.diag([1.0, 1.0, 1e-18]), np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 1e-8]])
    p = MixtureParameters.create("full", [0.5, 0.5], means, np.stack([thin, thin]))
    assert not far_apart(p, np.array([1.5, 0.0, 5e-9]))
