"""Sufficient statistics per row: what steps in memory add, correct and maximise.

They are a vector space, which statistics are not: moments of a sample are corrected by those of all
rows, and whatever a model adds to a likelihood (`mixture.model`) is moments too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import xlogy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

    Array = NDArray[np.float64]

__all__ = [
    "Moments",
    "complete_moments",
    "expected_log_density",
    "natural_parameters",
    "per_row",
]

_LOG_2_PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics per row: a vector that can be added, subtracted and scaled.

    Attributes
    ----------
    form : CovarianceForm
    reference : (K, D) float64
        c_k, the same in all moments that are added.
    counts : (K,) float64
        n_k.
    first : (K, D) float64
    second : float64, the form's `second_moment_shape`
    weighing, volumes : (K,) float64 or None
        What stands before log π_k and before log|Σ_k|^(-1/2) in `expected_log_density`. Of rows
        both are n_k, which is what None means; a prior's are its own.
    """

    form: CovarianceForm
    reference: Array
    counts: Array
    first: Array
    second: Array
    weighing: Array | None = None
    volumes: Array | None = None

    def __add__(self, other: Moments) -> Moments:
        return self.plus(other, 1.0)

    def __sub__(self, other: Moments) -> Moments:
        return self.plus(other, -1.0)

    def plus(self, other: Moments, factor: float) -> Moments:
        """Return these moments plus a multiple of others about the same reference."""
        return Moments(
            self.form,
            self.reference,
            self.counts + factor * other.counts,
            self.first + factor * other.first,
            self.second + factor * other.second,
            _sum(self.counts, self.weighing, other.counts, other.weighing, factor),
            _sum(self.counts, self.volumes, other.counts, other.volumes, factor),
        )

    def times(self, factor: float) -> Moments:
        """Return these moments times a number."""
        return Moments(
            self.form,
            self.reference,
            factor * self.counts,
            factor * self.first,
            factor * self.second,
            None if self.weighing is None else factor * self.weighing,
            None if self.volumes is None else factor * self.volumes,
        )

    def about(self, reference: Array) -> Moments:
        """Return the same moments about another reference, (K, D).

        With d = c − c', Σ r (x − c')(x − c')ᵀ = C + G dᵀ + d Gᵀ + n d dᵀ.
        """
        shift = self.reference - reference
        second = np.array(self.second)
        for k in range(len(shift)):
            d, first = shift[k : k + 1], self.first[k : k + 1]
            moment = self.form.component_moment(first, d) + self.form.component_moment(d, first)
            moment += self.counts[k] * self.form.component_moment(d, d)
            self.form.add_moment(second, k, moment)
        first = self.first + self.counts[:, None] * shift
        return Moments(
            self.form, reference, self.counts, first, second, self.weighing, self.volumes
        )

    def vector(self) -> Array:
        """All numbers in a row: counts, first, second."""
        return np.concatenate([self.counts, self.first.ravel(), self.second.ravel()])

    def of_vector(self, vector: Array) -> Moments:
        """Moments of rows, of the same form and reference, with these numbers (`vector`)."""
        k, end = len(self.counts), len(self.counts) + self.first.size
        return Moments(
            self.form,
            self.reference,
            vector[:k],
            vector[k:end].reshape(self.first.shape),
            vector[end:].reshape(self.second.shape),
        )


def _sum(
    counts: Array, own: Array | None, others: Array, theirs: Array | None, factor: float
) -> Array | None:
    """The sum of what two moments have before a logarithm; None where both are those of rows."""
    if own is None and theirs is None:
        return None
    own, theirs = counts if own is None else own, others if theirs is None else theirs
    return own + factor * theirs


def per_row(statistics: SufficientStatistics) -> Moments:
    """Statistics divided by their weight."""
    n = statistics.weight or 1.0
    return Moments(
        statistics.form,
        statistics.reference,
        statistics.counts / n,
        statistics.first / n,
        statistics.second / n,
    )


def complete_moments(parameters: MixtureParameters, reference: Array) -> Moments:
    """The moments that rows drawn from the mixture would have, their components known.

    Their maximiser is the mixture itself.
    """
    form, weights = parameters.form, parameters.weights
    k, d = parameters.means.shape
    shift = parameters.means - reference
    second = np.zeros(form.second_moment_shape(k, d))
    # Σ_k = Uᵀ⁻¹ U⁻¹: the rows of the coloured identity have it for their second moment.
    identity = np.eye(d)
    for component in range(k):
        root = form.colour(parameters.precisions_cholesky, component, identity)
        rows = np.vstack([root, shift[component : component + 1]])
        moment = form.component_moment(weights[component] * rows, rows)
        form.add_moment(second, component, moment)
    return Moments(form, reference, weights, weights[:, None] * shift, second)


def expected_log_density(moments: Moments, parameters: MixtureParameters) -> float:
    """Σ_k Σ_n r_nk log π_k N(x_n | μ_k, Σ_k) per row, from the moments alone.

    This is <s, T(θ)>, linear in the moments s: T(θ) are the natural parameters of the complete
    data. With C_k about c_k and d = μ_k − c_k the squares add up to
    tr(Σ_k⁻¹ C_k) − 2 dᵀΣ_k⁻¹G_k + n_k dᵀΣ_k⁻¹d.

    Of a prior (`Moments.weighing`, `Moments.volumes`) it is the logarithm of its density up to a
    constant.
    """
    form, factors = parameters.form, parameters.precisions_cholesky
    k, d = parameters.means.shape
    shift = _whitened(parameters, parameters.means - moments.reference)
    first = _whitened(parameters, moments.first)
    squares = float(np.sum(parameters.precisions * moments.second))
    squares += float(np.sum(shift * (moments.counts[:, None] * shift - 2.0 * first)))
    constant = form.log_determinant(factors, k, d) - 0.5 * d * _LOG_2_PI
    weighing = moments.counts if moments.weighing is None else moments.weighing
    volumes = moments.counts if moments.volumes is None else moments.volumes
    weights = float(np.sum(xlogy(weighing, parameters.weights)))
    return weights + float(volumes @ constant) - 0.5 * squares


def natural_parameters(parameters: MixtureParameters, reference: Array) -> Array:
    """T(θ) of the complete data, in the order of `Moments.vector`.

    <s, T(θ)> is `expected_log_density` of moments s about that reference: with d = μ_k − c_k and
    Λ_k = Σ_k⁻¹ these are log π_k + ½ log|Λ_k| − (D/2) log 2π − ½ dᵀΛ_k d, then Λ_k d, then −½ Λ_k.
    A component without weight has −∞ for the first.
    """
    form, factors = parameters.form, parameters.precisions_cholesky
    k, d = parameters.means.shape
    identity, first, squares = np.eye(d), np.empty((k, d)), np.empty(k)
    for component in range(k):
        root = form.whiten(factors, component, identity)
        white = (parameters.means[component] - reference[component]) @ root
        first[component], squares[component] = root @ white, white @ white
    with np.errstate(divide="ignore"):
        logs = np.log(parameters.weights)
    constant = form.log_determinant(factors, k, d) - 0.5 * d * _LOG_2_PI
    second = -0.5 * parameters.precisions
    return np.concatenate([logs + constant - 0.5 * squares, first.ravel(), second.ravel()])


def _whitened(parameters: MixtureParameters, rows: Array) -> Array:
    """Row k whitened by component k."""
    factors, form = parameters.precisions_cholesky, parameters.form
    return np.concatenate([form.whiten(factors, k, rows[k : k + 1]) for k in range(rows.shape[0])])
