"""The search itself: from an optimum of the sample to a better one, a move at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.search.moves import disjoint, moved, ranked
from dask_gmm.fitting.search.parts import climb_together, held_rows, part_of, with_part
from dask_gmm.fitting.search.removals import cheapest_removals
from dask_gmm.fitting.search.splits import Split, split_in_two

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.search.ground import Ground
    from dask_gmm.fitting.search.moves import Move
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["SearchBudget", "SearchEnd", "search", "splits_of"]

T = TypeVar("T")
R = TypeVar("R")

# EM steps: of the touched components and their neighbours, and of the whole mixture.
_PART_STEPS, _WHOLE_STEPS = 8, 25
# Steps with which the search begins: its start has been fitted to rows that judge here.
_SETTLING_STEPS = 30
# Moves that are tried at a time, and how many of them all components take part in.
_BATCH, _FULL = 8, 2
# Neighbours of each touched component that move with it.
_NEIGHBOURS = 3
# Responsibilities below these do not count among the rows of a split, or of a part.
_LEAST_HELD, _LEAST_PART = 0.1, 0.01
_ROWS_FOR_SPLIT, _ROWS_PER_PARAMETER = 2_000, 20
# Nats per row: what a move has to gain, and how much more a part may seem to lose.
_LEAST_GAIN = 3e-5
_MOST_LOSS = 2e-3
# Nats per row: EM ends when its next step would gain less.
_ENOUGH = 1e-6
# A component that has moved by less of its size keeps the split that was found for it.
_STILL = 0.05


@dataclass(frozen=True)
class SearchBudget:
    """How much is tried; counted in moves, so that the end does not depend on the machine.

    Attributes
    ----------
    moves : int
        Most moves.
    patience : int
        Moves in a row that come to nothing, after which no more are tried.
    turns : int
        Searches, each from the best so far, with other rows of the sample to judge.
    """

    moves: int
    patience: int
    turns: int = 1


@dataclass(frozen=True)
class SearchEnd:
    """Where a search has ended.

    Attributes
    ----------
    parameters : MixtureParameters
    gain : float
        In nats per row, of the rows that only judge.
    tried, accepted : int
        Moves.
    """

    parameters: MixtureParameters
    gain: float
    tried: int
    accepted: int


def search(
    ground: Ground,
    start: MixtureParameters,
    model: MixtureModel,
    budget: SearchBudget,
    advanced: Callable[[int, int, float], None],
) -> SearchEnd:
    """Try moves from an optimum of the sample until nothing comes of them.

    Parameters
    ----------
    ground : Ground
    start : MixtureParameters
    model : MixtureModel
    budget : SearchBudget
    advanced : callable
        Called now and then with the moves tried and accepted, and the gain so far.
    """
    model = model.of_sample(ground.fitted.rows.total_weight)
    return _Search(ground, model, budget, advanced).run(start)


def splits_of(ground: Ground, parameters: MixtureParameters, model: MixtureModel) -> list[Split]:
    """Return the split of each component that has one."""
    model = model.of_sample(ground.fitted.rows.total_weight)
    return _Splits(ground.fitted, model).of(_View.of(ground, parameters))


@dataclass(frozen=True)
class _Position:
    """A mixture after some more EM steps; what the fitted and the judging rows say of it."""

    parameters: MixtureParameters
    value: float
    judged: float


@dataclass
class _Search:
    ground: Ground
    model: MixtureModel
    budget: SearchBudget
    advanced: Callable[[int, int, float], None]
    splits: _Splits = field(init=False)

    def __post_init__(self) -> None:
        self.splits = _Splits(self.ground.fitted, self.model)

    def run(self, start: MixtureParameters) -> SearchEnd:
        if start.n_components < 2:
            return SearchEnd(start, 0.0, 0, 0)
        here = self._settled(start)
        first, tried, accepted, in_vain = here, 0, 0, 0
        self.advanced(0, 0, 0.0)
        while tried < self.budget.moves and in_vain < self.budget.patience:
            view = _View.of(self.ground, here.parameters)
            moves = self._ranked(view)
            together = disjoint(moves, _LEAST_GAIN)
            found = None
            while moves and found is None:
                room = min(self.budget.moves - tried, self.budget.patience - in_vain, _BATCH)
                if room <= 0:
                    break
                batch, moves = moves[:room], moves[room:]
                tried, in_vain = tried + len(batch), in_vain + len(batch)
                found = self._try(
                    here,
                    view,
                    batch,
                    together,
                    partial(self.advanced, tried, accepted, here.judged - first.judged),
                )
                together = []
            if found is None:
                break
            here, accepted, in_vain = found, accepted + 1, 0
        return SearchEnd(here.parameters, here.judged - first.judged, tried, accepted)

    def _settled(self, start: MixtureParameters) -> _Position:
        """Where the search begins.

        What closes in on a few rows has a likelihood as high as one likes: then any sound mixture
        that explains the judging rows as well is better.
        """
        objective = SampleObjective(self.ground.fitted, self.model)
        end, sound = climb(objective, objective(start), _ENOUGH, _SETTLING_STEPS)
        value = end.value if sound else -np.inf
        return _Position(end.parameters, value, self.ground.judge(end.parameters))

    def _climb(self, parameters: MixtureParameters, steps: int) -> _Position | None:
        """Do some EM steps of the whole mixture."""
        objective = SampleObjective(self.ground.fitted, self.model)
        end, sound = climb(objective, objective(parameters), _ENOUGH, steps)
        if not sound:
            return None
        return _Position(end.parameters, end.value, self.ground.judge(end.parameters))

    def _ranked(self, view: _View) -> list[Move]:
        """All moves from here, the most promising first."""
        sample = self.ground.fitted
        removals = cheapest_removals(
            view.parameters,
            sample.statistics(view.parameters),
            view.posteriors,
            sample.rows.weights,
            view.shared,
            self.model,
        )
        return ranked(self.splits.of(view), removals)

    def _try(
        self,
        here: _Position,
        view: _View,
        batch: Sequence[Move],
        together: Sequence[Move],
        still_here: Callable[[], None],
    ) -> _Position | None:
        """Try some moves, and a few together; return where the best has led, if anywhere."""
        local = _in_parallel(
            lambda move: self._in_part(view, move), batch, self.ground.fitted.n_threads
        )
        seen = [found for found in local if found is not None and found[0] > -_MOST_LOSS]
        seen.sort(key=lambda found: -found[0])
        starts = [parameters for _, parameters in seen[:_FULL]]
        if len(together) > 1 and (all_of_them := moved(here.parameters, together)) is not None:
            starts.append(all_of_them)
        if not starts:
            return None
        ends = []
        for begun in starts:
            still_here()
            ends.append(self._climb(begun, _WHOLE_STEPS))
        still_here()
        better = [
            end
            for end in ends
            if end is not None
            and end.value > here.value + _LEAST_GAIN
            and end.judged >= here.judged
        ]
        return max(better, key=lambda end: end.value, default=None)

    def _in_part(self, view: _View, move: Move) -> tuple[float, MixtureParameters] | None:
        """EM of the touched components and their neighbours: what is gained, and the mixture."""
        after = moved(view.parameters, [move])
        if after is None:
            return None
        part = view.around(move)
        fitted = self.ground.fitted
        rows = held_rows(
            fitted.rows, view.posteriors[:, part].sum(axis=1), _LEAST_PART, len(fitted)
        )
        if rows is None:
            return None
        before, begun = part_of(view.parameters, part), part_of(after, part)
        ends = climb_together(
            lambda candidates: fitted.kernel.statistics(rows, candidates),
            [before, begun],
            self.model,
            _PART_STEPS,
        )
        stayed, went = ends
        if stayed is None or went is None:
            return None
        gain = (went.value - stayed.value) * rows.total_weight / fitted.rows.total_weight
        whole = with_part(after, part, went.parameters)
        return None if whole is None else (gain, whole)


@dataclass(frozen=True)
class _View:
    """A mixture and what the fitted rows say of it."""

    parameters: MixtureParameters
    posteriors: Array
    shared: Array

    @classmethod
    def of(cls, ground: Ground, parameters: MixtureParameters) -> _View:
        posteriors = ground.posteriors(parameters)
        weights = ground.fitted.rows.weights
        weighted = posteriors if weights is None else posteriors * weights[:, None]
        return cls(parameters, posteriors, weighted.T @ posteriors)

    def around(self, move: Move) -> list[int]:
        """The components that a move touches and those next to them, in order."""
        k = self.parameters.n_components
        if not self.parameters.family.independent:
            return list(range(k))
        near = set(move.touched)
        for touched in move.touched:
            overlap = self.shared[touched].copy()
            overlap[touched] = -1.0
            near.update(np.argsort(-overlap, kind="stable")[:_NEIGHBOURS].tolist())
        return sorted(near)


class _Splits:
    """The splits of all components, of which those that have hardly moved are kept."""

    def __init__(self, fitted: SampleRows, model: MixtureModel) -> None:
        self._fitted, self._model = fitted, model
        self._known: dict[int, tuple[MixtureParameters, Split | None]] = {}

    def of(self, view: _View) -> list[Split]:
        """The splits of a mixture's components, as far as there are any."""
        ones = [part_of(view.parameters, [k]) for k in range(view.parameters.n_components)]
        new = [k for k, one in enumerate(ones) if not self._still(k, one)]
        found = _in_parallel(lambda k: self._split(view, k, ones[k]), new, self._fitted.n_threads)
        for k, split in zip(new, found, strict=True):
            self._known[k] = (ones[k], split)
        weights = view.parameters.weights.tolist()
        return [
            replace(split, gain=split.gain * weights[split.component])
            for _, split in self._known.values()
            if split is not None
        ]

    def _still(self, k: int, one: MixtureParameters) -> bool:
        if k not in self._known:
            return False
        before, _ = self._known[k]
        shift = one.form.whiten(before.precisions_cholesky, 0, one.means - before.means)
        factors, old = one.precisions_cholesky, before.precisions_cholesky
        turned = np.linalg.norm(factors - old) / np.linalg.norm(old)
        return bool(np.linalg.norm(shift) < _STILL and turned < _STILL)

    def _split(self, view: _View, k: int, one: MixtureParameters) -> Split | None:
        """The split of a component, its gain for each row that the component holds."""
        rows = self._fitted.rows
        held = view.posteriors[:, k]
        most = max(_ROWS_FOR_SPLIT, _ROWS_PER_PARAMETER * one.n_parameters)
        some = held_rows(rows, held, _LEAST_HELD, most)
        if some is None:
            return None
        found = split_in_two(some, one, self._model, self._fitted.kernel)
        if found is None:
            return None
        gain, halves = found
        return Split(k, gain, halves)


def _in_parallel(work: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """Do independent work on threads, in order."""
    todo = list(items)

    def on_one_thread(item: T) -> R:
        with single_threaded_blas():  # some BLAS keep this for each thread
            return work(item)

    if n_threads == 1 or len(todo) < 2:
        return [on_one_thread(item) for item in todo]
    with ThreadPoolExecutor(min(n_threads, len(todo)), "dask-gmm-search") as pool:
        return list(pool.map(on_one_thread, todo))
