"""Sufficient statistics: the only thing that passes from the E-step to the M-step.

They are a commutative monoid up to rounding: a zero, `+`, `==`. Floating-point addition is not
associative, so whoever adds many of them does it along one fixed tree (`execution.tree`).

Everything is accumulated about a *reference* c_k (one point per component, normally the mean at
which the responsibilities were computed), which every block knows because it came with the
parameters. Merging is then plain addition, and a large common offset of the data never enters a
second moment: with Σ = C/N − (G/N)(G/N)ᵀ the rounding error is about u·(1 + ‖μ − c‖²_{Σ⁻¹}),
which vanishes as the mean stops moving. Raw moments E[x²] − μ² lose u·‖μ‖²_{Σ⁻¹} instead.

All sums lie in one array, one after the other, and what has a name is a view of its place there. A
pass adds a block's statistics to others as often as there are blocks, and they may be small: one
addition of one array is what that should cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dask_gmm.mixture.parameters import freeze_arrays, frozen_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.form import CovarianceForm

__all__ = ["COUNTS_AT", "SufficientStatistics", "number_of_sums"]

COUNTS_AT: Final = 2
"""Where N_k begin in `SufficientStatistics.sums`: after the log-likelihood and the weight."""


def number_of_sums(form: CovarianceForm, n_components: int, n_features: int) -> int:
    """Numbers in `SufficientStatistics.sums`."""
    k, d = n_components, n_features
    return COUNTS_AT + k + k * d + math.prod(form.second_moment_shape(k, d))


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """What some rows say about the parameters of a mixture, summed over those rows.

    With r_nk the responsibility of component k for row x_n and w_n the row's weight (1 unless
    weighted):

    Attributes
    ----------
    form : CovarianceForm
        Decides what is kept of the second moments.
    reference : (K, D) float64
        c_k.
    rows : int
        Rows seen.
    sums : (`number_of_sums`,) float64
        `log_likelihood`, `weight`, `counts`, `first` and `second`, in this order; read-only.
    missing_entropy : float
        Of rows that miss values, Σ_n w_n Σ_k r_nk H(x_m | x_o, k) in nats: the moments are then
        those of rows completed by their conditional expectations; see `mixture.conditional`.
    """

    form: CovarianceForm
    reference: NDArray[np.float64]
    rows: int
    sums: NDArray[np.float64]
    missing_entropy: float = field(default=0.0, kw_only=True)

    @classmethod
    def create(
        cls,
        form: CovarianceForm,
        reference: ArrayLike,
        *,
        rows: int,
        weight: float,
        log_likelihood: float,
        counts: ArrayLike,
        first: ArrayLike,
        second: ArrayLike,
    ) -> SufficientStatistics:
        """Build statistics from sums that have been gathered one by one; arrays are copied.

        Raises
        ------
        ValueError
            A shape is not that of the `reference`, (K, D), and the form.
        """
        c = _frozen(reference)
        k, d = c.shape
        sums = np.empty(number_of_sums(form, k, d))
        sums[:COUNTS_AT] = log_likelihood, weight
        at = COUNTS_AT
        for name, values, shape in (
            ("counts", counts, (k,)),
            ("first", first, (k, d)),
            ("second", second, form.second_moment_shape(k, d)),
        ):
            array = np.asarray(values, dtype=np.float64)
            if array.shape != shape:
                raise ValueError(f"{name} should have the shape {shape}, but got {array.shape}")
            sums[at : at + array.size] = array.reshape(-1)
            at += array.size
        return cls.around(form, c, int(rows), sums)

    @staticmethod
    def around(
        form: CovarianceForm,
        reference: NDArray[np.float64],
        rows: int,
        sums: NDArray[np.float64],
        missing_entropy: float = 0.0,
    ) -> SufficientStatistics:
        """Take over `sums` and a read-only `reference`; nothing is copied or checked.

        Nobody else may have `sums`, which are read-only from now on.
        """
        sums.setflags(write=False)
        return SufficientStatistics(form, reference, rows, sums, missing_entropy=missing_entropy)

    @classmethod
    def carrying(cls, statistics: SufficientStatistics, **beside: Any) -> Self:
        """Put statistics together with the fields that a kind of them has beside; no copies."""
        values = {f.name: getattr(statistics, f.name) for f in fields(SufficientStatistics)}
        return cls(**values, **beside)

    @classmethod
    def zero(cls, form: CovarianceForm, reference: ArrayLike) -> SufficientStatistics:
        """The statistics of no rows about `reference`, shape (K, D)."""
        c = _frozen(reference)
        return cls.around(form, c, 0, np.zeros(number_of_sums(form, *c.shape)))

    @property
    def log_likelihood(self) -> float:
        """Σ_n w_n log p(x_n), in nats."""
        return float(self.sums[0])

    @property
    def weight(self) -> float:
        """Σ_n w_n."""
        return float(self.sums[1])

    @property
    def counts(self) -> NDArray[np.float64]:
        """N_k = Σ_n w_n r_nk, (K,)."""
        return self.sums[COUNTS_AT : COUNTS_AT + len(self.reference)]

    @property
    def first(self) -> NDArray[np.float64]:
        """G_k = Σ_n w_n r_nk (x_n − c_k), (K, D)."""
        at = COUNTS_AT + len(self.reference)
        return self.sums[at : at + self.reference.size].reshape(self.reference.shape)

    @property
    def second(self) -> NDArray[np.float64]:
        """C_k = Σ_n w_n r_nk (x_n − c_k)(x_n − c_k)ᵀ in the form's `second_moment_shape`.

        Full (K, D, D); tied Σ_k C_k (D, D); diag its diagonal (K, D); spherical its trace (K,).
        """
        k, d = self.reference.shape
        return self.sums[COUNTS_AT + k + k * d :].reshape(self.form.second_moment_shape(k, d))

    @property
    def weight_beside(self) -> float:
        """Σ_n w_n of what belongs to no component: here nothing does."""
        return 0.0

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
        return self.reference.nbytes + self.sums.nbytes

    @property
    def row_weight(self) -> float:
        """What one row counts for: 1, or the mean weight of the rows where that is less.

        Weights that stand for copies of rows leave a row a row; weights in some unit of their own
        (that add up to one, say) must not make all components seem empty.
        """
        return min(1.0, self.weight / self.rows) if self.rows and self.weight > 0.0 else 1.0

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight, in nats per row; −inf for no rows."""
        return self.log_likelihood / self.weight if self.weight else -np.inf

    def __add__(self, other: object) -> SufficientStatistics:
        """The statistics of both sets of rows; a new value, neither operand changes.

        Raises
        ------
        ValueError
            The operands are about different references or forms: their sum has no meaning.
        """
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        if self.form is not other.form:
            raise ValueError(
                f"cannot add statistics of a {self.form.name} and a {other.form.name} form"
            )
        c = self.reference
        if c is not other.reference and not np.array_equal(c, other.reference):
            raise ValueError("cannot add statistics about different references")
        entropy = self.missing_entropy + other.missing_entropy
        return self.around(self.form, c, self.rows + other.rows, self.sums + other.sums, entropy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        """Whether every number has the same bits (−0 and 0 count as equal)."""
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        return (
            self.form is other.form
            and self.rows == other.rows
            and self.missing_entropy == other.missing_entropy
            and np.array_equal(self.reference, other.reference)
            and np.array_equal(self.sums, other.sums)
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, never a key


def _frozen(reference: ArrayLike) -> NDArray[np.float64]:
    """The reference as a read-only array; one that is so already is shared, not copied."""
    if (
        isinstance(reference, np.ndarray)
        and reference.dtype == np.float64
        and reference.flags.owndata
        and reference.flags.c_contiguous
        and not reference.flags.writeable
    ):
        return reference
    return frozen_array(reference)
