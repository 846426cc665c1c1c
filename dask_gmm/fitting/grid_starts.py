"""Starts for every point of a grid, from one sample in memory and without another read.

Each number of components and each restart draws its own start, which all families share, and each
start is fitted to the sample, which is cheap beside a read of all data. From the most components to
the fewest, the best mixture of each point gives the next smaller one another start, by merging the
pairs that cost least (`mixture.merging`): where k-means has put two centres into one component and
none into another, a merged start often has not. Where the sample is searched (`fitting.search`), a
point's best mixture also gives the next larger one a start, by splitting components, and the search
goes on from the best. The best of them by their likelihood on the sample go on to the full data.

How far a start is fitted depends on what it is for: variance-reduced EM begins at the sample's own
optimum, the best of several starts, as in `fit`; plain EM and SQUAREM after some EM on the sample.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.acceleration.climbing import SampleObjective
from dask_gmm.fitting.acceleration.sample_fit import SAME_END, best_ends, thinned
from dask_gmm.fitting.fit_starts import SAMPLE_STARTS
from dask_gmm.fitting.start_trials import StartTrials, after_steps
from dask_gmm.fitting.starts import responsibilities, start_from
from dask_gmm.fitting.strategies import fits_the_sample
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.merging import merge_down

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.search.ends import SampleSearch
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

__all__ = ["GridPoint", "GridStart", "StartsOfSize", "grid_starts", "starts_on_sample"]

#: EM steps on the sample; what they leave undone the passes do, on all rows.
POLISH_ITERATIONS = 50
#: And the part of the tolerance to which they go: a start is to be compared with others.
POLISH_TOL = 0.1
#: Pairs of more components than these take longer to look at than a start is worth.
MOST_MERGED_FROM = 128


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
    """Draws the starts of K components for all points that have so many, one per restart."""

    def __call__(self, points: Sequence[GridPoint], /) -> dict[GridPoint, list[MixtureParameters]]:
        """Return the starts; one that collapses is left out."""


def starts_on_sample(
    kinds: Sequence[Rows],
    settings: FitSettings,
    accelerations: Mapping[GridPoint, str | None],
    random_state: np.random.RandomState,
) -> StartsOfSize:
    """Starts by `settings.init_params` on the sample, where families share the draws.

    Points that variance-reduced EM fits get several, from a part of the sample: they are to be
    fitted to it and told apart. Where the model looks among rows of several kinds, so do all.

    Parameters
    ----------
    kinds : sequence of Rows
        `rows_for_starts`, which take turns.
    settings : FitSettings
    accelerations : mapping of GridPoint to str or None
    random_state : RandomState
    """

    def draw(points: Sequence[GridPoint]) -> dict[GridPoint, list[MixtureParameters]]:
        k, some, n_features = points[0].n_components, kinds, kinds[0].values.shape[1]
        count = own = settings.n_init * len(kinds)
        reduced = [p for p in points if _led(p, settings, accelerations)]
        if reduced:
            count = max(count, SAMPLE_STARTS)
            widest = max(reduced, key=lambda p: p.family.n_parameters(k, n_features))
            some = [thinned(rows, k, widest.family) for rows in kinds]
        found: dict[GridPoint, list[MixtureParameters]] = {p: [] for p in points}
        for number in range(count):
            rows = some[number % len(some)]
            pieces = list(responsibilities(rows, k, settings.init_params, random_state))
            for point in points if number < own else reduced:
                model = settings.model.of_mixture(point.family, k)

                def draw(
                    rows: Rows = rows, pieces: Any = pieces, model: MixtureModel = model
                ) -> MixtureParameters:
                    return start_from(rows, pieces, k, model, settings.init_params)

                start = None
                if number % len(some):  # of another kind of rows than the first
                    start = StartTrials(some, some[-1], model, settings.kernel).proven(draw)
                else:
                    with suppress(CollapsedComponentError):
                        start = draw()
                if start is not None:
                    found[point].append(start)
        return found

    return draw


def grid_starts(
    points: Sequence[GridPoint],
    accelerations: Mapping[GridPoint, str | None],
    draw: StartsOfSize,
    sample: SampleRows,
    settings: FitSettings,
    searches: Mapping[GridPoint, SampleSearch | None],
    advanced: Callable[[], None] = lambda: None,
) -> dict[GridPoint, list[GridStart]]:
    """Return the starts of each point, the best first.

    They are `settings.n_init` at most, one more where the sample was searched, so that the first
    read decides between what was found and the next best; not counted those of k-means|| that
    variance-reduced EM tries as they are, besides those that have been fitted to the sample: they
    come from all rows and may know more.

    Parameters
    ----------
    points : sequence of GridPoint
    accelerations : mapping of GridPoint to str or None
    draw : StartsOfSize
    sample : SampleRows
    settings : FitSettings
        Of the whole grid.
    searches : mapping of GridPoint to (SampleSearch or None)
        What searches for a better optimum of each point.
    advanced : callable
        Called when a point has its starts.
    """
    found: dict[GridPoint, list[GridStart]] = {}
    drawn: dict[GridPoint, list[MixtureParameters]] = {}
    for n_components in sorted({p.n_components for p in points}):
        drawn.update(draw([p for p in points if p.n_components == n_components]))
    for family in dict.fromkeys(p.family for p in points):
        larger: GridPoint | None = None
        mine = sorted((p for p in points if p.family is family), key=lambda p: p.n_components)
        searched = _searched_upwards(mine, drawn, sample, settings, searches)
        for point in reversed(mine):
            starts = [(start, settings.init_params) for start in drawn.pop(point)]
            ends = searched.get(point, [])
            if ends and settings.init_params != "k-means||":
                starts = []  # the search has set out from the best of them
            if larger is not None and found[larger]:
                starts += _merged_start(found[larger][0].parameters, point, sample, settings)
            if _led(point, settings, accelerations):
                found[point] = _fitted(point, starts, ends, sample, settings)
            else:
                found[point] = _polished(point, [*ends, *starts], sample, settings)
            larger = point
            advanced()
    return found


def _led(
    point: GridPoint, settings: FitSettings, accelerations: Mapping[GridPoint, str | None]
) -> bool:
    """Whether a point begins at ends on the sample."""
    mine = settings.of_family(point.family)
    return fits_the_sample(mine, accelerations[point], computed=True)


def _searched_upwards(
    points: Sequence[GridPoint],
    drawn: Mapping[GridPoint, list[MixtureParameters]],
    sample: SampleRows,
    settings: FitSettings,
    searches: Mapping[GridPoint, SampleSearch | None],
) -> dict[GridPoint, list[tuple[MixtureParameters, str]]]:
    """From the fewest components to the most: what a search finds, and from where.

    It sets out from the best of a point's own starts and the one that the next smaller mixture
    gives, by splitting the components whose rows two explain best.
    """
    found: dict[GridPoint, list[tuple[MixtureParameters, str]]] = {}
    smaller: MixtureParameters | None = None
    for point in points:
        search, k = searches[point], point.n_components
        if search is None:
            continue
        model = settings.model.of_mixture(point.family, point.n_components)
        starts = [(start, settings.init_params) for start in drawn[point]]
        if smaller is not None and smaller.n_components < k:
            grown = search.grown(sample, smaller, k, model)
            starts += [] if grown is None else [(grown, f"split from {smaller.n_components}")]
        if not starts:
            continue
        (best,) = best_ends(sample, [start for start, _ in starts], model)
        origin = starts[best.start][1]
        better = search.better_than(sample, [best.parameters], model)
        found[point] = [(end, f"{origin}, searched") for end in better]
        found[point].append((best.parameters, origin))
        smaller = found[point][0][0]
    return found


def _merged_start(
    larger: MixtureParameters, point: GridPoint, sample: SampleRows, settings: FitSettings
) -> list[tuple[MixtureParameters, str]]:
    """The start that a larger mixture gives, with its cheapest pairs merged; none if it cannot."""
    if larger.n_components > MOST_MERGED_FROM or not larger.family.conjugate:
        return []
    (statistics,) = settings.kernel.statistics(sample.rows, [Candidate(larger)])
    if statistics.n_components <= point.n_components:  # it has lost components itself
        return []
    try:
        model = settings.model.of_mixture(point.family, point.n_components)
        model = model.of_sample(sample.rows.total_weight)
        start = model.update(merge_down(statistics, point.n_components, model))
    except CollapsedComponentError:
        return []
    return [(start, f"merged from {larger.n_components}")]


def _fitted(
    point: GridPoint,
    starts: Sequence[tuple[MixtureParameters, str]],
    ends: Sequence[tuple[MixtureParameters, str]],
    sample: SampleRows,
    settings: FitSettings,
) -> list[GridStart]:
    """The best ends of fits to the sample, and what comes from all rows as it is.

    Parameters
    ----------
    point : GridPoint
    starts : sequence of (MixtureParameters, str)
        To be fitted to the sample, with their origins.
    ends : sequence of (MixtureParameters, str)
        What has been fitted to it by a search.
    sample : SampleRows
    settings : FitSettings
    """
    known = [*ends, *starts]
    if not known:
        return []
    model = settings.model.of_mixture(point.family, point.n_components)
    keep = settings.n_init + bool(ends)
    height = SampleObjective(sample, model)
    fitted = [GridStart(end, height(end).value, origin) for end, origin in ends]
    if starts:
        new = best_ends(sample, [p for p, _ in starts], model, keep)
        fitted += [GridStart(end.parameters, end.value, starts[end.start][1]) for end in new]
    fitted.sort(key=lambda start: -start.bound)
    fitted = [
        start
        for i, start in enumerate(fitted)
        if i == 0 or fitted[i - 1].bound - start.bound > SAME_END
    ][:keep]
    if settings.init_params != "k-means||":
        return fitted
    drawn = [(p, name) for p, name in starts if name == settings.init_params]
    return fitted + [GridStart(p, sample.evaluate(p)[0], name) for p, name in drawn]


def _polished(
    point: GridPoint,
    starts: Sequence[tuple[MixtureParameters, str]],
    sample: SampleRows,
    settings: FitSettings,
) -> list[GridStart]:
    """The starts after some EM on the sample, the best `n_init` of them."""
    steps = min(settings.max_iter, POLISH_ITERATIONS)
    model = settings.model.of_mixture(point.family, point.n_components)
    ends = after_steps(
        [start for start, _ in starts],
        sample.rows,
        model,
        settings.kernel,
        POLISH_TOL * settings.tol,
        steps,
    )
    polished = [
        GridStart(end.parameters, end.lower_bound, origin)
        for end, (_, origin) in zip(ends, starts, strict=True)
    ]
    return sorted(polished, key=lambda s: -s.bound)[: settings.n_init]
