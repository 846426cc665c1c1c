"""Where a fit begins: its sample, its starts, and which acceleration these allow."""

from __future__ import annotations

import time
import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.taking_part import nothing_left
from dask_gmm.errors import InputError, UnitsWarning
from dask_gmm.execution.local import LocalBackend
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import thinned
from dask_gmm.fitting.acceleration.verified import VerifiedEM
from dask_gmm.fitting.events import SampleDrawn, StartsFound
from dask_gmm.fitting.kmeans_parallel import READS, draw_places
from dask_gmm.fitting.sampling import SampleRecipe, automatic_size
from dask_gmm.fitting.scaled_sample import draw_rows
from dask_gmm.fitting.search.choice import choose_search
from dask_gmm.fitting.search.ends import SampleSearch
from dask_gmm.fitting.search.rivals import FitWithRivals
from dask_gmm.fitting.start_trials import StartTrials
from dask_gmm.fitting.starts import check_distinct, fill_in, initial_parameters
from dask_gmm.fitting.strategies import choose_acceleration, configure, fits_the_sample, set_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, Passes
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.loop import FitState, Fitting
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.fitting.search.search import SearchBudget
    from dask_gmm.fitting.settings import FitSettings, WarmStart
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows
    from dask_gmm.scaling import Scaling

__all__ = [
    "SAMPLE_STARTS",
    "FitSample",
    "begin",
    "check_row_count",
    "drawn_again",
    "fit_sample_of",
    "go_on",
    "rows_for_starts",
    "sample_recipe",
    "sample_size",
    "start_reads",
    "starting_sample",
]

# Starts that are fitted to the sample, where that costs no read: the best of five is rarely a bad
# one.
SAMPLE_STARTS = 5

_LOOKED_AT_ONCE = 4096


def check_row_count(n_rows: int | None, n_components: int, source: Source | None = None) -> None:
    """Refuse fewer rows than components, or than two; in scikit-learn's words.

    `source` is given where the rows that it leaves out are not among them.
    """
    if n_rows is None:
        return
    if source is not None and source.selects and not n_rows:
        raise nothing_left(source)
    if n_rows < 2:
        raise InputError(f"Found array with {n_rows} sample(s) while a minimum of 2 is required.")
    if n_rows < n_components:
        raise InputError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, "
            f"n_samples = {n_rows}"
        )


def start_reads(settings: FitSettings, warm: WarmStart | None = None) -> int:
    """Reads of all rows that the start takes: some if it is drawn from them all, else none."""
    computed = warm is None and not settings.given.complete
    return READS if computed and settings.init_params == "k-means||" else 0


@dataclass(frozen=True)
class FitSample:
    """What accelerates a fit, and the sample that it begins from.

    Attributes
    ----------
    acceleration : {"variance-reduced", "squarem", None}
    sample : Sample or None
        None where neither the start, the acceleration nor a reseeding needs one.
    recipe : SampleRecipe or None
    scaling : Scaling or None
        What rows are scaled by; those of the sample are.
    search : SearchBudget or None
        How much to search for a better optimum of the sample; None for not at all.
    """

    acceleration: str | None
    sample: Sample | None = None
    recipe: SampleRecipe | None = None
    scaling: Scaling | None = None
    search: SearchBudget | None = None


def sample_size(source: Source, settings: FitSettings) -> tuple[int, int]:
    """Rows of the sample for a fit, and free parameters of the mixture."""
    n_features = settings.n_features(source)
    n_parameters = settings.model.family.n_parameters(settings.n_components, n_features)
    size = settings.init_size or automatic_size(n_parameters, source.n_features)
    return max(size, settings.n_components), n_parameters


def fit_sample_of(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    random_state: np.random.RandomState,
    notify: Observer,
    warm: WarmStart | None,
) -> FitSample:
    """Choose the acceleration, and draw the sample if that, the start or a reseeding needs one."""
    size, n_parameters = sample_size(source, settings)
    conjugate = settings.model.conjugate
    acceleration = choose_acceleration(
        settings.acceleration, source, size, n_parameters, conjugate=conjugate
    )
    computed = warm is None and not settings.given.complete
    scaling, asked = None if warm is None else warm.scaling, settings.scaling
    if asked is not None and not asked.estimates and scaling is None:
        scaling = asked.begin(source.n_features, source.feature_names)
    searching = choose_search(
        settings.search,
        acceleration=acceleration,
        given=warm is not None or settings.given.any,
        conjugate=conjugate,
    )
    led = acceleration == "variance-reduced" or settings.on_collapse == "reseed"
    scaled = asked is not None and scaling is None
    needed = settings.model.needs_rows or searching is not None
    if not (computed or led or scaled or needed):
        return FitSample(acceleration, scaling=scaling)
    recipe = sample_recipe(source, size, random_state)
    sample, scaling = starting_sample(source, backend, recipe, settings, notify, scaling=scaling)
    if sample.complete and settings.acceleration == "auto":
        acceleration = None  # chunks of unknown sizes turn out to be few
        searching = None if settings.search == "auto" else searching
    return FitSample(acceleration, sample, recipe, scaling, searching)


