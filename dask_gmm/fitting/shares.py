"""What part each component has in each of many arrays: Σ w r over the rows of each, in one pass.

The sums are added along the same tree as all others, so they have the same bits whoever makes them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.mixture.kernels import FASTEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.fitting.prediction import OpenWriteJob, WriteJob
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

__all__ = ["Shares", "SharesJob", "SharesWriteJob", "masses_of"]

_TILE = 4096
"""Rows whose responsibilities are there at a time."""


@dataclass(frozen=True)
class Shares:
    """Sums over the rows of consecutive arrays.

    Attributes
    ----------
    first : int
        Number of the first array.
    masses : (m, K) float64
        Σ_n w_n r_nk of each array's rows.
    counts : (m, K) int64
        Rows of which each component is the most probable.
    rows : int
        Rows that were read, those that take no part among them.
    """

    first: int
    masses: NDArray[np.float64]
    counts: NDArray[np.int64]
    rows: int

    def __add__(self, other: Shares) -> Shares:
        start = min(self.first, other.first)
        stop = max(self.first + len(self.masses), other.first + len(other.masses))
        masses = np.zeros((stop - start, self.masses.shape[1]))
        counts = np.zeros(masses.shape, np.int64)
        for part in (self, other):
            place = slice(part.first - start, part.first - start + len(part.masses))
            masses[place] += part.masses
            counts[place] += part.counts
        return Shares(start, masses, counts, self.rows + other.rows)

    def of_all(self, n_arrays: int) -> Shares:
        """Return the sums of all arrays, zero of those that no block has met."""
        k = self.masses.shape[1]
        nothing = np.zeros((n_arrays, k))
        return Shares(0, nothing, nothing.astype(np.int64), 0) + self

    @property
    def proportions(self) -> NDArray[np.float64]:
        """The part of each component in each array, (m, K); NaN where no row counts."""
        totals = self.masses.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = self.masses / totals
        return found


def masses_of(
    predictor: Predictor, rows: Rows, n_components: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return Σ_n w_n r_nk of some rows, and how many have each label; (K,) each."""
    masses, counts = np.zeros(n_components), np.zeros(n_components, np.int64)
    for start in range(0, len(rows), _TILE):
        values = rows.values[start : start + _TILE]
        try:
            posteriors = predictor.posteriors(values)
        except RowError as error:  # which knows the place in the tile
            raise error.after(start) from None
        if rows.weights is None:
            masses += posteriors.sum(axis=0)
        else:
            masses += rows.weights[start : start + _TILE] @ posteriors
        labels = predictor.labels(values)  # -1 of noise, which is no component's
        counts += np.bincount(labels[labels >= 0], minlength=n_components)
    return masses, counts


@dataclass(frozen=True)
class SharesJob:
    """What a task does with each block for the parts of components in arrays.

    Attributes
    ----------
    parameters : MixtureParameters
    first_blocks : tuple of int
        With which block each array begins, and the number of all.
    kernel : Kernel
    """

    parameters: MixtureParameters
    first_blocks: tuple[int, ...]
    kernel: Kernel = FASTEST

    def open(self) -> OpenSharesJob:
        """Prepare the kernel for the mixture."""
        return OpenSharesJob(self, self.kernel.predictor(self.parameters))

    def array_of(self, block: int) -> int:
        """Return the number of the array that a block belongs to."""
        return bisect_right(self.first_blocks, block) - 1

    @property
    def value_bytes(self) -> int:
        """Bytes of a node: of those arrays that a unit meets, and there are eight units or more."""
        return 16 * self.parameters.n_components * (1 + len(self.first_blocks) // 4)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block: the kernel's tiles and a tile's posteriors."""
        p = self.parameters
        tiles = self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        return p.nbytes + tiles + _TILE * (8 * p.n_components + 16)


@dataclass(frozen=True)
class OpenSharesJob:
    """A `SharesJob` with its kernel prepared."""

    job: SharesJob
    predictor: Predictor

    def __call__(self, rows: Rows, block: BlockRef) -> Shares:
        """Return the sums of a block."""
        k = self.job.parameters.n_components
        masses, counts = masses_of(self.predictor, rows, k)
        return Shares(self.job.array_of(block.index), masses[None], counts[None], rows.n_read)


@dataclass(frozen=True)
class SharesWriteJob:
    """Write what a function says of each row of many arrays, and add the parts of components up.

    What a block adds is written too, before its values: so a run that goes on from finished blocks
    need not read them again.
    """

    writing: WriteJob
    shares: SharesJob

    def open(self) -> OpenSharesWriteJob:
        """Open the output, and prepare the kernel."""
        return OpenSharesWriteJob(self.writing.open(), self.shares.open())

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.shares.value_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block."""
        return self.writing.workspace_bytes + self.shares.workspace_bytes


@dataclass(frozen=True)
class OpenSharesWriteJob:
    """A `SharesWriteJob` with its output open."""

    writing: OpenWriteJob
    shares: OpenSharesJob

    def __call__(self, rows: Rows, block: BlockRef) -> Shares:
        """Write the block's values and what it adds, which is returned."""
        found = self.shares(rows, block)
        writer: Any = self.writing.writer
        writer.write_sums(block, found.masses[0], found.counts[0])
        self.writing(rows, block)
        return found
