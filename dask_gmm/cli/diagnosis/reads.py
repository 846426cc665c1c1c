"""Findings on whether every process can read the data, and how fast."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from dask_gmm.cli.diagnosis.finding import Finding, named
from dask_gmm.cli.explain import explain
from dask_gmm.data.object_reads import objects_of_pass, reads_a_network
from dask_gmm.data.urls import redacted
from dask_gmm.errors import DaskGMMError
from dask_gmm.quantities import plural, show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.cli.diagnosis.process import BlockRead
    from dask_gmm.data.base import Source

__all__ = ["blocks_to_read", "read_findings"]

_TIMES_SLOWER = 4
_LEAST_SECONDS = 0.2  # of less nobody can say what took them
_FEW_OBJECTS = 100


def blocks_to_read(source: Source, workers: Sequence[str]) -> dict[str, int]:
    """Give each worker a block of its own, spread over all of them: no cache answers twice."""
    n, count = source.n_blocks, max(1, len(workers))
    return {worker: int((i + 0.5) * n / count) % n for i, worker in enumerate(sorted(workers))}


def read_findings(
    source: Source, reads: Mapping[str, BlockRead], errors: Mapping[str, Exception]
) -> list[Finding]:
    """Say who could read a block, and how fast; by address, "this process" for this one."""
    findings = _failures(errors, len(reads) + len(errors))
    if reads:
        findings += [_speed(reads), *_slow(reads), *_requests(source, reads)]
    return findings


def _failures(errors: Mapping[str, Exception], total: int) -> list[Finding]:
    """Say who could not read, each reason once."""
    reasons: dict[str, list[str]] = {}
    for worker, error in sorted(errors.items()):
        reasons.setdefault(_reason(error), []).append(worker)
    findings = []
    for reason, workers in reasons.items():
        if total == 1:
            text = f"{workers[0]} could not read a block: {reason}"
        else:
            text = f"{len(workers)} of {total} could not read a block ({named(workers)}): {reason}"
        findings.append(Finding("error", "reading", text, workers=tuple(workers)))
    return findings


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"{error}. It may have no credentials and wait for its machine to have a role, or have "
            f"no way to the store; --timeout waits longer."
        )
    if isinstance(error, DaskGMMError):
        return explain(error)
    return redacted(" ".join(str(error).split())) or type(error).__name__


def _speed(reads: Mapping[str, BlockRead]) -> Finding:
    speeds = {w: read.stored_bytes / read.fetching for w, read in reads.items()}
    slowest = min(speeds, key=lambda w: speeds[w])
    middle = median(speeds.values())
    latencies = [read.latency for read in reads.values()]
    decoding = [r.decoded_bytes / r.decoding for r in reads.values() if r.decoding]
    if len(reads) == 1:
        answer = _short(latencies[0])
        text = f"{slowest} reads a block at {show_bytes(middle)}/s, an answer takes {answer}"
    else:
        text = (
            f"{plural(len(reads), 'worker')} read a block each, all at once: at "
            f"{show_bytes(middle)}/s in the median, the slowest ({slowest}) at "
            f"{show_bytes(speeds[slowest])}/s; an answer takes {_short(median(latencies))}, "
            f"at most {_short(max(latencies))}"
        )
    if decoding:
        text += f"; a thread decodes to {show_bytes(median(decoding))}/s"
    return Finding("ok", "reading", f"{text}.")


def _short(seconds: float) -> str:
    """Write some milliseconds."""
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else show_seconds(seconds)


def _slow(reads: Mapping[str, BlockRead]) -> list[Finding]:
    """Warn of workers that are much slower than most."""
    if len(reads) < 3:
        return []
    typical = median(read.seconds for read in reads.values())
    slow = sorted(
        w for w, r in reads.items() if r.seconds > max(_TIMES_SLOWER * typical, _LEAST_SECONDS)
    )
    if not slow:
        return []
    longest = show_seconds(max(reads[w].seconds for w in slow))
    text = (
        f"{plural(len(slow), 'worker')} of {len(reads)} took {longest} where most took "
        f"{show_seconds(typical)} ({named(slow)}): a pass waits for the last block."
    )
    remedy = "Look whether its machine is shared, or lies elsewhere than the data."
    return [Finding("warning", "reading", text, remedy, tuple(slow))]


def _requests(source: Source, reads: Mapping[str, BlockRead]) -> list[Finding]:
    """Warn where a request takes longer to be answered than its bytes to come."""
    objects = objects_of_pass(source)
    if not reads_a_network(source) or (objects or source.n_blocks) < _FEW_OBJECTS:
        return []
    each = [r for r in reads.values() if r.requests]
    if not each:
        return []
    latency = median(r.latency for r in each)
    rest = median(max(0.0, r.fetching - r.latency) / r.requests for r in each)
    if latency < rest or math.isclose(latency, 0.0):
        return []
    size = median(r.stored_bytes / r.requests for r in each)
    text = (
        f"a request brings {show_bytes(size)}, and half of its time or more is waiting for the "
        f"answer ({_short(latency)})."
    )
    remedy = "Larger chunks, or shards, need fewer requests; or compute where the data lie."
    return [Finding("warning", "requests", text, remedy)]
