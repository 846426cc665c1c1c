"""What is known of a source that others make up, from what is known of each of them."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from dask_gmm.data.base import Source

if TYPE_CHECKING:
    from dask_gmm.data.stored_metadata import StoredMetadata

__all__ = ["SourceOfParts"]


class SourceOfParts(Source):
    """A source whose values are those of others.

    There may be thousands of them: what all are asked for is kept.
    """

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, ...]:
        """Those that make it up."""

    @cached_property
    def in_memory(self) -> bool:
        """Whether all parts are."""
        return all(part.in_memory for part in self.sources)

    @cached_property
    def reads_cost(self) -> bool:
        """Whether one of the parts is read from a store."""
        return any(part.reads_cost for part in self.sources)

    @cached_property
    def rereads_alike(self) -> bool:
        """Whether all parts are stored."""
        return all(part.rereads_alike for part in self.sources)

    @cached_property
    def reader(self) -> str:
        """The reader of the parts; of several the slowest."""
        readers = {part.reader for part in self.sources}
        return readers.pop() if len(readers) == 1 else "zarr"

    @cached_property
    def shippable(self) -> bool:
        """Whether another process can open all parts, and have the weights."""
        return all(part.shippable for part in self.sources) and (
            self.weights is None or self.weights.shippable
        )

    @cached_property
    def stays_because(self) -> str | None:
        """Why none can, by the first that stays."""
        for part in self.sources:
            if part.stays_because is not None:
                return part.stays_because
        return None if self.weights is None else self.weights.stays_because

    @cached_property
    def checksum(self) -> str | None:
        """What covers each chunk of every part; "" where it does not of one."""
        found = list(dict.fromkeys(part.checksum for part in self.sources))
        if "" in found or None in found:
            return "" if "" in found else None
        return ", ".join(checksum for checksum in found if checksum is not None)

    @cached_property
    def stored_bytes(self) -> int | None:
        """Those of all parts."""
        sizes = [part.stored_bytes for part in self.sources]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read the metadata of all parts anew, and those of the weights."""
        own = (found for part in self.sources for found in part.stored_metadata())
        return (*own, *super().stored_metadata())

    def content_name(self) -> str | None:
        """Return a name of what is stored of all parts, None where nothing tells of changes."""
        names = [part.content_name() for part in self.sources]
        known = [name for name in names if name is not None]
        if len(known) < len(names):
            return None
        return hashlib.sha256(" ".join(known).encode()).hexdigest()
