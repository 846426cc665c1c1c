"""The kernel on NumPy and SciPy alone: matrix products on tiles that stay in the cache.

For each candidate the error predictor `schemes.cancellation` decides between the fast linear scheme
and whitening. The decision depends on the parameters only, never on the rows or on the other
candidates, so that a candidate's statistics have the same bits in any company. Candidates whose
schemes are written in the same features share them.

Non-finite rows are found without a look at each number: they make the largest log-density of
their row non-finite, so one sum over a tile's maxima is the check. A tile that fails it is looked
at closely. Rows that are finite but so far out that their squares overflow are redone by
whitening, which reaches twice as far (in orders of magnitude).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.form import FULL, TIED
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
from dask_gmm.mixture.kernels.features import FeatureMap, common_centre
from dask_gmm.mixture.kernels.low_rank import LowRankScheme, low_rank_numbers, low_rank_tile
from dask_gmm.mixture.kernels.schemes import (
    PANEL,
    SMALL_PRODUCT,
    LinearScheme,
    Scheme,
    TiedScheme,
    WhiteningScheme,
    cancellation,
    feature_map,
)
from dask_gmm.mixture.low_rank import LowRank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["LONGEST_TILE", "BlasKernel", "Member", "normalise", "tiles", "whitening_bytes"]

LARGEST_CANCELLATION = 1e-10
"""Predicted error above which a candidate is evaluated by whitening."""

WHITENING_FROM = 64
"""Features from which whitening is the faster scheme for full covariances (measured)."""

_SHORTEST_TILE = 192
LONGEST_TILE = 4160
_USUAL_TILE = 832
_LONGEST_WHITENING_TILE = 960
_TILE_BYTES = 4 << 20


@dataclass(frozen=True)
class BlasKernel(Kernel):
    """Matrix products on tiles; about the speed of oneDAL."""

    @property
    def name(self) -> str:
        """The kernel's name: blas."""
        return "blas"

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Keep the candidates: schemes are made for each block; see `Kernel.e_step`."""
        return _BlasEStep(tuple(candidates))

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Keep the mixture; see `Kernel.predictor`."""
        return _BlasPredictor(parameters)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        return 8 * sum(
            max(_numbers(n_features, k, form) for form in kinds)
            for k, kinds in possible_forms(n_components, forms)
        )


@dataclass(frozen=True)
class _BlasEStep(EStep):
    candidates: tuple[Candidate, ...]

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        return self._statistics(rows)

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        kept = np.empty(len(rows))
        return self._statistics(rows, kept), kept

    def _statistics(
        self, rows: Rows, kept: Array | None = None
    ) -> tuple[SufficientStatistics, ...]:
        for candidate in self.candidates:
            checked_values(rows.values, candidate.parameters.n_features)
        with np.errstate(all="ignore"):
            members = [Member(candidate) for candidate in self.candidates]
            if kept is not None:
                members[0].kept = kept
            for group in _groups(members):
                _gather(rows, group)
            return tuple(member.statistics(rows) for member in members)


