"""The weights of a source's rows: how each kind is read, checked and joined with the rows.

A row of weight w counts as w copies of it. A row of weight zero is absent: it is left out here,
where a block's values and weights meet, and nothing after that sees it; it may hold anything.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from dask_gmm.errors import InputError, SampleWeightError
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory, ReadBuffers
    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.stored_metadata import StoredMetadata

__all__ = [
    "ArrayWeights",
    "Looked",
    "Weights",
    "as_read",
    "checked_array",
    "decoded_weights",
    "gathered",
    "joined_rows",
    "new_token",
    "no_weight",
]

LEAST, MOST = 1e-100, 1e100
"""Weights other than zero lie between: their sums, and those of their squares, are float64s."""

_STEP_BYTES = 2**18  # moved at a time when rows close ranks
_LOOKED_AT_ONCE = 2**20


class Looked(Enum):
    """What is known of weights."""

    NEVER = 0
    USABLE = 1
    """Each is a weight; some may be zero."""
    POSITIVE = 2
    """Each is a weight, and none is zero."""


def new_token() -> str:
    """Return a name that nothing else has."""
    return uuid.uuid4().hex


class Weights(ABC):
    """A weight for each row of a source; frozen.

    Attributes
    ----------
    name : str
        What messages call them.
    looked_at : Looked
        What somebody has seen of all of them.
    token : str
        Tells these from all others that were opened, in every process.
    rereads_alike : bool
        Whether they are the same bits each time, until somebody writes to their store.
    """

    name: str
    token: str
    looked_at: Looked = Looked.NEVER

    @property
    def stores(self) -> tuple[str, ...]:
        """Paths and URLs of the arrays that they are read from, beside the data's own."""
        return ()

    @property
    def selects_only(self) -> bool:
        """Whether each is zero or one: rows take part or do not, and have no weights."""
        return False

    @property
    def parts(self) -> tuple[Weights, ...]:
        """All that they are made of, each of which is read: these alone."""
        return (self,)

    def alone(self) -> Weights | None:
        """What of it says which rows take part, whatever they weigh; None if nothing does."""
        return None

    @property
    def rereads_alike(self) -> bool:
        """True: they are in memory or in a store."""
        return True

    @abstractmethod
    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, shape (n,), in one piece; never to be written to.

        Nobody has looked at them yet.

        Parameters
        ----------
        block : BlockRef
            A block of the source.
        buffers : ReadBuffers, optional
            Those that the block's values were read into: what of the weights the next blocks will
            need is kept there.
        requested : mapping, optional
            What `request` returned for the block.
        """

    def read_of(
        self,
        taken: NDArray[np.bool_] | bool,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights as `read` does, where those of rows that take no part may be missing.

        Parameters
        ----------
        taken : (n,) bool, or bool for all
            Which rows take part.
        block, buffers, requested
            As for `read`.
        """
        return self.read(block, buffers, requested)

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask the store for a block's weights and return at once; None if there is no wait."""
        return None

    @property
    def shippable(self) -> bool:
        """Whether another process can read them from a pickle of this object at no great cost."""
        return False

    @property
    def stays_because(self) -> str | None:
        """Why not, and what would change it."""
        return None

    @property
    def read_bytes(self) -> int:
        """Transient memory of one read, beside the 8 bytes of each weight."""
        return 0

    @property
    def request_bytes(self) -> int:
        """Memory that one requested block of them holds until it is read."""
        return 0

    def content_token(self) -> object:
        """Return what Dask can name the weights by, None where nothing tells when they change."""
        return None

    def content_digest(self) -> str | None:
        """Return what tells whether anything was written to them, None if nothing does."""
        return None

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew what the store of the weights holds as their metadata, if there is one."""
        return ()


@dataclass(frozen=True, eq=False)
class ArrayWeights(Weights):
    """Weights in this process's memory. Use `checked_array`.

    Attributes
    ----------
    array : ndarray of the samples' shape
        Real; not copied, and must not change while the weights are in use.
    """

    array: NDArray[Any]
    name: str
    looked_at: Looked = Looked.NEVER
    token: str = field(default_factory=new_token)

    def content_digest(self) -> str:
        """Return a checksum of all of them; what is repeated along an axis counts once."""
        own = self.array[tuple(slice(None) if step else slice(1) for step in self.array.strides)]
        return f"{google_crc32c.value(np.ascontiguousarray(own).tobytes()):08x}"

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, a view where they are float64 in one piece."""
        if len(block.start) == 1:
            part = self.array[block.start[0] : block.stop[0]]
        else:
            box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
            part = self.array[box].reshape(-1)
        return as_read(part)

    @property
    def stays_because(self) -> str:
        """They are here."""
        return (
            f"{self.name} lies in the memory of this process. Write it to a path or an object "
            f"store and pass that."
        )


