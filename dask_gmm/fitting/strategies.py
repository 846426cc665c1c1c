"""From starts and settings to the strategies that the loop advances: the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.acceleration.climbing import SampleObjective
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.loop import PlainEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.loop import FitState, Fitting
    from dask_gmm.fitting.search.ends import SampleSearch
    from dask_gmm.fitting.settings import FitSettings, WarmStart
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = [
    "ACCELERATIONS",
    "choose_acceleration",
    "configure",
    "fits_the_sample",
    "make_strategy",
    "set_out",
]

ACCELERATIONS = ("auto", "variance-reduced", "squarem")
# Below this many rows for each free parameter a sample misleads as often as it leads.
_LEAST_ROWS_PER_PARAMETER = 5.0
# An array in memory is worth accelerating from so many times the sample's rows.
_SAMPLES_IN_MEMORY = 50


def choose_acceleration(
    asked: str | None,
    source: Source,
    size: int,
    n_parameters: int,
    *,
    conjugate: bool = True,
) -> str | None:
    """Settle "auto", and whether a sample of `size` rows can lead a fit.

    "auto" accelerates what has to be read: data of a store or of a Dask collection that do not fit
    into the sample anyway. A pass over rows in memory costs only arithmetic, and what the sample
    takes, some dozens to hundreds of E-steps over it, is arithmetic too. Measured on one thread
    (`bench_time_to_fit`): at ten times the sample's rows it takes as long as the passes it saves
    for overlapping components and .8 s longer for separated ones; at fifty times, from the same
    start, a tenth to a half of plain EM's seconds for the former, from a start of its own 1.3 s
    against .9 s for the latter. So arrays begin there.

    A model that is not conjugate is accelerated by squarem (`by_objective`) where it is read, and
    never in memory: its passes are dozens, and the sample's are none the fewer.

    Parameters
    ----------
    asked : str or None
    source : Source
    size : int
        Rows of the sample.
    n_parameters : int
        Free parameters of the mixture.
    conjugate : bool
        Whether the model is (`MixtureModel.conjugate`).

    Returns
    -------
    {"variance-reduced", "squarem", None}

    Raises
    ------
    InputError
        Variance-reduced EM is asked for, and the model is not conjugate.
    """
    if not conjugate:
        return _by_objective(asked, source, size)
    small = source.n_rows is not None and source.n_rows <= size
    worth = _SAMPLES_IN_MEMORY * size if source.in_memory else size + 1
    if asked == "auto" and source.n_rows is not None and source.n_rows < worth:
        return None
    if asked in ("auto", "variance-reduced"):
        enough = small or size >= _LEAST_ROWS_PER_PARAMETER * n_parameters
        return "variance-reduced" if enough else "squarem"
    return asked


def _by_objective(asked: str | None, source: Source, size: int) -> str | None:
    """Settle what accelerates a model that is not conjugate."""
    if asked == "variance-reduced":
        raise InputError(
            "acceleration='variance-reduced' does not go with this model: it corrects a sample's "
            "moments, which maximum likelihood and conjugate priors are maximised by. Leave it at "
            "'auto', or choose 'squarem' or None."
        )
    if asked != "auto":
        return asked
    few = source.n_rows is not None and source.n_rows <= size
    return None if source.in_memory or few else "squarem"


def fits_the_sample(settings: FitSettings, acceleration: str | None, *, computed: bool) -> bool:
    """Whether a fit begins at the best of several ends on its sample.

    Parameters
    ----------
    settings : FitSettings
    acceleration : {"variance-reduced", "squarem", None}
    computed : bool
        Whether the starts are computed, in part at least, for which there is a sample.
    """
    if settings.model.conjugate:
        return acceleration == "variance-reduced"
    return acceleration == "squarem" and computed


def make_strategy(
    settings: FitSettings,
    acceleration: str | None,
    m_step: MStep,
    rows: SampleRows | None = None,
) -> Fitting[Any]:
    """Build one strategy.

    Parameters
    ----------
    settings : FitSettings
    acceleration : {"variance-reduced", "squarem", None}
    m_step : MStep
    rows : SampleRows, optional
        What variance-reduced EM works on.
    """
    rules = (settings.tol, settings.max_iter, m_step)
    if acceleration is None:
        return PlainEM(*rules)
    by_change = settings.stopping == "change"
    if acceleration == "squarem":
        if not settings.model.conjugate:
            return SquaremByObjective(*rules, by_change)
        return Squarem(*rules, by_change)
    assert rows is not None
    return VarianceReducedEM(*rules, by_change, sample=rows)


def configure(
    settings: FitSettings, acceleration: str | None, sample: SampleRows | None
) -> Fitting[Any]:
    """Build the strategy that all starts of a fit share.

    Parameters
    ----------
    settings : FitSettings
    acceleration : {"variance-reduced", "squarem", None}
    sample : SampleRows or None
        What variance-reduced EM works on, and what components are reseeded from.
    """
    reseeding = None if sample is None else sample.rows
    m_step = MStep(settings.model, settings.on_collapse, reseeding, settings.kernel)
    return make_strategy(settings, acceleration, m_step, sample)


def set_out(
    fitting: Fitting[Any],
    settings: FitSettings,
    acceleration: str | None,
    sample: SampleRows | None,
    starts: Sequence[MixtureParameters],
    warm: WarmStart | None,
    search: SampleSearch | None = None,
) -> list[FitState]:
    """Return the states before the first pass, one for each restart.

    Parameters
    ----------
    fitting : Fitting
        From `configure`, with the same arguments.
    settings, acceleration, sample
    starts : sequence of MixtureParameters
        With a warm start the one it continues from.
    warm : WarmStart or None
    search : SampleSearch, optional
        What it finds takes part beside the ends that it has set out from.
    """
    bound = -np.inf if warm is None else warm.lower_bound
    together: list[tuple[MixtureParameters, ...]] = [(start,) for start in starts]
    tried: tuple[MixtureParameters, ...] = ()
    computed = warm is None and not settings.given.complete
    led = fits_the_sample(settings, acceleration, computed=computed)
    if led or search is not None:
        assert sample is not None
        tried = fit_sample(sample, starts, settings.model, settings.n_init)
        if search is not None:
            tried = (*search.better_than(sample, tried, settings.model), *tried)
    if led:
        if warm is not None or settings.given.any:
            # Whoever gave it may know more than the sample: the first read tells.
            tried = (*tried, starts[0])
        elif settings.init_params == "k-means||":
            tried = (*tried, *starts)  # they come from all rows, and so they do know more
        together = [tried]  # the first read chooses the best
    elif search is not None:
        # Each would be a restart of its own: the best by the sample, as many as were asked for.
        assert sample is not None
        height = SampleObjective(sample, settings.model)
        ranked = sorted(tried, key=lambda end: -height(end).value)
        best = [fitting.begin((end,)) for end in ranked[: settings.n_init]]
        own = warm is not None or settings.given.any
        return [*best, *([fitting.begin((starts[0],), bound)] if own else [])]
    return [fitting.begin(some, bound) for some in together]
