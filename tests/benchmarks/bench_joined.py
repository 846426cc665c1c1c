"""GB/s (decoded) of passes over several arrays as one source, beside one array of the same bytes.

Run from the repository's root:

    python -m tests.benchmarks.bench_joined             # a table
    python -m tests.benchmarks.bench_joined --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_joined --codec none --rounds 15

Two variables of eight levels, float32, or sixteen of none, over a million samples; the blocks have
the same rows in each layout. Local files, page cache warm. Layouts take turns, so that whatever
else the machine does meets them all alike. "read" is all that a task does around reading, with
nothing computed, on one thread; "pass" a pass of the backend on all threads with the statistics of
eight components with full covariances. Shown are the best round and the median, and what part they
are of one array's; also per second of CPU time, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_gmm.data.buffers import SpareBuffers
from dask_gmm.data.source import Source, open_source
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.unit import run_unit
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters
from tests.benchmarks.bench_reader import CODECS, Nothing

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = 8
COMPONENTS = 8

#: How the same columns lie: in one array, in two with the levels last or first, or in sixteen.
LAYOUTS = ("one array", "levels last", "levels first", "one of each", "no levels")


@dataclass(frozen=True)
class Result:
    """Decoded GB/s of the best and the median round, and parts of what one array has."""

    codec: str
    kind: str
    layout: str
    best: float
    median: float
    of_one: float
    of_one_cpu: float
    of_one_median: float


def make(layout: str, codec: str, rows: int, chunk: int, folder: Path) -> Source:
    """Write the columns in a layout; all hold the same noise, rounded so that codecs find some."""
    values = np.random.default_rng(0).normal(size=(rows, 2 * LEVELS)).astype("f4").round(2)
    halves = [np.ascontiguousarray(half) for half in np.split(values, 2, axis=1)]
    how: dict[str, Any] = {"compressors": CODECS[codec]}
    if layout == "one array":
        zarr.create_array(folder / "x.zarr", data=values, chunks=(chunk, 2 * LEVELS), **how)
        return open_source(folder / "x.zarr")
    group = zarr.create_group(folder / f"{layout}.zarr")
    if layout == "no levels":
        columns = {f"v{i}": (column.copy(), ("t",)) for i, column in enumerate(values.T)}
    else:
        first = {"levels last": (), "levels first": (0, 1), "one of each": (1,)}[layout]
        columns = {
            f"v{i}": (half.T.copy(), ("z", "t")) if i in first else (half, ("t", "z"))
            for i, half in enumerate(halves)
        }
    for name, (array, dims) in columns.items():
        chunks = tuple(chunk if dim == "t" else LEVELS for dim in dims)
        group.create_array(name, data=array, chunks=chunks, dimension_names=dims, **how)
    dim = -1 if layout == "no levels" else "z"
    return open_source(folder / f"{layout}.zarr", features=list(columns), feature_axis=dim)


def job() -> StatisticsJob:
    """The statistics of a mixture."""
    rng, d = np.random.default_rng(1), 2 * LEVELS
    parameters = MixtureParameters.create(
        "full",
        np.full(COMPONENTS, 1 / COMPONENTS),
        rng.normal(size=(COMPONENTS, d)),
        np.tile(np.eye(d), (COMPONENTS, 1, 1)),
    )
    return StatisticsJob((Candidate(parameters),))


def measure(codec: str, rows: int, chunk: int, rounds: int) -> list[Result]:
    """Let the layouts take turns."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: make(name, codec, rows, chunk, Path(folder)) for name in LAYOUTS}
        kinds: dict[str, dict[str, Callable[[], None]]] = {"read": {}, "pass": {}}
        work = job()
        for name, source in sources.items():
            kinds["read"][name] = _reading(source)
            kinds["pass"][name] = _passing(source, work)
        for kind, turns in kinds.items():
            taken = _in_turns(turns, rounds)
            one = taken["one array"]
            size = rows * 2 * LEVELS * 4 / 1e9
            for name, own in taken.items():
                rates = size / own.min(axis=0)[0], size / float(np.median(own[:, 0]))
                ratios = one.min(axis=0) / own.min(axis=0)
                median = float(np.median(one[:, 0]) / np.median(own[:, 0]))
                results.append(Result(codec, kind, name, *map(float, (*rates, *ratios)), median))
    return results


def _in_turns(turns: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Return wall and CPU seconds of each round, after one that does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            wall, cpu = time.perf_counter(), time.process_time()
            turn()
            if number:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(found) for name, found in taken.items()}


def _reading(source: Source) -> Callable[[], None]:
    spare = SpareBuffers()

    def turn() -> None:
        run_unit(source, range(source.n_blocks), Nothing(), spare=spare)

    return turn


def _passing(source: Source, work: StatisticsJob) -> Callable[[], None]:
    backend = LocalBackend()

    def turn() -> None:
        backend.run(plan_pass(source, n_threads=backend.n_threads), work)

    return turn


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--codec", choices=CODECS, help="this one only")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows, chunk = (2**14, 2**12) if arguments.tiny else (2**20, 2**16)
    records = []
    for codec in CODECS if arguments.codec is None else [arguments.codec]:
        for r in measure(codec, rows, chunk, arguments.rounds):
            records.append(asdict(r))
            if not arguments.json:
                print(
                    f"{r.codec:5}{r.kind:6}{r.layout:14} best {r.best:6.2f}  median {r.median:6.2f}"
                    f" GB/s  of one array {r.of_one:5.2f}, median {r.of_one_median:5.2f}, per CPU "
                    f"second {r.of_one_cpu:5.2f}",
                    flush=True,
                )
    if arguments.json:
        versions = {m.__name__: m.__version__ for m in (np, zarr)}
        json.dump({**versions, "load": os.getloadavg(), "results": records}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
