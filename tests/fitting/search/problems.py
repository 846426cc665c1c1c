"""Rows with a poor optimum planted, for the tests of the search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.search.ground import Ground
from dask_gmm.fitting.search.search import SearchBudget, SearchEnd, search
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL = get_kernel()
FEW = SearchBudget(moves=64, patience=16)
#: Five clusters; the poor optimum has two components in the first and one for the last two.
CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [16.0, 16.0], [21.0, 16.0]])
POOR = np.array([[-0.5, 0.0], [0.5, 0.0], [8.0, 0.0], [0.0, 8.0], [18.5, 16.0]])


def clusters(seed: int = 0, n: int = 2000) -> NDArray[np.float64]:
    """Rows of five clusters of unit variance."""
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(5, size=n)] + rng.normal(size=(n, 2))


def around(means: NDArray[np.float64], family: str) -> MixtureParameters:
    """Components of equal weight and unit variance."""
    k, d = means.shape
    kinds: dict[str, Any] = {
        "full": np.stack([np.eye(d)] * k),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    form = covariance_family(family).form
    return MixtureParameters.create(family, np.full(k, 1.0 / k), means, kinds[form.name])


def optimum(sample: SampleRows, start: MixtureParameters) -> tuple[float, MixtureParameters]:
    """Where EM ends on a sample, and its value."""
    objective = SampleObjective(sample, likelihood(start.family))
    end, sound = climb(objective, objective(start), 1e-7, 200)
    assert sound
    return end.value, end.parameters


def sample_of(
    values: NDArray[Any], weights: NDArray[np.float64] | None = None, n_threads: int = 1
) -> SampleRows:
    """Rows as a fit holds its sample."""
    return SampleRows(Rows(values, weights), KERNEL, n_threads)


def searched(
    sample: SampleRows, start: MixtureParameters, budget: SearchBudget = FEW
) -> tuple[Ground, SearchEnd]:
    """What a search finds on a sample."""
    ground = Ground.of(sample, start.n_components, start.family)
    assert ground is not None
    return ground, search(ground, start, likelihood(start.family), budget, lambda *_: None)
