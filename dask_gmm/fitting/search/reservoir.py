"""Rows of the lowest density, kept by a pass beside what it reads them for.

A population of a few rows in a million is in no sample that fits into memory, but it is among the
rows that a mixture without it explains worst. How low is low the sample says: a pass keeps rows
below a *threshold* that a known part of them lies under (`threshold_of`). These are still many
among a billion rows, and keeping the lowest of all would keep a population's far side alone. So of
those below a uniform draw is kept: each row has a random key that follows from its place in the
data, and the lowest keys stay (a bottom-k sample; Cohen & Kaplan 2007). Which rows these are
depends on no grouping, thread, worker or retry; what they stand for is counted.

The densities come with the statistics at next to no cost (`EStep.with_log_densities`), in the first
pass of a fit alone: whoever proposes a `Sieved` candidate has its rows sieved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_gmm.fitting.keyed import keys_of, lowest_first, taken
from dask_gmm.fitting.passes import Evaluation, Evaluator, StatisticsJob
from dask_gmm.mixture.gaps import complete_rows
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.mixture.kernels import EStep
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = [
    "Beside",
    "Reservoir",
    "Sieve",
    "Sieved",
    "SievedStatistics",
    "SievingEvaluator",
    "SievingJob",
    "threshold_of",
]

# The part of the sample's rows that lie below the threshold, and at least so many of them: a tenth
# or so of what lies there is a population of one row in 20,000.
_BELOW = 5e-4
_FEWEST_BELOW = 10
# Rows that are kept at most, and bytes.
_MOST_ROWS, _MOST_BYTES = 8192, 2 * 2**20
_FEWEST_ROWS = 256
_PART = 2**16  # rows of a block that are looked at together
_BESIDE = 32  # bytes of a row's weight, key and place
_ROUNDING = 1e-9  # of log-densities, more than any two ways to compute them differ by


@dataclass(frozen=True)
class Sieve:
    """Which rows a pass keeps.

    Attributes
    ----------
    threshold : float
        Rows of a log-density below it, in nats.
    most : int
        Of those so many at most, drawn uniformly.
    """

    threshold: float
    most: int

    @classmethod
    def of(cls, sample: SampleRows, parameters: MixtureParameters) -> Sieve:
        """The sieve for the rows that a sample of complete rows was drawn from."""
        return replace(cls.blind(parameters.n_features), threshold=threshold_of(sample, parameters))

    @classmethod
    def blind(cls, n_features: int) -> Sieve:
        """A sieve that keeps nothing yet, and is planned for as any."""
        most = _MOST_BYTES // (8 * n_features + _BESIDE)
        return cls(-np.inf, max(_FEWEST_ROWS, min(_MOST_ROWS, most)))

    def value_bytes(self, n_features: int) -> int:
        """Bytes of the rows that are kept, at most."""
        return self.most * (8 * n_features + _BESIDE)


def threshold_of(sample: SampleRows, parameters: MixtureParameters) -> float:
    """The log-density that few rows of a sample lie below; −inf for a sample of too few rows."""
    found = sample.kernel.log_densities(sample.rows.values, parameters)
    below = max(_FEWEST_BELOW, int(_BELOW * len(found)))
    if below >= len(found):
        return -np.inf
    threshold = float(np.partition(found, below)[below])
    # Another E-step's densities differ by rounding: of rows that lie on each other, at the
    # threshold, none is below it.
    return threshold - _ROUNDING * max(1.0, abs(threshold))


@dataclass(frozen=True, eq=False)
class Sieved(Candidate):
    """A candidate by whose densities a pass keeps rows.

    Attributes
    ----------
    sieve : Sieve
    """

    sieve: Sieve

    def __init__(self, candidate: Candidate, sieve: Sieve) -> None:
        super().__init__(candidate.parameters, candidate.reference)
        object.__setattr__(self, "sieve", sieve)


@dataclass(frozen=True, eq=False)
class Beside(Candidate):
    """A candidate that takes part in a read for a mixture where the fit does not stand."""

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """The same candidate."""
        return cls(candidate.parameters, candidate.reference)


@dataclass(frozen=True, eq=False)
class Reservoir:
    """Some of the rows below a threshold, and how many there are; a commutative monoid.

    Attributes
    ----------
    most : int
        Rows that are kept at most.
    below : int
        Complete rows below the threshold.
    values : (m, D) float32 or float64
        Those that are kept, in the order of their keys.
    weights : (m,) float64
    keys : (m,) uint64
    places : (m, 2) int64
        Number of the block, and index in it.
    """

    most: int
    below: int
    values: NDArray[Any]
    weights: Array
    keys: NDArray[np.uint64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, densities: Array, block: int, sieve: Sieve) -> Reservoir:
        """Keep rows of a block, of which there are the log-densities."""
        kept: Reservoir | None = None
        low: list[NDArray[np.intp]] = []
        waiting = 0
        for start in range(0, len(densities), _PART):
            (index,) = np.nonzero(densities[start : start + _PART] < sieve.threshold)
            if index.size:
                low.append(index + start)
                waiting += index.size
            if waiting >= _PART:  # most rows are low here
                some = cls._of_low(rows, np.concatenate(low), block, sieve)
                kept, low, waiting = some if kept is None else kept + some, [], 0
        last = cls._of_low(rows, np.concatenate([np.empty(0, np.intp), *low]), block, sieve)
        return last if kept is None else kept + last

    @classmethod
    def _of_low(cls, rows: Rows, index: NDArray[np.intp], block: int, sieve: Sieve) -> Reservoir:
        """Keep some of those rows of a block that are low."""
        if index.size and not rows.complete and rows.values.dtype.kind == "f":
            index = index[complete_rows(rows.values[index])]
        own = index if rows.places is None else rows.places[index]
        keys = keys_of(block, own)
        # By key; rows of equal keys by place, the order in which they come.
        order = np.argsort(keys, kind="stable")[: sieve.most]
        values, weights, places = taken(rows, index[order], block)
        return cls(sieve.most, index.size, values, weights, keys[order], places)

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Reservoir) -> Reservoir:
        below = self.below + other.below
        for one, empty in ((self, other), (other, self)):
            if not len(empty):
                return Reservoir(one.most, below, one.values, one.weights, one.keys, one.places)
        keys = np.concatenate([self.keys, other.keys])
        places = np.concatenate([self.places, other.places])
        order = lowest_first(keys, places, self.most)
        values = np.concatenate([self.values, other.values])[order]
        weights = np.concatenate([self.weights, other.weights])[order]
        return Reservoir(self.most, below, values, weights, keys[order], places[order])

    @property
    def standing(self) -> Rows:
        """The rows with the weight of those that each stands for, in a random order."""
        factor = self.below / len(self) if len(self) else 1.0
        return Rows(self.values.astype(np.float64), self.weights * factor, complete=True)


@dataclass(frozen=True)
class _SievedEvaluation:
    """Statistics of some rows, and those of them that are kept."""

    evaluation: Evaluation
    reservoir: Reservoir

    def __add__(self, other: _SievedEvaluation) -> _SievedEvaluation:
        return _SievedEvaluation(
            self.evaluation + other.evaluation, self.reservoir + other.reservoir
        )

    @property
    def gaps(self) -> int:
        """Rows that miss a value."""
        return self.evaluation.gaps

    @property
    def rows(self) -> int:
        """Rows seen."""
        return self.evaluation.rows

    @property
    def statistics(self) -> tuple[SufficientStatistics, ...]:
        """The statistics; those of the first candidate have the rows that were kept with them."""
        first, *others = self.evaluation.statistics
        return (SievedStatistics.carrying(first, reservoir=self.reservoir), *others)


@dataclass(frozen=True, eq=False)
class SievedStatistics(SufficientStatistics):
    """Statistics with the rows that a pass has kept beside them.

    Only the root of a pass is one; sums of them are plain statistics.
    """

    reservoir: Reservoir


@dataclass(frozen=True)
class SievingJob:
    """The E-step of all candidates, and the rows that the first of them explains worst.

    Attributes
    ----------
    job : StatisticsJob
    sieve : Sieve
    block_rows : int or None
        Rows of the largest block: each has a density. Of blocks of unknown size these are planned
        for as little as the blocks themselves are.
    """

    job: StatisticsJob
    sieve: Sieve
    block_rows: int | None

    def open(self) -> OpenSievingJob:
        """Prepare the kernel for the candidates."""
        return OpenSievingJob(self.job.open().e_step, self.sieve)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        n_features = self.job.candidates[0].parameters.n_features
        return self.job.value_bytes + self.sieve.value_bytes(n_features)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result.

        Densities of all rows; of a part of them, which are low, where these lie, and their keys.
        """
        # Low rows are gathered once more to see what they miss.
        n_features = self.job.candidates[0].parameters.n_features
        rows, most = self.block_rows, 2 * _PART
        part = (most if rows is None else min(most, rows)) * (8 * n_features + 64)
        return self.job.workspace_bytes + 8 * (rows or 0) + part


