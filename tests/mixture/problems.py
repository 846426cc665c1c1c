"""Mixtures and rows that the tests of this room and the conformance suites share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.statistics import SufficientStatistics

FAMILIES = ("full", "tied", "diag", "spherical")
FACTORS = "factors:2"


def likelihood(family: CovarianceFamily | str, reg_covar: float = 0.0) -> MaximumLikelihood:
    """Maximum likelihood over the mixtures of a family."""
    kind = covariance_family(family) if isinstance(family, str) else family
    return MaximumLikelihood(kind, reg_covar)


@dataclass(frozen=True)
class ByObjective(MaximumLikelihood):
    """Maximum likelihood that does not let on what follows from moments."""

    conjugate: ClassVar[bool] = False

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """Nobody may ask."""
        raise AssertionError("the moments of a model that is not conjugate say nothing")


def by_objective(family: str, reg_covar: float = 0.0) -> ByObjective:
    """Maximum likelihood by its objective alone."""
    return ByObjective(covariance_family(family), reg_covar)


def maximize(statistics: SufficientStatistics, reg_covar: float) -> MixtureParameters:
    """The M-step of maximum likelihood, over the family that has all mixtures of a form."""
    return likelihood(statistics.form.name, reg_covar).update(statistics)


def random_covariances(
    rng: np.random.Generator, family: str, k: int, d: int
) -> NDArray[np.float64]:
    """Well-conditioned covariances of a family, none of them alike."""
    roots = rng.normal(size=(k, d, d)) / np.sqrt(d)
    dense: NDArray[np.float64] = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(d)
    variances: NDArray[np.float64] = rng.uniform(0.5, 2.0, size=(k, d))
    if family == FACTORS:
        loadings = rng.normal(size=(k, d, 2))
        return np.concatenate([variances[:, :, None], loadings], axis=2)
    kinds: dict[str, NDArray[np.float64]] = {
        "full": dense,
        "tied": dense[0],
        "diag": variances,
        "spherical": variances[:, 0],
    }
    return kinds[family]


def random_mixture(
    seed: int, family: str, k: int, d: int, *, spread: float = 2.0, offset: float = 0.0
) -> MixtureParameters:
    """A mixture whose components overlap a little."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, size=k)
    return MixtureParameters.create(
        family,
        weights / weights.sum(),
        offset + spread * rng.normal(size=(k, d)),
        random_covariances(rng, family, k, d),
    )


def draw(seed: int, parameters: MixtureParameters, n: int) -> NDArray[np.float64]:
    """`n` rows of the mixture."""
    rng = np.random.default_rng(seed)
    k, d = parameters.means.shape
    roots = np.linalg.cholesky(parameters.family.form.dense(parameters.covariances, k, d))
    component = rng.choice(k, size=n, p=parameters.weights / parameters.weights.sum())
    noise = np.einsum("nij,nj->ni", roots[component], rng.normal(size=(n, d)))
    rows: NDArray[np.float64] = parameters.means[component] + noise
    return rows


def whitening(p: MixtureParameters) -> NDArray[np.float64]:
    """Uᵀ of each component, (K, D, D)."""
    k, d = p.means.shape
    return np.stack([p.family.form.whiten(p.precisions_cholesky, j, np.eye(d)).T for j in range(k)])


@dataclass(frozen=True)
class HardCase:
    """A mixture on which some arithmetic cancels, and the condition of its covariances."""

    name: str
    parameters: MixtureParameters
    condition: float


def _rotated(rng: np.random.Generator, variances: NDArray[np.float64]) -> NDArray[np.float64]:
    d = len(variances)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    covariance = (rotation * variances) @ rotation.T
    symmetric: NDArray[np.float64] = 0.5 * (covariance + covariance.T)
    return symmetric


def hard_cases(d: int = 8, k: int = 6) -> list[HardCase]:
    """Large offsets, spread means, unequal scales, ill-conditioned covariances."""
    rng = np.random.default_rng(20)
    means = 3.0 * rng.normal(size=(k, d))
    unit = np.stack([_rotated(rng, rng.uniform(0.5, 2.0, size=d)) for _ in range(k)])
    scales = np.geomspace(1e-3, 1.0, k)
    uniform = np.full(k, 1.0 / k)

    def case(name: str, m: NDArray[np.float64], c: NDArray[np.float64], cond: float) -> HardCase:
        return HardCase(name, MixtureParameters.create("full", uniform, m, c), cond)

    def conditioned(cond: float) -> NDArray[np.float64]:
        return np.stack([_rotated(rng, np.geomspace(1.0 / cond, 1.0, d)) for _ in range(k)])

    return [
        case("offset 1e4", means + 1e4, unit, 4.0),
        case("offset 1e8", means + 1e8, unit, 4.0),
        case("means spread over 1e4 sigma", means * 1e4, unit, 4.0),
        case("sigma ratio 1e3", means, unit * scales[:, None, None] ** 2, 4.0),
        case("condition 1e6", means, conditioned(1e6), 1e6),
        case("condition 1e10", means, conditioned(1e10), 1e10),
    ]
