"""The E-step of mixtures of t distributions, on the matrix products of Gaussian ones.

The Gaussian schemes (`schemes`) compute log π_k N(x_n | μ_k, Σ_k), from which the squared
Mahalanobis distance follows by a subtraction; log-densities, responsibilities r_nk and expected
scales u_nk of the t distributions are arithmetic on those, and w_n r_nk u_nk goes into the same
products of moments. So a pass costs two logarithms and a few products for each row and component
more than a Gaussian one on the BLAS kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.kernels.base import Candidate, EStep, Kernel, Predictor, checked_values
from dask_gmm.mixture.kernels.blas import LONGEST_TILE, BlasKernel, Member, normalise, tiles
from dask_gmm.mixture.kernels.schemes import log_constants
from dask_gmm.mixture.parameters import frozen_array
from dask_gmm.mixture.student import StudentParameters, StudentStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.kernels.schemes import Scheme
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["StudentKernel", "student"]

_BLAS = BlasKernel()


@dataclass(frozen=True)
class StudentKernel(Kernel):
    """For `StudentParameters` alone; in float64 whatever the rows' type."""

    @property
    def name(self) -> str:
        """The kernel's name: student."""
        return "student"

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Keep the candidates: schemes are made for each block; see `Kernel.e_step`."""
        return _StudentEStep(tuple(candidates), tuple(student(c.parameters) for c in candidates))

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Keep the mixture; see `Kernel.predictor`."""
        return _StudentPredictor(student(parameters))

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        gaussian = _BLAS.workspace_bytes(n_features, n_components, forms)
        # Distances, scales and their logarithms of a tile, with what NumPy makes on the way.
        return gaussian + 8 * LONGEST_TILE * sum(5 * k + 8 for k in n_components)


@dataclass(frozen=True)
class _StudentEStep(EStep):
    candidates: tuple[Candidate, ...]
    mixtures: tuple[StudentParameters, ...]

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        return self._statistics(rows, None)

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        kept = np.empty(len(rows))
        return self._statistics(rows, kept), kept

    def _statistics(self, rows: Rows, kept: Array | None) -> tuple[SufficientStatistics, ...]:
        found = []
        with np.errstate(all="ignore"):
            for candidate, mixture in zip(self.candidates, self.mixtures, strict=True):
                checked_values(rows.values, mixture.n_features)
                found.append(_gathered(rows, candidate, mixture, kept))
                kept = None
        return tuple(found)


