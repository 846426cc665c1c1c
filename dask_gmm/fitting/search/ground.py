"""The ground that is searched: rows of the sample that are fitted, and others that only judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Ground"]

# The part of the sample's rows that judge.
_JUDGES = 0.25
# Rows that are fitted for each free parameter, where the sample has so many, and at least so many.
_ROWS_PER_PARAMETER = 20
_LEAST_ROWS = 40_000
_MOST_JUDGES = 25_000
# With fewer than these for each parameter, of rows of equal weight that say as much, the move that
# looks best of so many is an accident.
_FEWEST_PER_PARAMETER = 20
# Responsibilities of all rows for all components are held in memory.
_MOST_POSTERIORS = 2**23


@dataclass(frozen=True)
class Ground:
    """Rows of the sample, divided.

    Attributes
    ----------
    fitted : SampleRows
    judging : SampleRows
        Rows that no EM step of the search sees.
    """

    fitted: SampleRows
    judging: SampleRows

    @classmethod
    def of(
        cls, sample: SampleRows, n_components: int, family: CovarianceFamily, turn: int = 0
    ) -> Self | None:
        """Divide a sample of complete rows; None where it is too small to tell optima apart.

        Which rows judge is drawn, always the same way for each `turn`: rows of an array come in
        periods. How a row is drawn does not depend on rows that come after it.
        """
        n, d = sample.rows.values.shape
        n_parameters = family.n_parameters(n_components, d)
        wanted = max(_LEAST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
        wanted = min(wanted, _MOST_POSTERIORS // n_components)
        keys = np.random.default_rng(turn).random(n)
        judges, others = np.split(
            np.argsort(keys, kind="stable"), [np.count_nonzero(keys < _JUDGES)]
        )
        fitted = _rows(sample, np.sort(others[:wanted]))
        judging = _rows(sample, np.sort(judges[: max(_MOST_JUDGES, wanted // 2)]))
        enough = max(_FEWEST_PER_PARAMETER * n_parameters, 2)
        if fitted.rows.effective_size < enough or 3 * judging.rows.effective_size < enough:
            return None
        return cls(fitted, judging)

    def posteriors(self, parameters: MixtureParameters) -> NDArray[np.float64]:
        """Return the responsibilities of the fitted rows, (n, K)."""
        return self.fitted.posteriors(parameters)

    def judge(self, parameters: MixtureParameters) -> float:
        """Return the mean log-density of the judging rows, in nats."""
        return self.judging.evaluate(parameters)[0]


def _rows(sample: SampleRows, index: NDArray[np.intp]) -> SampleRows:
    values, weights = sample.rows.values[index], sample.rows.weights
    chosen = None if weights is None else np.ascontiguousarray(weights[index])
    rows = Rows(np.ascontiguousarray(values), chosen, complete=True)
    return SampleRows(rows, sample.kernel, sample.n_threads)
