r"""Rows that a mixture hardly explains: flags below a log-density, and where that lies for a rate.

The threshold of a false-alarm rate α is the log-density t below which that part of the rows lies:
of N rows whose log-densities ordered are d_0 ≤ d_1 ≤ …, t = d_m with m = ⌊αN⌋, so that no more than
αN lie below; of weighted rows the first whose own and lower ones' weights exceed α Σ w.

One read finds it, as a value of the tree: the rows of the lowest log-densities, so many that t is
usually among them and then exact; and a histogram, for where it is not. With s = u − d, where u is
above any log-density of the mixture, the bins of the histogram are the floats s cut to their first
bits (as of HdrHistogram and DDSketch; Masson, Rim & Lee, "DDSketch", 2019): each is 2⁻¹⁰ of s wide
at most. t then is the edge of a bin, how many rows lie below it is known exactly, and the next edge
above would have too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from dask_gmm.fitting.fields import Field, FieldsFunction
from dask_gmm.fitting.prediction import RowFunction
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.sampling import sample_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = [
    "Anomalies",
    "AnomalyThreshold",
    "DensityQuantiles",
    "QuantilesJob",
    "ScoredAnomalies",
    "simulated_threshold",
    "threshold_of",
]

LOWEST_ROWS = 2**17
"""Rows whose log-densities are kept: with α = 0.001 the threshold of 131 million rows is exact."""

_BITS = 10
_LEAST, _OCTAVES = -20, 64
"""Of s, as a power of two: what is nearer to u is in the first bin, what is further in the last."""
_BINS = _OCTAVES << _BITS
_SHIFT = 52 - _BITS
_DRAWN_VALUES = 2**20
"""Numbers of rows that are drawn at a time."""


@dataclass(frozen=True)
class AnomalyThreshold:
    """A log-density below which rows are anomalies, and what is known of it.

    Attributes
    ----------
    log_density : float
        Nats, of the rows that the mixture is of: as `score_samples` gives them.
    asked : float
        The false-alarm rate that was asked for.
    false_alarm_rate : float
        The part of the rows (of their weight) that lies below it: known exactly, and not above what
        was asked for. Of drawn rows an estimate.
    rate_error : float
        One standard error of that, √(α (1 − α) / n), where rows were drawn from the mixture; 0
        where the rate is that of data that were read.
    n_rows : int
        Rows that were read, or drawn.
    exact : bool
        Whether a larger threshold would have more rows below it than asked for. Else it is less
        than 0.1 % of the distance to the mixture's highest log-density below that one.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> found = GaussianMixture().fit(X).anomaly_threshold(X, false_alarm_rate=0.01)
    >>> round(float(found), 2), found.false_alarm_rate, found.exact
    (-6.23, 0.01, True)
    """

    log_density: float
    asked: float
    false_alarm_rate: float
    rate_error: float
    n_rows: int
    exact: bool

    def __float__(self) -> float:
        return self.log_density


@dataclass(frozen=True)
class Anomalies(RowFunction):
    """Whether a row's log-density lies below a threshold; (n,) bool, false of one without any.

    Attributes
    ----------
    threshold : float
    """

    threshold: float = -np.inf

    @property
    def absent(self) -> bool:
        """What stands for a row that takes no part: no alarm."""
        return False

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the flags."""
        return predictor.log_densities(rows) < self.threshold


