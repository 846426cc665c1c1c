"""The reference kernel: the formulas as they stand in the books, in extended precision.

It is the oracle of the others, written to be read: no shortcuts, no fast forms. It computes in
`numpy.longdouble` (64 bits of mantissa on x86-64; float64 where the platform has no more), from
the same float64 factors as every kernel, so that what it disagrees with is another kernel's
arithmetic and not its own. Roughly a hundred times slower than `blas`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.kernels.base import (
    Candidate,
    EStep,
    Kernel,
    Predictor,
    beyond_range,
    check_finite,
    checked_values,
    possible_forms,
)
from dask_gmm.mixture.low_rank import LowRank
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Long = NDArray[np.longdouble]

__all__ = ["ReferenceKernel"]

_TILE_ROWS = 512
_LONG_BYTES = np.dtype(np.longdouble).itemsize


@dataclass(frozen=True)
class ReferenceKernel(Kernel):
    """Obvious and slow; for tests and for doubts."""

    @property
    def name(self) -> str:
        """The kernel's name: reference."""
        return "reference"

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Keep the candidates; see `Kernel.e_step`."""
        return _ReferenceEStep(tuple(candidates))

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Keep the mixture; see `Kernel.predictor`."""
        return _ReferencePredictor(parameters)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        d, working, results = n_features, 0, 0
        for k, kinds in possible_forms(n_components, forms):
            # One candidate after the other, so that only the results add up.
            moments = max(prod(f.second_moment_shape(k, d)) for f in kinds)
            matrices = 3 * d * d if any(f.dense_factors for f in kinds) else 0
            # Of two tiles, that is: the last one lives on while the next is made.
            tiles = _TILE_ROWS * (8 * d + 6 * k + 4)
            numbers = tiles + 3 * moments + matrices + 6 * k * d + 8 * k
            working = max(working, _LONG_BYTES * numbers)
            results += 8 * (moments + 2 * k * d + k)
        return working + results


@dataclass(frozen=True)
class _ReferenceEStep(EStep):
    candidates: tuple[Candidate, ...]

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        return tuple(_statistics(rows, c) for c in self.candidates)

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        found = _ReferencePredictor(self.candidates[0].parameters).log_densities(rows.values)
        return self.statistics(rows), found


@dataclass(frozen=True)
class _ReferencePredictor(Predictor):
    parameters: MixtureParameters

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        values = checked_values(values, self.parameters.n_features)
        out = np.empty(len(values))
        for where, _, joint in _tiles(values, self.parameters):
            out[where] = _log_sum_exp(joint)
        return out

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        values = checked_values(values, self.parameters.n_features)
        out = np.empty((len(values), self.parameters.n_components))
        for where, _, joint in _tiles(values, self.parameters):
            out[where] = np.exp(joint - _log_sum_exp(joint)[:, None])
        return out

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        values = checked_values(values, self.parameters.n_features)
        out = np.empty(len(values), dtype=np.intp)
        for where, _, joint in _tiles(values, self.parameters):
            out[where] = np.argmax(joint, axis=1)
        return out


def _tiles(
    values: NDArray[Any], parameters: MixtureParameters
) -> Iterator[tuple[slice, Long, Long]]:
    """Each tile's place, its rows (t, D), and log π_k N(x_n|μ_k, Σ_k) of shape (t, K)."""
    k, d = parameters.means.shape
    form, factors = parameters.form, parameters.precisions_cholesky
    means = parameters.means.astype(np.longdouble)
    constants = _log_weights(parameters) + _log_determinants(parameters)
    constants -= 0.5 * d * np.log(2 * np.longdouble(np.pi))
    for start in range(0, len(values), _TILE_ROWS):
        where = slice(start, min(start + _TILE_ROWS, len(values)))
        check_finite(values[where], start)
        x = values[where].astype(np.longdouble)
        joint = np.empty((len(x), k), dtype=np.longdouble)
        for j in range(k):
            white = form.whiten(factors, j, x - means[j])
            joint[:, j] = constants[j] - 0.5 * np.sum(white * white, axis=1)
        with np.errstate(over="ignore"):
            peak = joint.max(axis=1).astype(np.float64)
        if not np.all(np.isfinite(peak)):
            raise beyond_range(values[where], start, ~np.isfinite(peak))
        yield where, x, joint


def _log_weights(parameters: MixtureParameters) -> Long:
    """`MixtureParameters.log_weights`; where they are log π_k in extended precision."""
    with np.errstate(divide="ignore"):  # a weight of zero is a component that nobody belongs to
        single, extended = (np.log(parameters.weights.astype(t)) for t in (float, np.longdouble))
    given = parameters.log_weights
    return np.where(given == single, extended, given)


def _log_determinants(parameters: MixtureParameters) -> Long:
    """log|Σ_k|^(-1/2) in extended precision, shape (K,): log u summed over the diagonal of U."""
    k, d = parameters.means.shape
    if isinstance(parameters.form, LowRank):  # of no triangular factor
        found = parameters.form.log_determinant(parameters.precisions_cholesky, k, d)
        return found.astype(np.longdouble)
    diagonals = parameters.form.diagonals(parameters.precisions_cholesky, k, d)
    return np.asarray(np.log(diagonals.astype(np.longdouble)).sum(axis=1))


def _log_sum_exp(joint: Long) -> Long:
    """Row by row log Σ_k exp(joint_nk), shape (t,)."""
    peak = joint.max(axis=1)
    total: Long = peak + np.log(np.exp(joint - peak[:, None]).sum(axis=1))
    return total


def _statistics(rows: Rows, candidate: Candidate) -> SufficientStatistics:
    parameters, form = candidate.parameters, candidate.parameters.form
    k, d = parameters.means.shape
    values = checked_values(rows.values, d)
    about = candidate.reference.astype(np.longdouble)
    log_likelihood = np.longdouble(0.0)
    counts = np.zeros(k, dtype=np.longdouble)
    first = np.zeros((k, d), dtype=np.longdouble)
    second = np.zeros(form.second_moment_shape(k, d), dtype=np.longdouble)
    for where, x, joint in _tiles(values, parameters):
        log_density = _log_sum_exp(joint)
        responsibilities = np.exp(joint - log_density[:, None])
        if rows.weights is None:
            log_likelihood += log_density.sum()
        else:
            weights = rows.weights[where].astype(np.longdouble)
            log_likelihood += np.longdouble(weights @ log_density)
            responsibilities *= weights[:, None]
        for j in range(k):
            r = responsibilities[:, j]
            deviation = x - about[j]
            counts[j] += r.sum()
            first[j] += r @ deviation
            moment = form.moment_at(
                parameters.precisions_cholesky, j, r[:, None] * deviation, deviation
            )
            form.add_moment(second, j, moment)
    if np.any(np.abs(second) > np.finfo(np.float64).max):
        raise beyond_range(values, 0, np.zeros(len(values), dtype=bool))
    return SufficientStatistics.create(
        form,
        candidate.reference,
        rows=len(rows),
        weight=rows.total_weight,
        log_likelihood=float(log_likelihood),
        counts=counts,
        first=first,
        second=second,
    )
