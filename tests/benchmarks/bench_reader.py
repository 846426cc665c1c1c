"""GB/s (decoded) of reading a Zarr array block by block, beside raw reads and other readers.

Run from the repository's root:

    python -m tests.benchmarks.bench_reader             # a table
    python -m tests.benchmarks.bench_reader --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_reader --full      # 1 GiB an array instead of 128 MiB
    python -m tests.benchmarks.bench_reader --zarrs PYTHON
    python -m tests.benchmarks.bench_reader --decimals 2    # values that compress to a quarter

`PYTHON` is an interpreter that has `zarrs`, in an environment of its own. Local files, page cache
warm, float64 with 16 columns. The contestants read all blocks of the same array and take turns, so
that whatever else the machine does meets them all alike. Shown are the best of the rounds (what
the machine can do), the median, and decoded GB per second of CPU time, which a busy machine
disturbs least.

"raw" reads the files as they are into one reused buffer, which for compressed chunks moves fewer
bytes than are counted. "ours" is `Source.read_into` with reused buffers, "ours, a unit" all of
what a task does around it, with nothing computed: a helper thread reads, into the memory that the
last unit has left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dask.array as da
import numpy as np
import zarr
import zarr.codecs

from dask_gmm.data.buffers import ReadBuffers, SpareBuffers
from dask_gmm.data.source import ZarrSource, open_source
from dask_gmm.execution.unit import run_unit
from tests.benchmarks.turns import turns_of

if TYPE_CHECKING:
    from dask_gmm.rows import Rows

Turn = Callable[[], tuple[float, float]]
"""Reads everything once; wall and CPU seconds."""

COLUMNS = 16
CODECS: dict[str, Any] = {
    "none": None,
    "zstd": [zarr.codecs.ZstdCodec(level=0)],
    "lz4": [zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")],
}


@dataclass(frozen=True)
class Case:
    """An array: codec, KiB of a chunk, KiB of a shard (0 for none), threads that read it."""

    codec: str
    chunk: int
    shard: int = 0
    threads: int = 1


CASES = tuple(
    Case(codec, chunk, shard, threads)
    for codec in CODECS
    for chunk, shard in ((64, 0), (1024, 0), (8192, 0), (32768, 0), (1024, 32768))
    for threads in (1, 2)
)


@dataclass(frozen=True)
class Result:
    """Decoded GB/s: of the best and the median round, and per second of CPU time."""

    case: Case
    contestant: str
    best: float
    median: float
    per_cpu: float


@dataclass(frozen=True)
class Nothing:
    """A job that looks at one element."""

    value_bytes: int = 8
    workspace_bytes: int = 0

    def open(self) -> Self:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Rows, block: Any) -> float:
        return float(rows.values[0, 0])


def make(case: Case, size: int, path: Path, decimals: int | None = None) -> None:
    """Write an array of `size` bytes of noise, rounded so that codecs find something."""
    rows = size // (8 * COLUMNS)
    per_chunk = case.chunk * 1024 // (8 * COLUMNS)
    kwargs: dict[str, Any] = {}
    if case.shard:
        kwargs["shards"] = (case.shard * 1024 // (8 * COLUMNS), COLUMNS)
    array = zarr.create_array(
        path,
        shape=(rows, COLUMNS),
        chunks=(per_chunk, COLUMNS),
        dtype="f8",
        compressors=CODECS[case.codec],
        **kwargs,
    )
    rng = np.random.default_rng(0)
    step = min(rows, 2**18)
    for start in range(0, rows, step):
        noise = rng.normal(size=(step, COLUMNS))
        array[start : start + step] = noise if decimals is None else np.round(noise, decimals)


def in_turns(read: Callable[[range], None], n_blocks: int, threads: int) -> Turn:
    """Let `threads` threads read a part of the blocks each."""
    edges = np.linspace(0, n_blocks, threads + 1).astype(int)

    def turn() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        if threads == 1:
            read(range(n_blocks))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda t: read(range(edges[t], edges[t + 1])), range(threads)))
        return time.perf_counter() - wall, time.process_time() - cpu

    return turn


def contestants(case: Case, path: Path, zarrs: str | None, cleaning: ExitStack) -> dict[str, Turn]:
    """What to run in turns."""
    source = open_source(path)
    assert isinstance(source, ZarrSource)
    assert source.reader == "direct"
    array = zarr.open_array(path, mode="r")
    files = sorted(str(p) for p in (path / "c").rglob("*") if p.is_file())
    per_block = len(files) / source.n_blocks
    lazy: Any = da.from_zarr(array)

    largest = max(Path(name).stat().st_size for name in files)

    def raw(blocks: range) -> None:
        buffer = np.empty(largest, np.uint8)
        for name in files[int(blocks.start * per_block) : int(blocks.stop * per_block)]:
            descriptor = os.open(name, os.O_RDONLY)
            os.readv(descriptor, [buffer])
            os.close(descriptor)

    def ours(blocks: range) -> None:
        buffers = ReadBuffers()
        for i in blocks:
            source.read_into(source.block(i), buffers)

    spare = SpareBuffers()

    def unit(blocks: range) -> None:
        run_unit(source, blocks, Nothing(), spare=spare)

    def zarr_python(blocks: range) -> None:
        for i in blocks:
            block = source.block(i)
            array[block.start[0] : block.stop[0]]

    def dask_array(_: range) -> None:
        parts = [lazy.blocks[i, 0][:1, :1] for i in range(lazy.numblocks[0])]
        da.concatenate(parts).compute(scheduler="threads", num_workers=case.threads)

    turns = {
        "raw": in_turns(raw, source.n_blocks, case.threads),
        "ours": in_turns(ours, source.n_blocks, case.threads),
        "ours, a unit": in_turns(unit, source.n_blocks, case.threads),
        "zarr-python": in_turns(zarr_python, source.n_blocks, case.threads),
        "da.from_zarr": in_turns(dask_array, source.n_blocks, 1),
    }
    if zarrs:
        turns["zarrs"] = _zarrs(case, path, zarrs, cleaning)
    return turns


def _zarrs(case: Case, path: Path, interpreter: str, cleaning: ExitStack) -> Turn:
    script = Path(__file__).with_name("zarrs_turns.py")
    block = case.shard or case.chunk
    rows = block * 1024 // (8 * COLUMNS)
    command = [interpreter, str(script), str(path), str(rows), str(case.threads)]
    return turns_of(command, cleaning)


def measure(
    case: Case, size: int, rounds: int, zarrs: str | None = None, decimals: int | None = None
) -> list[Result]:
    """Let the contestants take turns."""
    with ExitStack() as cleaning:
        folder = cleaning.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "x.zarr"
        make(case, size, path, decimals)
        turns = contestants(case, path, zarrs, cleaning)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for turn in turns.values():
            turn()
        for _ in range(rounds):
            for name, turn in turns.items():
                times[name].append(turn())
    results = []
    for name, taken in times.items():
        wall, cpu = np.array(taken).T
        rates = [size / 1e9 / float(t) for t in (wall.min(), np.median(wall), cpu.min())]
        results.append(Result(case, name, *rates))
    return results


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--full", action="store_true", help="1 GiB an array")
    parser.add_argument("--tiny", action="store_true", help="64 MiB: the size of a test")
    parser.add_argument("--zarrs", metavar="PYTHON", help="an interpreter with zarrs")
    parser.add_argument("--codec", choices=CODECS, help="this one only")
    parser.add_argument("--decimals", type=int, help="of the values; all of them by default")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    records = []
    for case in CASES:
        if arguments.codec not in (None, case.codec):
            continue
        # Readers that take milliseconds a chunk are measured on fewer small ones.
        mebibytes = 1024 if arguments.full else 64 if arguments.tiny else 128
        size = min(mebibytes * 2**20, 512 * 1024 * case.chunk)
        for r in measure(case, size, arguments.rounds, arguments.zarrs, arguments.decimals):
            records.append(asdict(r))
            if not arguments.json:
                shard = f" in shards of {case.shard // 1024} MiB" if case.shard else ""
                print(
                    f"{case.codec:5}{case.chunk:6} KiB{shard:21} {case.threads} thread(s)  "
                    f"{r.contestant:13} best {r.best:6.2f}  median {r.median:6.2f}  "
                    f"per CPU second {r.per_cpu:6.2f} GB",
                    flush=True,
                )
    if arguments.json:
        versions = {m.__name__: m.__version__ for m in (np, zarr)}
        json.dump({**versions, "load": os.getloadavg(), "results": records}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
