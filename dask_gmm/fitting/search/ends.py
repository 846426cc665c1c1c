"""From ends of fits to the sample to better ones, as starts for the first read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import EVALUATIONS, FINE, SAME_END
from dask_gmm.fitting.events import SearchAdvanced, SearchFinished
from dask_gmm.fitting.search.ground import Ground
from dask_gmm.fitting.search.growing import grown
from dask_gmm.fitting.search.search import search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.search.search import SearchBudget
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

__all__ = ["SampleSearch"]

# Nats per row: by less than these a sample does not tell which of two is the better one. Their
# difference has a standard deviation of a tenth of a nat or so from row to row.
_UNTOLD = 5e-4
_NOTIFY_EVERY = 0.2


@dataclass(frozen=True)
class SampleSearch:
    """A search on a sample.

    Attributes
    ----------
    complete_rows : Rows
        Those of the sample that miss no value: moves are found on them, and what has been found is
        fitted to all.
    budget : SearchBudget
    notify : Observer
    """

    complete_rows: Rows
    budget: SearchBudget
    notify: Observer

    def better_than(
        self, sample: SampleRows, ends: Sequence[MixtureParameters], model: MixtureModel
    ) -> tuple[MixtureParameters, ...]:
        """Search from the best end, and fit the sample from where that has led.

        What lies lower than that end by more than the sample can tell is nothing found, and what
        is the same optimum neither.

        Parameters
        ----------
        sample : SampleRows
            All of it.
        ends : sequence of MixtureParameters
            The best first.
        model : MixtureModel

        Returns
        -------
        tuple of MixtureParameters
            What was found, the best first; none where the sample is too small to say, or no move
            has come to anything.
        """
        if not ends or ends[0].n_components < 2:
            return ()
        begun = time.perf_counter()
        n_components = ends[0].n_components
        ground = self._ground(sample, n_components, model)
        if ground is None:
            return ()
        objective = SampleObjective(sample, model)
        known = [objective(end) for end in ends]
        best = before = known[0]
        found: list[Point] = []
        tried = accepted = 0
        for turn in range(self.budget.turns):
            if turn:
                ground = self._ground(sample, n_components, model, turn)
            if ground is None:  # which judge has a say in how much they all weigh
                continue
            progress = _Progress(self.notify, tried)
            end = search(ground, best.parameters, model, self.budget, progress)
            tried += end.tried
            if not end.accepted:
                continue
            progress(end.tried, end.accepted, end.gain)
            point, sound = climb(objective, objective(end.parameters), FINE, EVALUATIONS)
            if not sound or any(abs(point.value - p.value) <= SAME_END for p in known):
                continue
            known.append(point)
            if point.value > before.value - _UNTOLD:
                found.append(point)
            if point.value > best.value:
                best, accepted = point, accepted + end.accepted
        self.notify(
            SearchFinished(
                tried=tried,
                accepted=accepted,
                gain=best.value - before.value,
                seconds=time.perf_counter() - begun,
            )
        )
        found.sort(key=lambda point: -point.value)
        return tuple(point.parameters for point in found)

    def grown(
        self,
        sample: SampleRows,
        smaller: MixtureParameters,
        n_components: int,
        model: MixtureModel,
    ) -> MixtureParameters | None:
        """Return a start of more components, by the best splits; None where there are none."""
        ground = self._ground(sample, n_components, model)
        return None if ground is None else grown(ground, smaller, n_components, model)

    def _ground(
        self, sample: SampleRows, n_components: int, model: MixtureModel, turn: int = 0
    ) -> Ground | None:
        rows = SampleRows(self.complete_rows, sample.kernel, sample.n_threads)
        return Ground.of(rows, n_components, model.family, turn)


class _Progress:
    """Tells the observers of moves, at most five times a second."""

    def __init__(self, notify: Observer, tried_before: int) -> None:
        self._notify, self._before = notify, tried_before
        self._last = -float("inf")

    def __call__(self, tried: int, accepted: int, gain: float) -> None:
        now = time.monotonic()
        if now - self._last >= _NOTIFY_EVERY:
            self._last = now
            self._notify(SearchAdvanced(self._before + tried, accepted, gain))
