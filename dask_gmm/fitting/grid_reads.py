"""The reads of a grid: one a turn for all candidates, or as few as memory allows, in the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.fitting.budget import BudgetSpentError
from dask_gmm.fitting.events import Outcome, PassSplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.budget import Budget
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.passes import Evaluator
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["GridReads"]


class GridReads:
    """Evaluates candidates in one read, or halves them until each part fits.

    Parameters
    ----------
    evaluator : Evaluator
    budget : Budget
        What it does not pay for even once is refused; see `spent`.
    notify : Observer
    """

    def __init__(self, evaluator: Evaluator, budget: Budget, notify: Observer) -> None:
        self._evaluator = evaluator
        self._budget = budget
        self._notify = notify
        self._too_much = np.inf
        self._turns = len(evaluator.history)

    def spent(self, candidates: Sequence[Candidate]) -> Outcome | None:
        """Say which budget does not pay for the reads of a turn, as far as they are known.

        Raises
        ------
        InputError
            It is the first turn, so that nothing would be known of any candidate.
        """
        outcome = self._budget.spent(self._evaluator.history, self._reads(candidates))
        if outcome is not None:
            self._check_first(outcome, candidates)
        return outcome

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """Return the statistics of each candidate.

        Raises
        ------
        BudgetSpentError
            They take more reads than were known of, for which the budget does not pay.
        InputError
            As in `spent`.
        """
        try:
            found = self._read(candidates)
        except BudgetSpentError as error:
            self._check_first(error.outcome, candidates)
            raise
        self._turns += 1
        return found

    def _read(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        if not self._splits(candidates):
            try:
                outcome = self._budget.spent(self._evaluator.history)
                if outcome is not None:
                    raise BudgetSpentError(outcome)
                return self._evaluator.evaluate(candidates)
            except MemoryPlanError:
                if len(candidates) == 1:
                    raise
                self._too_much = self._size(candidates)
                self._notify(PassSplit(len(candidates)))
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

    def _check_first(self, outcome: Outcome, candidates: Sequence[Candidate]) -> None:
        if self._turns == 0:
            raise InputError(
                f"{outcome.value} does not pay for a selection: to evaluate {len(candidates)} "
                f"mixtures once takes {self._reads(candidates)} read(s) or more with the memory "
                f"there is. Raise it, or select among fewer."
            ) from None
