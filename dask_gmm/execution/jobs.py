"""What a pass is given: a job, and a source whose blocks may be tasks of a graph."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_gmm.data.source import BlockRef
    from dask_gmm.rows import Rows

__all__ = ["BlockJob", "GraphSource", "OpenJob", "is_graph_source"]

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


@runtime_checkable
class GraphSource(Protocol):
    """A source whose blocks are tasks of a Dask graph, not something a task can read."""

    def block_key(self, i: int, /) -> Any:
        """Return the key of a block's value in the graph."""

    def graph(self) -> Mapping[Any, Any]:
        """Return the graph of the collection."""

    def futures(self) -> Sequence[Any]:
        """Return the `distributed.Future`s of the blocks that lie on a cluster already."""

    def row_maker(self) -> Callable[[Any], Rows]:
        """Return what turns a block's value into rows; picklable without the source."""


def is_graph_source(source: Any) -> TypeGuard[GraphSource]:
    """Whether a source is a `GraphSource`, without the look at each method that costs 60 µs."""
    return _is_graph_source(source.__class__)


@cache
def _is_graph_source(kind: type) -> bool:
    return issubclass(kind, GraphSource)
