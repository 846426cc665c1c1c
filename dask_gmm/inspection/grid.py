"""Which bins an inspection counts in, and how much it keeps: known before the data are read.

All of it follows from the mixture: values of features lie about its means, log-densities where
those of rows drawn from it do. What lies elsewhere is counted in the outermost bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.inspection.kept import BESIDE_BYTES
from dask_gmm.mixture.sampling import sample_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.parameters import MixtureParameters

    Floats = NDArray[np.float64]

__all__ = ["Grid"]

_CERTAINTY_BINS, _DENSITY_BINS = 20, 100
# Chances of a larger distance: twentieths, then 5, 2 and 1 of each decade, which show tails.
_DECADES = [float(f"{c}e-{e}") for e in range(2, 10) for c in (5, 2, 1)][1:]  # .05 is there
_CHANCES = (*(1.0 - i / 20 for i in range(20)), *_DECADES, 1e-12, 0.0)
# Bins of a feature for each component: as many as that takes, within bounds.
_HISTOGRAM_BYTES, _FEWEST_BINS, _MOST_BINS = 2 * 2**20, 16, 128
# Widths about a mean that bins reach: of heavy tails as many as hold that part on either side.
_WIDTHS, _MOST_WIDTHS, _INSIDE = 6.0, 1000.0, 0.975
_DRAWN_ROWS, _DRAWN_BYTES = 4096, 4 * 2**20  # from the mixture, to see where log-densities lie
_MARGIN = 0.5  # how far bins of log-densities reach beyond, in spans of those
_SAMPLE_ROWS, _SAMPLE_BYTES = 20_000, 4 * 2**20
_LOWEST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Grid:
    """The edges of all bins, and how many rows are kept.

    Attributes
    ----------
    n_certainty : int
        C, bins of the largest responsibility.
    distance_edges : (B + 1,) float64
        Probabilities that a row of a component lies farther from it, falling.
    squares : (K, B + 1) or (1, B + 1) float64
        What their log-densities have fallen by there, twice, which of Gaussians are the squared
        distances: rising from 0 to infinity, of each component or of all alike.
    log_density_edges : (L + 1,) float64
    feature_edges : (D, F + 1) float64
    sample_rows, lowest_rows : int
    """

    n_certainty: int
    distance_edges: Floats
    squares: Floats
    log_density_edges: Floats
    feature_edges: Floats
    sample_rows: int
    lowest_rows: int

    @classmethod
    def of(cls, parameters: MixtureParameters, kernel: Kernel) -> Grid:
        """The grid for a mixture."""
        d = parameters.n_features
        chances = np.array(_CHANCES)
        return cls(
            n_certainty=_CERTAINTY_BINS,
            distance_edges=chances,
            squares=parameters.shape.falls_beyond(chances, d),
            log_density_edges=_log_density_edges(parameters, kernel),
            feature_edges=_feature_edges(parameters),
            sample_rows=min(_SAMPLE_ROWS, max(1, _SAMPLE_BYTES // (8 * d + BESIDE_BYTES))),
            lowest_rows=_LOWEST_ROWS,
        )

    @cached_property
    def _cells(self) -> tuple[float, NDArray[np.int16]]:
        """How many equal cells there are to a unit of squared distance, and the bin of each begin.

        No cell holds more than one edge between bins.
        """
        inner = self.squares[0, 1:-1]
        width = 0.9 * float(np.diff(self.squares[0, :-1]).min())
        begins = np.arange(int(inner[-1] / width) + 2) * width
        return 1.0 / width, np.searchsorted(inner, begins, side="right").astype(np.int16)

    @cached_property
    def _lower(self) -> Floats:
        """Least squared distance of each bin: of the first whatever there is."""
        return np.concatenate([[-np.inf], self.squares[0, 1:-1]])

    @cached_property
    def _upper(self) -> Floats:
        """The squared distance that each bin ends at: the last at none."""
        return np.concatenate([self.squares[0, 1:-1], [np.nan]])

    def distance_bins(self, squares: Floats, component: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the bin of each squared distance, (m,), from a component, (m,).

        Rounding may have made it negative.
        """
        if len(self.squares) > 1:
            bins, order = (
                np.empty(len(squares), dtype=np.intp),
                np.argsort(component, kind="stable"),
            )
            ends = np.cumsum(np.bincount(component, minlength=len(self.squares)))
            for edges, own in zip(self.squares, np.split(order, ends[:-1]), strict=True):
                bins[own] = np.searchsorted(edges[1:-1], squares[own], side="right")
            return bins
        return self._shared_bins(squares)

    def _shared_bins(self, squares: Floats) -> NDArray[np.intp]:
        """The bins where they are the same for all components."""
        per_unit, bins = self._cells
        cells = np.clip(squares * per_unit, 0.0, len(bins) - 1).astype(np.intp)
        found = bins[cells].astype(np.intp)
        # A cell may hold an edge, and dividing has rounded. What lies beyond is in the outermost.
        found += squares >= self._upper[found]
        found -= squares < self._lower[found]
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the edges."""
        edges = (self.squares, self.distance_edges, self.log_density_edges, self.feature_edges)
        return sum(array.nbytes for array in edges)


def _feature_edges(parameters: MixtureParameters) -> Floats:
    """Equal bins from the smallest mean less some widths to the largest mean and as many."""
    k, d = parameters.means.shape
    widths = np.sqrt(parameters.form.diagonals(parameters.covariances, k, d))
    tails = np.broadcast_to(parameters.shape.quantile(np.full(k, _INSIDE)), (k,))
    widths *= np.clip(tails, _WIDTHS, _MOST_WIDTHS)[:, None]
    low = (parameters.means - widths).min(axis=0)
    high = (parameters.means + widths).max(axis=0)
    count = min(_MOST_BINS, max(_FEWEST_BINS, _HISTOGRAM_BYTES // (8 * k * d)))
    return np.linspace(low, high, count + 1, axis=1)


def _log_density_edges(parameters: MixtureParameters, kernel: Kernel) -> Floats:
    """Equal bins about where log-densities of rows from the mixture lie."""
    count = max(256, min(_DRAWN_ROWS, _DRAWN_BYTES // (8 * parameters.n_features)))
    rows, _ = sample_mixture(parameters, count, np.random.RandomState(0))
    found = kernel.log_densities(rows, parameters)
    low, high = float(found.min()), float(found.max())
    span = max(high - low, 1.0)
    return np.linspace(low - _MARGIN * span, high + 0.1 * _MARGIN * span, _DENSITY_BINS + 1)
