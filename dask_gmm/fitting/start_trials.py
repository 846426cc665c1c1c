"""Starts from several kinds of rows: which of them a fit sets out from.

A model may look for its components among some of the rows, and among all
(`MixtureModel.start_rows`). What the first kind leaves out may be a cluster; or a few rows far from
all others, equal ones perhaps, that a component closes in on and takes the likelihood beyond every
other end by. So a start of a later kind has to prove itself, by some EM steps that end with rows
for every component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.loop import PlainEM, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.fitting.loop import FitResult
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Draw = Callable[[Rows], MixtureParameters]

__all__ = ["StartTrials", "after_steps"]

_STEPS = 20
# Of an equal share of the rows the least that a component has: fewer are no cluster that the first
# kind has overlooked, but what lies far out.
_LEAST_PART = 0.1


def after_steps(
    starts: Sequence[MixtureParameters],
    rows: Rows,
    model: MixtureModel,
    kernel: Kernel,
    tol: float,
    steps: int,
) -> list[FitResult]:
    """Where plain EM on rows of the sample ends, from each start, after so many steps at most."""
    m_step = MStep(model.of_sample(rows.total_weight))
    fittings = [PlainEM(tol, steps, m_step) for _ in starts]
    states = run(
        fittings,
        [fitting.begin((start,)) for fitting, start in zip(fittings, starts, strict=True)],
        lambda candidates: kernel.statistics(rows, candidates),
    )
    return [fitting.finish(state) for fitting, state in zip(fittings, states, strict=True)]


class _Trial(NamedTuple):
    """A start, and what some EM steps have made of it."""

    start: MixtureParameters
    bound: float
    collapsed: bool
    whole: bool


class StartTrials:
    """Draws starts from several kinds of rows and holds them against each other.

    Parameters
    ----------
    kinds : sequence of Rows
        The first needs no proof.
    rows : Rows
        On which steps are tried.
    model : MixtureModel
    kernel : Kernel
    """

    def __init__(
        self, kinds: Sequence[Rows], rows: Rows, model: MixtureModel, kernel: Kernel
    ) -> None:
        self._kinds = tuple(kinds)
        self._rows = rows
        self._model = model
        self._kernel = kernel

    def best(self, draw: Draw) -> MixtureParameters:
        """A start of each kind, and of these the one that some steps raise highest.

        Raises
        ------
        CollapsedComponentError
            No kind has a start.
        """
        if len(self._kinds) == 1:
            return draw(self._kinds[0])
        trials: list[_Trial] = []
        failed: CollapsedComponentError | None = None
        for number, rows in enumerate(self._kinds):
            try:
                trial = self._tried(draw(rows))
            except CollapsedComponentError as error:
                failed = failed or error
                continue
            if number == 0 or trial.whole or not trials:
                trials.append(trial)
        if not trials:
            assert failed is not None
            raise failed
        return max(trials, key=lambda trial: (not trial.collapsed, trial.bound)).start

    def of_turn(self, number: int, draw: Draw) -> MixtureParameters:
        """The start of a turn, in which kinds take turns; of the first where another's is unsound.

        Raises
        ------
        CollapsedComponentError
            That has no start.
        """
        kind = number % len(self._kinds)
        if kind:
            start = self.proven(lambda: draw(self._kinds[kind]))
            if start is not None:
                return start
        return draw(self._kinds[0])

    def proven(self, draw: Callable[[], MixtureParameters]) -> MixtureParameters | None:
        """A start that steps leave whole; None of any other."""
        try:
            trial = self._tried(draw())
        except CollapsedComponentError:
            return None
        return trial.start if trial.whole and not trial.collapsed else None

    def _tried(self, start: MixtureParameters) -> _Trial:
        begun = self._model.starting(start)
        (end,) = after_steps([begun], self._rows, self._model, self._kernel, 0.0, _STEPS)
        weights = end.parameters.weights
        whole = bool(weights.min() >= _LEAST_PART / len(weights))
        return _Trial(start, end.lower_bound, end.outcome is Outcome.COLLAPSED, whole)
