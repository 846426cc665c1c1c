"""Weights of the rows of several arrays, each array's read as it is beside that alone.

Arrays may be made to count alike, however many rows they have (`factors_alike`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.grid import SampleGrid
from dask_gmm.data.weights import ArrayWeights, Looked, Weights, new_token, no_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.grid import BlockRef, ChainedAxis
    from dask_gmm.data.stored_metadata import StoredMetadata

__all__ = ["EQUAL_PER_ARRAY", "ConcatenatedWeights", "EqualPerArray", "factors_alike", "total_of"]

EQUAL_PER_ARRAY = "equal-per-array"

_ALIKE = (1e-50, 1e50)
"""Factors between these leave weights of ordinary size such as are no error."""


@dataclass(frozen=True, eq=False)
class EqualPerArray:
    """For `sample_weight`: each of many arrays is to count alike, however many rows it has.

    ``"equal-per-array"`` is the same without weights of rows. What an array counts for is known
    before its rows are read: those that `missing` leaves out for their gaps are counted too, and an
    array that loses half of its rows so counts for half as much as others.

    Parameters
    ----------
    weights : list, dict or name, optional
        Weights of the rows, as `sample_weight` takes them: within an array rows count by these.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import EqualPerArray, GaussianMixture
    >>> few, many = np.full((2, 1), -5.0), np.full((6, 1), 5.0)
    >>> arrays = [few + [[-1], [1]], many + np.linspace(-1, 1, 6)[:, None]]
    >>> gm = GaussianMixture(2, random_state=0).fit(arrays)
    >>> gm.weights_[gm.means_[:, 0] < 0].round(2)
    array([0.25])
    >>> gm = GaussianMixture(2, random_state=0).fit(arrays, sample_weight=EqualPerArray())
    >>> gm.weights_[gm.means_[:, 0] < 0].round(2)
    array([0.5])
    """

    weights: Any = None


@dataclass(frozen=True, eq=False)
class ConcatenatedWeights(Weights):
    """Weights of several arrays, one array's after another's. Use `ConcatenatedWeights.of`.

    Attributes
    ----------
    each : tuple of Weights or None
        Those of each array; None where each of its rows counts once.
    chain : ChainedAxis
        Whose block is whose.
    factors : tuple of float, optional
        By which those of each array are multiplied.
    """

    each: tuple[Weights | None, ...]
    chain: ChainedAxis
    name: str
    token: str
    factors: tuple[float, ...] | None = None
    looked_at: Looked = Looked.NEVER

    @classmethod
    def of(
        cls,
        each: Sequence[Weights | None],
        chain: ChainedAxis,
        name: str,
        factors: Sequence[float] | None = None,
    ) -> ConcatenatedWeights:
        """Put the weights of some arrays together.

        Parameters
        ----------
        each : sequence of Weights or None
        chain : ChainedAxis
            Of the source.
        name : str
            What messages call them.
        factors : sequence of float, optional
            Positive, or zero for an array that counts for nothing.
        """
        known = [Looked.POSITIVE if part is None else part.looked_at for part in each]
        scales = () if factors is None else tuple(factors)
        looked = Looked(min(found.value for found in known))
        if any(not _ALIKE[0] < factor < _ALIKE[1] for factor in scales):
            looked = Looked.NEVER
        return cls(
            tuple(each), chain, name, new_token(), None if factors is None else scales, looked
        )

    @property
    def parts(self) -> tuple[Weights, ...]:
        """Those of the arrays that have some."""
        return tuple(own for part in self.each if part is not None for own in part.parts)

    @property
    def stores(self) -> tuple[str, ...]:
        """Where those of all arrays are read from."""
        return tuple(store for part in self.each if part is not None for store in part.stores)

    @property
    def rereads_alike(self) -> bool:
        """Whether those of all arrays are the same bits each time."""
        return all(part is None or part.rereads_alike for part in self.each)

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows."""
        return self.read_of(True, block, buffers, requested)

    def read_of(
        self,
        taken: NDArray[np.bool_] | bool,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, of which some may be missing."""
        number, own = self.chain.own(block.index)
        part = self.each[number]
        factor = 1.0 if self.factors is None else self.factors[number]
        if part is None:
            return np.full(own.rows or 0, factor)
        if self.factors is None:
            return part.read_of(taken, own, buffers, requested)
        return part.read_of(taken, own, buffers, requested) * factor

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask the store for a block's weights."""
        number, own = self.chain.own(block.index)
        part = self.each[number]
        return None if part is None else part.request(own)

    @property
    def shippable(self) -> bool:
        """Whether another process can read those of all arrays."""
        return all(part is None or part.shippable for part in self.each)

    @property
    def stays_because(self) -> str | None:
        """Why not, by the first that stays."""
        reasons = (part.stays_because for part in self.each if part and not part.shippable)
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def read_bytes(self) -> int:
        """What those that need most take, and a block's multiplied weights."""
        own = 8 * self.chain.longest if self.factors is not None else 0
        return own + max(0 if part is None else part.read_bytes for part in self.each)

    @property
    def request_bytes(self) -> int:
        """Memory of the largest requested block."""
        return max(0 if part is None else part.request_bytes for part in self.each)

    def content_token(self) -> object:
        """Return what Dask can name them by; None where nothing tells when some change."""
        tokens = [() if part is None else part.content_token() for part in self.each]
        return None if None in tokens else ("concatenated", tokens, self.factors)

    def content_digest(self) -> str | None:
        """Return what tells whether anything was written to them."""
        digests = ["once" if part is None else part.content_digest() for part in self.each]
        if None in digests:
            return None
        return " ".join(["concatenated", *map(str, digests), repr(self.factors)])

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew what the stores hold as metadata."""
        own = (part.stored_metadata() for part in self.each if part is not None)
        return tuple(found for each in own for found in each)


def total_of(weights: Weights | None, chain: ChainedAxis, number: int) -> float:
    """Return Σ w of an array's rows; read where they are stored, once.

    Parameters
    ----------
    weights : Weights or None
        Of all arrays.
    chain : ChainedAxis
    number : int
        Of the array.
    """
    grid = chain.grids[number]
    if weights is None:
        return float(grid.n_rows or 0)
    part = weights.each[number] if isinstance(weights, ConcatenatedWeights) else None
    if isinstance(part, ArrayWeights):
        return float(part.array.sum(dtype=np.float64))
    blocks, first = SampleGrid((chain,)), chain.first_block(number)
    own = (blocks.block(first + i) for i in range(grid.n_blocks))
    return math.fsum(float(weights.read(block).sum()) for block in own)


def factors_alike(totals: Sequence[float], name: str) -> list[float]:
    """Return factors of the arrays' weights that make each array count alike.

    All weights together add up to what they did: without weights of their own, to the number of
    rows. An array none of whose rows counts has the factor 0, and no part in it. One whose weights
    add up to no such sum has 1: who reads its rows finds the weight that is none.

    Parameters
    ----------
    totals : sequence of float
        Σ w of each array's rows.
    name : str
        What messages call the weights.

    Raises
    ------
    InputError
        No row counts.
    """
    if all(total == 0.0 for total in totals):
        raise no_weight(name)
    counting = [total for total in totals if 0.0 < total < math.inf]
    each = math.fsum(counting) / max(1, len(counting))
    return [
        each / total if 0.0 < total < math.inf else 0.0 if total == 0.0 else 1.0 for total in totals
    ]
