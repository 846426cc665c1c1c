"""Three algebraic schemes for the same E-step, and the predictor that chooses between them.

**Linear.** log π_k N(x|μ_k, Σ_k) is linear in the features φ(x) of a row (`features`), so the
log-densities of a tile are one matrix product with the coefficients, and the moments one product
of the responsibilities with the same features. The fastest, and it cancels: with x̃ = x − c and
s² = E x̃², products as large as s_i |P_ij| s_j are added up to something of order one.

What the log-densities lose is known beforehand (`cancellation`); what the moments lose is found
tile by tile (`differences`).

**Tied.** With one covariance the rows are whitened once; what is left is linear in them.

**Whitening.** y = Uᵀ(x − μ_k) for each component, with its own differences: nothing cancels that
is not in the data. Only rows with a responsibility worth mentioning enter the moments, which for
large D more than makes up for K separate products.

A scheme is made for one candidate and one call, and gathers its moments as the tiles go by.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.form import DIAGONAL, FULL, SPHERICAL, TIED
from dask_gmm.mixture.kernels.differences import (
    SMALLEST_SCATTER,
    Differences,
    active_rows,
    negligible,
    unsteady,
)
from dask_gmm.mixture.kernels.features import (
    Affine,
    FeatureMap,
    Norm,
    Products,
    RawRows,
    Squares,
)
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.kernels.base import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["LinearScheme", "Scheme", "TiedScheme", "WhiteningScheme", "cancellation"]

_EPS = float(np.finfo(np.float64).eps)

SMALL_PRODUCT = 1_000_000
"""Multiplications up to which OpenBLAS runs a matrix product without packing its operands."""


PANEL = 16
"""Columns of a panel of the triangular product (measured)."""


def cancellation(parameters: MixtureParameters, centre: Array) -> float:
    """Error to expect in log-densities and whitened covariances of the linear and tied schemes.

    It is u·max_k s_kᵀ |P_k| s_k with s_k² = (μ_k − c)² + diag Σ_k: the size of the terms that a
    row of component k adds up, times the rounding of each.

    Parameters
    ----------
    parameters : MixtureParameters
    centre : (D,) float64
        c.
    """
    k, d = parameters.means.shape
    form = parameters.form
    variances = form.diagonals(parameters.covariances, k, d)
    sizes = np.sqrt((parameters.means - centre) ** 2 + variances)
    largest = float(np.max(form.absolute_quadratic(parameters.precisions_cholesky, sizes)))
    return _EPS * largest if np.isfinite(largest) else np.inf


def log_constants(parameters: MixtureParameters) -> Array:
    """Constants of the log-densities, shape (K,): log π_k − ½ D log 2π + log|Σ_k|^(-1/2).

    They are −inf where π_k = 0.
    """
    k, d = parameters.means.shape
    determinants = parameters.form.log_determinant(parameters.precisions_cholesky, k, d)
    constants: Array = parameters.log_weights + determinants - 0.5 * d * np.log(2.0 * np.pi)
    return constants


class Scheme(ABC):
    """One candidate's densities and moments; lives for one call."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.form = candidate.parameters.form
        self._negligible = negligible(candidate.parameters.weights)

    @property
    @abstractmethod
    def features(self) -> FeatureMap:
        """The map that makes the features this scheme is written in."""

    @abstractmethod
    def log_joint(self, features: Array, out: Array) -> None:
        """Write log π_k N(x_n|μ_k, Σ_k) of a tile into `out`, [K][t]."""

    @abstractmethod
    def gather(self, features: Array, responsibilities: Array, weights: Array | None) -> None:
        """Add the moments of a tile.

        Parameters
        ----------
        features : [..][t] or [t][..]
            As the scheme's map has made them.
        responsibilities : [K][t]
            w_n r_nk.
        weights : (t,) or None
            w_n; all 1 by default.
        """

    @abstractmethod
    def moments(self) -> tuple[Array, Array, Array]:
        """N_k, G_k and the form's C_k about the candidate's reference, of all that was added."""

    def statistics(self, rows: int, weight: float, log_likelihood: float) -> SufficientStatistics:
        """What was gathered, as a value."""
        counts, first, second = self.moments()
        return SufficientStatistics.create(
            self.form,
            self.candidate.reference,
            rows=rows,
            weight=weight,
            log_likelihood=log_likelihood,
            counts=counts,
            first=first,
            second=second,
        )


