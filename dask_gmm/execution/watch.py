"""What a fit has seen of its input, held against what it sees later.

A fit reads the same blocks again and again, for hours perhaps, and every pass trusts that they are
what they were. Should somebody write to the store meanwhile, the passes would be over different
data: no likelihood rises any more, and nothing says why. So two things are looked at again:

- the metadata of the arrays, by whoever drives the passes: before the first, after each, and after
  the last, though looking takes no more than a hundredth of the time;
- the rows of some blocks, the *witnesses*, by the tasks that read them in any case: a checksum of
  up to 32 KiB of each, from its beginning to its end. One block in sixteen is a witness, and no
  more than 32 are, so that it costs less than a hundredth of a pass however small blocks are.

Data that are all written anew are found out by that. A few values that somebody changes in place
are found only if they lie in what is looked at. What a graph computes need not be the same bits on
another CPU, so neither rows nor weights that are computed are looked at.
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import google_crc32c

from dask_gmm.data.stored_metadata import changes
from dask_gmm.errors import DataChangedError, StoreError
from dask_gmm.execution.tree import Summable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.data.stored_metadata import StoredMetadata
    from dask_gmm.execution.jobs import BlockJob, OpenJob
    from dask_gmm.rows import Rows

__all__ = ["Watch", "WatchedJob", "digest_of_rows"]

#: One block in so many is a witness, and no more than this.
BLOCKS_PER_WITNESS = 16
MOST_WITNESSES = 32
#: A witness is looked at in so many places, at so many bytes in each.
PLACES = 4
PLACE_BYTES = 8192
#: The part of the time that may go into looking at metadata.
SHARE = 0.01
#: Pauses (seconds, jittered) before the metadata are asked for again.
PAUSES = (0.2, 1.0)

T = TypeVar("T", bound=Summable)


class Watch:
    """What this process has seen of a source. It stays with the source; use `Watch.of`.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cost = 0.0
        self._looked = 0.0
        # Of rows that are scaled now, the first look was at them as they were.
        earlier: Watch | None = source.unscaled.__dict__.get("_watch")
        self._metadata: tuple[StoredMetadata, ...] = (
            self._first_look() if earlier is None else earlier._metadata
        )
        self._unseen = False
        self._digests: dict[int, int | None] = {}

    @classmethod
    def of(cls, source: Source) -> Watch:
        """Return the source's watch, which begins now if it has not begun before.

        Raises
        ------
        StoreError
            The metadata cannot be read.
        """
        watch: Watch | None = source.__dict__.get("_watch")
        if watch is None:
            watch = source.__dict__["_watch"] = cls(source)
        return watch

    def over(self, job: BlockJob[T], blocks: Sequence[int]) -> BlockJob[Any]:
        """Return a job that looks at the witnesses among a pass's blocks too.

        What `taken` makes of the result is the result of `job`.
        """
        chosen = self._witnesses(blocks)
        if not chosen:
            return job
        source = self._source
        weighed = source.weights is None or source.weights.rereads_alike
        witnesses = {
            index: _Witness(
                index, source.place_of(source.block(index)), weighed, self._digests.get(index)
            )
            for index in chosen
        }
        looked_at = min(PLACES * PLACE_BYTES, source.block_bytes)
        return WatchedJob(job, witnesses, all(i in self._digests for i in chosen), looked_at)

    def taken(self, job: BlockJob[Any], value: Any) -> Any:
        """Return a pass's root without what the watch has added; `job` is from `over`."""
        if not isinstance(job, WatchedJob) or job.known:
            return value
        self._digests.update(value.digests)
        return value.value

    def look(self, *, last: bool = False) -> None:
        """Look at the metadata again, unless the last look was only just.

        Parameters
        ----------
        last : bool
            Whether there will be no other: then it is never too early.

        Raises
        ------
        DataChangedError
            They are others.
        StoreError
            They cannot be read.
        """
        early = time.perf_counter() - self._looked < self._cost / SHARE
        self._unseen = self._unseen or not last
        if self._metadata and self._unseen and (last or not early):
            self._unseen = False
            self._compare(self._read())

    def _read(self, *, patient: bool = True) -> tuple[StoredMetadata, ...]:
        """Read the metadata and note what that takes."""
        begun = time.perf_counter()
        found = _patiently(self._source) if patient else self._source.stored_metadata()
        self._looked = time.perf_counter()
        self._cost = self._looked - begun
        return found

    def _compare(self, found: tuple[StoredMetadata, ...]) -> None:
        for before, now in zip(self._metadata, found, strict=True):
            if before.content and before != now:
                raise DataChangedError(
                    f"{before.name} was rewritten while it was being read: {changes(before, now)}. "
                    f"Use a copy that nothing writes to."
                )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Let what goes wrong in a pass be explained by a look at the metadata."""
        try:
            yield
        except DataChangedError:
            raise
        except Exception as error:  # of the tasks of a graph, it may be anything
            found = self._metadata
            with suppress(StoreError):  # nothing is explained then
                found = self._source.stored_metadata() if found else ()
            try:
                self._compare(found)
            except DataChangedError as reason:
                raise reason from error
            raise

    def _first_look(self) -> tuple[StoredMetadata, ...]:
        if self._source.graph_blocks is None:
            return self._read()
        try:
            return self._read(patient=False)
        except StoreError:
            return ()  # only those who run the graph reach its stores, now or later

    def _witnesses(self, blocks: Sequence[int]) -> list[int]:
        if not self._source.rereads_alike:
            return []
        count = max(1, min(MOST_WITNESSES, len(blocks) // BLOCKS_PER_WITNESS))
        held = [blocks[int((i + 0.5) * len(blocks) / count)] for i in range(count)]
        seen = set(blocks) if isinstance(blocks, tuple) else blocks
        known = [index for index in self._digests if index in seen]
        return sorted({*known, *held[len(known) :]})


def _patiently(source: Source) -> tuple[StoredMetadata, ...]:
    """Read the metadata, and again after a pause where they may be half written."""
    for pause in PAUSES:
        try:
            return source.stored_metadata()
        except StoreError:
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    return source.stored_metadata()


def digest_of_rows(rows: Rows, *, weighed: bool = True) -> int | None:
    """Return a checksum (CRC32C) of a block's rows and weights: of parts, evenly spaced.

    It does not depend on how they are laid out in memory.

    Parameters
    ----------
    rows : Rows
    weighed : bool
        Whether the weights count. If not, there is no checksum (None) of a block of which rows are
        left out: which ones the weights say.
    """
    if not weighed and rows.left_out:
        return None
    n, values = len(rows), rows.values
    each = max(1, PLACE_BYTES // max(1, values.shape[1] * values.itemsize))
    starts = [0] if n <= PLACES * each else [i * (n - each) // (PLACES - 1) for i in range(PLACES)]
    length = n if len(starts) == 1 else each
    digest: int = google_crc32c.value(f"{rows.n_read} {n} {values.dtype.str}".encode())
    for start in starts:
        digest = google_crc32c.extend(digest, values[start : start + length].tobytes())
        if rows.weights is not None and weighed:
            digest = google_crc32c.extend(digest, rows.weights[start : start + length].tobytes())
    return digest


@dataclass(frozen=True)
class _Witness:
    """A block, where it lies, if its weights count, and its digest if it was seen before."""

    index: int
    place: str
    weighed: bool
    digest: int | None

    def of(self, rows: Rows) -> tuple[int, int | None]:
        """Return the block's index and digest.

        Raises
        ------
        DataChangedError
            It was seen before, and is another now.
        """
        found = digest_of_rows(rows, weighed=self.weighed)
        if None not in (found, self.digest) and found != self.digest:
            raise DataChangedError(
                f"{self.place} was rewritten while it was being read: its rows are not those of an "
                f"earlier pass. Use a copy that nothing writes to."
            )
        return self.index, found


@dataclass(frozen=True)
class _Seen(Generic[T]):
    """A job's value, and what was seen of witnesses."""

    value: T
    digests: tuple[tuple[int, int | None], ...]

    def __add__(self, other: _Seen[T]) -> _Seen[T]:
        return _Seen(self.value + other.value, self.digests + other.digests)


@dataclass(frozen=True)
class WatchedJob(Generic[T]):
    """Another job that also looks at the witnesses.

    Attributes
    ----------
    job : BlockJob
    witnesses : mapping of int to _Witness
        By their block's index.
    known : bool
        Whether all were seen before. Then the values are those of `job`; else they carry what is
        seen.
    looked_at : int
        Bytes of a witness that are looked at.
    """

    job: BlockJob[T]
    witnesses: Mapping[int, _Witness] = field(repr=False)
    known: bool
    looked_at: int

    def open(self) -> OpenJob[Any]:
        """Open the other job, and look at the witnesses before it does."""
        job, witnesses, known = self.job.open(), self.witnesses, self.known

        def of_block(rows: Rows, block: BlockRef) -> T | _Seen[T]:  # of each: it takes no time
            if block.index in witnesses:
                digest = witnesses[block.index].of(rows)
                return job(rows, block) if known else _Seen(job(rows, block), (digest,))
            return job(rows, block) if known else _Seen(job(rows, block), ())

        return of_block

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.job.value_bytes + (0 if self.known else 16)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs beside the block; the witness is looked at before the job begins."""
        return max(self.job.workspace_bytes, self.looked_at)
