r"""A mixture seen from the features that some rows have: its marginal, and what the rest may be.

Of a Gaussian mixture the marginal of features o is the mixture of N(μ_o, Σ_oo), of the same form,
and given x_o and its component the missing features m are Gaussian:

    E[x_m | x_o, k] = μ_m + B (x_o − μ_o),   Cov = V = Σ_mm − B Σ_om,   B = Σ_mo Σ_oo⁻¹

(Little & Rubin, Statistical Analysis with Missing Data, 3rd ed. 2019, ch. 11). EM for values that
are missing at random puts these into the sufficient statistics (Ghahramani & Jordan, "Supervised
learning from incomplete data via an EM approach", 1994): x_m by its conditional mean, x_m x_mᵀ by
that of its square, V more than the square of the mean.

For rows of one pattern this needs no row: with x̂ the row completed by the conditional means, and
b = μ_m − c_m − B (μ_o − c_o),

    x̂_m − c_m = B (x_o − c_o) + b,

so that the statistics of the complete rows about c follow from those of x_o about c_o, which any
kernel gathers from the marginal mixture (`Conditional.complete`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import DIAGONAL, SPHERICAL, TIED
from dask_gmm.mixture.parameters import MixtureParameters, RaisedParameters
from dask_gmm.mixture.statistics import COUNTS_AT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.statistics import SufficientStatistics

    Array = NDArray[np.float64]

__all__ = ["Conditional", "Sums", "gaussian_entropy"]

_LOG_2_PI_E = float(np.log(2.0 * np.pi) + 1.0)


def gaussian_entropy(n_missing: Any, log_determinants: Any) -> Any:
    """Differential entropy of m Gaussian features of covariance V, in nats: ½ log|2πe V|."""
    return 0.5 * (n_missing * _LOG_2_PI_E + log_determinants)


class Sums:
    """Statistics while they are gathered, in the layout of `SufficientStatistics.sums`.

    Parameters
    ----------
    form : CovarianceForm
    n_components, n_features : int
    size : int
        Numbers in the sums.

    Attributes
    ----------
    entropy : float
        See `SufficientStatistics.missing_entropy`.
    """

    def __init__(self, form: CovarianceForm, n_components: int, n_features: int, size: int) -> None:
        k, d = n_components, n_features
        self.array = np.zeros(size)
        self.counts = self.array[COUNTS_AT : COUNTS_AT + k]
        at = COUNTS_AT + k
        self.first = self.array[at : at + k * d].reshape(k, d)
        self.second = self.array[at + k * d :].reshape(form.second_moment_shape(k, d))
        self.entropy = 0.0

    def add(self, found: SufficientStatistics) -> None:
        """Add statistics of complete rows."""
        self.array += found.sums
        self.entropy += found.missing_entropy


class Conditional:
    """A mixture from where some of its features are seen.

    Parameters
    ----------
    parameters : MixtureParameters
    present : (D,) bool
        Which features; at least one is, and one is not.

    Attributes
    ----------
    marginal : MixtureParameters
        The mixture of the features that are present, in their order.
    """

    def __init__(self, parameters: MixtureParameters, present: NDArray[np.bool_]) -> None:
        self.parameters = parameters
        self.form = parameters.form
        (self.seen,), (self.missing,) = np.nonzero(present), np.nonzero(~present)
        covariances = self._marginal_covariances()
        # Of a family with constraints the marginal need not be one, and a kernel asks for the form.
        self.marginal = MixtureParameters.create(
            covariance_family(self.form.name),
            parameters.weights,
            parameters.means[:, self.seen],
            covariances,
        )
        if parameters.more:  # a kind whose densities may be raised by other numbers
            self.marginal = RaisedParameters.of(self.marginal, parameters.log_weights)
        self._entropies = gaussian_entropy(self.missing.size, self.log_determinants())
        self._dense = self.form.dense_factors
        self._lifted: tuple[Array, Array, Array, Array] | None = None
        if self._dense:
            self._regress()

    def _marginal_covariances(self) -> Array:
        covariances = self.parameters.covariances
        if self.form is SPHERICAL:
            return covariances
        if self.form is DIAGONAL:
            return covariances[:, self.seen]
        return _part(covariances, self.seen, self.seen)

    def _regress(self) -> None:
        """B and V, (K, m, o) and (K, m, m); (1, …) where all components share them."""
        d = self.parameters.n_features
        sigma = self.parameters.covariances.reshape(-1, d, d)
        factors = self.marginal.precisions_cholesky.reshape(-1, self.seen.size, self.seen.size)
        # Σ_oo⁻¹ = U Uᵀ, so that with T = Σ_mo U: B = T Uᵀ and V = Σ_mm − T Tᵀ.
        white = _part(sigma, self.missing, self.seen) @ factors
        self.slopes: Array = white @ factors.transpose(0, 2, 1)
        left = _part(sigma, self.missing, self.missing) - white @ white.transpose(0, 2, 1)
        self.covariances: Array = 0.5 * (left + left.transpose(0, 2, 1))

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        own = self.slopes.nbytes + self.covariances.nbytes if self._dense else 0
        if self._lifted is not None:
            own += sum(array.nbytes for array in self._lifted[1:])
        return self.marginal.nbytes + own

    def log_determinants(self) -> Array:
        """log|V_k|, (K,)."""
        k, d = self.parameters.means.shape
        whole = self.form.log_determinant(self.parameters.precisions_cholesky, k, d)
        seen = self.form.log_determinant(self.marginal.precisions_cholesky, k, self.seen.size)
        return 2.0 * (seen - whole)

    def means(self, component: int, values: Array) -> Array:
        """E[x_m | x_o, k] of rows of x_o, shape (n, m) from (n, o)."""
        means = self.parameters.means[component]
        if not self._dense:
            return np.broadcast_to(means[self.missing], (len(values), self.missing.size))
        slopes = self.slopes[0 if self.form is TIED else component]
        expected: Array = means[self.missing] + (values - means[self.seen]) @ slopes.T
        return expected

    def roots(self, component: int) -> Array:
        """A matrix (m, m) whose product with its own transpose is V_k."""
        if not self._dense:
            k, d = self.parameters.means.shape
            variances = self.form.diagonals(self.parameters.covariances, k, d)
            return np.diag(np.sqrt(variances[component, self.missing]))
        covariance = self.covariances[0 if self.form is TIED else component]
        # V may be singular to rounding, where no Cholesky factor is.
        values, vectors = linalg.eigh(covariance, check_finite=False)
        roots: Array = vectors * np.sqrt(np.maximum(values, 0.0))
        return roots

    def complete(self, found: SufficientStatistics, reference: Array, sums: Sums) -> None:
        """Add to `sums` what statistics of the present features say of complete rows.

        Parameters
        ----------
        found : SufficientStatistics
            Of the E-step at `marginal`, about the reference's present features.
        reference : (K, D) float64
            c_k of the sums.
        sums : Sums
        """
        sums.array[:COUNTS_AT] += found.sums[:COUNTS_AT]
        counts = found.counts
        sums.counts += counts
        sums.entropy += float(counts @ self._entropies)
        if not self._dense:
            self._complete_variances(found, self.parameters.means - reference, sums)
            return
        whole, left, b = self._lift(reference)
        # The axis of the components is first, of length one of what they share.
        first = (whole @ found.first[:, :, None])[..., 0]
        sums.first += first + counts[:, None] * b
        second = whole @ found.second.reshape(-1, self.seen.size, self.seen.size)
        second = second @ whole.swapaxes(1, 2)
        beside = first[:, :, None] * b[:, None, :]
        beside = beside + beside.swapaxes(1, 2)
        beside += counts[:, None, None] * left
        if self.form is TIED:
            beside = beside.sum(axis=0, keepdims=True)
        second = second + beside
        sums.second += second.reshape(sums.second.shape)

    def _lift(self, reference: Array) -> tuple[Array, Array, Array]:
        """A, V + b bᵀ and b with x̂ − c = A (x_o − c_o) + b, in the order of all features."""
        if self._lifted is None or self._lifted[0] is not reference:
            (k, d), o, m = self.parameters.means.shape, self.seen, self.missing
            shift = self.parameters.means - reference
            whole = np.zeros((len(self.slopes), d, o.size))
            whole[:, o, np.arange(o.size)] = 1.0
            whole[:, m] = self.slopes
            b = np.zeros((k, d))
            b[:, m] = shift[:, m] - (self.slopes @ shift[:, o, None])[..., 0]
            left = b[:, :, None] * b[:, None, :]
            left[:, m[:, None], m] += self.covariances
            self._lifted = reference, whole, left, b
        return self._lifted[1:]

    def _complete_variances(self, found: SufficientStatistics, shift: Array, sums: Sums) -> None:
        k, d = self.parameters.means.shape
        b, counts = shift[:, self.missing], found.counts
        sums.first[:, self.seen] += found.first
        sums.first[:, self.missing] += counts[:, None] * b
        variances = self.form.diagonals(self.parameters.covariances, k, d)[:, self.missing]
        own = counts[:, None] * (b * b + variances)
        if self.form is DIAGONAL:
            sums.second[:, self.seen] += found.second
            sums.second[:, self.missing] += own
        else:
            sums.second += found.second + own.sum(axis=1)


def _part(matrices: Array, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
    """Some rows and columns of matrices that lie on the last two axes."""
    return matrices[..., rows[:, None], columns]