def drawn_again(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    acceleration: str | None,
    recipe: SampleRecipe | None,
    scaling: Scaling | None,
    notify: Observer,
) -> FitSample:
    """What `fit_sample_of` has returned when the fit began, which goes on now."""
    if recipe is None:
        return FitSample(acceleration, scaling=scaling)
    sample, _ = starting_sample(source, backend, recipe, settings, notify, scaling=scaling)
    return FitSample(acceleration, sample, recipe, scaling)


def begin(
    passes: Passes,
    settings: FitSettings,
    random_state: np.random.RandomState,
    notify: Observer,
    warm: WarmStart | None,
    drawn: FitSample,
) -> tuple[Fitting[Any], list[FitState]]:
    """Find the starts, all before the first pass so that they can share it, and set out from them.

    Parameters
    ----------
    passes : Passes
        Over all blocks of the source, for a start that is drawn from all rows.
    settings : FitSettings
    random_state : numpy.random.RandomState
    notify : Observer
    warm : WarmStart or None
    drawn : FitSample
    """
    acceleration, sample = drawn.acceleration, drawn.sample
    begun, computed = time.perf_counter(), warm is None and not settings.given.complete
    if sample is not None and computed:
        check_row_count(len(sample.rows), settings.n_components)
        if not sample.complete and settings.given.means is None:
            # Else as scikit-learn: what it can.
            check_distinct(sample.to_start_from.values, settings.n_components)
    if warm is not None:
        starts = [warm.parameters]
    elif start_reads(settings, warm):
        starts = _drawn_starts(passes, settings, random_state, notify, sample)
    else:
        starts = _starts(sample, settings, random_state, acceleration)
    starts = [settings.model.starting(start) for start in starts]
    rows = _sample_rows(settings, sample)
    fitting = configure(settings, acceleration, rows)
    search = _sample_search(drawn, notify)
    if search is not None and acceleration == "variance-reduced":
        fitting = _with_rivals(fitting, settings, search.complete_rows, notify)
    states = set_out(fitting, settings, acceleration, rows, starts, warm, search)
    if computed or acceleration == "variance-reduced":
        notify(StartsFound(len(starts), settings.init_params, time.perf_counter() - begun))
    return fitting, states


def go_on(
    settings: FitSettings,
    drawn: FitSample,
    notify: Observer,
    *,
    rivals: bool = False,
) -> Fitting[Any]:
    """Return the strategy of a fit, configured as it was when it set out.

    Parameters
    ----------
    settings : FitSettings
    drawn : FitSample
    notify : Observer
    rivals : bool
        Whether it may have some.
    """
    rows = _sample_rows(settings, drawn.sample)
    fitting = configure(settings, drawn.acceleration, rows)
    complete = None if drawn.sample is None else drawn.sample.complete_rows
    if rivals and complete is not None:
        return _with_rivals(fitting, settings, complete, notify)
    return fitting


def _with_rivals(
    fitting: Fitting[Any], settings: FitSettings, complete: Rows, notify: Observer
) -> Fitting[Any]:
    assert isinstance(fitting, VerifiedEM)
    rows = SampleRows(complete, settings.kernel, LocalBackend().n_threads)
    return FitWithRivals(fitting, rows, notify)


def _sample_search(drawn: FitSample, notify: Observer) -> SampleSearch | None:
    if drawn.search is None or drawn.sample is None:
        return None
    complete = drawn.sample.complete_rows
    return None if complete is None else SampleSearch(complete, drawn.search, notify)


def _sample_rows(settings: FitSettings, sample: Sample | None) -> SampleRows | None:
    if sample is None:
        return None
    rows = sample.rows if settings.model.conjugate else sample.standing_for_all
    return SampleRows(rows, settings.kernel, LocalBackend().n_threads)


def _drawn_starts(
    passes: Passes,
    settings: FitSettings,
    random_state: np.random.RandomState,
    notify: Observer,
    sample: Sample | None,
) -> list[MixtureParameters]:
    """One start per restart from all rows, by k-means||."""
    assert sample is not None
    k, model = settings.n_components, settings.model
    places = draw_places(
        passes,
        sample.to_start_from,
        n_components=k,
        forms=(model.family.form,),
        n_init=settings.n_init,
        random_state=random_state,
        notify=notify,
        wrap=sample.filling(passes.source),
    )
    return [fill_in(drawn.start(k, model, random_state), settings.given) for drawn in places]