@dataclass(frozen=True)
class _StudentPredictor(Predictor):
    parameters: StudentParameters

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        out = np.empty(len(values))
        for where, joint, peak in self._scan(values):
            out[where], _ = normalise(joint, peak)
        return out

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.with_log_densities(values)[0]

    def with_log_densities(
        self, values: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        out = np.empty((len(values), self.parameters.n_components))
        densities = np.empty(len(values))
        for where, joint, peak in self._scan(values):
            densities[where], total = normalise(joint, peak)
            np.divide(joint.T, total[:, None], out=out[where])
        return out, densities

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        out = np.empty(len(values), dtype=np.intp)
        for where, joint, _ in self._scan(values):
            np.argmax(joint, axis=0, out=out[where])
        return out

    def _scan(self, values: NDArray[Any]) -> Iterator[tuple[slice, Array, Array]]:
        """Each tile's place, its log-densities [K][t] and their maxima, valid until the next."""
        values = checked_values(values, self.parameters.n_features)
        with np.errstate(all="ignore"):
            member, tail = Member(Candidate(self.parameters)), _Tail(self.parameters)
            for start, tile, features in tiles(values, member.scheme.features):
                joint, _, _, _ = member.evaluate(tile, start, features)
                tail.densities(joint)
                yield slice(start, start + len(tile)), joint, joint.max(axis=0)


class _Tail:
    """From Gaussian log-densities to those of t distributions, and to expected scales.

    Parameters
    ----------
    mixture : StudentParameters
    """

    def __init__(self, mixture: StudentParameters) -> None:
        degrees = mixture.degrees_of_freedom[:, None]
        self._gaussian = log_constants(mixture)[:, None]
        self._constants = self._gaussian + mixture.log_constants[:, None]
        self._degrees = degrees
        self._power = 0.5 * (degrees + mixture.n_features)
        self._top = np.log1p(mixture.n_features / degrees)
        self._absent = np.flatnonzero(mixture.weights == 0.0)

    def densities(self, joint: Array) -> Array:
        """Replace Gaussian log-densities [K][t] by those of t; return log(1 + δ²/ν), [K][t]."""
        # Rounding may leave a distance just below zero.
        distances = np.subtract(self._gaussian, joint)
        distances *= 2.0 / self._degrees
        np.maximum(distances, 0.0, out=distances)
        logs = np.log1p(distances, out=distances)
        np.multiply(logs, self._power, out=joint)
        np.subtract(self._constants, joint, out=joint)
        joint[self._absent], logs[self._absent] = -np.inf, 0.0  # and no distance is known
        return logs

    def log_scales(self, logs: Array) -> Array:
        """Turn log(1 + δ²/ν) into log u = log((ν + D)/(ν + δ²)), in place."""
        return np.subtract(self._top, logs, out=logs)


def _gathered(
    rows: Rows, candidate: Candidate, mixture: StudentParameters, kept: Array | None
) -> SufficientStatistics:
    """A candidate's statistics, and log-densities of the rows where they are `kept`."""
    member, tail = Member(candidate), _Tail(mixture)
    k = mixture.n_components
    counts, scaled, log_scales = np.zeros(k), np.zeros(k), np.zeros(k)
    for start, tile, features in tiles(rows.values, member.scheme.features):
        joint, _, scheme, seen = member.evaluate(tile, start, features)
        logs = tail.log_scales(tail.densities(joint))
        densities, total = normalise(joint, joint.max(axis=0))
        if kept is not None:
            kept[start : start + len(tile)] = densities
        weights = None if rows.weights is None else rows.weights[start : start + len(tile)]
        member.log_likelihood += float(densities.sum() if weights is None else weights @ densities)
        joint *= np.divide(1.0 if weights is None else weights, total, out=total)
        counts += joint.sum(axis=1)
        log_scales += np.einsum("kt,kt->k", joint, logs)
        joint *= np.exp(logs, out=logs)
        parts = joint.sum(axis=1)
        scaled += parts
        log_scales -= parts
        _gather(scheme, seen, joint)
    return _whole(member.statistics(rows), counts, scaled, log_scales)


def _gather(scheme: Scheme, features: Array, shares: Array) -> None:
    """Add the moments of a tile: what a row counts for in them is all that its components take."""
    scheme.gather(features, shares, np.ascontiguousarray(shares.sum(axis=0)))


def _whole(
    gathered: SufficientStatistics, counts: Array, scaled: Array, log_scales: Array
) -> StudentStatistics:
    """What the Gaussian schemes have gathered with r u, with N_k in its place."""
    with_counts = StudentStatistics.create(
        gathered.form,
        gathered.reference,
        rows=gathered.rows,
        weight=gathered.weight,
        log_likelihood=gathered.log_likelihood,
        counts=counts,
        first=gathered.first,
        second=gathered.second,
    )
    return StudentStatistics.carrying(
        with_counts, scaled_counts=frozen_array(scaled), log_scales=frozen_array(log_scales)
    )


def student(parameters: MixtureParameters) -> StudentParameters:
    """The parameters, if they are of a mixture of t distributions.

    Raises
    ------
    InputError
        They are not.
    """
    if not isinstance(parameters, StudentParameters):
        raise InputError(
            "The kernel 'student' is for mixtures of t distributions: these parameters have no "
            "degrees of freedom."
        )
    return parameters