_MAPS: dict[CovarianceForm, type[FeatureMap]] = {
    FULL: Products,
    TIED: Affine,
    DIAGONAL: Squares,
    SPHERICAL: Norm,
}


def feature_map(form: CovarianceForm) -> type[FeatureMap]:
    """The map in which a form's log-densities are linear (tied: once the rows are white)."""
    return _MAPS[form]


class LinearScheme(Scheme):
    """Full, diagonal and spherical forms as one matrix product each way."""

    def __init__(self, candidate: Candidate, centre: Array, tile_rows: int) -> None:
        super().__init__(candidate)
        self._map = feature_map(self.form)(centre, tile_rows)
        self._coefficients = _coefficients(candidate.parameters, centre)
        k, f = self._coefficients.shape
        self._sums = np.zeros((k, f))
        self._part = np.empty((k, f))
        # Below SMALL_PRODUCT, OpenBLAS is up to 1.7 times faster on the untransposed product, by
        # more than the copy costs; measured from 100 features on.
        transposed = f >= 96 and k * f * tile_rows <= SMALL_PRODUCT
        self._turned = np.empty(tile_rows * k) if transposed else None
        self._shift = candidate.reference - centre
        self._differences: Differences | None = None

    @property
    def features(self) -> FeatureMap:
        """See `Scheme.features`."""
        return self._map

    def log_joint(self, features: Array, out: Array) -> None:
        """See `Scheme.log_joint`."""
        np.matmul(self._coefficients, features, out=out)

    def gather(self, features: Array, responsibilities: Array, weights: Array | None) -> None:
        """See `Scheme.gather`."""
        k, t = responsibilities.shape
        if self._turned is None:
            part = np.matmul(responsibilities, features.T, out=self._part)
        else:
            turned = self._turned[: t * k].reshape(t, k)
            np.copyto(turned, responsibilities.T)
            part = np.matmul(features, turned, out=self._part.reshape(-1, k)).T
        d = len(self._map.centre)
        first, squares = part[:, -d - 1 : -1], part[:, :d]
        if self.form is SPHERICAL:
            first, squares = np.linalg.norm(first, axis=1, keepdims=True), part[:, :1]
        for j in unsteady(part[:, -1], first, squares):
            part[j] = 0.0
            if self._differences is None:
                self._differences = Differences(self._shift, self._negligible, self.form)
            self._differences.add(j, features[-d - 1 : -1], responsibilities[j], weights)
        self._sums += part

    def moments(self) -> tuple[Array, Array, Array]:
        """See `Scheme.moments`."""
        counts, first, second = self._linear_moments()
        if self._differences is None:
            return counts, first, second
        taken = self._differences
        return counts + taken.counts, first + taken.first, second + taken.second

    def _linear_moments(self) -> tuple[Array, Array, Array]:
        d = len(self._map.centre)
        counts, about_centre = self._sums[:, -1], self._sums[:, -d - 1 : -1]
        raw, shift = self._sums[:, : -d - 1], self._shift
        first = about_centre - counts[:, None] * shift
        if self.form is FULL:
            left, right = Products.pairs(d)
            second = np.empty((len(counts), d, d))
            second[:, left, right] = raw
            second[:, right, left] = raw
            cross = about_centre[:, :, None] * shift[:, None, :]
            cross += shift[:, :, None] * first[:, None, :]
            second -= 0.5 * (cross + cross.transpose(0, 2, 1))
            return counts, first, second
        moved = shift * (about_centre + first)
        if self.form is DIAGONAL:
            return counts, first, raw - moved
        return counts, first, raw[:, 0] - moved.sum(axis=1)


