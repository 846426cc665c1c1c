"""How far rows that are not read have drifted: their responsibilities, kept and by a new mixture.

An update takes the responsibilities of kept rows as they are. What that leaves out is, to the last
digit, the divergence of the two (`mixture.kept`): the mean log-likelihood at the new mixture lies
above the free energy by Σ_n w_n KL(q_n ‖ r_n) over all weight, and a fit over all rows would begin
there. Without a read it is estimated from rows that are drawn from the mixture before the update,
whose posteriors before and after are compared; `tests/benchmarks/bench_updates.py` holds that
against the rows themselves.

The divergence of close mixtures is a squared distance, so distances of one update after another add
up to no more than √KL_total ≤ Σ √KL_i: by that the estimate for rows that have been kept through
several updates is rather too much than too little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import xlogy

from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Drift", "DriftJob", "DriftSums", "accumulated", "simulated_drift"]

# Rows drawn, and numbers of those that are held at a time.
_SIMULATED, _DRAWN_NUMBERS = 20_000, 2**22
# Posteriors of a tile, twice: they stay in the cache.
_TILE_ENTRIES, _FEWEST_ROWS = 2**15, 128
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Drift:
    """How far the responsibilities of rows have drifted that an update has not read.

    Attributes
    ----------
    rows : int
        Rows that were looked at: drawn from the mixture before the update, or the old rows.
    exact : bool
        Whether they are the old rows themselves.
    divergence : float
        Mean Kullback-Leibler divergence of the posteriors before and after this update, in nats
        per old row.
    changed_labels : float
        Part of the old rows that have another label after it.
    accumulated : float
        The same of the responsibilities that are kept and those after it, through all updates since
        these rows were read: exact where they were read now, else rather too much than too little.
    gap : float
        In nats per row of all: by how much their mean log-likelihood lies above `lower_bound_`, for
        rows that have drifted as far as `accumulated` says. A fit over everything begins there, and
        what it gains is of that order.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 6.0)])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> gm.update(X + 0.1).drift_.changed_labels
    0.0
    """

    rows: int
    exact: bool
    divergence: float
    changed_labels: float
    accumulated: float
    gap: float


@dataclass(frozen=True)
class DriftSums:
    """What some rows say of the drift, summed over them.

    Attributes
    ----------
    rows : int
    weight : float
    divergence : float
        Σ w KL, in nats.
    changed : float
        Σ w of rows whose label is another.
    log_likelihood : float
        Σ w log p(x) after.
    """

    rows: int
    weight: float
    divergence: float
    changed: float
    log_likelihood: float

    def __add__(self, other: DriftSums) -> DriftSums:
        return DriftSums(
            self.rows + other.rows,
            self.weight + other.weight,
            self.divergence + other.divergence,
            self.changed + other.changed,
            self.log_likelihood + other.log_likelihood,
        )


@dataclass(frozen=True)
class DriftJob:
    """What a task does with each block where old rows are read to see how far they have drifted.

    Attributes
    ----------
    before, after : MixtureParameters
    kernel : Kernel
    """

    before: MixtureParameters
    after: MixtureParameters
    kernel: Kernel = FASTEST

    def open(self) -> OpenDriftJob:
        """Prepare the kernel for both mixtures."""
        return OpenDriftJob(self.kernel.predictor(self.before), self.kernel.predictor(self.after))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return 40

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block: posteriors of a tile, and both kernels'."""
        p = self.after
        tile = max(_FEWEST_ROWS * p.n_components, _TILE_ENTRIES)
        own = self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        return self.before.nbytes + p.nbytes + 2 * own + 6 * 8 * tile


@dataclass(frozen=True)
class OpenDriftJob:
    """A `DriftJob` with its kernels prepared."""

    before: Predictor
    after: Predictor

    def __call__(self, rows: Rows, block: BlockRef) -> DriftSums:
        """Return the block's sums."""
        return self.sums(rows)

    def sums(self, rows: Rows) -> DriftSums:
        """Return the sums of some rows."""
        found = DriftSums(0, 0.0, 0.0, 0.0, 0.0)
        for values, weights in _tiles(rows, self.before):
            old = self.before.posteriors(values)
            new, densities = self.after.with_log_densities(values)
            # A posterior that is no float64 any more is taken for the smallest that is.
            divergences = np.sum(xlogy(old, old) - xlogy(old, np.maximum(new, _TINY)), axis=1)
            changed = old.argmax(axis=1) != new.argmax(axis=1)
            w = np.ones(len(values)) if weights is None else weights
            found += DriftSums(
                len(values),
                float(w.sum()),
                float(w @ divergences),
                float(w @ changed),
                float(w @ densities),
            )
        return found


def _tiles(
    rows: Rows, predictor: Predictor
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64] | None]]:
    values, weights = rows.values, rows.weights
    if not len(values):
        return
    k = predictor.posteriors(values[:1]).shape[1]
    step = max(_FEWEST_ROWS, _TILE_ENTRIES // k)
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        yield values[part], None if weights is None else weights[part]


def simulated_drift(
    before: MixtureParameters, after: MixtureParameters, kernel: Kernel = FASTEST
) -> tuple[int, float, float]:
    """How far rows drift that are drawn from the mixture before.

    Returns
    -------
    rows : int
    divergence : float
        In nats per row.
    changed_labels : float
    """
    random_state = np.random.RandomState(0)
    opened = OpenDriftJob(kernel.predictor(before), kernel.predictor(after))
    most = max(1, _DRAWN_NUMBERS // before.n_features)
    found = DriftSums(0, 0.0, 0.0, 0.0, 0.0)
    while found.rows < _SIMULATED:
        size = min(most, _SIMULATED - found.rows)
        found += opened.sums(Rows(sample_mixture(before, size, random_state)[0]))
    return found.rows, max(found.divergence, 0.0) / found.weight, found.changed / found.weight


def accumulated(before: float, divergence: float) -> float:
    """What divergences of two updates one after the other come to, at most; see the module."""
    return float((np.sqrt(max(before, 0.0)) + np.sqrt(max(divergence, 0.0))) ** 2)
