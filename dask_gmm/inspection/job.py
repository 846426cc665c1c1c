"""The one read of an inspection: what a task does with each block, and what comes of the root.

A block is looked at in tiles, so that no array of rows × components of all of it is ever held. For
each tile the kernel says responsibilities and log-densities; all else follows from these. So how
far a row is from a component costs a logarithm: log r_nk + log p(x_n) is log π_k f_k(x_n), which
has fallen from its largest value by half the squared Mahalanobis distance, or by what of a t
distribution rises with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.fitting.keyed import keys_of
from dask_gmm.inspection.grid import Grid
from dask_gmm.inspection.inspection import Inspection
from dask_gmm.inspection.kept import BESIDE_BYTES, Keeping
from dask_gmm.inspection.sums import InspectionSums, Tile, TileSums
from dask_gmm.mixture.gaps import has_gaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

__all__ = ["InspectionJob", "inspection_of"]

# Responsibilities of a tile, or values: they stay in the cache, and are worth a few Python steps.
_TILE_ENTRIES, _FEWEST_ROWS, _MOST_ROWS = 2**16, 128, 8192
# Keys are 64 bits. Of so many more than are wanted, and so many deviations, the sample is made.
_KEYS, _MORE, _DEVIATIONS = 2.0**64, 1.05, 10.0


@dataclass(frozen=True, eq=False)
class InspectionJob:
    """What a task does with each block of an inspection.

    Attributes
    ----------
    parameters : MixtureParameters
        Of the rows that the source has.
    kernel : Kernel
    grid : Grid
    below : int or None
        Only rows of keys below it may be in the sample: where it is known how many rows there are,
        no block need keep as many as the sample will have.
    """

    parameters: MixtureParameters
    kernel: Kernel
    grid: Grid
    below: int | None

    @classmethod
    def of(cls, parameters: MixtureParameters, kernel: Kernel, source: Source) -> InspectionJob:
        """The job for rows of a source."""
        grid, below = Grid.of(parameters, kernel), None
        n = None if source.selects else source.n_rows
        if n:
            wanted = grid.sample_rows
            part = (_MORE * wanted + _DEVIATIONS * wanted**0.5) / n
            below = int(part * _KEYS) if part < 1.0 else None
        return cls(parameters, kernel, grid, below)

    def open(self) -> OpenInspectionJob:
        """Prepare the kernel for the mixture."""
        p = self.parameters
        constants = p.log_weights + p.log_peaks
        return OpenInspectionJob(self, self.kernel.predictor(p), constants)

    @property
    def tile_rows(self) -> int:
        """Rows that are looked at together."""
        rows = _TILE_ENTRIES // max(self.parameters.means.shape)
        return int(max(_FEWEST_ROWS, min(_MOST_ROWS, rows)))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        (k, d), grid = self.parameters.means.shape, self.grid
        bins = d * (grid.feature_edges.shape[1] - 1) + grid.squares.shape[1] + grid.n_certainty
        kept = (grid.sample_rows + grid.lowest_rows) * (8 * d + BESIDE_BYTES)
        return int(8 * (k * (bins + k + 4) + len(grid.log_density_edges) + 16) + kept)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        p, t = self.parameters, self.tile_rows
        kernel = self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        # Of each responsibility that counts its index, row, component, share, log and distance.
        tile = 8 * t * (15 * p.n_components + 4 * p.n_features + 16)
        grid = self.grid
        # Indices and keys of rows that wait, and of those once more that are sorted.
        waiting = 24 * 2 * (3 * (grid.sample_rows + grid.lowest_rows) + 2 * t)
        histogram: int = (
            24 * p.n_components * max(grid.feature_edges.shape[1], grid.squares.shape[1])
        )
        return kernel + p.nbytes + grid.nbytes + tile + waiting + histogram


@dataclass(frozen=True, eq=False)
class OpenInspectionJob:
    """An `InspectionJob` with its kernel prepared."""

    job: InspectionJob
    predictor: Predictor
    constants: NDArray[np.float64]

    def __call__(self, rows: Rows, block: BlockRef) -> InspectionSums:
        """Return the sums of a block, and the rows of it that are kept."""
        job, grid = self.job, self.job.grid
        sums = TileSums(grid, self.constants)
        below = None if job.below is None else np.uint64(job.below)
        sample = Keeping(grid.sample_rows, np.uint64, below)
        lowest = Keeping(grid.lowest_rows, np.float64)
        gaps = not rows.complete and has_gaps(rows.values)
        for start in range(0, len(rows), job.tile_rows):
            tile = self._tile(rows, start, gaps=gaps)
            sums.add(tile)
            index = np.arange(start, start + len(tile))
            own = index if rows.places is None else rows.places[index]
            sample.add(start, keys_of(block.index, own), tile.owners)
            lowest.add(start, tile.log_densities, tile.owners)
        return sums.sums(len(rows), sample.kept(rows, block.index), lowest.kept(rows, block.index))

    def _tile(self, rows: Rows, start: int, *, gaps: bool) -> Tile:
        """Some rows, and what the mixture says of them."""
        values = rows.values[start : start + self.job.tile_rows]
        weights = None if rows.weights is None else rows.weights[start : start + len(values)]
        try:
            posteriors, densities = self.predictor.with_log_densities(values)
        except RowError as error:  # which knows the place in the tile
            raise error.after(start) from None
        labels = posteriors.argmax(axis=1)
        labelled = weights
        if self.job.parameters.leaves_rows_out:
            # Of the rows that are noise nobody has the label.
            shares = posteriors[np.arange(len(labels)), labels]
            owned = shares >= 1.0 - posteriors.sum(axis=1)
            labelled = owned.astype(np.float64) if weights is None else weights * owned
        complete = ~np.isnan(values).any(axis=1) if gaps else None
        return Tile(values, weights, labelled, posteriors, densities, labels, complete)


def inspection_of(sums: InspectionSums, job: InspectionJob, source: Source) -> Inspection:
    """Return what the root of a read says.

    Parameters
    ----------
    sums : InspectionSums
        Of one row or more.
    job : InspectionJob
    source : Source
        Whose rows were read.
    """
    grid, sample, lowest = job.grid, sums.sample, sums.lowest
    order = np.lexsort((sample.places[:, 1], sample.places[:, 0]))
    weighted = source.weighted
    places = (source.locate(source.block(int(b)), int(row)) for b, row in lowest.places)
    return Inspection(
        n_rows=sums.rows,
        n_incomplete=sums.incomplete,
        weight=sums.weight,
        log_likelihood=sums.log_likelihood,
        counts=sums.counts,
        labelled=sums.labelled,
        overlap=sums.overlap,
        certainty=sums.certainty,
        entropy=sums.entropy,
        distances=sums.distances,
        distance_edges=grid.distance_edges,
        log_density_counts=sums.log_density_counts,
        log_density_edges=grid.log_density_edges,
        feature_counts=sums.feature_counts,
        feature_edges=grid.feature_edges,
        sample=sample.values[order].astype(np.float64),
        sample_weights=sample.weights[order] if weighted else None,
        sample_labels=sample.labels[order],
        lowest=lowest.values.astype(np.float64),
        lowest_log_densities=lowest.keys.astype(np.float64),
        lowest_places=tuple(places),
    )