def _coefficients(parameters: MixtureParameters, centre: Array) -> Array:
    """Θ with log π_k N(x|μ_k, Σ_k) = Θ φ(x), shape (K, F)."""
    k, d = parameters.means.shape
    form = parameters.form
    offset = parameters.means - centre
    if form is FULL:
        precisions = parameters.precisions
        left, right = Products.pairs(d)
        quadratic = np.where(left == right, -0.5, -1.0) * precisions[:, left, right]
        linear = np.einsum("kij,kj->ki", precisions, offset)
        # ½‖Uᵀ(μ − c)‖² rather than ½(μ − c)ᵀP(μ − c): one product less to cancel.
        white = np.einsum("kij,ki->kj", parameters.precisions_cholesky, offset)
    else:
        inverse = parameters.precisions_cholesky.reshape(k, -1)
        quadratic = -0.5 * parameters.precisions.reshape(k, -1)
        linear = inverse**2 * offset
        white = inverse * offset
    constant = log_constants(parameters) - 0.5 * np.einsum("kd,kd->k", white, white)
    return np.ascontiguousarray(np.concatenate([quadratic, linear, constant[:, None]], axis=1))


class TiedScheme(Scheme):
    """One covariance: whiten a tile once, then everything is linear in the white rows."""

    def __init__(self, candidate: Candidate, centre: Array, tile_rows: int) -> None:
        super().__init__(candidate)
        self._map = Affine(centre, tile_rows)
        parameters = candidate.parameters
        k, d = parameters.means.shape
        self._whitening = np.ascontiguousarray(parameters.precisions_cholesky.T)
        self._white_means = (parameters.means - centre) @ parameters.precisions_cholesky
        squares = np.einsum("kd,kd->k", self._white_means, self._white_means)
        self._constants = (log_constants(parameters) - 0.5 * squares)[:, None]
        self._white = np.empty(d * tile_rows)
        self._half_squares = np.empty(tile_rows)
        self._sums = np.zeros((k, d + 1))
        self._scatter = np.zeros((d, d))
        self._shift = candidate.reference - centre
        self._differences: Differences | None = None

    @property
    def features(self) -> FeatureMap:
        """See `Scheme.features`."""
        return self._map

    def log_joint(self, features: Array, out: Array) -> None:
        """See `Scheme.log_joint`."""
        x = features[:-1]
        white = self._white[: x.size].reshape(x.shape)
        np.matmul(self._whitening, x, out=white)
        half_squares = self._half_squares[: x.shape[1]]
        np.einsum("dt,dt->t", white, white, out=half_squares)
        half_squares *= 0.5
        np.matmul(self._white_means, white, out=out)
        out += self._constants
        out -= half_squares

    def gather(self, features: Array, responsibilities: Array, weights: Array | None) -> None:
        """See `Scheme.gather`."""
        x = features[:-1]
        sums = np.matmul(responsibilities, features.T)
        # The responsibilities of a row sum to its weight. NumPy runs SYRK for a matrix by itself.
        whole = x if weights is None else x * np.sqrt(weights)
        scatter = np.matmul(whole, whole.T)
        between = sums[:, :-1] ** 2 / np.maximum(sums[:, -1:], np.finfo(np.float64).tiny)
        squares = np.diagonal(scatter)
        if np.all(squares - between.sum(axis=0) >= SMALLEST_SCATTER * squares):
            self._sums += sums
            self._scatter += scatter
            return
        if self._differences is None:
            self._differences = Differences(self._shift, self._negligible, self.form)
        for k, shares in enumerate(responsibilities):
            self._differences.add(k, x, shares, weights)

    def moments(self) -> tuple[Array, Array, Array]:
        """See `Scheme.moments`."""
        counts, about_centre, shift = self._sums[:, -1], self._sums[:, :-1], self._shift
        first = about_centre - counts[:, None] * shift
        cross = about_centre.T @ shift + shift.T @ first
        second = self._scatter - 0.5 * (cross + cross.T)
        if self._differences is None:
            return counts, first, second
        taken = self._differences
        return counts + taken.counts, first + taken.first, second + taken.second


