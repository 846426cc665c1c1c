"""The sentences about chunks that cannot be had, the same whichever way they are read."""

from __future__ import annotations

import re
from typing import TypeVar

from dask_gmm.data.urls import redacted
from dask_gmm.errors import CorruptChunkError, DataChangedError, MissingChunkError

__all__ = [
    "broken_shard",
    "empty_chunk",
    "first_line",
    "missing_beside",
    "missing_chunk",
    "rewritten_object",
    "short_range",
    "undecodable_chunk",
]

E = TypeVar("E", bound=Exception)

_FILL = "missing_chunks='fill'"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop and without secrets."""
    text = _in_words(str(error).strip())
    return redacted(text.splitlines()[0] if text else type(error).__name__).rstrip(". ")


def _in_words(text: str) -> str:
    """Put the XML document in which S3, Azure and GCS describe an error into words."""
    begins = re.search(r"<\?xml|<Error>", text)
    if begins is None:
        return text
    found = (re.search(f"<{tag}>\\s*([^<]+)", text) for tag in ("Code", "Message"))
    words = [" ".join(match[1].split()) for match in found if match is not None]
    return text[: begins.start()] + (": ".join(words) or "an XML document")


def missing_chunk(url: str, key: str, inner: tuple[int, ...] | None = None) -> MissingChunkError:
    """Say that a chunk, or the inner chunk of a shard, is not in the store."""
    what = f"Chunk {key!r}" if inner is None else f"Inner chunk {inner} of shard {key!r}"
    return MissingChunkError(
        f"{what} of {url} is not in the store, and Zarr would read it as fill values. It was lost "
        f"or never written; or it holds nothing but the fill value (often 0), which Zarr leaves "
        f"out when it writes. If the latter is so, pass `{_FILL}`; otherwise restore the chunk or "
        f"write the array again."
    )


def missing_beside(error: E, role: str) -> E:
    """Say it of a mask or of weights, whose absent chunks say nothing of those of the rows."""
    return type(error)(str(error).replace(_FILL, f"missing_chunks={{{role!r}: 'fill'}}"))


def empty_chunk(url: str, key: str) -> CorruptChunkError:
    """Say that an object of no bytes is no chunk."""
    return CorruptChunkError(
        f"Chunk {key!r} of {url} is an empty object. Write the chunk again, or restore it from a "
        f"copy."
    )


def short_range(url: str, key: str, asked: int, came: int) -> CorruptChunkError:
    """Say that a shard ended before the range that its index promises."""
    return CorruptChunkError(
        f"Shard {key!r} of {url} is truncated: {asked} bytes were asked for and {came} came. "
        f"Write the shard again, or restore it from a copy."
    )


def broken_shard(url: str, key: str, why: str) -> CorruptChunkError:
    """Say that the index of a shard cannot be used."""
    return CorruptChunkError(
        f"Shard {key!r} of {url} cannot be read: {why}. Write the shard again, or restore it from "
        f"a copy."
    )


def undecodable_chunk(name: str, chunk: str, error: BaseException) -> CorruptChunkError:
    """Say that a codec refused a chunk."""
    return CorruptChunkError(
        f"{name} cannot be decoded: {chunk} is damaged or truncated "
        f"({type(error).__name__}: {first_line(error)}). Write the chunk again, or restore it "
        f"from a copy."
    )


def rewritten_object(place: str) -> DataChangedError:
    """Say that parts of an object are of two versions of it."""
    return DataChangedError(
        f"{place} was written anew while its parts were read, which are of two versions now. Use a "
        f"copy that nothing writes to."
    )
