"""The weights of a source's rows: how each kind is read, checked and joined with the rows.

A row of weight w counts as w copies of it. A row of weight zero is absent: it is left out here,
where a block's values and weights meet, and nothing after that sees it; it may hold anything.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError, MissingValueError, SampleWeightError
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.conventions import Marks
    from dask_gmm.data.grid import BlockRef

__all__ = [
    "ArrayWeights",
    "Weights",
    "checked_array",
    "joined_rows",
    "new_token",
    "refuse_marked",
]

LEAST, MOST = 1e-100, 1e100
"""Weights other than zero lie between: their sums, and those of their squares, are float64s."""

_STEP_BYTES = 2**18  # moved at a time when rows close ranks


def new_token() -> str:
    """Return a name that nothing else has."""
    return uuid.uuid4().hex


class Weights(ABC):
    """A weight for each row of a source; frozen.

    Attributes
    ----------
    name : str
        What messages call them.
    positive : bool
        Whether somebody has seen that each is an ordinary weight, and none is zero.
    token : str
        Tells these from all others that were opened, in every process.
    """

    name: str
    token: str
    positive: bool = False

    @abstractmethod
    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, shape (n,), unchecked; never to be written to.

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
    positive: bool = False
    token: str = field(default_factory=new_token)

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
        return part if part.dtype == np.float64 else part.astype(np.float64)

    @property
    def stays_because(self) -> str:
        """They are here."""
        return (
            f"{self.name} lies in the memory of this process. Write it to a path or an object "
            f"store and pass that."
        )


def checked_array(
    array: NDArray[Any], name: str, data: str, marks: Marks | None = None
) -> ArrayWeights:
    """Look at weights in memory once, so that no pass needs to.

    Parameters
    ----------
    array : ndarray of the samples' shape
        Real.
    name, data : str
        What messages call the weights and the data.
    marks : Marks, optional
        Elements that are no weights.

    Raises
    ------
    SampleWeightError
        A weight is negative, no number, marked as missing, or beyond the range.
    InputError
        All are zero.
    """
    flat = array.reshape(-1)
    try:
        if marks:
            refuse_marked(flat, marks)
        if ordinary(array):
            return ArrayWeights(array, name, positive=True)
        kept = kept_places(flat)
    except SampleWeightError as error:
        place = [int(i) for i in np.unravel_index(error.row, array.shape)]
        index = f"row {place[0]}" if len(place) == 1 else f"index {place} of the samples"
        raise error.at(f"{index} of {data}") from None
    if not kept.size:
        raise InputError(
            f"Sample weights must contain at least one non-zero number: {name} is 0 for each row."
        )
    return ArrayWeights(array, name)


def ordinary(weights: NDArray[Any]) -> bool:
    """Whether all weights lie in the range, none of them zero; NaN is in no range."""
    if not weights.size or weights.dtype == bool:
        return bool(weights.all())
    low, high = np.minimum.reduce(weights, axis=None), np.maximum.reduce(weights, axis=None)
    return bool(low >= LEAST and high <= MOST)


def kept_places(weights: NDArray[Any]) -> NDArray[np.intp]:
    """Return the places of the rows that count.

    Parameters
    ----------
    weights : (n,) real

    Raises
    ------
    SampleWeightError
        With the place of the first weight that is none.
    """
    usable = (weights >= LEAST) & (weights <= MOST) | (weights == 0)
    if not usable.all():
        row = int(usable.argmin())
        raise SampleWeightError(row, float(weights[row]))
    return np.flatnonzero(weights)


def refuse_marked(weights: NDArray[Any], marks: Marks) -> None:
    """Refuse weights that hold an element which is none by the metadata.

    Parameters
    ----------
    weights : (n,) real

    Raises
    ------
    SampleWeightError
        It knows the row.
    """
    found = marks.first(weights[:, None]) if marks else None
    if found is None:
        return
    remedy = (
        f"A row to leave out has weight 0: make these values NaN by `{found.code}` and NaN 0; if "
        f"they are weights after all, pass `{marks.remedies.unmarked}`."
    )
    raise SampleWeightError(found.row, weights[found.row].item(), found.why, remedy)


def joined_rows(
    values: NDArray[Any],
    weights: NDArray[np.float64],
    marks: Marks | None = None,
    *,
    all_count: bool = False,
    overwrite: bool = False,
) -> Rows:
    """Return the rows that count, with their weights.

    Parameters
    ----------
    values : (n, D) real
    weights : (n,) float64
    marks : Marks, optional
        Elements that no row which counts may hold.
    all_count : bool
        Whether each weight is known to be ordinary, and none zero.
    overwrite : bool
        Whether the memory of `values` may be used for the result.

    Returns
    -------
    Rows
        `values` and `weights` themselves where each row counts.

    Raises
    ------
    SampleWeightError
        A weight is none.
    MissingValueError
        A row that counts holds a mark. Both know the place among `values`.
    """
    if all_count or ordinary(weights):
        rows = Rows(values, weights)
    else:
        places = kept_places(weights)
        kept = _gathered(values, places, overwrite=overwrite)
        rows = Rows(kept, weights[places], places, left_out=len(values) - places.size)
    if marks:
        try:
            marks.check(rows.values)
        except MissingValueError as error:
            raise error.at("", rows.place(error.row)) from None
    return rows


def _gathered(values: NDArray[Any], places: NDArray[np.intp], *, overwrite: bool) -> NDArray[Any]:
    """Return some rows, in order and laid out as they were."""
    if overwrite and values.flags.writeable:
        # Each row moves towards the front, so that no row is overwritten before it has moved.
        step = max(1, _STEP_BYTES // max(1, values.itemsize * values.shape[1]))
        for start in range(0, places.size, step):
            stop = min(start + step, places.size)
            values[start:stop] = values[places[start:stop]]
        return values[: places.size]
    if values.flags.f_contiguous and not values.flags.c_contiguous:
        return values.T.take(places, axis=1).T
    return values.take(places, axis=0)
