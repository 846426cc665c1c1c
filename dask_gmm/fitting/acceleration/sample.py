"""E-steps over the sample in memory, as exact and repeatable as those over all rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dask_gmm.execution.opened import Opened
from dask_gmm.mixture.kernels import FASTEST, Candidate
from dask_gmm.mixture.moments import per_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import EStep, Kernel
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["SampleRows"]

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
        self.evaluations += 1
        candidates = (Candidate(parameters, reference),)
        places = range(0, len(self), _PART_ROWS)
        parts = [self.rows.take(slice(i, i + _PART_ROWS)) for i in places]

        opened: Opened[EStep] = Opened(lambda: self.kernel.e_step(candidates))

        def statistics(part: Rows) -> SufficientStatistics:
            with opened.one() as e_step:
                return e_step.statistics(part)[0]

        if len(parts) == 1 or self.n_threads == 1:
            found = [statistics(part) for part in parts]
        else:
            with ThreadPoolExecutor(min(self.n_threads, len(parts)), "dask-gmm-sample") as pool:
                found = list(pool.map(statistics, parts))
        total = found[0]
        for other in found[1:]:
            total = total + other
        return total
