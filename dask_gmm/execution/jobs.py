"""What a pass does with each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from dask_gmm.data.source import BlockRef
    from dask_gmm.rows import Rows

__all__ = ["BlockJob", "OpenJob"]

T_co = TypeVar("T_co", covariant=True)


class OpenJob(Protocol[T_co]):
    """A job that one thread at a time does on block after block.

    On the same block (again, after a lost worker, say) it returns the same value.
    """

    def __call__(self, rows: Rows, block: BlockRef, /) -> T_co:
        """Return the value of a block's rows; there may be none."""


class BlockJob(Protocol[T_co]):
    """What is computed from each block of a pass: frozen and picklable."""

    @property
    def value_bytes(self) -> int:
        """Bytes of one value."""

    @property
    def workspace_bytes(self) -> int:
        """Bytes that an open job holds while it is called, beside its rows and its value."""

    def open(self) -> OpenJob[T_co]:
        """Prepare; called once by each thread of a pass. What it returns goes with the pass."""
