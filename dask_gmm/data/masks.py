"""Which rows take part: a mask beside the rows, with or without weights.

A row where the mask is false is left out as one of weight zero is (`data.weights`); what it holds,
and its weight, nobody looks at. Rows that take part without weights count once, and have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.weights import ArrayWeights, Looked, Weights
from dask_gmm.errors import InputError, WhereError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.stored_metadata import StoredMetadata

__all__ = ["MaskedWeights", "as_mask", "checked_mask", "masked", "nowhere"]

_MASK = "where:"


def as_mask(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask as booleans; a copy.

    Parameters
    ----------
    values : (n,) real

    Raises
    ------
    WhereError
        An element is neither true nor false, 1 nor 0.
    """
    mask = values != 0
    wrong = mask & (values != 1)
    if values.dtype.kind != "b" and wrong.any():
        row = int(wrong.argmax())
        raise WhereError(row, float(values[row]))
    return np.asarray(mask)


def checked_mask(array: NDArray[Any], name: str) -> ArrayWeights:
    """Look at a mask in memory once.

    Raises
    ------
    WhereError
        An element is neither true nor false.
    InputError
        None is true.
    """
    try:
        mask = as_mask(array.reshape(-1)).reshape(array.shape)
    except WhereError as error:
        place = [int(i) for i in np.unravel_index(error.row, array.shape)]
        index = f"row {place[0]}" if len(place) == 1 else f"index {place} of the samples"
        raise error.at(index) from None
    if mask.size and not mask.any():
        raise nowhere(name)
    return ArrayWeights(mask, name, Looked.USABLE)


def nowhere(name: str) -> InputError:
    """What is raised where no row takes part."""
    return InputError(
        f"Found array with 0 sample(s) to use: {name} is false for each row. It is to be true for "
        f"those that take part."
    )


def masked(mask: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return weights that are zero where a mask is false, and the mask's own without weights."""
    taken = as_mask(mask)
    if weights is None:
        return taken.astype(np.float64)
    return np.where(taken, weights, 0.0)


@dataclass(frozen=True, eq=False)
class MaskedWeights(Weights):
    """Weights where a mask is true, and zero elsewhere. Use `MaskedWeights.of`.

    Attributes
    ----------
    mask : Weights
        Of zero and one.
    weights : Weights or None
        Without them each row that takes part counts once.
    """

    mask: Weights
    weights: Weights | None
    name: str
    token: str
    looked_at: Looked = Looked.NEVER

    @classmethod
    def of(cls, mask: Weights, weights: Weights | None) -> MaskedWeights:
        """Put the two together."""
        name = mask.name if weights is None else weights.name
        token = mask.token if weights is None else f"{mask.token}-{weights.token}"
        looked = Looked.USABLE if weights is None else weights.looked_at
        # Weights that are all positive are so no longer.
        return cls(
            mask, weights, name, token, Looked.NEVER if looked is Looked.NEVER else Looked.USABLE
        )

    @property
    def stores(self) -> tuple[str, ...]:
        """The mask's, and the weights'."""
        return tuple(store for part in self.parts for store in part.stores)

    @property
    def selects_only(self) -> bool:
        """Whether it only says which rows take part."""
        return self.weights is None

    def alone(self) -> MaskedWeights:
        """The mask without weights."""
        return MaskedWeights.of(self.mask, None)

    @property
    def parts(self) -> tuple[Weights, ...]:
        """The mask, and the weights if there are some."""
        return (self.mask,) if self.weights is None else (self.mask, self.weights)

    @property
    def rereads_alike(self) -> bool:
        """Whether both are the same bits each time."""
        return all(part.rereads_alike for part in self.parts)

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, zero where the mask is false."""
        own, theirs = _divided(requested)
        # What is made of the mask is a copy: the weights may be read into the same memory.
        # An element that is missing is none of a mask either, which says so in its own words.
        taken = as_mask(self.mask.read_of(False, block, buffers, own))
        if self.weights is None:
            return masked(taken, None)
        return masked(taken, self.weights.read_of(taken, block, buffers, theirs))

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask the stores for a block of both."""
        found: dict[str, Any] = {}
        for key, answer in (self.mask.request(block) or {}).items():
            found[_MASK + key] = answer
        if self.weights is not None:
            found |= self.weights.request(block) or {}
        return found or None

    @property
    def shippable(self) -> bool:
        """Whether another process can read both."""
        return all(part.shippable for part in self.parts)

    @property
    def stays_because(self) -> str | None:
        """Why not."""
        reasons = (None if part.shippable else part.stays_because for part in self.parts)
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def read_bytes(self) -> int:
        """Transient memory of one read of each, and the block's mask."""
        return sum(part.read_bytes for part in self.parts)

    @property
    def request_bytes(self) -> int:
        """Memory of a requested block of each."""
        return sum(part.request_bytes for part in self.parts)

    def content_token(self) -> object:
        """Return what Dask can name both by; None where nothing tells when one changes."""
        tokens = [part.content_token() for part in self.parts]
        return None if None in tokens else ("where", *tokens)

    def content_digest(self) -> str | None:
        """Return what tells whether anything was written to either."""
        digests = [part.content_digest() for part in self.parts]
        return None if None in digests else " ".join(["where", *map(str, digests)])

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew what the stores hold as metadata."""
        return tuple(found for part in self.parts for found in part.stored_metadata())


def _divided(
    requested: Mapping[str, Any] | None,
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """What was requested for the mask, and for the weights."""
    if not requested:
        return None, None
    own = {k.removeprefix(_MASK): v for k, v in requested.items() if k.startswith(_MASK)}
    theirs = {k: v for k, v in requested.items() if not k.startswith(_MASK)}
    return own or None, theirs or None
