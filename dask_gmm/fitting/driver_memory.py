"""What a fit's own numbers take in the process that leads it, refused before anything is read.

Most often a wrong axis was taken for the features: a covariance of all pixels of an image. Counted
are sets of K·D² numbers: a mixture has two (covariances and factors), its statistics are one more,
and a step in the coordinates of an accelerated strategy is half of one.

The search of the sample (`fitting.search`) adds no sets here: it takes place only where the sample
has some 27 rows for each parameter, which need more than its mixtures do.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution.machine import machine_memory
from dask_gmm.fitting.fit_starts import SAMPLE_STARTS
from dask_gmm.fitting.sampling import automatic_size
from dask_gmm.fitting.search.choice import choose_search
from dask_gmm.fitting.search.rivals import MOST_RIVALS
from dask_gmm.fitting.strategies import choose_acceleration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.grid_starts import GridPoint
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.model import MixtureModel

__all__ = ["check_driver_memory", "check_grid_memory"]

# Sets that each strategy holds from pass to pass, the statistics of its candidates included: plain
# EM its mixture, the one before, and what was found there; SQUAREM its last two points, each with
# its moments and M-step, what was found at the last, and a trial; variance-reduced EM one point, a
# trial, a hedge and its last steps.
_SETS = {None: 6, "squarem": 14, "variance-reduced": 17}
# And on a plateau six more trials, their statistics and its anchors, each a mixture and moments.
_SETS_ON_PLATEAU = {None: 0, "squarem": 0, "variance-reduced": 6 * 3 + 12 * 3}
# In a grid plain EM also keeps the mixture that it was judged by; the others stand there anyway.
_SETS_JUDGED = {None: 2, "squarem": 0, "variance-reduced": 0}
# Sets that work needs while it lasts, for one mixture at a time: an M-step; an extrapolation; a
# climb on the sample with its memory of steps.
_SETS_AT_WORK = {None: 5, "squarem": 10, "variance-reduced": 25}
# And on a plateau three vectors of secants for each anchor.
_SETS_ANCHORED = {None: 0, "squarem": 0, "variance-reduced": 12 * 3}
# Starts that wait while one of them is tried.
_SETS_TRIED = 4
# What a start has become after its fit to the sample: a point with its moments and M-step.
_SETS_PER_SAMPLE_START = 7  # that mixture, moments, M-step, and the start itself


def check_driver_memory(
    source: Source,
    family: CovarianceFamily,
    n_components: int,
    n_init: int,
    acceleration: str | None = "auto",
    init_size: int | None = None,
    n_features: int | None = None,
    *,
    search: str | int = "off",
    given: bool = False,
    conjugate: bool = True,
) -> None:
    """Refuse a mixture whose own numbers do not fit this process.

    Parameters
    ----------
    source : Source
    family : CovarianceFamily
    n_components, n_init : int
        K, and the restarts that are kept at a time.
    acceleration : {"auto", "variance-reduced", "squarem", None}
        As asked for.
    init_size : int, optional
        Rows of the sample that are asked for.
    n_features : int, optional
        D, where it is not the source's.
    search : {"auto", "off", "thorough"} or int
        As asked for: where it takes place, rivals may run beside the fit.
    given : bool
        Whether the fit begins at parameters that the user gave.
    conjugate : bool
        Whether the model is (`MixtureModel.conjugate`).

    Raises
    ------
    InputError
        An acceleration or a search is asked for that does not go with the model.
    MemoryPlanError
        The covariances, what the M-step makes of them and what accelerates it need more.
    """
    k, d = n_components, n_features or source.n_features
    n_parameters = family.n_parameters(k, d)
    size = init_size or automatic_size(n_parameters, d)
    chosen = choose_acceleration(acceleration, source, size, n_parameters, conjugate=conjugate)
    sets = _at_work(chosen) + _held(chosen, n_init) + _on_sample(chosen, conjugate=conjugate)
    searching = choose_search(search, acceleration=chosen, given=given, conjugate=conjugate)
    if searching is not None and chosen == "variance-reduced":
        sets += MOST_RIVALS * (_SETS[chosen] + _SETS_ON_PLATEAU[chosen])
    needed, limit = 8 * _numbers(family, k, d) * sets, machine_memory()
    if needed <= limit:
        return
    raise MemoryPlanError(
        f"A {family.name} mixture of {k} components of {d:,} features needs about "
        f"{needed / 1e9:,.1f} GB for its covariances in this process, which has "
        f"{limit / 1e9:,.1f} GB. Axis {source.feature_axis} of {source.name}, of shape "
        f"{source.shape}, was taken for the features: give feature_axis if it is another one, or "
        f"use fewer components or covariance_type='diag'."
    )


def check_grid_memory(
    source: Source,
    points: Sequence[GridPoint],
    n_init: int,
    accelerations: Mapping[GridPoint, str | None],
    model: MixtureModel,
    n_features: int | None = None,
) -> None:
    """Refuse a grid whose own numbers do not fit this process.

    Parameters
    ----------
    source : Source
    points : sequence of GridPoint
    n_init : int
        Starts of each.
    accelerations : mapping of GridPoint to str or None
        What has been chosen for each.
    model : MixtureModel
        That of all points, but for their families.
    n_features : int, optional
        D, where it is not the source's.

    Raises
    ------
    MemoryPlanError
        All points together need more.
    """
    d, limit = n_features or source.n_features, machine_memory()
    held, work = 0, 0
    for point in points:
        chosen = accelerations[point]
        numbers = _numbers(point.family, point.n_components, d)
        held += numbers * (_held(chosen, n_init) + n_init * _SETS_JUDGED[chosen])
        conjugate = model.of_family(point.family).conjugate
        work = max(work, numbers * (_at_work(chosen) + _on_sample(chosen, conjugate=conjugate)))
    needed = 8 * (held + work)
    if needed > limit:
        raise MemoryPlanError(
            f"{len(points)} mixtures of {d:,} features with {n_init} "
            f"start(s) each need about {needed / 1e9:,.1f} GB in this process, which has "
            f"{limit / 1e9:,.1f} GB: select among fewer, with fewer starts, or without "
            f"covariance_type 'full'. Axis {source.feature_axis} of {source.name} was taken for "
            f"the features: give feature_axis if it is another one."
        )


def _numbers(family: CovarianceFamily, n_components: int, n_features: int) -> int:
    """Numbers of a set."""
    k, d = n_components, n_features
    return prod(family.form.second_moment_shape(k, d)) + 2 * k * d


def _at_work(acceleration: str | None, *, plateau: bool = True) -> int:
    """Sets that work needs while it lasts, for one mixture at a time."""
    return _SETS_AT_WORK[acceleration] + (_SETS_ANCHORED[acceleration] if plateau else 0)


def _on_sample(acceleration: str | None, *, conjugate: bool) -> int:
    """Sets of the starts of one mixture, while they climb the sample by their objective."""
    if conjugate:
        return 0
    # In memory two starts may be tried, one after the other, by EM as the fit itself will do it.
    return SAMPLE_STARTS * _SETS_PER_SAMPLE_START if acceleration == "squarem" else _SETS_TRIED


def _held(acceleration: str | None, n_init: int, *, plateau: bool = True) -> int:
    """Sets that all restarts of a mixture hold: when they start, or later from pass to pass."""
    sets = _SETS[acceleration] + (_SETS_ON_PLATEAU[acceleration] if plateau else 0)
    if acceleration != "variance-reduced":
        return sets * n_init
    # One strategy for all starts, the ends of which are evaluated together in the first read.
    return max(max(n_init, SAMPLE_STARTS) * _SETS_PER_SAMPLE_START, sets + 3 * (n_init - 1))
