"""A read-only view of a Zarr store that never lets a loss pass for data.

Zarr reads a chunk that is not in the store as the array's fill value, and an inner chunk that a
shard's index leaves out likewise. Both are also how Zarr *writes* a chunk that holds nothing but
the fill value, so the two cannot be told apart: the message says so and names the remedy. A range
that comes back shorter than asked is a truncated object; left alone, zarr-python 3.1 reads an empty
range inside a shard as fill values too.
"""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest

from dask_gmm.data.chunk_errors import empty_chunk, first_line, missing_chunk, short_range
from dask_gmm.data.doubt import confirmed, is_far
from dask_gmm.data.store_refusals import EXPIRED_CODES, known_refusal
from dask_gmm.errors import DaskGMMError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from dask_gmm.data.shards import ShardLayout

__all__ = [
    "METADATA_NAMES",
    "CheckedStore",
    "ReadCount",
    "count_hedge",
    "count_read",
    "first_line",
    "read_counter",
    "translate_error",
]

METADATA_NAMES = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


@dataclass(frozen=True)
class ReadCount:
    """Requests for chunks that this process has made, and the bytes that came back.

    Attributes
    ----------
    gets : int
        Requests for chunks, shards, or ranges of shards; metadata are not counted.
    bytes : int
        Bytes in the answers, as stored (compressed).
    hedges : int
        Requests that were made a second time because the answer was late; not among `gets`.
    """

    gets: int = 0
    bytes: int = 0
    hedges: int = 0

    def __sub__(self, earlier: ReadCount) -> ReadCount:
        return ReadCount(
            self.gets - earlier.gets, self.bytes - earlier.bytes, self.hedges - earlier.hedges
        )


class _Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gets = 0
        self._bytes = 0
        self._hedges = 0

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._gets += 1
            self._bytes += n_bytes

    def add_hedge(self) -> None:
        with self._lock:
            self._hedges += 1

    def snapshot(self) -> ReadCount:
        with self._lock:
            return ReadCount(self._gets, self._bytes, self._hedges)


_counter = _Counter()


def read_counter() -> ReadCount:
    """Return what this process has read from all stores so far; subtract two to measure."""
    return _counter.snapshot()


def count_read(n_bytes: int) -> None:
    """Count one request for a chunk, whichever way it was made."""
    _counter.add(n_bytes)


def count_hedge() -> None:
    """Count a request that was made a second time."""
    _counter.add_hedge()