@dataclass(frozen=True)
class ScoredAnomalies(FieldsFunction):
    """Log-densities, and whether they lie below a threshold; side by side.

    Attributes
    ----------
    threshold : float
    """

    threshold: float = -np.inf

    @property
    def fields(self) -> tuple[Field, ...]:
        """Both."""
        return (
            Field("log_density", "float64", columns=("log_density",)),
            Field("anomaly", "bool", columns=("anomaly",), absent=False),
        )

    def described(self) -> dict[str, Any]:
        """The threshold, to the last bit."""
        return {"threshold": float(self.threshold).hex()}

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return both."""
        found = predictor.log_densities(rows)
        return np.stack([found, found < self.threshold], axis=1)


@dataclass(frozen=True, eq=False)
class DensityQuantiles:
    """What some rows say of the quantiles of log-densities; a commutative monoid.

    Attributes
    ----------
    most : int
        How many of the lowest are kept.
    rows : int
    weight : float
        Σ w.
    lowest : (m,) float64
        The lowest log-densities, in order.
    weights : (m,) float64 or None
        Of their rows; None where each counts once.
    counts : (B,) float64
        Σ w of the rows in each bin of s, from the mixture's highest log-density on.
    """

    most: int
    rows: int
    weight: float
    lowest: Array
    weights: Array | None
    counts: Array

    def __add__(self, other: DensityQuantiles) -> DensityQuantiles:
        lowest = np.concatenate([self.lowest, other.lowest])
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([self.own_weights, other.own_weights])
        lowest, weights = _lowest(lowest, weights, self.most)
        return DensityQuantiles(
            self.most,
            self.rows + other.rows,
            self.weight + other.weight,
            lowest,
            weights,
            self.counts + other.counts,
        )

    @property
    def own_weights(self) -> Array:
        """Of the lowest, 1 for each where rows have none."""
        return np.ones(len(self.lowest)) if self.weights is None else self.weights


def _lowest(values: Array, weights: Array | None, most: int) -> tuple[Array, Array | None]:
    """Return the lowest of some log-densities in order, of equal ones those of less weight."""
    if weights is None:
        if len(values) > most:
            values = np.partition(values, most)[:most]
        return np.sort(values), None
    order = np.lexsort((weights, values))[:most]
    return values[order], weights[order]


@dataclass(frozen=True)
class QuantilesJob:
    """What a task does with each block for a threshold.

    Attributes
    ----------
    parameters : MixtureParameters
    kernel : Kernel
    most : int
        How many of the lowest log-densities are kept.
    block_rows : int
        Of the largest block.
    """

    parameters: MixtureParameters
    kernel: Kernel = FASTEST
    most: int = LOWEST_ROWS
    block_rows: int = 0

    @classmethod
    def of(
        cls, parameters: MixtureParameters, kernel: Kernel, rate: float, source: Source
    ) -> QuantilesJob:
        """The job for a rate and rows of a source: it keeps no more rows than can be below."""
        most, n = LOWEST_ROWS, source.n_rows
        if n is not None and not source.selects and not source.weighted:
            most = min(most, floor(rate * n) + 2)
        return cls(parameters, kernel, most, source.max_block_rows or 0)

    def open(self) -> OpenQuantilesJob:
        """Prepare the kernel for the mixture."""
        predictor = self.kernel.predictor(self.parameters)
        return OpenQuantilesJob(predictor, highest(self.parameters), self.most)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        return 8 * _BINS + 16 * self.most + 32

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result: log-densities and their bins."""
        p = self.parameters
        tiles = self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        return p.nbytes + tiles + 4 * self.value_bytes + 48 * self.block_rows


@dataclass(frozen=True)
class OpenQuantilesJob:
    """A `QuantilesJob` with its kernel prepared."""

    predictor: Predictor
    highest: float
    most: int

    def __call__(self, rows: Rows, block: BlockRef) -> DensityQuantiles:
        """Return what the block says."""
        densities = self.predictor.log_densities(rows.values)
        counts = np.bincount(bins_of(self.highest - densities), rows.weights, _BINS)
        lowest, weights = _lowest(densities, rows.weights, self.most)
        sums = len(rows), rows.total_weight
        return DensityQuantiles(self.most, *sums, lowest, weights, counts.astype(np.float64))


def highest(parameters: MixtureParameters) -> float:
    """Return a number above every log-density of a mixture: log Σ π_k N(μ_k | μ_k, Σ_k), and some.

    A mixture is nowhere denser than all its components together at their means.
    """
    k, d = parameters.means.shape
    factors = parameters.precisions_cholesky
    logs = parameters.log_weights + parameters.form.log_determinant(factors, k, d)
    total: float = float(logsumexp(logs)) - 0.5 * d * float(np.log(2.0 * np.pi))
    return total + 1e-3  # kernels round, and float32 has seven digits


