"""Findings on how data are stored: chunk sizes, shards, codecs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.diagnosis.finding import Finding
from dask_gmm.data.object_reads import objects_of_pass, reads_a_network, unit_of
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.quantities import plural, show_bytes

if TYPE_CHECKING:
    import numpy as np

    from dask_gmm.data.base import Source
    from dask_gmm.data.zarr_source import ZarrSource

__all__ = ["layout_findings"]

SMALL_BYTES = 1_000_000
"""Smaller chunks take a reader longer to ask for than to bring; see `data.direct.reader`."""
LARGE_BYTES = 256 * 2**20
"""Larger blocks fill the memory of common workers: each thread holds two."""
MANY = 1000
"""Of fewer small chunks all are read in a second."""

#: Compressors that decode several times slower than Zstandard or LZ4 do.
_SLOW = frozenset({"gzip", "zlib", "bz2", "lzma", "xz"})
_REWRITE = "Rewrite the array in chunks of 8 to 32 MB, or in such shards, that hold all features."


def layout_findings(source: Source, n_threads: int) -> list[Finding]:
    """Look at the metadata of what is to be read by so many threads."""
    source = source.unscaled
    parts = stored_parts(source)
    findings = _size_findings(source, parts)
    if source.n_blocks < n_threads:
        text = (
            f"{plural(n_threads, 'thread')} share {plural(source.n_blocks, 'block')}: the others "
            f"have nothing to do."
        )
        remedy = f"Rewrite the data in smaller {source.pieces}, or use fewer threads."
        findings.append(Finding("warning", "chunks", text, remedy))
    for part in _different(parts or ()):
        findings += [*_feature_findings(part), *_shard_findings(part), *_codec_findings(part)]
    return findings


def _size_findings(source: Source, parts: tuple[ZarrSource, ...] | None) -> list[Finding]:
    block, pieces = source.block_bytes, source.pieces
    objects = objects_of_pass(source)
    if parts is None or objects is None:
        each, count = block, source.n_blocks
    else:
        sizes = [_unit_bytes(part) for part in parts]
        each, count = max(sizes), objects
        pieces = "shards" if any(_sharded(part) for part in parts) else pieces
    shown = (
        f"{plural(count, pieces.removesuffix('s'))} of {show_bytes(each)}, read in "
        f"{plural(source.n_blocks, 'block')} of {show_bytes(block)}"
    )
    if each < SMALL_BYTES and count > MANY:
        why = "requests take" if reads_a_network(source) else "opening them takes"
        return [Finding("warning", "chunks", f"{shown}: {why} longer than their bytes.", _REWRITE)]
    if block > LARGE_BYTES:
        text = f"{shown}: each thread holds two blocks, one that it computes and one that it reads."
        return [Finding("warning", "chunks", text, _REWRITE)]
    return [Finding("ok", "chunks", f"{shown}.")]


def _different(parts: tuple[ZarrSource, ...]) -> list[ZarrSource]:
    """Return one array of each layout: of thousands most are alike."""
    seen: dict[object, ZarrSource] = {}
    for part in parts:
        document = json.loads(part.metadata)
        layout = {k: v for k, v in document.items() if k not in ("shape", "dimension_names")}
        seen.setdefault(json.dumps(layout, sort_keys=True), part)
    return list(seen.values())


def _unit_bytes(part: ZarrSource) -> int:
    sizes = part.shape[:-1] if part.scalar else part.shape
    held = (min(length, n or 0) for length, n in zip(unit_of(part), sizes, strict=True))
    return math.prod(held) * _stored(part).itemsize


def _sharded(part: ZarrSource) -> bool:
    return '"sharding_indexed"' in part.metadata


def _stored(part: ZarrSource) -> np.dtype[Any]:
    return part.dtype if part.decoding is None else part.decoding.stored


def _feature_findings(part: ZarrSource) -> list[Finding]:
    if part.scalar:
        return []
    pieces = -(-part.n_features // unit_of(part)[part.feature_axis])
    if pieces == 1:
        return []
    text = (
        f"those of {part.name} are cut over the features: a block of rows is put together from "
        f"{pieces:,} of {show_bytes(_unit_bytes(part))}"
    )
    if _unit_bytes(part) >= SMALL_BYTES:
        return [Finding("note", "chunks", f"{text}.")]
    return [Finding("warning", "chunks", f"{text}, each of which takes a request.", _REWRITE)]


def _shard_findings(part: ZarrSource) -> list[Finding]:
    array = part.open()
    if array.shards is None:
        return []
    inner = math.prod(array.chunks)
    held = plural(math.prod(array.shards) // inner, "chunk")
    text = f"those of {part.name} hold {held} of {show_bytes(inner * array.dtype.itemsize)}"
    if part.whole_shards:
        return [Finding("ok", "shards", f"{text}, and are read whole, each by one request.")]
    return [
        Finding(
            "note",
            "shards",
            f"{text}, and are too large to be read whole: a slab of them at a time, for its index "
            f"one request and for its chunks one or more.",
        )
    ]


def _codec_findings(part: ZarrSource) -> list[Finding]:
    findings = []
    codecs = _compressors(json.loads(part.metadata))
    slow = [codec for codec in codecs if codec in _SLOW]
    if slow:
        text = (
            f"{part.name} is compressed by {slow[0]}, which takes several times as long to decode "
            f"as Zstandard or LZ4."
        )
        remedy = "Rewrite it with zarr.codecs.ZstdCodec or BloscCodec(cname='lz4')."
        findings.append(Finding("warning", "codec", text, remedy))
    elif part.reader == "direct":
        how = f"by {', '.join(codecs)}" if codecs else "by nothing"
        findings.append(Finding("ok", "codec", f"{part.name} is compressed {how}."))
    if part.reader != "direct":
        text = (
            f"{part.name} is read by zarr-python, which is slower than the reader of this package: "
            f"it lies in a zip file or a store of another kind, or has codecs, filters or an order "
            f"of its own."
        )
        remedy = (
            "Where reading takes longer than computing, rewrite it as a folder or in a bucket, "
            "with one compressor."
        )
        findings.append(Finding("note", "codec", text, remedy))
    return findings


def _compressors(document: dict[str, Any]) -> list[str]:
    """Return the names of an array's codecs but those that lay out elements, from its metadata."""
    if document["zarr_format"] == 2:
        compressor = document.get("compressor")
        filters = [one["id"] for one in document.get("filters") or ()]
        return [*filters, *([_named(compressor["id"], compressor)] if compressor else [])]
    codecs = document["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    return [
        _named(codec["name"], codec.get("configuration") or {})
        for codec in codecs
        if codec["name"] not in ("bytes", "transpose")
    ]


def _named(name: str, configuration: dict[str, Any]) -> str:
    inner = configuration.get("cname")
    name = name.removeprefix("numcodecs.")
    return f"{name} with {inner}" if inner else name
