"""E-steps over rows that miss values, each perhaps others: a row brings its own marginal mixture.

Where few rows of a block have a pattern in common, preparing a kernel for its marginal mixture
takes longer than its rows do. Here rows of all patterns that miss as many values are taken
together, by precisions: with P = Σ⁻¹, d = x − μ where x is present and 0 where it is missing, and
h = P d,

    x̂_m − μ_m = −P_mm⁻¹ h_m,   V = P_mm⁻¹,   log|Σ_oo| = log|P_mm| − log|P|,

(Rue & Held, Gaussian Markov Random Fields, 2005, thm. 2.5), so that all that a pattern needs is the
inverse of an m × m matrix. The marginal's Mahalanobis distance is that of the completed row x̂, the
least there is: an error in x̂_m enters it as a square, and nothing cancels. Variances need none of
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import NonFiniteError
from dask_gmm.mixture.conditional import gaussian_entropy
from dask_gmm.mixture.form import DIAGONAL, TIED
from dask_gmm.mixture.kernels.base import beyond_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.conditional import Sums
    from dask_gmm.mixture.gaps import Pattern
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["ScatteredRows", "ScatteredTile", "scattered_bytes"]

_LOG_2_PI = float(np.log(2.0 * np.pi))
_TILE_NUMBERS = 2**17
"""Numbers in the largest array of a tile."""
_MOST_ROWS = 2048
_FEW_MISSING = 4


def _tile_rows(n_components: int, n_features: int, n_missing: int) -> int:
    per_row = n_components * max(n_features, n_missing**2)
    return max(1, min(_MOST_ROWS, _TILE_NUMBERS // per_row))


def scattered_bytes(n_features: int, n_components: int, *, dense: bool) -> int:
    """Most bytes that `ScatteredRows` holds while it works on a tile."""
    k, d = n_components, n_features
    largest = max(_TILE_NUMBERS, k * (d * d if dense else d))
    own = 3 * k * d * d if dense else 4 * k * d
    return 8 * (12 * largest + own + 6 * _MOST_ROWS * d)


class ScatteredRows:
    """A mixture that is ready to be seen from any features.

    Parameters
    ----------
    parameters : MixtureParameters
    """

    def __init__(self, parameters: MixtureParameters) -> None:
        self._parameters = parameters
        self._kind = _DenseMixture if parameters.form.dense_factors else _VarianceMixture
        self._mixture = self._kind(parameters)

    def tiles(
        self, values: NDArray[Any], patterns: Sequence[Pattern]
    ) -> Iterator[tuple[NDArray[np.intp], ScatteredTile]]:
        """Yield what the mixture says of the rows of some patterns, a tile at a time.

        Parameters
        ----------
        values : (n, D) floating
        patterns : sequence of Pattern
            Among the rows of `values`.

        Yields
        ------
        rows : (t,) integer
            Which rows.
        tile : ScatteredTile

        Raises
        ------
        NonFiniteError
            A row is infinite or beyond the range; the error names its index among the values.
        """
        k, d = self._parameters.means.shape
        for same in _of_one_length(patterns):
            present = np.stack([pattern.present for pattern in same])
            rows = np.concatenate([pattern.rows for pattern in same])
            owner = np.repeat(np.arange(len(same)), [pattern.rows.size for pattern in same])
            m = d - int(present[0].sum())
            step = _tile_rows(k, d, m if self._parameters.form.dense_factors else 0)
            for start in range(0, len(rows), step):
                index, here = rows[start : start + step], owner[start : start + step]
                own = present[here[0] : here[-1] + 1]
                yield index, self._tile(values[index], index, own, here - here[0])

    def _tile(
        self,
        values: NDArray[Any],
        index: NDArray[np.intp],
        present: NDArray[np.bool_],
        owner: NDArray[np.intp],
    ) -> ScatteredTile:
        flags = present[owner]
        x = values.astype(np.float64)
        x[~flags] = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            tile = self._mixture.tile(x, flags, present, owner)
            bad = ~(np.isfinite(tile.log_densities) & np.isfinite(x).all(axis=1))
        if bad.any():
            error = beyond_range(np.where(flags, values, 0.0), 0, bad)
            raise NonFiniteError(int(index[error.row]), error.feature, error.value)
        return tile


def _of_one_length(patterns: Sequence[Pattern]) -> Iterator[list[Pattern]]:
    """Patterns that miss as many features as each other, from the fewest on."""
    by_length: dict[int, list[Pattern]] = {}
    for pattern in patterns:
        by_length.setdefault(int(pattern.present.sum()), []).append(pattern)
    for length in sorted(by_length, reverse=True):
        yield by_length[length]


class ScatteredTile(ABC):
    """Some rows, each seen from the features that it has.

    Attributes
    ----------
    log_densities : (t,) float64
        Of the features that are present; 0 where none is.
    posteriors : (K, t) float64
    """

    def __init__(self, parameters: MixtureParameters, joint: Array, seen: NDArray[Any]) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            joint += parameters.log_weights[:, None]
            peak = joint.max(axis=0)
            posteriors = np.exp(joint - peak)
            total = posteriors.sum(axis=0)
            posteriors /= total
            densities: Array = peak + np.log(total)
        # Of no feature it is 0: the weights add up to one, but for rounding.
        densities[seen == 0] = 0.0
        self.parameters = parameters
        self.posteriors: Array = posteriors
        self.log_densities = densities

    @abstractmethod
    def add_to(self, sums: Sums, weights: Array | None, reference: Array) -> None:
        """Add the statistics of the rows, with their weights, about a reference; once."""

    def _shares(self, sums: Sums, weights: Array | None) -> Array:
        """w_n r_nk, (K, t); their sums and the log-likelihood are added."""
        shares, densities = self.posteriors, self.log_densities
        if weights is not None:
            shares = shares * weights
        sums.array[0] += densities.sum() if weights is None else weights @ densities
        sums.counts += shares.sum(axis=1)
        return shares


class _DenseMixture:
    """Full and tied forms: precisions, their factors, and ½ log|P|."""

    def __init__(self, parameters: MixtureParameters) -> None:
        k, d = parameters.means.shape
        self.parameters = parameters
        self.precisions: Array = parameters.precisions.reshape(-1, d, d)
        self.factors: Array = parameters.precisions_cholesky.reshape(-1, d, d)
        self.half_logs = parameters.form.log_determinant(parameters.precisions_cholesky, k, d)

    def _lower(self, missing: NDArray[np.intp]) -> Array:
        """Lower triangular factors of P_mm for each pattern, (P, K or 1, m, m)."""
        own = self.precisions[:, missing[:, :, None], missing[:, None, :]].swapaxes(0, 1)
        try:
            return np.asarray(np.linalg.cholesky(own))
        except np.linalg.LinAlgError:
            # P_mm = U_m U_mᵀ has lost too many digits to be factored, U_m has them.
            rows = self.factors[:, missing].swapaxes(0, 1).swapaxes(-1, -2)
            upper = np.linalg.qr(rows, mode="r")
            signs = np.where(np.diagonal(upper, axis1=-2, axis2=-1) < 0.0, -1.0, 1.0)
            return np.asarray((signs[..., None] * upper).swapaxes(-1, -2))

    def tile(
        self,
        x: Array,
        flags: NDArray[np.bool_],
        present: NDArray[np.bool_],
        owner: NDArray[np.intp],
    ) -> ScatteredTile:
        """See `ScatteredRows.tiles`."""
        parameters, m = self.parameters, x.shape[1] - int(present[0].sum())
        missing = np.nonzero(~present)[1].reshape(len(present), m)
        lower = self._lower(missing)
        logs = 2.0 * np.log(np.diagonal(lower, axis1=-2, axis2=-1)).sum(axis=-1)
        root = np.linalg.inv(lower)
        left = root.swapaxes(-1, -2) @ root
        expected = x - parameters.means[:, None, :]
        expected *= flags.astype(np.float64)
        pull = expected @ self.precisions
        line, places = np.arange(len(x))[:, None], missing[owner]
        guess = _times(left[owner], pull[:, line, places])
        expected[:, line, places] = np.negative(guess, out=guess)
        white = expected @ self.factors
        joint = -0.5 * np.vecdot(white, white)
        seen = x.shape[1] - m
        joint += self.half_logs[:, None] - 0.5 * logs[owner].T - 0.5 * seen * _LOG_2_PI
        counted = np.full(len(x), seen)
        return _DenseTile(parameters, joint, counted, expected, missing, left, logs, owner)


def _times(matrices: Array, vectors: Array) -> Array:
    """Products of (t, K or 1, m, m) with (K, t, m), as (K, t, m)."""
    m = vectors.shape[2]
    if m > _FEW_MISSING:
        return np.asarray((matrices @ vectors.swapaxes(0, 1)[..., None])[..., 0].swapaxes(0, 1))
    # Of so small ones NumPy's own products take ten times as long.
    out = np.zeros(vectors.shape)
    for i in range(m):
        for j in range(m):
            out[:, :, i] += matrices[:, :, i, j].T * vectors[:, :, j]
    return out


class _DenseTile(ScatteredTile):
    def __init__(
        self,
        parameters: MixtureParameters,
        joint: Array,
        seen: NDArray[Any],
        expected: Array,
        missing: NDArray[np.intp],
        left: Array,
        logs: Array,
        owner: NDArray[np.intp],
    ) -> None:
        super().__init__(parameters, joint, seen)
        self._expected, self._missing, self._left = expected, missing, left
        self._logs, self._owner = logs, owner

    def add_to(self, sums: Sums, weights: Array | None, reference: Array) -> None:
        """See `ScatteredTile.add_to`."""
        parameters, (k, d) = self.parameters, self.parameters.means.shape
        shares = self._shares(sums, weights)
        about = self._expected
        about += (parameters.means - reference)[:, None, :]
        weighted = about * shares[:, :, None]
        sums.first += (shares[:, None, :] @ about)[:, 0]
        begins = np.searchsorted(self._owner, np.arange(len(self._missing)))
        counts = np.add.reduceat(shares, begins, axis=1).T
        rows, columns = self._missing[:, :, None], self._missing[:, None, :]
        if parameters.form is TIED:
            sums.second += weighted.reshape(-1, d).T @ about.reshape(-1, d)
            left = counts.sum(axis=1)[:, None, None] * self._left[:, 0]
            at = rows * d + columns
        else:
            sums.second += weighted.swapaxes(1, 2) @ about
            left = counts[:, :, None, None] * self._left
            at = (np.arange(k)[:, None, None] * d + rows[:, None]) * d + columns[:, None]
        flat = np.bincount(at.ravel(), left.ravel(), minlength=sums.second.size)
        sums.second += flat.reshape(sums.second.shape)
        entropies = gaussian_entropy(self._missing.shape[1], -self._logs)
        sums.entropy += float(np.sum(counts * entropies))


class _VarianceMixture:
    """Diagonal and spherical forms: features are independent, and a pattern needs nothing."""

    def __init__(self, parameters: MixtureParameters) -> None:
        k, d = parameters.means.shape
        form = parameters.form
        self.parameters = parameters
        self.factors = np.array(form.diagonals(parameters.precisions_cholesky, k, d))
        self.variances = np.array(form.diagonals(parameters.covariances, k, d))

    def tile(
        self,
        x: Array,
        flags: NDArray[np.bool_],
        present: NDArray[np.bool_],
        owner: NDArray[np.intp],
    ) -> ScatteredTile:
        """See `ScatteredRows.tiles`."""
        here = flags.astype(np.float64)
        expected = x - self.parameters.means[:, None, :]
        expected *= here
        white = expected * self.factors[:, None, :]
        joint = (np.log(self.factors) - 0.5 * _LOG_2_PI) @ here.T
        joint -= 0.5 * np.vecdot(white, white)
        return _VarianceTile(self, joint, flags.sum(axis=1), expected, here)


class _VarianceTile(ScatteredTile):
    def __init__(
        self,
        mixture: _VarianceMixture,
        joint: Array,
        seen: NDArray[Any],
        expected: Array,
        here: Array,
    ) -> None:
        super().__init__(mixture.parameters, joint, seen)
        self._variances, self._expected, self._here = mixture.variances, expected, here

    def add_to(self, sums: Sums, weights: Array | None, reference: Array) -> None:
        """See `ScatteredTile.add_to`."""
        shares = self._shares(sums, weights)
        absent = shares @ (1.0 - self._here)
        about = self._expected
        about += (self.parameters.means - reference)[:, None, :]
        sums.first += (shares[:, None, :] @ about)[:, 0]
        np.square(about, out=about)
        second = (shares[:, None, :] @ about)[:, 0] + absent * self._variances
        sums.second += second if self.parameters.form is DIAGONAL else second.sum(axis=1)
        sums.entropy += float(np.sum(absent * gaussian_entropy(1.0, np.log(self._variances))))
