r"""A mixture beside uniform noise: parameters, statistics, and the model.

Rows that belong to no component come from a Poisson process in the box that the data fill (Banfield
& Raftery 1993, "Model-based Gaussian and non-Gaussian clustering", section 5):

    p(x) = π_0 / V + (1 − π_0) Σ_k π_k N(x | μ_k, Σ_k),

V the volume of the box, which is known before the fit. In the E-step noise is one more component,
whose density is the same everywhere; in the M-step π_0 = N_0 / N, and everything else is the
mixture's own. So this is EM, and the likelihood never falls.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import expit

from dask_gmm.errors import InputError
from dask_gmm.mixture.clutter import apart_from_clutter
from dask_gmm.mixture.model import MixtureModel
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.chart import Chart, Lengths
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.prior import Prior
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["NoisyParameters", "NoisyStatistics", "UniformNoise", "box_of"]

_FIRST_WEIGHT = 0.05
# More of the data than this is no noise: π_k would be those of nothing.
_MOST_NOISE = 1.0 - 1e-9


def box_of(bounds: ArrayLike, n_features: int) -> Array:
    """A box from its lower and upper corner, (2, D), looked at.

    Raises
    ------
    InputError
        It is no box of D features, or has no volume.
    """
    try:
        box = np.array(bounds, dtype=np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    if box.shape != (2, n_features):
        raise InputError(
            f"The noise's box should be its lower and its upper corner, of shape "
            f"(2, {n_features}); got {bounds!r}."
        )
    if not np.all(np.isfinite(box)) or not np.all(box[1] > box[0]):
        raise InputError(
            "The noise's box has no volume: the upper corner should be above the lower one in "
            "every feature, and all numbers finite."
        )
    return box


@dataclass(frozen=True, eq=False)
class NoisyParameters(MixtureParameters):
    """Parameters of a mixture beside uniform noise.

    Attributes
    ----------
    noise_weight : () float64
        π_0. `weights` are those of the components among each other, and add up to one.
    noise_box : (2, D) float64
        The lower and the upper corner of the box whose volume is V.
    """

    kind: ClassVar[str] = "noisy"
    words: ClassVar[str] = "Gaussian mixture beside uniform noise"
    leaves_rows_out: ClassVar[bool] = True

    noise_weight: NDArray[np.float64]
    noise_box: NDArray[np.float64]

    @classmethod
    def of(cls, parameters: MixtureParameters, weight: float, box: Array) -> NoisyParameters:
        """Put a mixture beside noise of a weight in [0, 1)."""
        values: dict[str, Any] = {
            f.name: getattr(parameters, f.name) for f in fields(MixtureParameters)
        }
        return cls(**values, noise_weight=frozen_array(weight), noise_box=frozen_array(box))

    @property
    def log_weights(self) -> Array:
        """Log (1 − π_0) π_k, (K,)."""
        logs: Array = super().log_weights + np.log1p(-float(self.noise_weight))
        return logs

    @property
    def log_noise(self) -> float:
        """Log π_0 / V, in nats; −inf where there is no noise."""
        with np.errstate(divide="ignore"):
            weight = np.log(self.noise_weight)
        return float(weight - np.log(self.noise_box[1] - self.noise_box[0]).sum())

    def log_density_beside(self, weight: float) -> float:
        """N_0 log π_0 / V."""
        return weight * self.log_noise if weight > 0.0 else 0.0

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The part of the rows that is noise."""
        return (("noise", f"{float(self.noise_weight):.3g} of the rows"),)

    def _more_reordered(self, order: NDArray[np.intp]) -> dict[str, Any]:
        """Nothing: noise and its box are no component's."""
        return {}

    def drawn_beside(self, n_samples: int, random_state: np.random.RandomState) -> Array:
        """Rows of noise, uniform in the box."""
        count = random_state.binomial(n_samples, float(self.noise_weight))
        low, high = self.noise_box
        return random_state.uniform(low, high, size=(count, self.n_features))

    @property
    def n_parameters(self) -> int:
        """Free parameters: as mclust, one for the noise's weight and one for its volume."""
        return super().n_parameters + 2


@dataclass(frozen=True, eq=False)
class NoisyStatistics(SufficientStatistics):
    """Statistics of a mixture beside noise; `counts` and moments are those of the components.

    Attributes
    ----------
    noise : float
        N_0 = Σ_n w_n r_n0.
    """

    noise: float

    @property
    def weight_beside(self) -> float:
        """N_0."""
        return self.noise

    def __add__(self, other: object) -> SufficientStatistics:
        both = super().__add__(other)
        if not isinstance(other, NoisyStatistics):
            return both
        return NoisyStatistics.carrying(both, noise=self.noise + other.noise)

    def __eq__(self, other: object) -> bool:
        return bool(
            super().__eq__(other)
            and isinstance(other, NoisyStatistics)
            and self.noise == other.noise
        )

    __hash__ = None  # compared by value, never a key


