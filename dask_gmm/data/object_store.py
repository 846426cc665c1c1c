"""An object store as this process reaches it: its answers are held against a second one.

obstore itself puts a request again where a store is overloaded (429, 503), fails (500) or breaks
off, with growing pauses; it does not show how long a store asks it to wait (``Retry-After``). Two
answers it takes as they come, and here they are doubted:

- *Not found.* See `dask_gmm.data.doubt`.
- *Refused.* Credentials that were good for an hour have expired, and there are new ones: in this
  process's environment, or wherever its variables lead. The connection is made anew with them.

Everything goes through `ask`, or is asked by Zarr through `PatientStore`.

obstore's threads hand answers over with the interpreter's lock. One that would still take it while
the interpreter ends, be it to let go of an answer that has been used, is ended by it in the middle
of its own code, and the process aborts. So a process that has asked rests a moment when it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import zarr.storage

from dask_gmm.data.checked_store import is_access_denied
from dask_gmm.data.doubt import DOUBT_SECONDS, AsksAgain, jittered
from dask_gmm.data.store_refusals import wants_new_credentials

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    _ObjectStore = zarr.storage.ObjectStore[Any]
else:
    _ObjectStore = zarr.storage.ObjectStore  # generic since Zarr 3.1.4 or so

__all__ = ["BROKEN_PAUSES", "PatientStore", "ask", "listed", "rest_at_exit"]

T = TypeVar("T")

_FRESH_SECONDS = 1.0
"""Credentials that were taken from the environment so recently are not taken again."""

_RENEWAL_PAUSES = (1.0, 3.0, 8.0)
"""How long whoever renews credentials that have expired may lag behind, in steps."""

BROKEN_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0)
"""Seconds, jittered, after which a conditional put is made again whose connection broke.

obstore does not: it cannot know whether the put was done. Whoever finds the object there looks
whose it is. A connection that was open for long and is used again breaks like that too.
"""

_BROKEN_PATIENCE = 30.0
"""A put that took so many seconds was repeated by obstore already."""

_RESTS, _REST_SECONDS = 10, 0.01
"""Pauses at the end of a process, each of which takes the longer, the busier the machine is."""

_MAX_QUESTIONS = 8
_MAX_ABSENT = 50_000
_lock = threading.Lock()


_resting: set[int] = set()
"""Processes that will rest: this one, and whoever has forked it."""


def rest_at_exit() -> None:
    """Let obstore's threads come to rest when this process ends."""
    with _lock:
        if os.getpid() not in _resting:
            _resting.add(os.getpid())
            atexit.register(_rest, os.getpid())


def _rest(process: int) -> None:
    for _ in range(_RESTS if process == os.getpid() else 0):
        time.sleep(_REST_SECONDS)