class WhiteningScheme(Scheme):
    """Any form, component by component, with differences from its own mean."""

    def __init__(self, candidate: Candidate, tile_rows: int) -> None:
        super().__init__(candidate)
        parameters = candidate.parameters
        k, d = parameters.means.shape
        self._map = RawRows(np.zeros(d), tile_rows)
        self._dense = self.form in (FULL, TIED)
        factors = parameters.precisions_cholesky
        self._factors = (
            np.broadcast_to(factors, (k, d, d))
            if self._dense
            else np.broadcast_to(factors.reshape(k, -1), (k, d))
        )
        self._constants = log_constants(parameters)
        self._scratch = np.empty((2, tile_rows * d))
        self._counts = np.zeros(k)
        self._first = np.zeros((k, d))
        self._second = np.zeros(self.form.second_moment_shape(k, d) if self._dense else (k, d))
        self._part = np.empty((d, d) if self._dense else d)

    @property
    def features(self) -> FeatureMap:
        """See `Scheme.features`."""
        return self._map

    def log_joint(self, features: Array, out: Array) -> None:
        """See `Scheme.log_joint`."""
        difference, white = (s[: features.size].reshape(features.shape) for s in self._scratch)
        means = self.candidate.parameters.means
        for k, factor in enumerate(self._factors):
            np.subtract(features, means[k], out=difference)
            if self._dense:
                _times_upper(difference, factor, white)
            else:
                np.multiply(difference, factor, out=white)
            np.vecdot(white, white, out=out[k])
            out[k] *= -0.5
            out[k] += self._constants[k]

    def gather(self, features: Array, responsibilities: Array, weights: Array | None) -> None:
        """See `Scheme.gather`."""
        for k, shares in enumerate(responsibilities):
            active = active_rows(shares, self._negligible[k], weights)
            if len(active) == 0:
                continue
            if len(active) > 0.7 * len(shares):
                self._add(k, features, shares)
                continue
            rows = self._scratch[1][: len(active) * features.shape[1]].reshape(len(active), -1)
            np.take(features, active, axis=0, out=rows, mode="clip")
            self._add(k, rows, shares[active])

    def _add(self, k: int, rows: Array, shares: Array) -> None:
        difference = self._scratch[0][: rows.size].reshape(rows.shape)
        np.subtract(rows, self.candidate.reference[k], out=difference)
        self._counts[k] += shares.sum()
        self._first[k] += shares @ difference
        difference *= np.sqrt(shares)[:, None]
        if self._dense:
            # NumPy recognises AᵀA and runs SYRK; SciPy's own wrapper would hold the GIL.
            np.matmul(difference.T, difference, out=self._part)
        else:
            np.einsum("td,td->d", difference, difference, out=self._part)
        total = self._second if self.form is TIED else self._second[k]
        total += self._part

    def moments(self) -> tuple[Array, Array, Array]:
        """See `Scheme.moments`."""
        second = self._second.sum(axis=1) if self.form is SPHERICAL else self._second
        return self._counts, self._first, second


def _times_upper(rows: Array, upper: Array, out: Array) -> None:
    """`rows` @ `upper` by panels of columns, without most of the zeros below the diagonal."""
    d = len(upper)
    panel = PANEL if d > 2 * PANEL else d
    for begin in range(0, d, panel):
        end = min(begin + panel, d)
        np.matmul(rows[:, :end], upper[:end, begin:end], out=out[:, begin:end])