class CheckedStore(Store):
    """Read-only wrapper of a store that counts reads and refuses to mistake a loss for data.

    It subclasses `Store` and not `WrapperStore` on purpose: a fast path that a later Zarr gives its
    own stores would be delegated by the latter, past these checks.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store to read from.
    url : str
        What messages call the store.
    missing_chunks : {"error", "fill"}
        Whether a chunk that is not there is an error or the fill value.
    shards : ShardLayout, optional
        How to read the shard indices of the array that will be read through this store.
    probing : bool, default=False
        Whether metadata that may not be read count as absent, with the refusal kept in `denied`.
        S3 refuses what does not exist if the bucket may not be listed, and whoever opens a Zarr
        node asks for documents of both formats.
    """

    supports_writes = False
    supports_deletes = False

    def __init__(
        self,
        store: Store,
        url: str,
        missing_chunks: Literal["error", "fill"],
        shards: ShardLayout | None = None,
        *,
        probing: bool = False,
    ) -> None:
        super().__init__(read_only=True)
        self._store = store
        self.url = url
        self.missing_chunks = missing_chunks
        self._shards = shards
        self._probing = probing
        self._whole: dict[str, Buffer] | None = None
        self.denied: StoreError | None = None

    @property
    def far(self) -> bool:
        """Whether what it says comes across a network: a second answer may be another."""
        return is_far(self._store)

    def with_shards(self, shards: ShardLayout | None) -> CheckedStore:
        """Return the same store with one array's shard layout to check."""
        return CheckedStore(self._store, self.url, self.missing_chunks, shards)

    def tolerant(self) -> CheckedStore:
        """Return the same store where metadata that may not be read count as absent."""
        return CheckedStore(self._store, self.url, self.missing_chunks, self._shards, probing=True)

    def for_one_read(self) -> CheckedStore:
        """Return a store that fetches each object whole, once, for a read that needs all of it.

        Where a shard reaches over the edge of its array, zarr-python 3.1 asks for the index and
        then for one inner chunk after the other: a round trip each.
        """
        store = self.with_shards(self._shards)
        store._whole = {}
        return store

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        """Return this store; it has no writable form."""
        if not read_only:
            raise ValueError("a CheckedStore is read-only")
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or part of it; see the class for what is refused."""
        if self._whole is not None and byte_range is not None:
            return await self._part_of_whole(self._whole, key, prototype, byte_range)
        is_metadata = key.rpartition("/")[2] in METADATA_NAMES
        try:
            get = partial(self._store.get, key, prototype, byte_range)
            value = await confirmed(self._store, get)
        except (DaskGMMError, MemoryError):
            raise
        except BaseException as error:  # every kind of store has errors of its own
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            translated = translate_error(error, self._place(key))
            if byte_range is not None and (is_about_range(error) or is_panic(error)):
                await self._explain(key, byte_range, error)
            if self._probing and is_metadata and is_access_denied(error):
                self.denied = translated
                return None
            raise translated from error
        if is_metadata:
            return value
        count_read(0 if value is None else len(value))
        if value is None:
            if self.missing_chunks == "error":
                raise missing_chunk(self.url, key)
            return None
        self._check(key, value, byte_range)
        return value

    async def _explain(self, key: str, byte_range: ByteRequest, error: BaseException) -> None:
        """Raise if a request failed because the object ends before what was asked for."""
        try:
            size = await self._store.getsize(key)
        except Exception:  # noqa: BLE001  what it was asked before has failed already
            return
        if size == 0:
            raise empty_chunk(self.url, key) from error
        if isinstance(byte_range, RangeByteRequest) and byte_range.end > size:
            asked = byte_range.end - byte_range.start
            raise short_range(self.url, key, asked, max(0, size - byte_range.start)) from error

    async def _part_of_whole(
        self,
        objects: dict[str, Buffer],
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest,
    ) -> Buffer | None:
        if key not in objects:
            value = await self.get(key, prototype)
            if value is None:
                return None
            objects[key] = value
        whole = objects[key]
        if isinstance(byte_range, RangeByteRequest):
            return whole[byte_range.start : byte_range.end]
        if isinstance(byte_range, SuffixByteRequest):
            return whole[max(0, len(whole) - byte_range.suffix) :]
        return whole[byte_range.offset :]

    def _check(self, key: str, value: Buffer, byte_range: ByteRequest | None) -> None:
        expected = None
        if isinstance(byte_range, RangeByteRequest):
            expected = byte_range.end - byte_range.start
        elif isinstance(byte_range, SuffixByteRequest):
            expected = byte_range.suffix
        if expected is not None and len(value) != expected:
            raise short_range(self.url, key, expected, len(value))
        if len(value) == 0:
            raise empty_chunk(self.url, key)
        if self._shards is not None:
            absent = self._shards.absent_chunks(key, value, byte_range, self.url)
            if absent and self.missing_chunks == "error":
                raise missing_chunk(self.url, key, absent[0])

    def _place(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of several objects, each checked as by `get`."""
        parts = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*parts))

    async def exists(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            return await self._store.exists(key)
        except Exception as error:
            raise translate_error(error, self._place(key)) from error

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CheckedStore)
            and self._store == other._store
            and self.missing_chunks == other.missing_chunks
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"CheckedStore({self.url!r})"

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        self._check_writable()

    @property
    def supports_listing(self) -> bool:
        """Whether the wrapped store can list its keys."""
        return self._store.supports_listing

    def list(self) -> AsyncIterator[str]:
        """List all keys."""
        return self._store.list()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys under a prefix."""
        return self._store.list_prefix(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names directly under a prefix."""
        return self._store.list_dir(prefix)


def is_access_denied(error: BaseException) -> bool:
    """Whether a store refused to answer, as opposed to could not."""
    refusals = {"PermissionDeniedError", "UnauthenticatedError"}
    text = str(error)
    return (
        isinstance(error, PermissionError)
        or type(error).__name__ in refusals
        or "403 Forbidden" in text
        or "401 Unauthorized" in text
        or re.search(f"<Code>({EXPIRED_CODES})", text) is not None
    )


def is_about_range(error: BaseException) -> bool:
    """Whether a store has answered that an object has no such part."""
    return (
        re.search(r"\b416\b|\brange\b|InvalidRange|CONTENT_RANGE", str(error), re.IGNORECASE)
        is not None
    )


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust has met what its authors did not expect.

    Such as parts behind the end of an object. Some of these are no `Exception`.
    """
    return type(error).__name__ in {"PanicException", "RustPanic"}


def translate_error(error: BaseException, place: str) -> StoreError:
    """Say in one sentence why a store did not answer, whatever library it came through."""
    text = str(error)
    reason = first_line(error)
    # The address of the cloud's metadata service: asked last, when no other credentials are set.
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return StoreError(
            f"No credentials were found for {place}: set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY (or your cloud's variables) in this process's environment, "
            f"give its machine a role, or say skip_signature=true for public data."
        )
    known = known_refusal(error)
    if known is not None:
        return StoreError(f"{place} could not be read: {known.why}. {known.remedy}")
    if is_access_denied(error):
        return StoreError(
            f"Access to {place} was denied: {reason}. Check the credentials and the role of this "
            f"process (environment variables; profiles in ~/.aws are not read), or say "
            f"skip_signature=true for public data. S3 also answers so for what does not exist "
            f"when listing is not allowed, and where the requester pays and has not said "
            f"requester_pays=true."
        )
    remedy = "Check the address, the endpoint and the network."
    if "429 Too Many Requests" in text or "503 Service Unavailable" in text:
        remedy = "It answers fewer requests than come: try again later, or with fewer workers."
    return StoreError(f"{place} could not be read: {reason}. {remedy}")