class PatientStore(_ObjectStore, AsksAgain):
    """A store of obstore's for Zarr, made anew when its credentials are refused.

    Parameters
    ----------
    make : callable
        Makes the store of obstore's, with the credentials that this process has at that moment.
    read_only : bool, default=False

    Attributes
    ----------
    store : obstore.store.ObjectStore
        The one that is in use; ask it through `ask`.
    worked : bool
        Whether its credentials were good, so that new ones are worth waiting for.
    """

    def __init__(self, make: Callable[[], Any], *, read_only: bool = False) -> None:
        super().__init__(make(), read_only=read_only)
        rest_at_exit()
        self._make = make
        self._made = time.monotonic()
        self._absent: set[str] = set()
        self.worked = False

    def with_read_only(self, read_only: bool = False) -> PatientStore:
        """Return the same store, to be written to or not."""
        return PatientStore(self._make, read_only=read_only)

    def renew(self, refused: Any) -> bool:
        """Make the store anew that was refused; whether there is another to ask now."""
        with _lock:
            if self.store is not refused:
                return True  # another thread has
            if time.monotonic() - self._made < _FRESH_SECONDS:
                return False
            self.store = self._make()
            self._made = time.monotonic()
            return True

    def doubts(self, key: str) -> bool:
        """Whether nobody has been told twice before that an object is absent."""
        return key not in self._absent

    def believe(self, key: str) -> None:
        """Remember that an object of data is absent: every pass asks for it."""
        if key and self.read_only:
            if len(self._absent) >= _MAX_ABSENT:
                self._absent.clear()
            self._absent.add(key)

    def gave(self, key: str) -> None:
        """Remember that it has answered, and that an object is there."""
        self.worked = True
        if self._absent:
            self._absent.discard(key)

    async def _asked(
        self, do: Callable[[], Awaitable[T]], key: str = "", broken: Sequence[float] = ()
    ) -> T:
        patience = _Patience(self, key, broken)
        while True:
            store = self.store
            try:
                found = await do()
            except Exception as error:
                pause = patience.pause(error, store)
                if pause is None:
                    raise
            else:
                if found is not None and found is not False:
                    self.gave(key)
                    return found
                pause = patience.doubt()
                if pause is None:
                    return found
            await asyncio.sleep(pause)
            patience.go_on()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or part of it."""
        got = super().get
        return await self._asked(lambda: got(key, prototype, byte_range), key)

    async def exists(self, key: str) -> bool:
        """Whether an object is there."""
        found = super().exists
        return await self._asked(lambda: found(key), key)

    async def getsize(self, key: str) -> int:
        """Return an object's length."""
        sized = super().getsize
        return await self._asked(lambda: sized(key), key)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object."""
        put = super().set
        await self._told(lambda: put(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object unless there is one."""
        put = super().set_if_not_exists
        await self._told(lambda: put(key, value), BROKEN_PAUSES)

    async def delete(self, key: str) -> None:
        """Delete an object."""
        deleted = super().delete
        await self._told(lambda: deleted(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        deleted = super().delete_dir
        await self._told(lambda: deleted(prefix))

    async def _told(self, do: Callable[[], Awaitable[None]], broken: Sequence[float] = ()) -> None:
        async def done() -> bool:
            await do()
            return True

        await self._asked(done, "", broken)

    def list(self) -> AsyncGenerator[str]:
        """List all keys."""
        return self._listed(super().list)

    def list_prefix(self, prefix: str) -> AsyncGenerator[str]:
        """List the keys under a prefix."""
        listed = super().list_prefix
        return self._listed(lambda: listed(prefix))

    def list_dir(self, prefix: str) -> AsyncGenerator[str]:
        """List the names directly under a prefix."""
        listed = super().list_dir
        return self._listed(lambda: listed(prefix))

    async def _listed(self, begin: Callable[[], AsyncGenerator[str]]) -> AsyncGenerator[str]:
        """Yield what a listing yields, begun again where it is refused at once."""
        patience, none = _Patience(self, ""), True
        while True:
            store = self.store
            try:
                async for name in begin():
                    none = False
                    yield name
            except Exception as error:
                pause = patience.pause(error, store) if none else None
                if pause is None:
                    raise
            else:
                return
            await asyncio.sleep(pause)
            patience.go_on()


class _Patience:
    """What becomes of the answers to one question that is put to a store."""

    def __init__(self, store: PatientStore, key: str, broken: Sequence[float] = ()) -> None:
        self._store = store
        self._key = key
        self._broken = iter(broken)
        self._begun = time.monotonic()
        self._questions = 0
        self._doubted = False
        self._pauses = iter(_RENEWAL_PAUSES)
        self._refused: Any = None

    def pause(self, error: Exception, store: Any) -> float | None:
        """Return in how many seconds to ask again, None where the answer stands.

        Parameters
        ----------
        error : Exception
            The answer.
        store : obstore.store.ObjectStore
            Whose answer it is.
        """
        if isinstance(error, FileNotFoundError):
            return self.doubt()
        if not is_access_denied(error):
            return self._mend(error)
        self._questions += 1
        if self._questions >= _MAX_QUESTIONS:
            return None
        if self._store.renew(store):
            return 0.0
        if not (self._store.worked and wants_new_credentials(error)):
            return None
        self._refused = store
        seconds = next(self._pauses, None)
        if seconds is None:
            self._store.worked = False  # nobody else waits as long in vain
            return None
        return max(_FRESH_SECONDS, jittered(seconds))

    def doubt(self) -> float | None:
        """Return in how many seconds to ask again for what is absent, None to believe it."""
        if self._doubted:
            self._store.believe(self._key)
            return None
        self._doubted = True
        return jittered(DOUBT_SECONDS) if self._store.doubts(self._key) else None

    def _mend(self, error: Exception) -> float | None:
        """Return in how many seconds to ask again where a connection may have broken."""
        import obstore.exceptions

        long = time.monotonic() - self._begun > _BROKEN_PATIENCE
        if long or not isinstance(error, obstore.exceptions.GenericError):
            return None
        seconds = next(self._broken, None)
        return None if seconds is None else jittered(seconds)

    def go_on(self) -> None:
        """Take the credentials that there are after a pause."""
        if self._refused is not None:
            self._store.renew(self._refused)
            self._refused = None


def ask(
    store: PatientStore | Any,
    do: Callable[[Any], T],
    key: str = "",
    *,
    broken: Sequence[float] = (),
) -> T:
    """Return what a store of obstore's answers; doubt that something is absent, or refused.

    Parameters
    ----------
    store : PatientStore, or a store of obstore's in this process's memory
    do : callable
        Takes the store of obstore's and asks it; if need be more than once. What is asked for has
        to have come when it returns: a body too.
    key : str, optional
        What it asks for, if the absence of that is to be remembered.
    broken : sequence of float, default=()
        Pauses after which to ask again where a connection has broken: `BROKEN_PAUSES` for what
        obstore does not repeat.

    Raises
    ------
    FileNotFoundError
        What is asked for is not there.
    Exception
        What obstore raises.
    """
    if not isinstance(store, PatientStore):
        return do(store)
    patience = _Patience(store, key, broken)
    while True:
        asked = store.store
        try:
            found = do(asked)
        except Exception as error:
            pause = patience.pause(error, asked)
            if pause is None:
                raise
        else:
            store.gave(key)
            return found
        time.sleep(pause)
        patience.go_on()


def listed(store: PatientStore | Any, prefix: str | None = None) -> Iterator[Any]:
    """Yield the objects below a prefix as obstore describes them; the first answer may be refused.

    Raises
    ------
    Exception
        What obstore raises.
    """
    import obstore

    def begin(asked: Any) -> Any:
        pages = iter(obstore.list(asked, prefix=prefix, chunk_size=1000))
        return next(pages, ()), pages

    first, others = ask(store, begin)
    yield from first
    for page in others:
        yield from page
