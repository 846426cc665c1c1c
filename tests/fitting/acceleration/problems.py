"""Rows, samples and passes for the tests of the accelerated strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.rows import Rows
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL = get_kernel()


class Passes:
    """Evaluates candidates on rows in memory, and keeps count."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.rows = rows
        self.reads = 0

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        self.reads += 1
        return KERNEL.statistics(Rows(self.rows), candidates)


def overlapping(
    seed: int,
    family: str = "full",
    n: int = 4000,
    k: int = 3,
    d: int = 3,
    *,
    spread: float = 1.2,
) -> tuple[NDArray[np.float64], MixtureParameters]:
    """Rows of overlapping components, and a start a little off the truth."""
    truth = random_mixture(seed, family, k, d, spread=spread)
    rows = draw(seed + 1, truth, n)
    rng = np.random.default_rng(seed)
    rng.shuffle(rows)
    off = random_mixture(seed + 2, family, k, d)
    return rows, type(truth).create(
        family,
        np.full(k, 1.0 / k),
        truth.means + 0.5 * rng.normal(size=(k, d)),
        off.covariances,
    )


def sample_of(rows: NDArray[np.float64], m: int = 500) -> SampleRows:
    """Evenly spaced rows."""
    return SampleRows(Rows(np.ascontiguousarray(rows[:: len(rows) // m])))
