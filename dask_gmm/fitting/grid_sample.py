"""Where a grid begins: what accelerates each point, the sample that all share, and the starts."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.execution.local import LocalBackend
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import StartsFound
from dask_gmm.fitting.fit_starts import (
    check_row_count,
    rows_for_starts,
    sample_recipe,
    starting_sample,
)
from dask_gmm.fitting.grid_starts import grid_starts, starts_on_sample
from dask_gmm.fitting.holdout import TrainingRowsJob
from dask_gmm.fitting.kmeans_parallel import draw_places
from dask_gmm.fitting.sample_progress import SampleProgress
from dask_gmm.fitting.sampling import automatic_size, bounded_size
from dask_gmm.fitting.scaled_sample import scaled_block_bytes
from dask_gmm.fitting.search.choice import choose_search
from dask_gmm.fitting.search.ends import SampleSearch
from dask_gmm.fitting.starts import check_distinct
from dask_gmm.fitting.strategies import choose_acceleration, fits_the_sample, make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, Passes
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.grid_starts import GridPoint, GridStart, StartsOfSize
    from dask_gmm.fitting.holdout import HoldOut
    from dask_gmm.fitting.loop import Fitting
    from dask_gmm.fitting.sampling import Sample, SampleRecipe
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

    Accelerations = dict[GridPoint, str | None]
    Wrap = Callable[[BlockJob[Any]], BlockJob[Any]]

__all__ = ["GridSample", "choose_accelerations", "draw_grid_sample"]

_FEWEST_SAMPLED = 25_000
_ROWS_PER_PARAMETER = 50


def choose_accelerations(
    source: Source, points: Sequence[GridPoint], settings: FitSettings
) -> tuple[Accelerations, int]:
    """Settle what accelerates each point, by the rule of `fit`, and the rows of the sample.

    The sample is one for all: that which `fit` would draw for the largest mixture. Where it leads
    nobody, a smaller one does for the starts.
    """
    d = settings.n_features(source)
    n_parameters = {p: p.family.n_parameters(p.n_components, d) for p in points}
    most = max(n_parameters.values())
    size = settings.init_size or automatic_size(most, d)
    own = {p: settings.of_family(p.family) for p in points}
    chosen: Accelerations = {
        p: choose_acceleration(
            settings.acceleration, source, size, n, conjugate=own[p].model.conjugate
        )
        for p, n in n_parameters.items()
    }
    led = any(fits_the_sample(own[p], c, computed=True) for p, c in chosen.items())
    if settings.init_size is None and not led:
        size = bounded_size(max(_FEWEST_SAMPLED, _ROWS_PER_PARAMETER * most), d)
    return chosen, max(size, *(p.n_components for p in points))


def draw_grid_sample(
    source: Source,
    backend: Backend,
    points: Sequence[GridPoint],
    settings: FitSettings,
    random_state: np.random.RandomState,
    held_out: HoldOut | None,
    notify: Observer,
    recipe: SampleRecipe | None = None,
    scaling: Scaling | None = None,
) -> GridSample:
    """Draw the sample of a grid, without rows held out.

    By its `recipe`, and scaled by its `scaling`, if it was drawn before.

    Raises
    ------
    InputError
        It has fewer rows than components, or than different ones.
    """
    accelerations, size = choose_accelerations(source, points, settings)
    block_bytes = scaled_block_bytes(source, settings)

    def wrap(job: BlockJob[Any]) -> BlockJob[Any]:
        return job if held_out is None else TrainingRowsJob(job, held_out, block_bytes)

    if recipe is None:
        recipe = sample_recipe(source, size, random_state)
    sample, scaling = starting_sample(source, backend, recipe, settings, notify, wrap, scaling)
    most = max(p.n_components for p in points)
    check_row_count(len(sample.rows), most)
    check_distinct(sample.to_start_from.values, most)
    if sample.complete and settings.acceleration == "auto":
        accelerations = dict.fromkeys(points)  # chunks of unknown sizes turn out to be few
    settled = settings.settled(sample)
    return GridSample(points, settled, accelerations, sample, recipe, wrap, scaling)


class GridSample:
    """The sample of a grid, and what begins on it.

    Parameters
    ----------
    points : sequence of GridPoint
    settings : FitSettings
        What all points share.
    accelerations : dict
        Of each point.
    sample : Sample
    recipe : SampleRecipe
    wrap : callable
        Makes of a job over all rows one over the rows trained on.
    scaling : Scaling or None
        What rows are scaled by; those of the sample are.
    """

    def __init__(
        self,
        points: Sequence[GridPoint],
        settings: FitSettings,
        accelerations: Accelerations,
        sample: Sample,
        recipe: SampleRecipe,
        wrap: Wrap,
        scaling: Scaling | None = None,
    ) -> None:
        self.scaling = scaling
        self.accelerations = accelerations
        self.sample = sample
        self.recipe = recipe
        self._points = tuple(points)
        self._settings = settings
        self._wrap = wrap
        rows = sample.rows if settings.model.conjugate else sample.standing_for_all
        self._rows = SampleRows(rows, settings.kernel, LocalBackend().n_threads)

    def begin(
        self,
        passes: Passes,
        random_state: np.random.RandomState,
        notify: Observer,
    ) -> Iterator[tuple[GridPoint, Fitting[Any], Sequence[GridStart]]]:
        """Find the starts, and yield each strategy that sets out, with its starts.

        What begins at ends on the sample takes all those of its point, between which the first read
        decides; others take one each.

        Raises
        ------
        CollapsedComponentError
            No point has a start with positive definite covariances.
        """
        for point, starts in self._starts(passes, random_state, notify).items():
            own = self._settings.of_family(point.family)
            led = fits_the_sample(own, self.accelerations[point], computed=True)
            for group in [starts] if led and starts else [[start] for start in starts]:
                yield point, self.strategy(point), group

    def model_of(self, point: GridPoint) -> MixtureModel:
        """What mixtures of a point are to maximise."""
        return self._settings.model.of_mixture(point.family, point.n_components)

    def strategy(self, point: GridPoint) -> Fitting[Any]:
        """Return the strategy of a point, the same whenever it is asked for."""
        model = self.model_of(point)
        mine = replace(self._settings, n_components=point.n_components, model=model)
        m_step = MStep(model, mine.on_collapse, self._rows.rows, mine.kernel)
        return make_strategy(mine, self.accelerations[point], m_step, self._rows)

    def _starts(
        self,
        passes: Passes,
        random_state: np.random.RandomState,
        notify: Observer,
    ) -> dict[GridPoint, list[GridStart]]:
        begun = time.perf_counter()
        settings, points = self._settings, self._points
        draw = (
            self._draw_from_all(passes, random_state, notify)
            if settings.init_params == "k-means||"
            else starts_on_sample(
                rows_for_starts(
                    self.sample.to_start_from,
                    settings.model,
                    max(p.n_components for p in points),
                ),
                settings,
                self.accelerations,
                random_state,
            )
        )
        progress = SampleProgress(notify, "fitting the sample", len(points))
        starts = grid_starts(
            points,
            self.accelerations,
            draw,
            self._rows,
            settings,
            self._searches(notify),
            progress.advanced,
        )
        count = sum(len(found) for found in starts.values())
        if not count:
            raise CollapsedComponentError(
                "No number of components has a start with positive definite covariances: increase "
                "reg_covar, scale the data, or select among fewer components."
            )
        notify(StartsFound(count, settings.init_params, time.perf_counter() - begun))
        return {point: starts[point] for point in points}

    def _searches(self, notify: Observer) -> dict[GridPoint, SampleSearch | None]:
        """What searches for a better optimum of each point."""
        asked, rows = self._settings.search, self.sample.complete_rows
        found: dict[GridPoint, SampleSearch | None] = {}
        for point in self._points:
            budget = choose_search(
                asked,
                acceleration=self.accelerations[point],
                given=False,
                conjugate=self._settings.of_family(point.family).model.conjugate,
            )
            found[point] = None
            if rows is not None and budget is not None:
                found[point] = SampleSearch(rows, budget, notify)
        return found

    def _draw_from_all(
        self,
        passes: Passes,
        random_state: np.random.RandomState,
        notify: Observer,
    ) -> StartsOfSize:
        """Starts by k-means||: rows drawn once, for the most components, serve all points."""
        settings, fill = self._settings, self.sample.filling(passes.source)
        places = draw_places(
            passes,
            self.sample.to_start_from,
            n_components=max(p.n_components for p in self._points),
            forms=tuple(dict.fromkeys(p.family.form for p in self._points)),
            n_init=settings.n_init,
            random_state=random_state,
            notify=notify,
            wrap=lambda job: self._wrap(fill(job)),
        )

        def draw(points: Sequence[GridPoint]) -> dict[GridPoint, list[MixtureParameters]]:
            found: dict[GridPoint, list[MixtureParameters]] = {p: [] for p in points}
            for point in points:
                model = settings.model.of_mixture(point.family, point.n_components)
                for drawn in places:
                    with suppress(CollapsedComponentError):
                        start = drawn.start(point.n_components, model, random_state)
                        found[point].append(start)
            return found

        return draw