def _starts(
    sample: Sample | None,
    settings: FitSettings,
    random_state: np.random.RandomState,
    acceleration: str | None,
) -> list[MixtureParameters]:
    """One start per restart from the sample.

    Those that are to be fitted to the sample come from a part of it, and there are more of them.
    """
    count, given = settings.n_init, settings.given.complete
    if sample is None or given:
        rows = None if sample is None else sample.to_start_from
        led = fits_the_sample(settings, acceleration, computed=not given)
        return [
            _start(rows, settings, random_state)
            for _ in range(1 if led and sample is not None else count)
        ]
    model, k = settings.model, settings.n_components
    kinds = rows_for_starts(sample.to_start_from, model, k)
    tried = thinned(sample.to_start_from, k, model.family)

    def draw(rows: Rows) -> MixtureParameters:
        return _start(rows, settings, random_state)

    if not fits_the_sample(settings, acceleration, computed=True):
        trials = StartTrials(kinds, tried, model, settings.kernel)
        return [trials.best(draw) for _ in range(count)]
    some = [thinned(rows, k, model.family) for rows in kinds]
    trials = StartTrials(some, tried, model, settings.kernel)
    return [trials.of_turn(i, draw) for i in range(max(count, SAMPLE_STARTS))]


def _start(
    rows: Rows | None, settings: FitSettings, random_state: np.random.RandomState
) -> MixtureParameters:
    return initial_parameters(
        rows,
        n_components=settings.n_components,
        model=settings.model,
        init_params=settings.init_params,
        random_state=random_state,
        given=settings.given,
    )


def rows_for_starts(rows: Rows, model: MixtureModel, n_components: int) -> tuple[Rows, ...]:
    """Those that the model looks for components among; all where they are too few for so many."""
    found = tuple(
        some
        for some in model.start_rows(rows)
        if some is rows or len(np.unique(some.values, axis=0)) >= n_components
    )
    return found or (rows,)


def sample_recipe(source: Source, size: int, random_state: np.random.RandomState) -> SampleRecipe:
    """How to draw `size` rows for the starts; `random_state` stays as it is."""
    everything = source.n_rows is not None and source.n_rows <= size
    # A start on all rows must take scikit-learn's draws from `random_state` and no other.
    # So do chunks of unknown sizes that turn out to be few: the seed comes from a copy.
    seed = 0 if everything else int(deepcopy(random_state).randint(np.iinfo(np.int32).max))
    return SampleRecipe(size, seed)


def starting_sample(
    source: Source,
    backend: Backend,
    recipe: SampleRecipe,
    settings: FitSettings,
    notify: Observer,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]] = lambda job: job,
    scaling: Scaling | None = None,
) -> tuple[Sample, Scaling | None]:
    """Draw the rows for the starts, scale them, and say so; see `draw_rows`.

    Warns of features that `reg_covar` hides.
    """

    def check(sample: Sample) -> None:
        if source.missing == "marginalize":
            _check_each_feature_has_values(sample, source)

    drawn = draw_rows(source, backend, recipe, settings, wrap, scaling, check)
    sample, results = drawn.sample, drawn.results
    notify(
        SampleDrawn(
            rows=len(sample.rows),
            complete=sample.complete,
            blocks=sum(result.blocks for result in results),
            bytes_read=sum(result.bytes_read for result in results),
            seconds=sum(result.seconds for result in results),
        )
    )
    _warn_of_small_features(sample, settings.model.reg_covar, scaled=drawn.scaling is not None)
    return sample, drawn.scaling


def _check_each_feature_has_values(sample: Sample, source: Source) -> None:
    """Refuse a feature of which nothing is known: whatever its mean, the likelihood is the same.

    Raises
    ------
    InputError
    """
    values, known = sample.rows.values, np.zeros(source.n_features, dtype=bool)
    for start in range(0, len(values), _LOOKED_AT_ONCE):
        known |= ~np.isnan(values[start : start + _LOOKED_AT_ONCE]).all(axis=0)
        if known.all():
            return
    unknown = np.flatnonzero(~known)
    others = f" and {len(unknown) - 1} other(s)" if len(unknown) > 1 else ""
    name = "" if source.feature_names is None else f" ({source.feature_names[unknown[0]]})"
    raise InputError(
        f"Feature {unknown[0]}{name}{others} of {source.name} has no value in any of the "
        f"{len(values):,} rows of the sample: nothing can be said of it. Leave it out."
    )


def _warn_of_small_features(sample: Sample, reg_covar: float, *, scaled: bool) -> None:
    """Say so where all the scatter of a feature is less than what is added to its variances."""
    hidden = sample.below(reg_covar**0.5)
    if not hidden:
        return
    others = f" and of {len(hidden) - 1} other(s)" if len(hidden) > 1 else ""
    of = " of the scaled rows" if scaled else ""
    warnings.warn(
        f"reg_covar={reg_covar:g} is more than the variance of feature {hidden[0]}{others}{of}: "
        f"the mixture hardly sees it. Lower reg_covar, or scale the data to unit variance by "
        f"standardize=True.",
        UnitsWarning,
        stacklevel=2,
    )