@dataclass(frozen=True)
class OpenSievingJob:
    """A `SievingJob` with its kernel prepared."""

    e_step: EStep
    sieve: Sieve

    def __call__(self, rows: Rows, block: BlockRef) -> _SievedEvaluation:
        """Return the block's statistics, and the rows to keep."""
        statistics, densities = self.e_step.with_log_densities(rows)
        kept = Reservoir.of(rows, densities, block.index, self.sieve)
        return _SievedEvaluation(Evaluation(statistics, rows.gaps), kept)


class SievingEvaluator(Evaluator):
    """An evaluator that keeps rows for the candidate that asks for it, the first of a pass.

    Observers do not hear of those `Beside` others.
    """

    def told(self, candidates: Sequence[Candidate]) -> Sequence[int]:
        """Which of the candidates observers hear of; see `Evaluator.told`."""
        own = [i for i, one in enumerate(candidates) if not isinstance(one, Beside)]
        return own or range(len(candidates))

    def job(self, candidates: Sequence[Candidate]) -> BlockJob[Any]:
        """What a task does with each block; see `Evaluator.job`."""
        first = candidates[0]
        if not isinstance(first, Sieved):
            return super().job(candidates)
        plain = (Candidate(first.parameters, first.reference), *candidates[1:])
        source, kernel = self._passes.source, self._kernel
        return SievingJob(StatisticsJob(plain, kernel), first.sieve, source.max_block_rows)
