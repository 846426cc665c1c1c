"""Passes over a store behind a slow link: whether latency is hidden, and bandwidth used.

Run from the repository's root:

    python -m tests.benchmarks.bench_latency                       # a table
    python -m tests.benchmarks.bench_latency --json                # the same as JSON, for records
    python -m tests.benchmarks.bench_latency --before CHECKOUT     # beside another checkout
    python -m tests.benchmarks.bench_latency --sleep               # on a machine that is busy
    python -m tests.benchmarks.bench_latency --only 8MB-100 32MB   # cases of such names

A server on this machine (`tests/slow_link.py`) begins each answer after 50 ms; all bodies together
have a bandwidth of 100 or 400 MB/s, each connection 60 MB/s, as object stores have it. Chunks of
1, 8 and 32 MB, float64 with 16 columns, as they are; by themselves or in shards of 32 MB, or of
256 MB, which are read in parts. Each case twice: with a kernel that is faster than the link (diag,
K = 2), and with one that is slower. The contestants are processes of their own that take turns;
*computing* is the same pass over rows in memory, *link* the bytes at the bandwidth. Shown are
medians with half the distance between the quartiles, the ratio of the pass to the longer of the
two, and what the server was asked for: requests of a pass, and most at a time.

With `--pinned` half of the blocks are kept in memory: then half are asked for. With `--sleep` all
kernels sleep, and take no processor from the link.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.benchmarks.contest import Contestant, Entry
from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.turns import Spread
from tests.slow_link import Link, SlowLink, slow_link

COLUMNS = 16
MB = 1_000_000
MEMORY_BYTES = 128 * MB
"""Rows that are computed in memory, in proportion to those of the store."""


@dataclass(frozen=True)
class Case:
    """What is read, over which link, and what is computed.

    Attributes
    ----------
    chunk, shard : int
        Megabytes, of a shard 0 for none.
    bandwidth : int
        Megabytes a second.
    slow : bool
        Whether the kernel is slower than the link.
    """

    chunk: int
    shard: int
    bandwidth: int
    slow: bool

    @property
    def array(self) -> str:
        """Name of the array."""
        return f"{self.chunk}MB" + (f"-in-{self.shard}MB" if self.shard else "")

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.array}-{self.bandwidth}-{'computing' if self.slow else 'reading'}"


CASES = tuple(
    Case(chunk, shard, bandwidth, slow)
    for bandwidth in (100, 400)
    for chunk, shard in ((1, 0), (8, 0), (32, 0), (1, 32), (8, 32), (8, 256))
    for slow in (False, True)
)


@dataclass
class Result:
    """What a contestant did in a case."""

    case: Case
    contestant: str
    computing: float
    link: float
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    most: int = 0
    gigabytes: float = 0.0

    @property
    def spread(self) -> Spread:
        """Median, least and spread of the seconds of a pass."""
        return Spread.of(self.seconds)

    @property
    def ratio(self) -> float:
        """Of the pass to what takes longer, computing or the link."""
        return self.spread.median / max(self.computing, self.link)

    def record(self) -> dict[str, Any]:
        """Return what a record holds."""
        return asdict(self) | {"ratio": self.ratio}


def make(case: Case, size: int, folder: Path) -> int:
    """Write the array of a case if it is not there; return its rows."""
    row = 8 * COLUMNS
    chunk = case.chunk * MB // row
    unit = max(1, case.shard // case.chunk) * chunk
    rows = max(1, size // row // unit) * unit
    path = folder / case.array
    if not path.exists():
        chunks = (chunk, COLUMNS)
        shards = (unit, COLUMNS) if case.shard else None
        array: Any = zarr.create_array(
            path, shape=(rows, COLUMNS), chunks=chunks, shards=shards, dtype="f8", compressors=None
        )
        noise = np.random.default_rng(0).normal(size=(unit, COLUMNS))
        for start in range(0, rows, unit):
            array[start : start + unit] = noise
    return rows


def kernel_of(case: Case, threads: int, *, sleep: bool) -> Any:
    """Return the message that asks for the kernel of a case."""
    if sleep:
        return (2.0 if case.slow else 0.1) * threads / (case.bandwidth * MB)
    return ("full", 128 if case.bandwidth <= 100 else 32) if case.slow else ("diag", 2)


def measure(
    case: Case, rows: int, server: SlowLink, contestants: list[Contestant], options: Any
) -> list[Result]:
    """Let the contestants take turns at passes, and compute in memory between them."""
    kernel = kernel_of(case, options.threads, sleep=options.sleep)
    size = rows * COLUMNS * 8
    results = {}
    in_memory = min(rows, MEMORY_BYTES // (8 * COLUMNS))
    block = case.chunk * MB // (8 * COLUMNS)
    rule = {"kernel": kernel, "cache": 0}
    memory = {"rows": in_memory, "features": COLUMNS, "block_rows": min(block, in_memory // 4)}
    contestants[0].ask(open=None, **rule, **memory)
    contestants[0].ask(**{"pass": 1})
    alone = [contestants[0].ask(**{"pass": 1})["wall"] for _ in range(options.rounds)]
    contestants[0].ask(close=1)
    computing = float(np.median(alone)) * rows / in_memory
    for contestant in contestants:
        rule["cache"] = size // 2 if options.pinned else 0
        contestant.ask(open=f"{server.url}/{case.array}", **rule)
        contestant.ask(**{"pass": 1})  # units are sized by it, and blocks pinned
        link = size / (case.bandwidth * MB) / (2 if options.pinned else 1)
        results[contestant] = Result(case, contestant.entry.name, computing, link)
    for _ in range(options.rounds):
        for contestant, result in results.items():
            server.counts()
            taken = contestant.ask(**{"pass": 1})
            counts = server.counts()
            result.seconds.append(taken["wall"])
            result.cpu.append(taken["cpu"])
            result.requests.append(counts.requests)
            result.most = max(result.most, counts.most)
            result.gigabytes = counts.bytes / 1e9
    for contestant in results:
        contestant.ask(close=1)
    return list(results.values())


def line(result: Result) -> str:
    """Return a row of the table."""
    spread = result.spread
    return (
        f"{result.case.name:28} {result.contestant:7} computing {result.computing:6.2f} s  link "
        f"{result.link:5.2f} s  pass {spread.median:6.2f} ± {spread.spread:4.2f} s = "
        f"{result.ratio:5.2f} x  (CPU {np.median(result.cpu):5.2f} s, "
        f"{int(np.median(result.requests))} requests, {result.most} at a time, "
        f"{result.gigabytes:.2f} GB)"
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--tiny", action="store_true", help="the size of a test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--connection", type=float, default=60.0, help="MB/s of a connection")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a pass at the bandwidth")
    parser.add_argument("--before", metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--sleep", action="store_true", help="kernels that sleep")
    parser.add_argument("--pinned", action="store_true", help="half of the blocks pinned")
    parser.add_argument("--only", nargs="*", help="cases whose names have one of these in them")
    options = parser.parse_args()
    if options.tiny:
        options.seconds, options.latency = 0.1, 0.01
    here = Entry("now", sys.executable, "remote", path=str(Path(__file__).parents[2]))
    entries = [here]
    if options.before:
        entries.append(Entry("before", sys.executable, "remote", path=options.before))
    machine, results = describe_machine(), []
    if not options.json:
        print(machine_line(machine), flush=True)
    for case in CASES:
        if options.only and not any(part in case.name for part in options.only):
            continue
        with ExitStack() as cleaning:
            folder = Path(cleaning.enter_context(tempfile.TemporaryDirectory()))
            rows = make(case, int(options.seconds * case.bandwidth * MB), folder)
            link = Link(options.latency, case.bandwidth * MB, options.connection * MB)
            server = cleaning.enter_context(slow_link(folder, link))
            contestants = [Contestant(entry, options.threads, cleaning) for entry in entries]
            found = measure(case, rows, server, contestants, options)
        results += found
        if not options.json:
            print(*map(line, found), sep="\n", flush=True)
    if options.json:
        json.dump(
            {
                "machine": machine,
                "load": os.getloadavg(),
                "results": [result.record() for result in results],
            },
            sys.stdout,
            indent=1,
        )


if __name__ == "__main__":
    main()
