"""GB/s (decoded) of reading a Parquet table row group by row group, beside pyarrow's own reading.

Run from the repository's root:

    python -m tests.benchmarks.bench_tables             # a table
    python -m tests.benchmarks.bench_tables --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_tables --full      # 1 GiB a table instead of 128 MiB

Local files, page cache warm, 8 columns of 16 that the file has. The contestants read the same
columns of all row groups and take turns, so that whatever else the machine does meets them all
alike. Shown are the best of the rounds (what the machine can do), the median, and decoded GB per
second of CPU time, which a busy machine disturbs least.

"pyarrow" is ``ParquetFile.read_row_group`` of an open file, which leaves Arrow's columns; "pyarrow,
a matrix" makes of these what a mixture needs, rows of one type in one piece. "ours" is
`Source.read_into` with reused buffers, which does, and looks before and after whether the file is
still what it was; "ours, a unit" all of what a task does around it, with nothing computed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dask_gmm.data.buffers import ReadBuffers, SpareBuffers
from dask_gmm.data.source import open_source
from dask_gmm.execution.unit import run_unit
from tests.benchmarks.bench_reader import Nothing, Turn, in_turns

READ, STORED = 8, 16
"""Columns that are read, and that the file has."""


@dataclass(frozen=True)
class Case:
    """A table: codec, encoding, type, rows of a row group, threads that read it."""

    codec: str
    dictionary: bool
    dtype: str
    group: int
    threads: int = 1


CASES = tuple(
    Case(codec, dictionary, dtype, group, threads)
    for codec, dictionary, dtype in (
        ("snappy", True, "f4"),  # what pyarrow and pandas write if nothing is said
        ("snappy", True, "f8"),
        ("zstd", True, "f8"),
        ("none", False, "f4"),
        ("none", False, "f8"),
    )
    for group in (20_000, 250_000)
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


def make(case: Case, size: int, path: Path, decimals: int | None = None) -> int:
    """Write a table of which `size` bytes are read, and return them."""
    rows = size // (READ * np.dtype(case.dtype).itemsize)
    rng = np.random.default_rng(0)
    names = [f"x{j}" for j in range(STORED)]
    schema = pa.schema([(name, pa.from_numpy_dtype(case.dtype)) for name in names])
    with pq.ParquetWriter(
        path, schema, compression=case.codec, use_dictionary=case.dictionary
    ) as out:
        for start in range(0, rows, case.group):
            n = min(case.group, rows - start)
            noise = rng.normal(size=(STORED, n))
            noise = noise if decimals is None else np.round(noise, decimals)
            table = pa.table(dict(zip(names, noise.astype(case.dtype), strict=True)))
            out.write_table(table, row_group_size=case.group)
    return rows * READ * np.dtype(case.dtype).itemsize


def contestants(case: Case, path: Path) -> dict[str, Turn]:
    """What to run in turns."""
    columns = [f"x{j}" for j in range(0, STORED, STORED // READ)]
    source = open_source(path, columns=columns)
    metadata = pq.read_metadata(path)
    n_groups = metadata.num_row_groups
    spare = SpareBuffers()

    def pyarrow(groups: range) -> None:
        with pq.ParquetFile(path, metadata=metadata) as file:
            for i in groups:
                file.read_row_group(i, columns=columns, use_threads=False)

    def matrix(groups: range) -> None:
        with pq.ParquetFile(path, metadata=metadata) as file:
            for i in groups:
                found = file.read_row_group(i, columns=columns, use_threads=False)
                np.column_stack([column.to_numpy() for column in found.columns])

    def ours(blocks: range) -> None:
        buffers = ReadBuffers()
        for i in blocks:
            source.read_into(source.block(i), buffers)

    def unit(blocks: range) -> None:
        if blocks:  # a tiny table has fewer than threads
            run_unit(source, blocks, Nothing(), spare=spare)

    return {
        "pyarrow": in_turns(pyarrow, n_groups, case.threads),
        "pyarrow, a matrix": in_turns(matrix, n_groups, case.threads),
        "ours": in_turns(ours, source.n_blocks, case.threads),
        "ours, a unit": in_turns(unit, source.n_blocks, case.threads),
    }


def measure(case: Case, size: int, rounds: int, decimals: int | None = None) -> list[Result]:
    """Let the contestants take turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        size = make(case, size, path, decimals)
        turns = contestants(case, path)
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
    parser.add_argument("--full", action="store_true", help="1 GiB a table")
    parser.add_argument("--tiny", action="store_true", help="8 MiB: the size of a test")
    parser.add_argument("--decimals", type=int, help="of the values; all of them by default")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = (1024 if arguments.full else 8 if arguments.tiny else 128) * 2**20
    records: list[Any] = []
    for case in CASES:
        for r in measure(case, size, arguments.rounds, arguments.decimals):
            records.append(asdict(r))
            if not arguments.json:
                print(
                    f"{case.codec:7}{'dictionary' if case.dictionary else 'plain':11}{case.dtype}"
                    f"{case.group:8,} rows  {case.threads} thread(s)  {r.contestant:18} "
                    f"best {r.best:5.2f}  median {r.median:5.2f}  "
                    f"per CPU second {r.per_cpu:5.2f} GB",
                    flush=True,
                )
    if arguments.json:
        versions = {m.__name__: m.__version__ for m in (np, pa)}
        json.dump({**versions, "load": os.getloadavg(), "results": records}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
