"""Fits from a start to an end, without the sources and backends of a whole fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.loop import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.fitting.loop import FitResult, Fitting
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

    Evaluate = Callable[[Sequence[Candidate]], tuple[SufficientStatistics, ...]]


def fit(fitting: Fitting[Any], evaluate: Evaluate, *starts: MixtureParameters) -> FitResult:
    """One fit; accelerated ones choose among several starts."""
    (end,) = run([fitting], [fitting.begin(starts)], evaluate)
    return fitting.finish(end)


def fit_restarts(
    fitting: Fitting[Any], evaluate: Evaluate, starts: Sequence[MixtureParameters]
) -> tuple[FitResult, ...]:
    """One fit from each start, all in the same passes."""
    states = [fitting.begin((start,)) for start in starts]
    return tuple(fitting.finish(end) for end in run([fitting] * len(states), states, evaluate))