def bins_of(distances: Array) -> NDArray[np.intp]:
    """Return the bins of s = u − d, (n,): its exponent and its first bits."""
    bits = np.maximum(distances, 0.0).astype(np.float64).view(np.int64) >> _SHIFT
    first = (_LEAST + 1023) << _BITS
    found: NDArray[np.intp] = np.clip(bits - first, 0, _BINS - 1).astype(np.intp)
    return found


def lower_edge(number: int) -> float:
    """Return the s at which a bin begins; 0 for the first."""
    if number <= 0:
        return 0.0
    bits = (number + ((_LEAST + 1023) << _BITS)) << _SHIFT
    return float(np.array([bits], dtype=np.int64).view(np.float64)[0])


def threshold_of(
    found: DensityQuantiles, parameters: MixtureParameters, rate: float
) -> AnomalyThreshold:
    """Return the threshold of a false-alarm rate.

    Parameters
    ----------
    found : DensityQuantiles
        Of one row or more.
    parameters : MixtureParameters
    rate : float
        From 0 to 1.
    """
    allowed = rate * found.weight * (1.0 + 1e-12)  # αN may be a whole number but for rounding
    if found.weights is None:
        m = min(floor(allowed), found.rows - 1)
        if m < len(found.lowest):
            t = float(found.lowest[m])
            below = int(np.searchsorted(found.lowest, t, side="left"))
            return AnomalyThreshold(t, rate, below / found.rows, 0.0, found.rows, exact=True)
    else:
        upto = np.cumsum(found.weights)
        m = int(np.searchsorted(upto, allowed, side="right"))
        if m >= len(upto) and len(upto) == found.rows:
            m = len(upto) - 1
        if m < len(upto):
            t = float(found.lowest[m])
            first = int(np.searchsorted(found.lowest, t, side="left"))
            below_weight = float(upto[first - 1]) if first else 0.0
            rate_there = below_weight / found.weight
            return AnomalyThreshold(t, rate, rate_there, 0.0, found.rows, exact=True)
    return _by_histogram(found, parameters, rate, allowed)


def _by_histogram(
    found: DensityQuantiles, parameters: MixtureParameters, rate: float, allowed: float
) -> AnomalyThreshold:
    # Σ w of each bin and those of larger s, which are lower log-densities.
    below = np.cumsum(found.counts[::-1])[::-1]
    (few,) = np.nonzero(below <= allowed)
    if not few.size:  # the last bin alone has too many: no row is below
        return AnomalyThreshold(-np.inf, rate, 0.0, 0.0, found.rows, exact=False)
    first = int(few[0])
    t = _above(highest(parameters), lower_edge(first))
    part = float(below[first]) / found.weight
    return AnomalyThreshold(t, rate, part, 0.0, found.rows, exact=False)


def _above(top: float, edge: float) -> float:
    """Return the least d whose u − d, rounded, is below an edge: less are in the edge's bin."""
    margin = 1e-9 * max(1.0, abs(top) + edge)
    low, high = top - edge - margin, top - edge + margin
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        if top - middle >= edge:
            low = middle
        else:
            high = middle


def simulated_threshold(
    parameters: MixtureParameters,
    kernel: Kernel,
    rate: float,
    n_samples: int,
    random_state: np.random.RandomState,
) -> AnomalyThreshold:
    """Return the threshold of a false-alarm rate by rows that are drawn from the mixture.

    Parameters
    ----------
    parameters : MixtureParameters
    kernel : Kernel
    rate : float
        Above 0 and below 1.
    n_samples : int
    random_state : RandomState
    """
    densities = np.empty(n_samples)
    predictor = kernel.predictor(parameters)
    step = max(1, _DRAWN_VALUES // parameters.n_features)
    for start in range(0, n_samples, step):
        count = min(step, n_samples - start)
        rows, _ = sample_mixture(parameters, count, random_state)
        densities[start : start + count] = predictor.log_densities(rows)
    m = min(floor(rate * n_samples * (1.0 + 1e-12)), n_samples - 1)
    t = float(np.partition(densities, m)[m])
    below = float(np.mean(densities < t))
    error = (rate * (1.0 - rate) / n_samples) ** 0.5
    return AnomalyThreshold(t, rate, below, error, n_samples, exact=True)
