"""Rows that a fit does not see, scored in the same read that trains on the others.

Which rows are held out is a draw keyed with (seed, block index): the same rows in every pass, on
any machine, without a list of them anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dask_gmm.errors import NonFiniteError
from dask_gmm.fitting.passes import Evaluation, Evaluator, LogLikelihood, StatisticsJob
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.execution.jobs import BlockJob, OpenJob
    from dask_gmm.mixture.kernels import Candidate, Predictor
    from dask_gmm.rows import Rows

__all__ = ["HoldOut", "HoldOutEvaluator", "HoldOutJob", "ScoredStatistics", "TrainingRowsJob"]

T = TypeVar("T")

# Sets this draw apart from others that are keyed with a seed and a block.
_PURPOSE = 0x48_4F


@dataclass(frozen=True)
class HoldOut:
    """Which rows of a source are held out.

    Attributes
    ----------
    fraction : float
        The part of the rows, 0 < fraction < 1; each row is drawn by itself.
    seed : int
    """

    fraction: float
    seed: int

    def mask(self, block: BlockRef, rows: int) -> NDArray[np.bool_]:
        """Whether each row of a block is held out, shape (rows,)."""
        drawn = np.random.default_rng((_PURPOSE, self.seed, block.index)).random(rows)
        held: NDArray[np.bool_] = drawn < self.fraction
        return held


@dataclass(frozen=True)
class TrainingRowsJob(Generic[T]):
    """A job that sees only the rows that are not held out.

    Attributes
    ----------
    job : BlockJob
    held_out : HoldOut
    block_bytes : int
        Bytes of the largest block, of which a copy is made.
    """

    job: BlockJob[T]
    held_out: HoldOut
    block_bytes: int

    def open(self) -> OpenTrainingRowsJob[T]:
        """Open the job."""
        return OpenTrainingRowsJob(self.job.open(), self.held_out)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.job.value_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        return self.job.workspace_bytes + self.block_bytes


@dataclass(frozen=True)
class OpenTrainingRowsJob(Generic[T]):
    """An open job that sees only the rows that are not held out."""

    job: OpenJob[T]
    held_out: HoldOut

    def __call__(self, rows: Rows, block: BlockRef) -> T:
        """Return the job's value for the block's other rows."""
        chosen = np.flatnonzero(~self.held_out.mask(block, len(rows)))
        try:
            return self.job(rows.take(chosen), block)
        except NonFiniteError as error:
            raise _placed(error, chosen) from None


@dataclass(frozen=True)
class _SplitEvaluation:
    """Statistics of the rows trained on, and the log-likelihood of the others, per candidate."""

    training: Evaluation
    held_out: tuple[LogLikelihood, ...]

    def __add__(self, other: _SplitEvaluation) -> _SplitEvaluation:
        pairs = zip(self.held_out, other.held_out, strict=True)
        return _SplitEvaluation(self.training + other.training, tuple(a + b for a, b in pairs))

    @property
    def gaps(self) -> int:
        """Rows that miss a value, those held out included."""
        return self.training.gaps

    @property
    def rows(self) -> int:
        """Rows seen, those held out included."""
        return self.training.rows + self.held_out[0].rows

    @property
    def statistics(self) -> tuple[SufficientStatistics, ...]:
        """The statistics, each with what it says about the rows held out."""
        pairs = zip(self.training.statistics, self.held_out, strict=True)
        return tuple(ScoredStatistics.carrying(s, held_out=held, of=s) for s, held in pairs)


@dataclass(frozen=True, eq=False)
class ScoredStatistics(SufficientStatistics):
    """Statistics of the rows trained on that know the log-likelihood of the rows held out.

    Only the root of a pass is one; sums of them are plain statistics.
    """

    held_out: LogLikelihood
    of: SufficientStatistics
    """The same without, of the kind that the kernel has gathered."""


@dataclass(frozen=True)
class HoldOutJob:
    """The E-step of all candidates on some rows of a block, and the score of the others."""

    training: StatisticsJob
    held_out: HoldOut
    block_bytes: int

    def open(self) -> OpenHoldOutJob:
        """Prepare the kernel for the candidates, to train and to score."""
        kernel, candidates = self.training.kernel, self.training.candidates
        return OpenHoldOutJob(
            OpenTrainingRowsJob(self.training.open(), self.held_out),
            tuple(kernel.predictor(c.parameters) for c in candidates),
        )

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.training.value_bytes + 24 * len(self.training.candidates)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result; the rows are copied in parts."""
        # Twice: every candidate is prepared to train and to score.
        return 2 * self.training.workspace_bytes + self.block_bytes


@dataclass(frozen=True)
class OpenHoldOutJob:
    """A `HoldOutJob` with its kernel prepared."""

    training: OpenTrainingRowsJob[Evaluation]
    predictors: tuple[Predictor, ...]

    def __call__(self, rows: Rows, block: BlockRef) -> _SplitEvaluation:
        """Return what the block says."""
        evaluation = replace(self.training(rows, block), gaps=rows.gaps)
        chosen = np.flatnonzero(self.training.held_out.mask(block, len(rows)))
        others = rows.take(chosen)
        try:
            scores = tuple(
                LogLikelihood.of(others, predictor.log_densities(others.values))
                for predictor in self.predictors
            )
        except NonFiniteError as error:
            raise _placed(error, chosen) from None
        return _SplitEvaluation(evaluation, scores)


class HoldOutEvaluator(Evaluator):
    """An evaluator that trains on some rows and scores the others, in one read.

    Parameters
    ----------
    *arguments
        As of `Evaluator`.
    held_out : HoldOut
    """

    def __init__(self, *arguments: Any, held_out: HoldOut) -> None:
        super().__init__(*arguments)
        self._held_out = held_out

    def job(self, candidates: Sequence[Candidate]) -> Any:
        """What a task does with each block; see `Evaluator.job`."""
        training = StatisticsJob(tuple(candidates), self._kernel)
        return HoldOutJob(training, self._held_out, self._passes.source.block_bytes)


def _placed(error: NonFiniteError, chosen: NDArray[np.intp]) -> NonFiniteError:
    """The error with the row's index in the block, not among those chosen from it."""
    return NonFiniteError(int(chosen[error.row]), error.feature, error.value, error.where)
