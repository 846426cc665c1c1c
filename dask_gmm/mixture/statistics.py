"""Sufficient statistics: the only thing that passes from the E-step to the M-step.

They are a commutative monoid up to rounding: a zero, `+`, `==`. Floating-point addition is not
associative, so whoever adds many of them does it along one fixed tree (`execution.tree`).

Everything is accumulated about a *reference* c_k (one point per component, normally the mean at
which the responsibilities were computed), which every block knows because it came with the
parameters. Merging is then plain addition, and a large common offset of the data never enters a
second moment: with Σ = C/N − (G/N)(G/N)ᵀ the rounding error is about u·(1 + ‖μ − c‖²_{Σ⁻¹}),
which vanishes as the mean stops moving. Raw moments E[x²] − μ² lose u·‖μ‖²_{Σ⁻¹} instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.parameters import freeze_arrays, frozen_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.covariance import CovarianceFamily

__all__ = ["SufficientStatistics"]


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """What some rows say about the parameters of a mixture, summed over those rows.

    With r_nk the responsibility of component k for row x_n and w_n the row's weight (1 unless
    weighted):

    Attributes
    ----------
    family : CovarianceFamily
        Decides what is kept of the second moments.
    reference : (K, D) float64
        c_k.
    rows : int
        Rows seen.
    weight : float
        Σ_n w_n.
    log_likelihood : float
        Σ_n w_n log p(x_n), in nats.
    counts : (K,) float64
        N_k = Σ_n w_n r_nk.
    first : (K, D) float64
        G_k = Σ_n w_n r_nk (x_n − c_k).
    second : float64, the family's `second_moment_shape`
        C_k = Σ_n w_n r_nk (x_n − c_k)(x_n − c_k)ᵀ: full (K, D, D); tied Σ_k C_k (D, D); diag its
        diagonal (K, D); spherical its trace (K,).
    """

    family: CovarianceFamily
    reference: NDArray[np.float64]
    rows: int
    weight: float
    log_likelihood: float
    counts: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def create(
        cls,
        family: CovarianceFamily,
        reference: ArrayLike,
        *,
        rows: int,
        weight: float,
        log_likelihood: float,
        counts: ArrayLike,
        first: ArrayLike,
        second: ArrayLike,
    ) -> SufficientStatistics:
        """Build statistics from sums that a kernel has gathered; arrays are copied and frozen."""
        return cls(
            family,
            frozen_array(reference),
            int(rows),
            float(weight),
            float(log_likelihood),
            frozen_array(counts),
            frozen_array(first),
            frozen_array(second),
        )

    @classmethod
    def zero(cls, family: CovarianceFamily, reference: ArrayLike) -> SufficientStatistics:
        """The statistics of no rows about `reference`, shape (K, D)."""
        c = frozen_array(reference)
        k, d = c.shape
        return cls(
            family,
            c,
            0,
            0.0,
            0.0,
            frozen_array(np.zeros(k)),
            frozen_array(np.zeros((k, d))),
            frozen_array(np.zeros(family.second_moment_shape(k, d))),
        )

    @property
    def n_components(self) -> int:
        """K."""
        return int(self.reference.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.reference.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which is what a task returns."""
        return sum(a.nbytes for a in (self.reference, self.counts, self.first, self.second))

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight, in nats per row; −inf for no rows."""
        return self.log_likelihood / self.weight if self.weight else -np.inf

    def __add__(self, other: object) -> SufficientStatistics:
        """The statistics of both sets of rows; a new value, neither operand changes.

        Raises
        ------
        ValueError
            The operands are about different references or families: their sum has no meaning.
        """
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        if self.family is not other.family:
            raise ValueError(
                f"cannot add statistics of a {self.family.name} and a {other.family.name} mixture"
            )
        if not np.array_equal(self.reference, other.reference):
            raise ValueError("cannot add statistics about different references")
        total = (self.counts + other.counts, self.first + other.first, self.second + other.second)
        for array in total:
            array.setflags(write=False)
        return SufficientStatistics(
            self.family,
            self.reference,
            self.rows + other.rows,
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            *total,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        """Whether every number has the same bits (−0 and 0 count as equal)."""
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        return (
            self.family is other.family
            and (self.rows, self.weight, self.log_likelihood)
            == (other.rows, other.weight, other.log_likelihood)
            and all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("reference", "counts", "first", "second")
            )
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, never a key
