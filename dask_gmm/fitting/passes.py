"""`evaluate(candidates)`: one read of every block, statistics for each candidate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import FillValueWarning, IncompletePassError
from dask_gmm.fitting.events import PassAdvanced, PassFinished, PassStarted, PassTraced
from dask_gmm.fitting.prediction import unscaled_log_densities
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.statistics import number_of_sums
from dask_gmm.scaling.scaling import SCRATCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.source import BlockRef
    from dask_gmm.execution.backend import Passes, PassProgress, PassResult
    from dask_gmm.execution.jobs import BlockJob, OpenJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.mixture.kernels import Candidate, EStep, Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows
    from dask_gmm.scaling import Scaling

__all__ = [
    "Evaluation",
    "Evaluator",
    "LogLikelihood",
    "LogLikelihoodJob",
    "StatisticsJob",
    "first_pass",
]


@dataclass(frozen=True)
class Evaluation:
    """One block's (or one subtree's) statistics, a tuple with an entry per candidate."""

    statistics: tuple[SufficientStatistics, ...]
    gaps: int = 0
    """Rows met that miss a value, whether they took part or were left out."""

    def __add__(self, other: Evaluation) -> Evaluation:
        pairs = zip(self.statistics, other.statistics, strict=True)
        return Evaluation(tuple(a + b for a, b in pairs), self.gaps + other.gaps)

    @property
    def rows(self) -> int:
        """Rows seen, the same for every candidate."""
        return self.statistics[0].rows


@dataclass(frozen=True)
class StatisticsJob:
    """What a task does with each block of a pass: the E-step of all candidates."""

    candidates: tuple[Candidate, ...]
    kernel: Kernel = FASTEST

    def open(self) -> OpenStatisticsJob:
        """Prepare the kernel for the candidates."""
        return OpenStatisticsJob(self.kernel.e_step(self.candidates))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        total = 0
        for candidate in self.candidates:
            form, reference = candidate.parameters.form, candidate.reference
            total += reference.nbytes + 8 * number_of_sums(form, *reference.shape)
        return total

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        components = [c.parameters.n_components for c in self.candidates]
        n_features = self.candidates[0].parameters.n_features
        parameters = sum(c.parameters.nbytes + c.reference.nbytes for c in self.candidates)
        forms = [c.parameters.form for c in self.candidates]
        return parameters + self.kernel.workspace_bytes(n_features, components, forms)


@dataclass(frozen=True)
class OpenStatisticsJob:
    """A `StatisticsJob` with its kernel prepared."""

    e_step: EStep

    def __call__(self, rows: Rows, block: BlockRef) -> Evaluation:
        """Return the block's statistics."""
        return Evaluation(self.e_step.statistics(rows), rows.gaps)


@dataclass(frozen=True)
class LogLikelihood:
    """Total log-likelihood Σ_n w_n log p(x_n) of some rows, in nats, and their Σ_n w_n."""

    rows: int
    weight: float
    total: float

    @classmethod
    def of(cls, rows: Rows, densities: NDArray[np.float64]) -> LogLikelihood:
        """Add up log-densities of shape (n,)."""
        with np.errstate(over="ignore"):  # −∞ then: whoever reports a total looks at it
            total = densities.sum() if rows.weights is None else rows.weights @ densities
        return cls(len(rows), rows.total_weight, float(total))

    @property
    def mean(self) -> float | None:
        """Nats per unit of weight; None for no rows."""
        return self.total / self.weight if self.weight else None

    def __add__(self, other: LogLikelihood) -> LogLikelihood:
        return LogLikelihood(
            self.rows + other.rows, self.weight + other.weight, self.total + other.total
        )


@dataclass(frozen=True)
class LogLikelihoodJob:
    """What a task does with each block when data are only scored."""

    parameters: MixtureParameters
    kernel: Kernel = FASTEST
    scaling: Scaling | None = None
    """Of a mixture of scaled rows, where the rows are not and their own density is asked for."""
    block_bytes: int = 0
    """Bytes of the largest block once it is scaled here."""

    def open(self) -> OpenLogLikelihoodJob:
        """Prepare the kernel for the mixture."""
        return OpenLogLikelihoodJob(self.kernel.predictor(self.parameters), self.scaling)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return 24

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block; its densities are counted as one tile's worth."""
        p = self.parameters
        scaled = 0 if self.scaling is None else self.block_bytes + SCRATCH_BYTES
        return (
            scaled
            + p.nbytes
            + self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        )


@dataclass(frozen=True)
class OpenLogLikelihoodJob:
    """A `LogLikelihoodJob` with its kernel prepared."""

    predictor: Predictor
    scaling: Scaling | None = None

    def __call__(self, rows: Rows, block: BlockRef) -> LogLikelihood:
        """Return the block's total log-likelihood."""
        densities = unscaled_log_densities(self.predictor, self.scaling, rows.values)
        return LogLikelihood.of(rows, densities)


@dataclass(frozen=True)
class _Counted:
    """A job's value, and in how many rows a certain value was met."""

    value: Any
    rows: int

    def __add__(self, other: _Counted) -> _Counted:
        return _Counted(self.value + other.value, self.rows + other.rows)


_FLAGS = 2**16  # elements that are compared at a time, a byte each


