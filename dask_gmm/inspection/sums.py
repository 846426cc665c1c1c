"""What an inspection adds up over rows: values of the fixed tree, and how a block makes one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.inspection.grid import Grid
    from dask_gmm.inspection.kept import KeptRows

    Floats = NDArray[np.float64]

__all__ = ["InspectionSums", "Tile", "TileSums"]

#: A responsibility below it changes no digit of a sum that any row has a part in.
_NOTHING = 2.0**-52
#: Up to this part of them those that are something are picked out.
_FEW = 0.4
_LEAST_LOG = -750.0  # less than that of the least float64


@dataclass(frozen=True, eq=False)
class InspectionSums:
    """Sums over some rows, as `Inspection` has them, and the rows that are kept."""

    rows: int
    incomplete: int
    weight: float
    log_likelihood: float
    counts: Floats
    labelled: Floats
    overlap: Floats
    certainty: Floats
    entropy: Floats
    distances: Floats
    log_density_counts: Floats
    feature_counts: Floats
    sample: KeptRows
    lowest: KeptRows

    def __add__(self, other: InspectionSums) -> InspectionSums:
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return InspectionSums(**both)


@dataclass(frozen=True, eq=False)
class Tile:
    """A few rows of a block and what the mixture says of them.

    Attributes
    ----------
    values : (t, D) real
    weights : (t,) float64 or None
    label_weights : (t,) float64 or None
        The same, but 0 of rows that are noise rather than of their label.
    posteriors : (t, K) float64
    log_densities : (t,) float64
    labels : (t,) integer
    complete : (t,) bool or None
        Which rows miss no value; None if all are complete.
    """

    values: NDArray[Any]
    weights: Floats | None
    label_weights: Floats | None
    posteriors: Floats
    log_densities: Floats
    labels: NDArray[np.intp]
    complete: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def owners(self) -> NDArray[np.intp]:
        """The labels; -1 of rows that are noise."""
        if self.label_weights is self.weights or self.label_weights is None:
            return self.labels
        return np.where(self.label_weights > 0.0, self.labels, -1)

    def weigh(self, values: Floats) -> Floats:
        """Multiply what belongs to the rows by their weights."""
        return values if self.weights is None else values * self.weights


class TileSums:
    """The sums of a block, to which tiles are added one after another.

    Parameters
    ----------
    grid : Grid
    constants : (K,) float64
        Log-densities of the components at their means, with log π_k: the largest there are.
    """

    def __init__(self, grid: Grid, constants: Floats) -> None:
        k, (d, f) = len(constants), grid.feature_edges.shape
        self._grid, self._constants = grid, constants
        self._low = grid.feature_edges[:, 0]
        with np.errstate(divide="ignore"):  # a feature that float64 cannot tell apart: one bin
            self._per_unit = (f - 1) / (grid.feature_edges[:, -1] - self._low)
        edges = grid.log_density_edges
        self._per_nat = (len(edges) - 1) / (edges[-1] - edges[0])
        self.incomplete = 0
        self.weight = self.log_likelihood = 0.0
        self.counts = np.zeros(k)
        self.labelled = np.zeros(k)
        self.overlap = np.zeros((k, k))
        self.certainty = np.zeros((k, grid.n_certainty))
        self.entropy = np.zeros(k)
        self.distances = np.zeros((k, len(grid.distance_edges) - 1))
        self.log_density_counts = np.zeros(len(edges) - 1)
        self.feature_counts = np.zeros((k, d, f - 1))

    def add(self, tile: Tile) -> None:
        """Add what belongs to some rows."""
        if tile.complete is not None:
            self.incomplete += len(tile) - int(np.count_nonzero(tile.complete))
        self._add_densities(tile)
        self._add_labelled(tile)
        self._add_shared(tile)
        self._add_features(tile)

    def sums(self, rows: int, sample: KeptRows, lowest: KeptRows) -> InspectionSums:
        """Return what was added up over so many rows."""
        own = {f.name for f in fields(InspectionSums)} - {"rows", "sample", "lowest"}
        return InspectionSums(
            rows=rows, sample=sample, lowest=lowest, **{name: getattr(self, name) for name in own}
        )

    def _add_densities(self, tile: Tile) -> None:
        found = tile.log_densities
        self.weight += len(tile) if tile.weights is None else float(tile.weights.sum())
        self.log_likelihood += float(tile.weigh(found).sum())
        low, count = self._grid.log_density_edges[0], len(self.log_density_counts)
        bins = _bins(found, low, self._per_nat, count)
        self.log_density_counts += np.bincount(bins, tile.weights, count)

    def _add_labelled(self, tile: Tile) -> None:
        """Add up what rows of a label have, by how certain that is."""
        k, c = self.certainty.shape
        self.labelled += np.bincount(tile.labels, tile.label_weights, k)
        largest = tile.posteriors[np.arange(len(tile)), tile.labels]
        bins = _bins(largest, 0.0, float(c), c)
        bins += tile.labels * c
        self.certainty += np.bincount(bins, tile.label_weights, k * c).reshape(k, c)

    def _add_shared(self, tile: Tile) -> None:
        """Add up what rows have of each component, and of each pair."""
        r = tile.posteriors
        weighted = r if tile.weights is None else r * tile.weights[:, None]
        self.counts += weighted.sum(axis=0)
        self.overlap += r.T @ weighted
        flat = np.flatnonzero(r >= _NOTHING)
        if flat.size > _FEW * r.size:
            self._add_all(tile, weighted)
        else:
            self._add_chosen(tile, weighted, flat)

    def _add_all(self, tile: Tile, weighted: Floats) -> None:
        """Add up what each responsibility says of distances and certainty."""
        r, (k, b) = tile.posteriors, self.distances.shape
        with np.errstate(divide="ignore"):
            logs = np.log(r)
        np.maximum(logs, _LEAST_LOG, out=logs)  # of zero, which counts for nothing
        terms = np.einsum("nk,nk->n", weighted, logs)
        self.entropy -= np.bincount(tile.labels, terms, k)
        squares = self._squares(logs, tile.log_densities[:, None], self._constants)
        if tile.complete is not None:
            squares, weighted = squares[tile.complete], weighted[tile.complete]
        component = np.tile(np.arange(k), len(squares))
        bins = self._grid.distance_bins(squares.ravel(), component) + component * b
        self.distances += np.bincount(bins, weighted.ravel(), k * b).reshape(k, b)

    def _add_chosen(self, tile: Tile, weighted: Floats, flat: NDArray[np.intp]) -> None:
        """As `_add_all`, of those responsibilities that are something."""
        k, b = self.distances.shape
        row = flat // k
        component = flat - row * k
        logs, share = np.log(tile.posteriors.ravel()[flat]), weighted.ravel()[flat]
        self.entropy -= np.bincount(tile.labels[row], share * logs, k)
        squares = self._squares(logs, tile.log_densities[row], self._constants[component])
        if tile.complete is not None:
            known = tile.complete[row]
            squares, component, share = squares[known], component[known], share[known]
        bins = self._grid.distance_bins(squares, component) + component * b
        self.distances += np.bincount(bins, share, k * b).reshape(k, b)

    @staticmethod
    def _squares(logs: Floats, log_densities: Floats, constants: Floats) -> Floats:
        """What log-densities of components have fallen by, twice, in the place of log r.

        log r + log p is the log-density with log π_k, of a Gaussian −½ d² and a constant.
        """
        logs += log_densities
        np.subtract(constants, logs, out=logs)
        logs *= 2.0
        return logs

    def _add_features(self, tile: Tile) -> None:
        k, d, f = self.feature_counts.shape
        columns = np.array(tile.values.T, dtype=np.float64, order="C")
        known = None if tile.complete is None else ~np.isnan(columns)
        bins = _bins(columns, self._low[:, None], self._per_unit[:, None], f)
        bins += tile.labels * f
        for j in range(d):
            own, weights = bins[j], tile.label_weights
            if known is not None:
                own = own[known[j]]
                weights = None if weights is None else weights[known[j]]
            self.feature_counts[:, j] += np.bincount(own, weights, k * f).reshape(k, f)


def _bins(values: Floats, low: Any, per_unit: Any, count: int) -> NDArray[np.intp]:
    """Which of some equal bins each value lies in; beyond them the first or the last.

    That of NaN is the first.
    """
    with np.errstate(invalid="ignore"):
        places = (values - low) * per_unit
        np.clip(places, 0.0, count - 1.0, out=places)
    np.nan_to_num(places, copy=False)
    bins: NDArray[np.intp] = places.astype(np.intp)
    return bins