@dataclass(frozen=True)
class _NoiseChart:
    """The inner model's coordinates, and log π_0/(1 − π_0) at the end."""

    inner: Chart

    def to_vector(self, parameters: MixtureParameters) -> Array:
        assert isinstance(parameters, NoisyParameters)
        weight = float(parameters.noise_weight)
        with np.errstate(divide="ignore"):  # without noise there is no finite coordinate
            odds = np.log(weight) - np.log1p(-weight)
        return np.append(self.inner.to_vector(parameters), odds)

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        assert isinstance(like, NoisyParameters)
        mixture = self.inner.from_vector(vector[:-1], like)
        if mixture is None or not np.isfinite(vector[-1]):
            return None
        weight = min(float(expit(vector[-1])), _MOST_NOISE)
        return NoisyParameters.of(mixture, weight, like.noise_box)

    def metric(self, at: MixtureParameters) -> Lengths:
        assert isinstance(at, NoisyParameters)
        return _NoiseLengths(self.inner.metric(at), float(at.noise_weight))


@dataclass(frozen=True)
class _NoiseLengths:
    """The Fisher information of rows of which one knows whether they are noise."""

    inner: Lengths
    weight: float

    def scaled(self, steps: Array) -> Array:
        rest = 1.0 - self.weight
        own = np.sqrt(rest) * self.inner.scaled(steps[:, :-1])
        return np.hstack([own, np.sqrt(self.weight * rest) * steps[:, -1:]])


@dataclass(frozen=True)
class UniformNoise(MixtureModel):
    """Another model's mixture beside uniform noise; see the module.

    Attributes
    ----------
    inner : MixtureModel
        What is maximised over the mixture, for rows weighted by how little they are noise.
    box : (2, D) float64 or None
        None where it is that of the sample's rows, which `settled` takes.
    """

    conjugate: ClassVar[bool] = False
    starts_from_single_rows: ClassVar[bool] = False  # noise would take all other rows from them

    inner: MixtureModel
    box: NDArray[np.float64] | None = None

    @classmethod
    def beside(cls, inner: MixtureModel, box: NDArray[np.float64] | None = None) -> UniformNoise:
        """Noise beside the mixtures of a model."""
        return cls(inner.family, inner.reg_covar, inner, box)

    @property
    def needs_rows(self) -> bool:
        """Whether the box, or what the inner model leaves to the data, is not known yet."""
        return self.box is None or self.inner.needs_rows

    def settled(self, rows: Rows) -> Self:
        """Take the box of the rows; see `MixtureModel.settled`.

        Raises
        ------
        InputError
            A feature has one value only: the rows fill no volume.
        """
        settled = replace(self, inner=self.inner.settled(rows))
        if self.box is not None:
            return settled
        values = np.asarray(rows.values)
        box = np.stack([values.min(axis=0), values.max(axis=0)]).astype(np.float64)
        flat = np.flatnonzero(~(box[1] > box[0]))
        if flat.size:
            raise InputError(
                f"Feature {flat[0]} has one value only in the sample: the rows fill no volume that "
                f"noise could be uniform in. Leave it out, or give the box's corners as noise."
            )
        return replace(settled, box=box)

    def of_family(self, family: CovarianceFamily) -> Self:
        """The same with mixtures of another family."""
        return replace(self, family=family, inner=self.inner.of_family(family))

    def of_mixture(self, family: CovarianceFamily, n_components: int) -> Self:
        """The same with mixtures of another family, or of so many components."""
        inner = self.inner.of_mixture(family, n_components)
        return replace(self, family=family, inner=inner)

    @property
    def places(self) -> NDArray[np.float64] | None:
        """The inner model's."""
        return self.inner.places

    def settled_prior(self, n_features: int) -> Prior | None:
        """The inner model's."""
        return self.inner.settled_prior(n_features)

    def of_all(self, weight: float) -> Self:
        """The inner model is told, too."""
        return replace(self, inner=self.inner.of_all(weight))

    def of_sample(self, weight: float) -> Self:
        """The inner model's part of what it has beside the likelihood."""
        return replace(self, inner=self.inner.of_sample(weight))

    def start_rows(self, rows: Rows) -> tuple[Rows, ...]:
        """Those that hardly look like noise by their neighbours; and all of them.

        Where clusters differ in how dense they are, the sparser ones look like noise.
        """
        return apart_from_clutter(rows)

    def starting(self, parameters: MixtureParameters) -> MixtureParameters:
        """A start has a twentieth of noise; see `MixtureModel.starting`."""
        if isinstance(parameters, NoisyParameters):
            return parameters
        assert self.box is not None
        return NoisyParameters.of(self.inner.starting(parameters), _FIRST_WEIGHT, self.box)

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The M-step; see the module and `MixtureModel.update`.

        Statistics that know nothing of noise, those of rows put into groups, leave it as it begins.
        """
        assert self.box is not None
        mixture, weight = self.inner.update(statistics, at), _FIRST_WEIGHT
        if isinstance(statistics, NoisyStatistics):
            total = statistics.noise + float(statistics.counts.sum())
            weight = min(statistics.noise / total if total > 0.0 else 0.0, _MOST_NOISE)
        return NoisyParameters.of(mixture, weight, self.box)

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """The inner model's objective, with the log-likelihood of mixture and noise in it."""
        return self.inner.objective(statistics, parameters)

    @property
    def chart(self) -> Chart:
        """The inner model's, and the log-odds of noise."""
        return _NoiseChart(self.inner.chart)

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """The inner model's."""
        return self.inner.regulariser(statistics)

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """The inner model's."""
        return self.inner.centring_error(statistics)
