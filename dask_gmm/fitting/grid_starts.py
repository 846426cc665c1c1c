"""Starts for every point of a grid, from one sample in memory and without another read.

Each number of components and each restart draws its own start, which all families share, and each
start goes some way by EM on the sample, which is cheap beside a read of all data. Then, from the
most components to the fewest, the best mixture of each point gives the next smaller one another
start, by merging the pairs that cost least (`mixture.merging`): where k-means has put two centres
into one component and none into another, a merged start often has not. The best of them by their
likelihood on the sample go on to the full data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.execution.machine import single_threaded_blas, single_threaded_openmp
from dask_gmm.fitting.loop import PlainEM, run
from dask_gmm.fitting.starts import responsibilities, start_from
from dask_gmm.mixture.estimation import maximize
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.merging import merge_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.fitting.fit import FitSettings
    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.parameters import MixtureParameters

    Rows = NDArray[np.floating[Any]]

__all__ = ["GridPoint", "GridStart", "StartsOfSize", "grid_starts", "starts_on_sample"]

#: EM steps on the sample; what they leave undone the passes do, on all rows.
POLISH_ITERATIONS = 50
#: And the part of the tolerance to which they go: a start is to be compared with others.
POLISH_TOL = 0.1
#: Pairs of more components than these take longer to look at than a start is worth.
MOST_HANDED_DOWN = 128


@dataclass(frozen=True)
class GridPoint:
    """A number of components and a covariance family."""

    n_components: int
    family: CovarianceFamily


@dataclass(frozen=True)
class GridStart:
    """A start, how good it is on the sample (nats per row), and where it comes from."""

    parameters: MixtureParameters
    bound: float
    origin: str


class StartsOfSize(Protocol):
    """Draws the starts of K components for all families, one per restart."""

    def __call__(
        self, n_components: int, families: Sequence[CovarianceFamily], /
    ) -> dict[CovarianceFamily, list[MixtureParameters]]:
        """Return the starts; one that collapses is left out."""


def starts_on_sample(
    rows: Rows, settings: FitSettings, random_state: np.random.RandomState
) -> StartsOfSize:
    """Starts by `settings.init_params` on the sample, where families share the draws."""

    def draw(
        n_components: int, families: Sequence[CovarianceFamily]
    ) -> dict[CovarianceFamily, list[MixtureParameters]]:
        found: dict[CovarianceFamily, list[MixtureParameters]] = {f: [] for f in families}
        for _ in range(settings.n_init):
            pieces = list(responsibilities(rows, n_components, settings.init_params, random_state))
            for family in families:
                try:
                    start = start_from(
                        rows,
                        pieces,
                        n_components,
                        family,
                        settings.init_params,
                        settings.reg_covar,
                    )
                except CollapsedComponentError:
                    continue
                found[family].append(start)
        return found

    return draw


def grid_starts(
    points: Sequence[GridPoint], draw: StartsOfSize, rows: Rows, settings: FitSettings
) -> dict[GridPoint, list[GridStart]]:
    """Return up to `settings.n_init` starts for each point, the best first.

    Parameters
    ----------
    points : sequence of GridPoint
    draw : StartsOfSize
    rows : (m, D) floating
        The sample.
    settings : FitSettings
        Of the whole grid.
    """
    found: dict[GridPoint, list[GridStart]] = {}
    with single_threaded_blas(), single_threaded_openmp():
        for n_components in sorted({p.n_components for p in points}):
            mine = [p for p in points if p.n_components == n_components]
            drawn = draw(n_components, [p.family for p in mine])
            for point in mine:
                starts = drawn[point.family]
                found[point] = _polished(starts, rows, settings, settings.init_params)
        for family in dict.fromkeys(p.family for p in points):
            _hand_down([p for p in points if p.family is family], found, rows, settings)
    return {point: starts[: settings.n_init] for point, starts in found.items()}


def _hand_down(
    points: Sequence[GridPoint],
    found: dict[GridPoint, list[GridStart]],
    rows: Rows,
    settings: FitSettings,
) -> None:
    """Give each point of a family a start that comes from the next larger one."""
    falling = sorted(points, key=lambda p: -p.n_components)
    for larger, smaller in pairwise(falling):
        if not found[larger] or larger.n_components > MOST_HANDED_DOWN:
            continue
        merged = _merged(found[larger][0].parameters, smaller.n_components, rows, settings)
        if merged is None:
            continue
        origin = f"merged from {larger.n_components}"
        starts = [*found[smaller], *_polished([merged], rows, settings, origin)]
        found[smaller] = sorted(starts, key=lambda s: -s.bound)


def _merged(
    parameters: MixtureParameters, n_components: int, rows: Rows, settings: FitSettings
) -> MixtureParameters | None:
    """The mixture with its cheapest pairs merged until `n_components` are left."""
    (statistics,) = get_kernel(settings.kernel).statistics(rows, [Candidate(parameters)])
    if statistics.n_components <= n_components:  # it has lost components itself
        return None
    try:
        merged = merge_down(statistics, n_components, settings.reg_covar)
        return maximize(merged, settings.reg_covar)
    except CollapsedComponentError:
        return None


def _polished(
    starts: Sequence[MixtureParameters], rows: Rows, settings: FitSettings, origin: str
) -> list[GridStart]:
    """The starts after some EM on the sample, the best first."""
    kernel = get_kernel(settings.kernel)
    steps = min(settings.max_iter, POLISH_ITERATIONS)
    results = run(
        [PlainEM(start, POLISH_TOL * settings.tol, steps, settings.reg_covar) for start in starts],
        lambda candidates: kernel.statistics(rows, candidates),
    )
    polished = [GridStart(r.parameters, r.lower_bound, origin) for r in results]
    return sorted(polished, key=lambda s: -s.bound)