@dataclass(frozen=True)
class _CountingJob:
    """Another job that also counts the rows which hold a certain value."""

    job: BlockJob[Any]
    fill: FillValue

    def open(self) -> _OpenCountingJob:
        """Open the other job."""
        return _OpenCountingJob(self.job.open(), self.fill)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.job.value_bytes + 8

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs beside the block."""
        return self.job.workspace_bytes + _FLAGS


@dataclass(frozen=True)
class _OpenCountingJob:
    job: OpenJob[Any]
    fill: FillValue

    def __call__(self, rows: Rows, block: BlockRef) -> _Counted:
        """Return the job's own value with the count."""
        values, step = rows.values, max(1, _FLAGS // max(1, rows.values.shape[1]))
        tiles = (values[start : start + step] for start in range(0, len(values), step))
        held = sum(int(self.fill.held_by(tile).sum()) for tile in tiles)
        return _Counted(self.job(rows, block), held)


def first_pass(
    passes: Passes,
    job: BlockJob[Any],
    on_progress: Callable[[PassProgress], None] | None = None,
) -> PassResult[Any]:
    """Run a pass over data that no pass has read yet, and warn of a fill value among its rows.

    Only a fill value that somebody chose and that no attribute explains is looked for: then nobody
    has said whether it is a measurement.
    """
    source, fill = passes.source, passes.source.fill
    if fill is None:
        return passes.run(job, on_progress=on_progress)
    result = passes.run(_CountingJob(job, fill), on_progress=on_progress)
    held: int = result.value.rows
    if held:
        share = held / result.rows
        warnings.warn(
            f"{held:,} of {result.rows:,} rows ({share:.2%}) of {source.name} hold {fill}, "
            f"the array's {fill.origin}, and no attribute says whether it stands for missing "
            f"values. They were taken for measurements. If they are none, make them NaN by "
            f"`{fill.code}`, and leave such rows out by missing='drop' or take them with what they "
            f"have by missing='marginalize'.",
            FillValueWarning,
            stacklevel=2,
        )
    return replace(result, value=result.value.value)


class Evaluator:
    """Evaluates candidates, a pass a time, and tells the observers.

    Parameters
    ----------
    passes : Passes
        Over all blocks of the source.
    kernel : Kernel
    observers : sequence of Observer
    beside : sequence of Observer
        Who is told of passes and not how far each has come, which costs something.
    kept : KeptStatistics, optional
        Of rows that are not read: what a pass finds is that of these and the others together.
    """

    def __init__(
        self,
        passes: Passes,
        kernel: Kernel = FASTEST,
        observers: Sequence[Observer] = (),
        beside: Sequence[Observer] = (),
        kept: KeptStatistics | None = None,
    ) -> None:
        self._passes = passes
        self._kept = kept
        self._kernel = kernel
        self._observers = tuple(observers)
        self._beside = tuple(beside)
        # Rows that are left out only a pass finds.
        self._rows = None if passes.source.selects else passes.source.n_rows
        self.history: list[PassFinished] = []

    def go_on(self, history: Sequence[PassFinished], n_rows: int | None) -> None:
        """Take a fit up that has made these passes, over so many rows."""
        self.history, self._rows = list(history), n_rows

    @property
    def n_rows(self) -> int | None:
        """Rows of the source; None while no pass has found out how many there are."""
        return self._rows

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """Read every block once and return the statistics of each candidate.

        Raises
        ------
        IncompletePassError
            This pass saw another number of rows than the one before: the input changed.
        """
        number = len(self.history) + 1
        job = self.job(candidates)
        told = self.told(candidates)
        self._notify(PassStarted(number, len(told)))

        def advanced(progress: PassProgress) -> None:
            self._notify(PassAdvanced(number, progress))

        on_progress = advanced if self._observers else None
        result: PassResult[Any] = (
            self._passes.run(job, on_progress=on_progress)
            if self.history
            else first_pass(self._passes, job, on_progress)
        )
        self._check_rows(result.value.rows, number)
        statistics: tuple[SufficientStatistics, ...] = result.value.statistics
        if self._kept is not None:
            pairs = zip(statistics, candidates, strict=True)
            statistics = tuple(self._kept.joined(found, c.parameters) for found, c in pairs)
        bounds = tuple(statistics[i].mean_log_likelihood for i in told)
        record = PassFinished(
            number=number,
            lower_bounds=bounds,
            rows=result.rows,
            blocks=result.blocks,
            bytes_read=result.bytes_read,
            seconds=result.seconds,
            tasks=result.tasks,
            resubmitted=result.resubmitted,
            blocks_from_cache=result.blocks_from_cache,
            incomplete_rows=result.value.gaps,
        )
        self.history.append(record)
        self._notify(record)
        self._notify(PassTraced(number, result.spans, result.resubmitted))
        return statistics

    def job(self, candidates: Sequence[Candidate]) -> BlockJob[Any]:
        """What a task does with each block when these candidates are evaluated."""
        return StatisticsJob(tuple(candidates), self._kernel)

    def told(self, candidates: Sequence[Candidate]) -> Sequence[int]:
        """Which of the candidates observers hear of: here all."""
        return range(len(candidates))

    def _check_rows(self, rows: int, number: int) -> None:
        if self._rows is None:
            self._rows = rows
        elif rows != self._rows:
            lacking = self._rows - rows
            raise IncompletePassError(
                f"Pass {number} over {self._passes.source.name} read {rows:,} rows where "
                f"{self._rows:,} were expected, {abs(lacking):,} "
                f"{'missing' if lacking > 0 else 'too many'}: the input changed while it was being "
                f"fitted. Fit a copy that nothing writes to."
            )

    def _notify(self, event: PassStarted | PassAdvanced | PassFinished | PassTraced) -> None:
        watching = () if isinstance(event, PassAdvanced) else self._beside
        for observer in (*watching, *self._observers):
            observer(event)
