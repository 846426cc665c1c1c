"""E-steps over the sample in memory, as exact and repeatable as those over all rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.acceleration.objective import per_row
from dask_gmm.mixture.kernels import Candidate, get_kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.fitting.acceleration.objective import Moments
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["SampleRows"]

_PART_ROWS = 8192


class SampleRows:
    """Rows in memory whose likelihood is asked for again and again.

    Parts of fixed sizes go to the threads of this process and are added up in order: the same bits
    for any number of threads.

    Parameters
    ----------
    rows : (m, D) float
    kernel : str
    n_threads : int

    Attributes
    ----------
    evaluations : int
        E-steps so far, those over parts of the rows included.
    """

    def __init__(
        self, rows: NDArray[np.floating[Any]], kernel: str = "auto", n_threads: int = 1
    ) -> None:
        self.rows = rows
        self.kernel = kernel
        self.n_threads = n_threads
        self._compute = get_kernel(kernel)
        self.evaluations = 0

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def every(self, step: int, first: int) -> SampleRows:
        """Every so manieth row from some `first` one on, as a sample of its own; a view."""
        return SampleRows(self.rows[first::step], self.kernel, self.n_threads)

    def evaluate(
        self, parameters: MixtureParameters, reference: Array | None = None
    ) -> tuple[float, Moments]:
        """Mean log-likelihood in nats per row, and moments about `reference` (or the means)."""
        self.evaluations += 1
        candidates = (Candidate(parameters, reference),)
        parts = [self.rows[i : i + _PART_ROWS] for i in range(0, len(self), _PART_ROWS)]

        def statistics(part: NDArray[np.floating[Any]]) -> Any:
            return self._compute.statistics(part, candidates)[0]

        if len(parts) == 1 or self.n_threads == 1:
            found = [statistics(part) for part in parts]
        else:
            with ThreadPoolExecutor(min(self.n_threads, len(parts)), "dask-gmm-sample") as pool:
                found = list(pool.map(statistics, parts))
        total = found[0]
        for other in found[1:]:
            total = total + other
        return total.mean_log_likelihood, per_row(total)
