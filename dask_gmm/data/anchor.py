"""Sources that cannot leave their process, inside graphs that may.

Dask pickles every graph, also for a cluster within this process. A source whose data lie in this
process's memory is pickled as a token: in this process the token becomes the source again; in
any other it becomes a sentence that says what to do.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from dask_gmm.data.base import Source

__all__ = ["AnchoredSource"]


class AnchoredSource:
    """Holds a source that stays in the process that made it.

    Parameters
    ----------
    source : Source
        Read by whoever runs the graph in this process.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._token = uuid.uuid4().hex
        with _lock:
            _anchored[self._token] = self

    def source(self) -> Source:
        """Return the source."""
        return self._source

    def __reduce__(self) -> tuple[Any, ...]:
        # Until the pickle is read here nobody may hold the graph: a Client.persist, for example,
        # whose caller has let go of the array. Then the token must hold the source.
        with _lock:
            _under_way[self._token] = self
            if len(_under_way) > _MAX_UNDER_WAY:  # pickles that went elsewhere are never redeemed
                _under_way.pop(next(iter(_under_way)))
        source = self._source
        reason = source.stays_because or "it lies in the memory of the process that opened it."
        return _unpickle, (self._token, os.getpid(), source.name, reason)


class _UnreachableSource:
    """What an `AnchoredSource` is in any other process: an error, once somebody needs it."""

    def __init__(self, *token: Any) -> None:
        self._token = token

    def source(self) -> Source:
        """Raise."""
        _, _, name, reason = self._token
        raise InputError(
            f"A task of another process than the one that opened {name} cannot read it: {reason} "
            f'Or compute there, with .compute(scheduler="threads").'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A scheduler passes it on, perhaps to a worker inside the process that has the source.
        return _unpickle, self._token


_MAX_UNDER_WAY = 16
_lock = threading.Lock()
_anchored: weakref.WeakValueDictionary[str, AnchoredSource] = weakref.WeakValueDictionary()
_under_way: dict[str, AnchoredSource] = {}


def _unpickle(
    token: str, process: int, name: str, reason: str
) -> AnchoredSource | _UnreachableSource:
    with _lock:
        # The strong reference first: taking it off the list may be what would let it go.
        source = _anchored.get(token) if process == os.getpid() else None
        _under_way.pop(token, None)
    return _UnreachableSource(token, process, name, reason) if source is None else source