def as_read(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return weights as kernels take them: float64 in one piece, not copied where they are that."""
    if weights.dtype == np.float64 and weights.flags.c_contiguous:
        return weights
    return np.ascontiguousarray(weights, dtype=np.float64)


def checked_array(
    array: NDArray[Any],
    name: str,
    data: str,
    decoding: Decoding | None = None,
    taken: NDArray[np.bool_] | None = None,
) -> ArrayWeights:
    """Look at weights in memory once, so that no pass needs to.

    Parameters
    ----------
    array : ndarray of the samples' shape
        Real.
    name, data : str
        What messages call the weights and the data.
    decoding : Decoding, optional
        How its elements become weights.
    taken : bool ndarray of that shape, optional
        Which rows take part; whatever the others weigh counts as zero.

    Raises
    ------
    SampleWeightError
        A weight is negative, no number, marked as missing, or beyond the range.
    InputError
        All are zero.
    """
    looked = Looked.POSITIVE
    flat, n_kept = array.reshape(-1), 0
    kept = flat
    if decoding is not None or taken is not None:
        array = np.empty(array.shape, np.float64)
        kept = array.reshape(-1)
    rows: NDArray[np.bool_] | None = None if taken is None else taken.reshape(-1)
    for start in range(0, flat.size, _LOOKED_AT_ONCE):
        here = slice(start, start + _LOOKED_AT_ONCE)
        own = True if rows is None else rows[here]
        try:
            if kept is not flat:
                kept[here] = np.where(own, decoded_weights(flat[here], decoding, own), 0.0)
            part = kept[here].astype(np.float64, copy=False)
            found = look_at(part)
        except SampleWeightError as error:
            place = [int(i) for i in np.unravel_index(start + error.row, array.shape)]
            index = f"row {place[0]}" if len(place) == 1 else f"index {place} of the samples"
            raise error.at(f"{index} of {data}", start + error.row) from None
        if found is not Looked.POSITIVE:
            looked = found
        n_kept += int(np.count_nonzero(part))
    if flat.size and not n_kept:
        raise no_weight(name)
    return ArrayWeights(array, name, looked)


def no_weight(name: str) -> InputError:
    """What is raised where no row counts."""
    return InputError(
        f"Sample weights must contain at least one non-zero number: {name} is 0 for each row."
    )


def look_at(weights: NDArray[np.float64]) -> Looked:
    """Return whether all weights are positive; refuse what is no weight.

    Parameters
    ----------
    weights : (n,) float64

    Raises
    ------
    SampleWeightError
        With the place of the first that is none.
    """
    if not weights.size:
        return Looked.POSITIVE
    low, high = np.minimum.reduce(weights), np.maximum.reduce(weights)
    if low >= LEAST and high <= MOST:  # NaN is in no range
        return Looked.POSITIVE
    usable = (weights >= LEAST) & (weights <= MOST) | (weights == 0.0)
    if not usable.all():
        row = int(usable.argmin())
        raise SampleWeightError(row, float(weights[row]))
    return Looked.USABLE


def decoded_weights(
    stored: NDArray[Any], decoding: Decoding | None, taken: NDArray[np.bool_] | bool = True
) -> NDArray[Any]:
    """Return weights as the metadata mean them.

    Parameters
    ----------
    stored : (n,) real
    decoding : Decoding or None
        None where they mean what is stored.
    taken : (n,) bool, or bool for all
        Which rows take part. What the others weigh may be missing: NaN.

    Raises
    ------
    SampleWeightError
        An element is none by the metadata. It knows the row.
    """
    if decoding is None:
        return stored
    weights = decoding.decode(stored)
    missing = np.isnan(weights)
    if taken is not True:
        missing &= taken
    if missing.any():
        row = int(missing.argmax())
        found = decoding.missing(stored[row])
        if found is not None:
            remedy = (
                f"A row to leave out has weight 0: make these values NaN by `{found.as_nan}` and "
                f"NaN 0; if they are weights after all, pass `{found.as_number}`."
            )
            raise SampleWeightError(row, found.value, found.why, remedy)
    return weights


def joined_rows(
    values: NDArray[Any],
    weights: NDArray[np.float64],
    *,
    looked_at: Looked = Looked.NEVER,
    memory: Memory | None = None,
    overwrite: bool = False,
    selects_only: bool = False,
) -> Rows:
    """Return the rows that count, with their weights.

    Parameters
    ----------
    values : (n, D) real
    weights : (n,) float64
    looked_at : Looked
        What is known of the weights.
    memory : Memory, optional
        Where the result may lie, and `values` do not.
    overwrite : bool
        Whether it may lie in the memory of `values`.
    selects_only : bool
        Whether weights are zero or one, and rows are to have none.

    Returns
    -------
    Rows
        `values` and `weights` themselves where each row counts.

    Raises
    ------
    SampleWeightError
        A weight is none. It knows the place among `values`.
    """
    if looked_at is Looked.NEVER:
        looked_at = look_at(weights)
    if looked_at is Looked.POSITIVE:
        return Rows(values, None if selects_only else weights)
    (places,) = weights.astype(bool).nonzero()
    if places.size == len(values):
        return Rows(values, None if selects_only else weights)
    kept = gathered(values, places, memory, overwrite=overwrite)
    own = None if selects_only else weights.take(places)
    return Rows(kept, own, places, len(values) - places.size)


def gathered(
    values: NDArray[Any], places: NDArray[np.intp], memory: Memory | None, *, overwrite: bool
) -> NDArray[Any]:
    """Return some rows, in order and laid out as they were."""
    by_feature = values.flags.f_contiguous and not values.flags.c_contiguous
    if overwrite and values.nbytes > _STEP_BYTES and values.flags.writeable:
        return _closed_ranks(values, places, by_feature=by_feature)
    laid, axis = (values.T, 1) if by_feature else (values, 0)
    if memory is None:
        kept = laid.take(places, axis=axis)
    else:
        shape = (values.shape[1], places.size) if by_feature else (places.size, values.shape[1])
        raw = memory.take(places.size * values.shape[1] * values.itemsize)
        # "clip", or NumPy would gather into memory of its own first.
        kept = laid.take(places, axis, raw.view(values.dtype).reshape(shape), mode="clip")
    return kept.T if by_feature else kept


def _closed_ranks(
    values: NDArray[Any], places: NDArray[np.intp], *, by_feature: bool
) -> NDArray[Any]:
    """Move some rows to the front, over the others."""
    # Each moves towards the front, so that no row is overwritten before it has moved.
    if by_feature:
        for column in values.T:
            column[: places.size] = column.take(places)
        return values[: places.size]
    step = max(1, _STEP_BYTES // (values.itemsize * values.shape[1]))
    for start in range(0, places.size, step):
        stop = min(start + step, places.size)
        values[start:stop] = values.take(places[start:stop], axis=0)
    return values[: places.size]