@dataclass(frozen=True)
class _BlasPredictor(Predictor):
    parameters: MixtureParameters

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        values = checked_values(values, self.parameters.n_features)
        out = np.empty(len(values))
        with np.errstate(all="ignore"):
            for where, joint, peak in _scan(values, self.parameters):
                out[where], _ = normalise(joint, peak)
        return out

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.with_log_densities(values)[0]

    def with_log_densities(
        self, values: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = checked_values(values, self.parameters.n_features)
        out, densities = (
            np.empty((len(values), self.parameters.n_components)),
            np.empty(len(values)),
        )
        with np.errstate(all="ignore"):
            for where, joint, peak in _scan(values, self.parameters):
                densities[where], total = normalise(joint, peak)
                np.divide(joint.T, total[:, None], out=out[where])
        return out, densities

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        values = checked_values(values, self.parameters.n_features)
        out = np.empty(len(values), dtype=np.intp)
        with np.errstate(all="ignore"):
            for where, joint, _ in _scan(values, self.parameters):
                np.argmax(joint, axis=0, out=out[where])
        return out


def whitening_bytes(n_features: int, n_components: int, form: CovarianceForm) -> int:
    """Bytes that a candidate takes at most that is evaluated by whitening."""
    tile = _whitening_tile(n_features)
    return 8 * _whitening_numbers(n_features, n_components, form, tile)


def _tile_rows(n_components: int, size: int) -> int:
    """Rows of a tile with `size` features, the same for all candidates of that K.

    The longest for which the products stay below `SMALL_PRODUCT`, where OpenBLAS is fastest; if
    that is too short to be worth a Python step, the usual length, if the cache allows.
    """
    tile = SMALL_PRODUCT // (n_components * size) // 64 * 64
    if tile < _SHORTEST_TILE:
        fitting = _TILE_BYTES // (8 * (size + 2 * n_components)) // 64 * 64
        tile = min(_USUAL_TILE, max(_SHORTEST_TILE, fitting))
    return min(tile, LONGEST_TILE)


def _whitening_tile(n_features: int) -> int:
    """Rows of a tile for whitening: a panel's product stays below `SMALL_PRODUCT`."""
    tile = SMALL_PRODUCT // (PANEL * n_features) // 64 * 64
    return max(_SHORTEST_TILE, min(tile, _LONGEST_WHITENING_TILE))


def _may_be_linear(form: CovarianceForm, n_features: int) -> bool:
    """Whether another scheme is faster than whitening, where it is accurate."""
    return form is not FULL or n_features < WHITENING_FROM


def _choose(candidate: Candidate) -> Scheme:
    """The fastest scheme that is accurate enough."""
    parameters = candidate.parameters
    form, (k, d) = parameters.form, parameters.means.shape
    if isinstance(form, LowRank):
        centre, most = common_centre(parameters), LARGEST_CANCELLATION * max(1.0, d / 16)
        linear = cancellation(parameters, centre) <= most
        return LowRankScheme(candidate, centre if linear else None, low_rank_tile(d))
    if _may_be_linear(form, d):
        centre = common_centre(parameters)
        if cancellation(parameters, centre) <= LARGEST_CANCELLATION:
            tile = _tile_rows(k, feature_map(form).size(d))
            return (TiedScheme if form is TIED else LinearScheme)(candidate, centre, tile)
    return WhiteningScheme(candidate, _whitening_tile(d))


def _by_differences(candidate: Candidate, tile_rows: int) -> Scheme:
    """The scheme that takes each component's own differences, which reaches furthest."""
    if isinstance(candidate.parameters.form, LowRank):
        return LowRankScheme(candidate, None, tile_rows)
    return WhiteningScheme(candidate, tile_rows)


def _of_differences(scheme: Scheme) -> bool:
    """Whether it is such a scheme."""
    return isinstance(scheme, WhiteningScheme) or (
        isinstance(scheme, LowRankScheme) and not scheme.linear
    )


@dataclass(eq=False)
class Member:
    """A candidate in the middle of a call: its scheme, its scratch space, its running sums."""

    candidate: Candidate
    scheme: Scheme = field(init=False)
    joint: Array = field(init=False)
    log_likelihood: float = 0.0
    rescue: Scheme | None = None
    kept: Array | None = None
    """Where log-densities of the rows are written to, if anybody wants them."""

    def __post_init__(self) -> None:
        self.scheme = _choose(self.candidate)
        self.joint = np.empty(self.parameters.n_components * self.scheme.features.tile_rows)

    @property
    def parameters(self) -> MixtureParameters:
        """The candidate's."""
        return self.candidate.parameters

    def evaluate(
        self, tile: NDArray[Any], start: int, features: Array
    ) -> tuple[Array, Array, Scheme, Array]:
        """Log-densities [K][t], their maxima, and the scheme and features that made them."""
        k, t = self.parameters.n_components, len(tile)
        joint = self.joint[: k * t].reshape(k, t)
        scheme = self.scheme
        scheme.log_joint(features, joint)
        peak = joint.max(axis=0)
        if not np.isfinite(peak.sum()):
            check_finite(tile, start)
            if not _of_differences(scheme):
                scheme = self.rescue = self.rescue or _by_differences(
                    self.candidate, self.scheme.features.tile_rows
                )
                features = scheme.features.fill(tile)
                scheme.log_joint(features, joint)
                peak = joint.max(axis=0)
            if not np.all(np.isfinite(peak)):
                raise beyond_range(tile, start, ~np.isfinite(peak))
        return joint, peak, scheme, features

    def statistics(self, rows: Rows) -> SufficientStatistics:
        """What was gathered from the rows, checked."""
        total = self.scheme.statistics(len(rows), rows.total_weight, self.log_likelihood)
        if self.rescue is not None:
            total += self.rescue.statistics(0, 0.0, 0.0)
        if not np.all(np.isfinite(total.second)):
            raise beyond_range(rows.values, 0, np.zeros(len(rows), dtype=bool))
        return total


def _groups(members: Sequence[Member]) -> list[list[Member]]:
    """Members whose schemes read the same features, in order of appearance."""
    groups: dict[tuple[object, ...], list[Member]] = {}
    for member in members:
        groups.setdefault(member.scheme.features.key, []).append(member)
    return list(groups.values())


def tiles(values: NDArray[Any], features: FeatureMap) -> Iterator[tuple[int, NDArray[Any], Array]]:
    """Each tile's first index, its rows as they came, and its features."""
    for start in range(0, len(values), features.tile_rows):
        tile = values[start : start + features.tile_rows]
        yield start, tile, features.fill(tile)


def _gather(rows: Rows, members: Sequence[Member]) -> None:
    """Run all members over the rows, one filling of the features for all of them."""
    for start, tile, features in tiles(rows.values, members[0].scheme.features):
        weights = rows.weights
        if weights is not None:
            weights = np.ascontiguousarray(weights[start : start + len(tile)])
        for member in members:
            joint, peak, scheme, seen = member.evaluate(tile, start, features)
            log_density, total = normalise(joint, peak)
            if member.kept is not None:
                member.kept[start : start + len(tile)] = log_density
            np.divide(1.0 if weights is None else weights, total, out=total)
            joint *= total
            scheme.gather(seen, joint, weights)
            log_likelihood = log_density.sum() if weights is None else weights @ log_density
            member.log_likelihood += float(log_likelihood)


def _scan(
    values: NDArray[Any], parameters: MixtureParameters
) -> Iterator[tuple[slice, Array, Array]]:
    """Each tile's place, its log-densities [K][t] and their maxima, valid until the next."""
    member = Member(Candidate(parameters))
    for start, tile, features in tiles(values, member.scheme.features):
        joint, peak, _, _ = member.evaluate(tile, start, features)
        yield slice(start, start + len(tile)), joint, peak


def normalise(joint: Array, peak: Array) -> tuple[Array, Array]:
    """Turn log-densities [K][t] into densities relative to the largest of each row, in place.

    Returns
    -------
    log_density : (t,) float64
        log Σ_k exp(joint_kn).
    total : (t,) float64
        Σ_k of what is now in `joint`; dividing by it gives the responsibilities.
    """
    np.subtract(joint, peak, out=joint)
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    return peak + np.log(total), total


def _numbers(d: int, k: int, form: CovarianceForm) -> int:
    """Float64 numbers that a candidate allocates at most, in whichever scheme it is evaluated."""
    if isinstance(form, LowRank):  # of which one is alive beside the one that redoes a tile
        return 2 * low_rank_numbers(d, k, form.n_factors, low_rank_tile(d))
    whitening = _whitening_numbers(d, k, form, _whitening_tile(d))
    if not _may_be_linear(form, d):
        return whitening
    tile = _tile_rows(k, feature_map(form).size(d))
    # A tile that overflows is redone by whitening while the other scheme is alive.
    rescue = _whitening_numbers(d, k, form, tile)
    return max(whitening, _linear_numbers(d, k, form, tile) + rescue)


def _linear_numbers(d: int, k: int, form: CovarianceForm, tile: int) -> int:
    """Float64 numbers of the linear or tied scheme."""
    size = feature_map(form).size(d)
    moments = prod(form.second_moment_shape(k, d))
    matrices = 7 * moments if form.dense_factors else 0
    rows = size + (3 if form is TIED else 1) * d + 3 * k + 8
    return tile * rows + 5 * k * size + matrices + 10 * k * d


def _whitening_numbers(d: int, k: int, form: CovarianceForm, tile: int) -> int:
    """Float64 numbers of the whitening scheme on tiles of `tile` rows."""
    moments = prod(form.second_moment_shape(k, d))
    matrices = 4 * moments + d * d if form.dense_factors else 0
    # The last terms are what the search for a row that is not finite takes.
    return tile * (3 * d + 2 * k + 8) + matrices + 8 * k * d + (tile // 4 + 256) * d
