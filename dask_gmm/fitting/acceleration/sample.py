"""E-steps over the sample in memory, as exact and repeatable as those over all rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dask_gmm.execution.opened import Opened
from dask_gmm.mixture.kernels import FASTEST, Candidate
from dask_gmm.mixture.moments import per_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import EStep, Kernel, Predictor
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["SampleRows"]

P = TypeVar("P")
R = TypeVar("R")

_PART_ROWS = 8192


class SampleRows:
    """Rows in memory whose likelihood is asked for again and again.

    Parts of fixed sizes go to the threads of this process and are added up in order: the same bits
    for any number of threads.

    Parameters
    ----------
    rows : Rows
    kernel : Kernel
    n_threads : int

    Attributes
    ----------
    evaluations : int
        E-steps so far, those over parts of the rows included.
    """

    def __init__(self, rows: Rows, kernel: Kernel = FASTEST, n_threads: int = 1) -> None:
        self.rows = rows
        self.kernel = kernel
        self.n_threads = n_threads
        self.evaluations = 0

    def __len__(self) -> int:
        return len(self.rows)

    def every(self, step: int, first: int) -> SampleRows:
        """Every so manieth row from some `first` one on, as a sample of its own; a view."""
        return SampleRows(self.rows.take(slice(first, None, step)), self.kernel, self.n_threads)

    def evaluate(
        self, parameters: MixtureParameters, reference: Array | None = None
    ) -> tuple[float, Moments]:
        """Mean log-likelihood in nats per row, and moments about `reference` (or the means)."""
        total = self.statistics(parameters, reference)
        return total.mean_log_likelihood, per_row(total)

    def statistics(
        self, parameters: MixtureParameters, reference: Array | None = None
    ) -> SufficientStatistics:
        """What an E-step gathers about `reference` (or the means)."""
        return self.each((Candidate(parameters, reference),))[0]

    def each(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """What an E-step gathers for each candidate; the same bits in any company."""
        self.evaluations += len(candidates)
        places = range(0, len(self), _PART_ROWS)
        parts = [self.rows.take(slice(i, i + _PART_ROWS)) for i in places]

        opened: Opened[EStep] = Opened(lambda: self.kernel.e_step(candidates))

        def statistics(part: Rows) -> tuple[SufficientStatistics, ...]:
            with opened.one() as e_step:
                return e_step.statistics(part)

        totals: list[SufficientStatistics] = []
        for found in self._over(parts, statistics):
            pairs = zip(totals, found, strict=True)
            totals = [total + other for total, other in pairs] if totals else list(found)
        return tuple(totals)

    def posteriors(self, parameters: MixtureParameters) -> Array:
        """Responsibilities r_nk of all rows, (n, K)."""
        places = range(0, len(self), _PART_ROWS)
        parts = [self.rows.values[i : i + _PART_ROWS] for i in places]
        opened: Opened[Predictor] = Opened(lambda: self.kernel.predictor(parameters))

        def posteriors(values: NDArray[Any]) -> Array:
            with opened.one() as predictor:
                return predictor.posteriors(values)

        return np.concatenate(self._over(parts, posteriors))

    def _over(self, parts: list[P], work: Callable[[P], R]) -> list[R]:
        """Do the work for each part, in order, on the threads."""
        if len(parts) == 1 or self.n_threads == 1:
            return [work(part) for part in parts]
        with ThreadPoolExecutor(min(self.n_threads, len(parts)), "dask-gmm-sample") as pool:
            return list(pool.map(work, parts))
