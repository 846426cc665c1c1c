"""The reads of a grid: one a turn for all candidates, or as few as memory allows, in the budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import MemoryPlanError
from dask_gmm.fitting.events import Outcome, PassSplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.budget import Budget
    from dask_gmm.fitting.contest import Scoreboard
    from dask_gmm.fitting.passes import Evaluator
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["BudgetSpentError", "GridReads"]


class BudgetSpentError(Exception):
    """No further turn can be afforded; nobody has been told anything of the one that was begun.

    Attributes
    ----------
    outcome : Outcome
        Which budget it was.
    candidates, reads : int
        What the turn had to evaluate, and the reads that this takes, as far as known.
    """

    def __init__(self, outcome: Outcome, candidates: int, reads: int) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.candidates = candidates
        self.reads = reads


class GridReads:
    """Evaluates candidates in one read, or halves them until each part fits.

    Parameters
    ----------
    evaluator : Evaluator
    scoreboard : Scoreboard
    budget : Budget
    """

    def __init__(self, evaluator: Evaluator, scoreboard: Scoreboard, budget: Budget) -> None:
        self._evaluator = evaluator
        self._scoreboard = scoreboard
        self._budget = budget
        self._too_much = np.inf
        self._turn: Sequence[Candidate] = ()

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """Return the statistics of each candidate.

        Raises
        ------
        BudgetSpentError
            The budget does not pay for them all.
        """
        begun = time.perf_counter()
        self._turn = candidates
        self._check_budget(self._reads(candidates))
        found = self._read(candidates)
        self._scoreboard.turn((time.perf_counter() - begun) / len(candidates))
        return found

    def _read(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        if not self._splits(candidates):
            try:
                self._check_budget(1)
                return self._evaluator.evaluate(candidates)
            except MemoryPlanError:
                if len(candidates) == 1:
                    raise
                self._too_much = self._size(candidates)
                self._scoreboard.notify(PassSplit(len(candidates)))
        middle = len(candidates) // 2
        return self._read(candidates[:middle]) + self._read(candidates[middle:])

    def _reads(self, candidates: Sequence[Candidate]) -> int:
        """How many reads these take, as far as is known by now."""
        if not self._splits(candidates):
            return 1
        middle = len(candidates) // 2
        return self._reads(candidates[:middle]) + self._reads(candidates[middle:])

    def _splits(self, candidates: Sequence[Candidate]) -> bool:
        return len(candidates) > 1 and self._size(candidates) >= self._too_much

    def _size(self, candidates: Sequence[Candidate]) -> int:
        job = self._evaluator.job(candidates)
        return job.value_bytes + job.workspace_bytes

    def _check_budget(self, reads: int) -> None:
        """Refuse so many more reads of this turn if they cannot be afforded."""
        outcome = self._budget.spent(self._evaluator.history, reads)
        if outcome is not None:
            raise BudgetSpentError(outcome, len(self._turn), self._reads(self._turn))
