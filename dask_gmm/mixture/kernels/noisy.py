"""A kernel around another one for mixtures beside uniform noise.

To the other kernel noise is one more component, whose precision is next to nothing: its density is
the same wherever rows can be. What that kernel gathers for it is taken out again, so that
statistics and responsibilities are those of the K components; what is missing of a row's
responsibilities to one is the probability that it is noise.

Components that share one covariance lose that here, in which noise has no part: the other kernel
takes them as components with covariances of their own, and their second moments are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import FULL, TIED, CovarianceForm
from dask_gmm.mixture.kernels.base import Candidate, EStep, Kernel, Predictor
from dask_gmm.mixture.noise import NoisyParameters, NoisyStatistics
from dask_gmm.mixture.parameters import MixtureParameters, RaisedParameters, frozen_array
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["NoisyKernel"]

NOISE_LABEL = -1
"""The label of rows that are noise."""

_FLAT = 1e-30
"""Standard deviations of the box within which a row lies from its middle, as the kernel sees it."""


@dataclass(frozen=True)
class NoisyKernel(Kernel):
    """Another kernel, for `NoisyParameters`.

    Parameters
    ----------
    inner : Kernel
        What computes; for rows that miss no value.
    """

    inner: Kernel

    @property
    def name(self) -> str:
        """The name of the kernel inside."""
        return self.inner.name

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Prepare the other kernel for the mixtures with their noise; see `Kernel.e_step`."""
        expanded = [_expanded_candidate(c) for c in candidates]
        return _NoisyEStep(tuple(candidates), self.inner.e_step(expanded))

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Prepare the other kernel for the mixture with its noise; see `Kernel.predictor`."""
        noisy = _noisy(parameters)
        return _NoisyPredictor(noisy.n_components, self.inner.predictor(_expanded(noisy)))

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        more = [k + 1 for k in n_components]
        kinds = None if forms is None else [FULL if f is TIED else f for f in forms]
        expanded = self.inner.workspace_bytes(n_features, more, kinds)
        # The mixtures with their noise, packed by nobody, and what is taken out of the statistics.
        return expanded + 8 * sum(4 * k * (n_features + 1) ** 2 for k in more)


@dataclass(frozen=True)
class _NoisyEStep(EStep):
    candidates: tuple[Candidate, ...]
    inner: EStep

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        return self._own(self.inner.statistics(rows))

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        found, densities = self.inner.with_log_densities(rows)
        return self._own(found), densities

    @property
    def held_bytes(self) -> int | None:
        return self.inner.held_bytes

    def _own(self, found: Sequence[SufficientStatistics]) -> tuple[SufficientStatistics, ...]:
        pairs = zip(self.candidates, found, strict=True)
        return tuple(_without_noise(candidate, s) for candidate, s in pairs)


@dataclass(frozen=True)
class _NoisyPredictor(Predictor):
    n_components: int
    inner: Predictor

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.inner.log_densities(values)

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.inner.posteriors(values)[:, : self.n_components])

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        labels = self.inner.labels(values)
        labels[labels == self.n_components] = NOISE_LABEL
        return labels

    def with_log_densities(
        self, values: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        posteriors, densities = self.inner.with_log_densities(values)
        return np.ascontiguousarray(posteriors[:, : self.n_components]), densities

    @property
    def held_bytes(self) -> int | None:
        return self.inner.held_bytes


def _expanded(p: NoisyParameters) -> MixtureParameters:
    """The mixture with its noise: a component about the box's middle that is wider than anything.

    Its covariance is that of the box, for who looks where the mixture lies and how wide it is.
    """
    k, d = p.means.shape
    low, high = p.noise_box
    widths = (high - low) / np.sqrt(12.0)
    covariances, factors, form = p.covariances, p.precisions_cholesky, p.form
    if form is TIED:
        form = FULL
        covariances, factors = (np.broadcast_to(m, (k, d, d)) for m in (covariances, factors))
    flat: dict[str, tuple[Array, Array]] = {
        "full": (np.diag(widths**2), np.diag(_FLAT / widths)),
        "diag": (widths**2, _FLAT / widths),
        "spherical": (np.asarray(np.mean(widths**2)), np.asarray(_FLAT / np.max(widths))),
    }
    own, factor = flat[form.name]
    covariances, factors = (
        frozen_array(np.concatenate([m, one[None]]))
        for m, one in ((covariances, own), (factors, factor))
    )
    weight = float(p.noise_weight)
    determinant = form.log_determinant(factors[k:], 1, d)[0] - 0.5 * d * np.log(2.0 * np.pi)
    expanded = MixtureParameters(
        covariance_family(form.name),
        frozen_array([*((1.0 - weight) * p.weights), weight]),
        frozen_array(np.concatenate([p.means, [0.5 * (low + high)]])),
        covariances,
        factors,
    )
    return RaisedParameters.of(expanded, [*p.log_weights, p.log_noise - determinant])


def _expanded_candidate(candidate: Candidate) -> Candidate:
    expanded = _expanded(_noisy(candidate.parameters))
    return Candidate(expanded, np.concatenate([candidate.reference, expanded.means[-1:]]))


def _without_noise(candidate: Candidate, found: SufficientStatistics) -> NoisyStatistics:
    """The statistics of the K components, in the mixture's own form, and N_0."""
    form, k = candidate.parameters.form, candidate.parameters.n_components
    second = found.second[:k]
    own = SufficientStatistics.create(
        form,
        candidate.reference,
        rows=found.rows,
        weight=found.weight,
        log_likelihood=found.log_likelihood,
        counts=found.counts[:k],
        first=found.first[:k],
        second=second.sum(axis=0) if form is TIED else second,
    )
    return NoisyStatistics.carrying(own, noise=float(found.counts[k]))


def _noisy(parameters: MixtureParameters) -> NoisyParameters:
    if not isinstance(parameters, NoisyParameters):
        raise InputError("This kernel is for mixtures beside noise: these parameters have none.")
    return parameters
