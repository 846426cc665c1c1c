"""Births: components for the rows that a mixture explains worst, in the place of ones it can spare.

With p the mixture and b a new component of weight π, the likelihood of (1 − π) p + π b is larger by

    Σ_n w_n log[(1 − π) + π b(x_n) / p(x_n)]  ≥  Σ_low w_n log[(1 − π) + π b(x_n) / p(x_n)]
                                                 + (W − W_low) log(1 − π),

where the sum on the right is over rows of low density alone, and W and W_low are the weights of all
rows and of those. So a reservoir of low rows (`reservoir`) is enough for a bound, and EM of b alone
raises it (as greedy EM does: Verbeek, Vlassis & Kröse, "Efficient greedy learning of Gaussian
mixture models", Neural Computation 15(2), 2003). It begins where low rows lie closer together than
the mixture says: at those whose density by their nearest neighbours (Loftsgaarden & Quesenberry
1965) is the most above p.

A quarter of the rows judge and are not fitted, and the bound on them has to be worth more than so
many parameters gain by accident (Schwarz 1978). What goes for a new component is tried on a sample
whose low rows are those of the reservoir, with EM of the whole mixture from there: what a removal
costs at once says little of what the others make up for.

A component can be *spared* if its loss costs the other rows, those that are not low, less than 1e-3
nats a row: a few rows far away are worth any cluster to the likelihood of a normal mixture, and
nobody wants two clusters merged for them. And what is *isolated*, a row or a few without neighbours
anywhere near, is no population and would outweigh all others: it is set aside, and comes back only
when a rival is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError, NonFiniteError
from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.search.ground import Ground
from dask_gmm.fitting.search.parts import Draft
from dask_gmm.fitting.search.removals import Removal, cheapest_removals, one_of
from dask_gmm.fitting.starts import responsibility_statistics
from dask_gmm.mixture.merging import merge_components
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dask_gmm.fitting.search.reservoir import Reservoir
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Rival", "enriched", "find_rival"]

# Components that are looked for, one after the other.
_MOST_BIRTHS = 4
# Every so manieth row judges; the rows come in a random order.
_JUDGE_EVERY = 4
# Rows among which neighbours are looked for, how many times the fewest rows of a component are
# neighbours, and places to begin for each of these.
_SEEDED, _NEIGHBOURS, _SEEDS = 2048, (1, 3), 5
# Numbers of the rows that components are looked for among, and EM steps of each; of the best one on
# all rows.
_NUMBERS, _FIRST_STEPS, _STEPS = 2**18, 20, 40
_ENOUGH = 1e-3  # nats, of all rows: EM of a component ends when a step gains less
# Beside a matrix of its own a component needs so many rows.
_FEWEST_ROWS = 5
# Times reg_covar: with a smaller variance in some direction a component is on rows of one value.
_FLAT = 10.0
# Components whose removal is tried, EM steps of the whole mixture with each, and of the best ones.
_REMOVALS, _FEW_STEPS, _KEPT, _MORE_STEPS = 6, 8, 2, 25
# What the rows that are not low may lose by what goes for births, in nats per row: the default
# `tol`, differences below which nobody pays a read for.
_SPARED = 1e-3
_CHANCES = 2.0  # standard errors of what they say, by which it has to be more
# Squared distance to the nearest rows, in units of the components' mean covariance and of its
# median where that is more: beyond it rows are isolated.
_ISOLATED = 30.0**2
_DISTANCES = 2**18  # that are held at a time
# EM of the whole mixture on all of the sample ends when a step gains less, in nats per row.
_FINE, _EVALUATIONS = 1e-6, 60


@dataclass(frozen=True)
class Rival:
    """A mixture with components for rows of low density.

    Attributes
    ----------
    parameters : MixtureParameters
    births : int
        Components that have taken the place of others.
    promise : float
        How much higher it is than the mixture that it was made from, in nats per row of the
        enriched sample, when both have been fitted to that.
    isolated : int
        Rows of the reservoir that no promise counts, as they are far from all others.
    """

    parameters: MixtureParameters
    births: int
    promise: float
    isolated: int = 0


def enriched(
    theirs: Rows,
    weight: float,
    sample: SampleRows,
    low: NDArray[np.bool_],
) -> SampleRows:
    """Return a sample with the rows of a reservoir in place of its own of low density.

    Two strata, each with the weight that it has among all rows; those of the second are many more
    than a sample has.

    Parameters
    ----------
    theirs : Rows
        Of a reservoir (`Reservoir.standing`).
    weight : float
        Σ_n w_n of all rows.
    sample : SampleRows
        Complete rows.
    low : (m,) bool
        Which of them are below the reservoir's threshold.
    """
    rows = sample.rows
    assert theirs.weights is not None
    own = np.ones(len(rows)) if rows.weights is None else rows.weights
    own = own[~low] * ((weight - theirs.total_weight) / own[~low].sum())
    weights = np.concatenate([own, theirs.weights]) * (len(rows) / weight)
    values = np.concatenate([rows.values[~low], theirs.values], dtype=rows.values.dtype)
    return SampleRows(Rows(values, weights, complete=True), sample.kernel, sample.n_threads)


def find_rival(
    reservoir: Reservoir,
    parameters: MixtureParameters,
    rows: int,
    weight: float,
    sample: SampleRows,
    low: NDArray[np.bool_],
    model: MixtureModel,
) -> Rival | None:
    """Find components for a reservoir's rows, in the place of some that can be spared.

    Parameters
    ----------
    reservoir : Reservoir
    parameters : MixtureParameters
        Fitted to the sample.
    rows : int
        That the reservoir was kept of.
    weight : float
        Σ_n w_n of them.
    sample, low
        As of `enriched`.
    model : MixtureModel

    Returns
    -------
    Rival or None
        None where there are no such components, or none can be spared for them.
    """
    everything = reservoir.standing
    fewest = _JUDGE_EVERY * _least_rows(parameters)
    if len(everything) < fewest or parameters.n_components < 2 or low.all():
        return None
    # As many rows of equal weight as say as much (Kish 1965), by the sample's.
    size = rows * sample.rows.effective_size / len(sample.rows)
    metric = _metric(parameters)
    alone = _isolated(everything.values, metric, _least_rows(parameters))
    theirs = everything.take(np.flatnonzero(~alone)) if alone.any() else everything
    weight -= everything.total_weight - theirs.total_weight
    if len(theirs) < fewest or not weight > theirs.total_weight:
        return None
    rows_below = _Low.of(theirs, parameters, weight, size, sample.kernel)
    found = _components(rows_below, metric, parameters, model)
    if not found:
        return None
    whole = enriched(theirs, weight, sample, low)
    ground = Ground.of(whole, parameters.n_components, model.family)
    if ground is None:
        return None
    others = _Others.of(whole, len(theirs), parameters)
    begun = _Position.of(ground, parameters, model, _MORE_STEPS)
    if others is None or begun is None:
        return None
    here = _with_births(ground, begun, found, others, size, model)
    if not here.born:
        return None
    objective = SampleObjective(whole, model)
    ends = [
        climb(objective, objective(position.parameters), _FINE, _EVALUATIONS)
        for position in (begun, here)
    ]
    if not all(sound for _, sound in ends):
        return None
    before, rival = (end for end, _ in ends)
    if not rival.value > before.value:
        return None
    found_it = rival.parameters
    if alone.any():  # as the fit will come to terms with these rows, so does the rival
        weight += everything.total_weight - theirs.total_weight
        objective = SampleObjective(enriched(everything, weight, sample, low), model)
        end, sound = climb(objective, objective(found_it), _FINE, _EVALUATIONS)
        found_it = end.parameters if sound else found_it
    promise = rival.value - before.value
    return Rival(found_it, len(here.born), promise, int(alone.sum()))


def _isolated(values: Array, metric: Array, h: int) -> NDArray[np.bool_]:
    """Which rows have fewer than h others anywhere near, (n,).

    Most are near some of the first rows, which stand for all; the others are compared with each.
    """
    white = _whitened(values, metric)
    if h >= len(white):
        return np.zeros(len(white), dtype=bool)
    some = white[:_SEEDED]
    reach = _neighbours(white, some, min(h, len(some) - 1))[1]
    limit = _ISOLATED * max(float(np.median(reach)), 1.0)
    (far,) = np.nonzero(reach > limit)
    alone = np.zeros(len(white), dtype=bool)
    if far.size:
        alone[far] = _neighbours(white[far], white, h)[1] > limit
    return alone


def _whitened(values: Array, metric: Array) -> Array:
    """Rows about their median, in units of a covariance; what is too far for a square is nearer."""
    centred = values - np.median(values, axis=0)
    white = np.linalg.solve(metric, np.clip(centred, -1e75, 1e75).T).T
    return np.clip(white, -1e75, 1e75, order="C")


def _neighbours(rows: Array, among: Array, h: int) -> tuple[NDArray[np.intp], Array]:
    """The h + 1 nearest of some rows to each, (n, h + 1), and the largest squared distance, (n,).

    Where a row is among them itself it counts.
    """
    squares = np.square(among).sum(axis=1)
    nearest = np.empty((len(rows), h + 1), dtype=np.intp)
    reach = np.empty(len(rows))
    step = max(1, _DISTANCES // len(among))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        some = rows[part]
        apart = squares - 2.0 * (some @ among.T) + np.square(some).sum(axis=1)[:, None]
        near = np.argpartition(apart, h, axis=1)[:, : h + 1]
        nearest[part] = near
        reach[part] = np.take_along_axis(apart, near, axis=1).max(axis=1)
    return nearest, reach


@dataclass(frozen=True)
class _Others:
    """The judging rows that are not low: what they say of a mixture that lacks a component.

    Attributes
    ----------
    values : (n, D)
    weights : (n,) float64
        Which sum to the part that all rows that are not low have of the weight of all.
    accidents : float
        What the parameters of a component are worth to the rows that are not low, all of which
        the mixture was fitted to, if it fits their accidents alone (Akaike 1974), in nats per row.
    kernel : Kernel
    """

    values: NDArray[Any]
    weights: Array
    accidents: float
    kernel: Kernel

    @classmethod
    def of(cls, whole: SampleRows, n_low: int, parameters: MixtureParameters) -> Self | None:
        """Those of an enriched sample, of which so many rows, the last ones, are low."""
        some = whole.rows.take(slice(0, len(whole) - n_low))
        # They come first, so that these are divided as all are.
        own = SampleRows(some, whole.kernel, whole.n_threads)
        ground = Ground.of(own, parameters.n_components, parameters.family)
        if ground is None:
            return None
        judging = ground.judging.rows
        assert judging.weights is not None
        share = some.total_weight / whole.rows.total_weight
        weights = judging.weights * (share / judging.total_weight)
        own_parameters = parameters.n_parameters / parameters.n_components
        accidents = share * own_parameters / some.effective_size
        return cls(judging.values, weights, accidents, whole.kernel)

    def spare(self, full: MixtureParameters, after: MixtureParameters) -> bool:
        """Whether they hardly miss what `after` lacks beside the mixture that lacks nothing.

        Both have the births. What few rows say by chance and by accident is allowed for.
        """
        gone = full.n_components - after.n_components
        before, now = (self.kernel.log_densities(self.values, p) for p in (full, after))
        lost = before - now
        mean = float(self.weights @ lost) / float(self.weights.sum())
        chance = float(np.sqrt(np.square(self.weights) @ np.square(lost - mean)))
        allowed = _SPARED + gone * self.accidents + _CHANCES * chance
        return float(self.weights @ lost) < allowed


@dataclass(frozen=True)
class _Position:
    """A mixture after some EM steps, and what the fitted and the judging rows say of it.

    `born` are the components that have taken the place of others.
    """

    parameters: MixtureParameters
    value: float
    judged: float
    born: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        ground: Ground,
        begun: MixtureParameters,
        model: MixtureModel,
        steps: int,
        born: frozenset[int] = frozenset(),
    ) -> Self | None:
        """EM from a mixture; None where a component is left without rows or a variance."""
        objective = SampleObjective(ground.fitted, model)
        end, sound = climb(objective, objective(begun), _FINE, steps)
        if not sound:
            return None
        return cls(end.parameters, end.value, ground.judge(end.parameters), born)


def _with_births(
    ground: Ground,
    begun: _Position,
    found: list[_Own],
    others: _Others,
    size: float,
    model: MixtureModel,
) -> _Position:
    """The mixture with as many components as are worth what goes for them."""
    here = full = begun
    for own in found:
        # Beside it, with these components and all that it had.
        more = _and(full.parameters, own)
        grown = None if more is None else _Position.of(ground, more, model, _MORE_STEPS)
        if grown is None:
            break
        after = _with_birth(ground, here, own, grown.parameters, others, model)
        if after is None or after.value - here.value < own.by_accident(size):
            break
        if after.judged <= here.judged:
            break
        here, full = after, grown
    return here


def _with_birth(
    ground: Ground,
    here: _Position,
    own: _Own,
    full: MixtureParameters,
    others: _Others,
    model: MixtureModel,
) -> _Position | None:
    """The best mixture with a component in the place of one that is spared, after some EM steps."""
    begun = []
    gone = set[int]()
    for removal in _removals(here.parameters, ground, model):
        if removal.gone in gone or removal.gone in here.born:
            continue
        gone.add(removal.gone)
        after, born = _born(here.parameters, own, removal), here.born | {removal.gone}
        position = None if after is None else _Position.of(ground, after, model, _FEW_STEPS, born)
        if position is not None:
            begun.append(position)
        if len(gone) == _REMOVALS:
            break
    begun.sort(key=lambda p: (not others.spare(full, p.parameters), -p.value))
    ends = [_Position.of(ground, p.parameters, model, _MORE_STEPS, p.born) for p in begun[:_KEPT]]
    sound = [end for end in ends if end is not None and others.spare(full, end.parameters)]
    return max(sound, key=lambda end: end.value, default=None)


def _and(parameters: MixtureParameters, own: _Own) -> MixtureParameters | None:
    """The mixture with one component more."""
    draft = Draft(parameters)
    draft.weights = [(1.0 - own.weight) * weight for weight in draft.weights]
    draft.put(len(draft.weights), own.weight, own.component)
    return draft.mixture()


def _born(parameters: MixtureParameters, own: _Own, removal: Removal) -> MixtureParameters | None:
    """The mixture with a component in the place of one that goes; None where there is none."""
    draft = Draft(parameters)
    if removal.into is not None:
        union = _united(parameters, removal.into, removal.gone)
        if union is None:
            return None
        weight = draft.weights[removal.into] + draft.weights[removal.gone]
        draft.put(removal.into, weight, union)
    draft.weights[removal.gone] = 0.0
    left = float(np.sum(draft.weights))
    if not left > 0.0:
        return None
    draft.weights = [weight * ((1.0 - own.weight) / left) for weight in draft.weights]
    draft.put(removal.gone, own.weight, own.component)
    return draft.mixture()


def _united(parameters: MixtureParameters, i: int, j: int) -> MixtureParameters | None:
    """One component with the moments of two; it keeps the covariance that all share."""
    pair, form = [i, j], parameters.form
    weights, means = parameters.weights[pair], parameters.means[pair]
    if not weights.sum() > 0.0:
        return None
    if form.shared:
        return one_of(parameters, weights @ means / weights.sum())
    covariances = form.take(parameters.covariances, np.array(pair))
    statistics = SufficientStatistics.create(
        form,
        means,
        rows=0,
        weight=float(weights.sum()),
        log_likelihood=0.0,
        counts=weights,
        first=np.zeros_like(means),
        second=form.scatter(weights, covariances, means.shape[1]),
    )
    try:
        return MaximumLikelihood(parameters.family).update(merge_components(statistics, 0, 1))
    except (CollapsedComponentError, InputError):
        return None


@dataclass(frozen=True)
class _Own:
    """A component that is being found, and its weight."""

    component: MixtureParameters
    weight: float

    def by_accident(self, rows: float) -> float:
        """What its parameters may gain by fitting accidents, in nats per row (Schwarz 1978)."""
        return 0.5 * (self.component.n_parameters + 1) * float(np.log(rows)) / rows


@dataclass(frozen=True)
class _Low:
    """Rows of low density, with what they stand for and what the mixture says of them.

    Attributes
    ----------
    rows : Rows
    densities : (n,) float64
        log p(x_n).
    others : float
        W − W_low.
    size : float
        As many rows of equal weight as all rows are worth.
    kernel : Kernel
    """

    rows: Rows
    densities: Array
    others: float
    size: float
    kernel: Kernel

    @classmethod
    def of(
        cls,
        rows: Rows,
        parameters: MixtureParameters,
        weight: float,
        size: float,
        kernel: Kernel,
    ) -> Self:
        """All rows of a reservoir."""
        densities = kernel.log_densities(rows.values, parameters)
        return cls(rows, densities, weight - rows.total_weight, size, kernel)

    def part(self, index: NDArray[np.intp]) -> _Low:
        """Some of the rows, standing for all."""
        assert self.rows.weights is not None
        weights = self.rows.weights[index]
        weights = weights * (self.rows.total_weight / weights.sum())
        some = Rows(np.ascontiguousarray(self.rows.values[index]), weights, complete=True)
        return _Low(some, self.densities[index], self.others, self.size, self.kernel)

    @property
    def weights(self) -> Array:
        """Of the rows."""
        assert self.rows.weights is not None
        return self.rows.weights

    @property
    def weight(self) -> float:
        """W."""
        return self.others + self.rows.total_weight

    def with_component(self, own: _Own) -> tuple[Array, Array]:
        """log[(1 − π) p + π b] of the rows, and log π b."""
        theirs = np.log(own.weight) + self.kernel.log_densities(self.rows.values, own.component)
        return np.logaddexp(np.log1p(-own.weight) + self.densities, theirs), theirs

    def gain(self, both: Array, own: _Own) -> float:
        """The bound of the module, in nats per row of all rows."""
        gained = float(self.weights @ (both - self.densities))
        return (gained + self.others * float(np.log1p(-own.weight))) / self.weight

    def joined_by(self, own: _Own) -> _Low:
        """The same rows under a mixture that has the component too."""
        both, _ = self.with_component(own)
        return _Low(self.rows, both, self.others, self.size, self.kernel)


def _components(
    low: _Low, metric: Array, parameters: MixtureParameters, model: MixtureModel
) -> list[_Own]:
    """Components for low rows, those first that gain most on rows that judge."""
    index = np.arange(min(len(low.rows), max(_SEEDED, _NUMBERS // parameters.n_features)))
    judges = index % _JUDGE_EVERY == _JUDGE_EVERY - 1
    fitted, judging = low.part(index[~judges]), low.part(index[judges])
    found: list[_Own] = []
    while len(found) < min(_MOST_BIRTHS, parameters.n_components - 1):
        best, value = None, 0.0
        for seed in _seeds(fitted, metric, parameters, model):
            own = _climb(fitted, seed, parameters, model, _FIRST_STEPS)
            if own is None:
                continue
            gain = judging.gain(judging.with_component(own)[0], own)
            if gain > value:
                best, value = own, gain
        # By all rows that are low; its worth is what those say that it was not fitted to.
        whole = None if best is None else _climb(low, best, parameters, model, _STEPS)
        if whole is None or value < whole.by_accident(low.size):
            break
        found.append(whole)
        low, fitted, judging = (some.joined_by(whole) for some in (low, fitted, judging))
    return found


def _least_rows(parameters: MixtureParameters) -> int:
    """Rows that a component needs."""
    own_matrix = parameters.form.dense_factors and not parameters.form.shared
    return _FEWEST_ROWS + (parameters.n_features if own_matrix else 0)


def _metric(parameters: MixtureParameters) -> Array:
    """Lower triangular root of the components' mean covariance, (D, D)."""
    k, d = parameters.means.shape
    if parameters.form.shared:
        mean = parameters.covariances
    elif parameters.form.dense_factors:
        mean = np.tensordot(parameters.weights, parameters.covariances, axes=1)
    else:
        mean = np.diag(parameters.weights @ parameters.form.diagonals(parameters.covariances, k, d))
    return np.asarray(np.linalg.cholesky(mean))


def _seeds(
    low: _Low, metric: Array, parameters: MixtureParameters, model: MixtureModel
) -> Iterator[_Own]:
    """Components to begin with, where rows lie closer together than the mixture says."""
    some = slice(0, _SEEDED)  # they come in a random order
    values, densities, weights = low.rows.values[some], low.densities[some], low.weights[some]
    n, d = values.shape
    white = _whitened(values, metric)
    squares = np.square(white).sum(axis=1)
    for times in _NEIGHBOURS:
        h = times * _least_rows(parameters)
        if h >= n:
            return
        nearest, reach = _neighbours(white, white, h)
        sound = reach > 1e-12 * np.maximum(squares, 1.0)  # more than what rounding leaves of zero
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.where(sound, -0.5 * d * np.log(reach) - densities, -np.inf)
        for _ in range(_SEEDS):
            row = int(np.argmax(score))
            if score[row] == -np.inf:
                break
            near = nearest[row]
            score[near] = -np.inf
            share = float(weights[near].sum() * low.rows.total_weight / weights.sum())
            component = _around(values[near].mean(axis=0), reach[row], metric, parameters, model)
            if component is not None and share < low.weight:
                yield _Own(component, share / low.weight)


def _around(
    mean: Array, reach: float, metric: Array, parameters: MixtureParameters, model: MixtureModel
) -> MixtureParameters | None:
    """A component at a place, of the shape of the others and the size of a neighbourhood."""
    if parameters.form.shared:
        return one_of(parameters, mean)
    roots = np.sqrt(reach) * metric.T  # rows about the mean with that covariance
    return _fitted(Rows(np.vstack([mean + roots, mean - roots])), None, parameters, model)


def _fitted(
    rows: Rows, shares: Array | None, parameters: MixtureParameters, model: MixtureModel
) -> MixtureParameters | None:
    """The M-step of one component that holds so much of each row."""
    held = np.ones(len(rows)) if shares is None else shares
    if parameters.form.shared:
        return one_of(parameters, held @ rows.values / held.sum())
    piece: tuple[slice, Array] = (slice(None), held)
    statistics = responsibility_statistics(rows, [piece], 1, parameters.form)
    try:
        return model.update(statistics)
    except (CollapsedComponentError, InputError):
        return None


def _climb(
    low: _Low, own: _Own, parameters: MixtureParameters, model: MixtureModel, steps: int
) -> _Own | None:
    """EM of one component, the others held; None where it is left without rows or a variance."""
    before = -np.inf
    for _ in range(steps):
        try:
            both, theirs = low.with_component(own)
        except NonFiniteError:
            return None
        value = low.gain(both, own)
        if (value - before) * low.size < _ENOUGH:
            break
        before = value
        held = np.exp(theirs - both)
        shares = low.weights * held
        if held.sum() < _least_rows(parameters) or not 0.0 < shares.sum() < low.weight:
            return None
        component = _fitted(low.rows, shares, parameters, model)
        if component is None or _is_flat(component, model.reg_covar):
            return None
        own = _Own(component, float(shares.sum() / low.weight))
    return own


def _is_flat(component: MixtureParameters, reg_covar: float) -> bool:
    """Whether `reg_covar` is most of its variance in some direction: its rows are of one value."""
    form, d = component.form, component.n_features
    if form.shared:
        return False
    if form.dense_factors:
        least = float(np.linalg.eigvalsh(component.covariances[0])[0])
    else:
        least = float(form.diagonals(component.covariances, 1, d).min())
    return least < _FLAT * reg_covar


def _removals(parameters: MixtureParameters, ground: Ground, model: MixtureModel) -> list[Removal]:
    """What can be spared, the cheapest first."""
    posteriors, weights = ground.posteriors(parameters), ground.fitted.rows.weights
    weighted = posteriors if weights is None else posteriors * weights[:, None]
    statistics = ground.fitted.statistics(parameters)
    shared = weighted.T @ posteriors
    model = model.of_sample(ground.fitted.rows.total_weight)
    return cheapest_removals(parameters, statistics, posteriors, weights, shared, model)
