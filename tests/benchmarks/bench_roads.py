"""Rows per second of a pass by each road that data may come by, beside plain float32.

Run from the repository's root:

    python -m tests.benchmarks.bench_roads              # a table, 2 Mi rows
    python -m tests.benchmarks.bench_roads --json       # the same as JSON, for records
    python -m tests.benchmarks.bench_roads --rows 8388608 --codec zstd --threads 1

The same rows of 16 features lie in one array of float32 ("plain float32") and in whatever a road
needs: other types, packed integers, two variables of 8 levels, a Parquet table, many arrays, a
sparse matrix, beside a mask or weights, with gaps. A pass of EM with 8 components, in process, the
page cache warm; rows are those that are read, also where a mask leaves some out. All roads take
turns, so that whatever else the machine does meets them all alike. Shown are the median of the
rounds, and of each round's ratio to plain float32 the median and half the distance between the
quartiles; the same of rows per second of CPU time, which a busy machine disturbs least.

Types and codecs one by one are in `bench_decoding`, orders of dimensions in `bench_joined`, kinds
of gaps and families in `bench_missing`, tables in `bench_tables`.
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
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
import zarr

from dask_gmm.data.source import open_source
from dask_gmm.data.taking_part import with_missing
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from tests.benchmarks.bench_missing import patterns
from tests.benchmarks.bench_reader import CODECS
from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.turns import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source

COMPONENTS, LEVELS = 8, 8
FEATURES = 2 * LEVELS
CHUNK = 2**17
"""Rows of a chunk."""

SMALL = 2**11
"""Rows of a small array."""

MASKED, GAPPY, NOISE = 0.3, 0.1, 15.0
PLAIN = "plain float32"


@dataclass(frozen=True)
class Result:
    """What a road came to: million rows a second, and ratios to plain float32."""

    road: str
    rate: float
    ratio: float
    spread: float
    ratio_by_cpu: float
    spread_by_cpu: float


def centres() -> NDArray[np.float64]:
    """Of the components: they overlap, three standard deviations apart."""
    return 100 + 8 * np.random.default_rng(3).standard_normal((COMPONENTS, FEATURES))


def clouds(rows: int) -> NDArray[np.float32]:
    """Whole numbers, which every type holds, about one of the centres for each row."""
    rng = np.random.default_rng(0)
    found = NOISE * rng.standard_normal((rows, FEATURES), dtype=np.float32)
    found += centres()[rng.integers(COMPONENTS, size=rows)].astype(np.float32)
    return np.round(found)


def gappy(x: NDArray[np.float32], kinds: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """A tenth of the rows with gaps, by one of some patterns or each by its own."""
    rng = np.random.default_rng(1)
    missing = np.zeros(x.shape, dtype=bool)
    some = np.flatnonzero(rng.random(len(x)) < GAPPY)
    if kinds is None:
        missing[some] = rng.random((some.size, FEATURES)) < 0.25
        missing[some, rng.integers(FEATURES, size=some.size)] = True
    else:
        missing[some] = kinds[rng.integers(len(kinds), size=some.size)]
    return np.where(missing, np.float32("nan"), x)


def write(folder: Path, x: NDArray[np.float32], codec: str) -> None:
    """Write what the roads read."""
    how: dict[str, Any] = {"compressors": CODECS[codec]}
    group = zarr.create_group(folder / "g.zarr")

    def one(name: str, values: NDArray[Any], chunks: tuple[int, ...], **more: Any) -> None:
        group.create_array(name, data=values, chunks=chunks, **how, **more)

    whole = (CHUNK, FEATURES)
    one("float32", x, whole)
    one("float64", x.astype("f8"), whole)
    counts = x.astype("i2")
    packing = {"scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32767}
    one("packed", counts, whole, attributes=packing)
    one("marked", counts, whole, attributes={"_FillValue": -32767})
    one("twenty", gappy(x, patterns(FEATURES)), whole)
    one("random", gappy(x, None), whole)
    for i, half in enumerate(np.split(x, 2, axis=1)):
        half = np.ascontiguousarray(half)
        one(f"last {i}", half, (CHUNK, LEVELS), dimension_names=("row", "level"))
        first = np.ascontiguousarray(half.T)
        one(f"first {i}", first, (LEVELS, CHUNK), dimension_names=("level", "row"))
    for size, parts in ((CHUNK, "chunks"), (SMALL, "small")):
        for number, start in enumerate(range(0, len(x), size)):
            one(f"{parts}/{number}", x[start : start + size], (size, FEATURES))
    whole_matrix = scipy.sparse.csr_array(x)
    matrix = group.create_group("csr", attributes={"encoding-type": "csr_matrix"})
    matrix.attrs["shape"] = list(x.shape)
    for part in ("data", "indices", "indptr"):
        one(f"csr/{part}", getattr(whole_matrix, part), (CHUNK * FEATURES,))
    rng = np.random.default_rng(2)
    one("mask", rng.random(len(x)) >= MASKED, (CHUNK,))
    one("weights", rng.uniform(0.5, 2.0, len(x)), (CHUNK,))
    table = pa.table({f"x{j}": column.copy() for j, column in enumerate(x.T)})
    compression = {"none": "none", "zstd": "zstd"}.get(codec, "snappy")
    pq.write_table(table, folder / "t.parquet", row_group_size=CHUNK, compression=compression)


def roads(folder: Path) -> dict[str, Source]:
    """The same rows by every road."""
    path = str(folder / "g.zarr")

    def of(name: str, missing: str = "error", **options: Any) -> Source:
        return with_missing(open_source(path, array=name, **options), missing)

    def joined(name: str) -> Source:
        return open_source(path, features=[f"{name} 0", f"{name} 1"], feature_axis="level")

    return {
        PLAIN: of("float32"),
        "float64": of("float64"),
        "int16, scale, offset and mark, to float64": of("packed"),
        "int16 with a mark, to float32": of("marked"),
        "two variables, levels last": joined("last"),
        "two variables, levels first": joined("first"),
        "where= leaves out 30 %": of("float32", where="mask"),
        "weights": of("float32", sample_weight="weights"),
        "marginalize, no gaps": of("float32", "marginalize"),
        "10 % of rows with gaps, 20 patterns": of("twenty", "marginalize"),
        "10 % of rows with gaps, at random": of("random", "marginalize"),
        "10 % of rows with gaps, dropped": of("twenty", "drop"),
        "many arrays, a chunk each": open_source(path, arrays="chunks/*"),
        "many arrays of 2,048 rows": open_source(path, arrays="small/*"),
        "many arrays, counting alike": open_source(
            path, arrays="chunks/*", sample_weight="equal-per-array"
        ),
        "CSR, all values stored": of("csr"),
        "Parquet, float32": open_source(folder / "t.parquet"),
    }


def job_of(source: Source) -> StatisticsJob:
    """An E-step by the mixture that the rows are drawn from."""
    packed = source.dtype == np.float64 and source.decoding is not None
    scale, offset = (0.01, 5.0) if packed else (1.0, 0.0)
    found = MixtureParameters.create(
        "full",
        np.full(COMPONENTS, 1 / COMPONENTS),
        centres() * scale + offset,
        np.full((COMPONENTS, FEATURES, FEATURES), np.eye(FEATURES) * (NOISE * scale) ** 2),
    )
    kernel = get_kernel()
    kernel = MarginalKernel(kernel) if source.missing == "marginalize" else kernel
    return StatisticsJob((Candidate(found),), kernel)


def measure(rows: int, codec: str, rounds: int, threads: int) -> list[Result]:
    """Let the roads take turns."""
    backend = LocalBackend(threads)
    turns: dict[str, Callable[[], tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), clouds(rows), codec)
        for road, source in roads(Path(name)).items():
            plan, job = plan_pass(source, n_threads=threads), job_of(source)

            def turn(plan: Any = plan, job: Any = job) -> tuple[float, float]:
                wall, cpu = time.perf_counter(), time.process_time()
                result = backend.run(plan, job)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                assert result.rows == rows
                return rows / wall / 1e6, rows / cpu / 1e6

            turns[road] = turn
        for turn in turns.values():
            turn()
        taken: dict[str, list[tuple[float, float]]] = {road: [] for road in turns}
        for _ in range(rounds):
            for road, turn in turns.items():
                taken[road].append(turn())
    rates = {road: np.asarray(found) for road, found in taken.items()}
    results = []
    for road, own in rates.items():
        wall, cpu = (Spread.of(list(own[:, i] / rates[PLAIN][:, i])) for i in (0, 1))
        rate = float(np.median(own[:, 0]))
        results.append(Result(road, rate, wall.median, wall.spread, cpu.median, cpu.spread))
    return results


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rows", type=int, default=2**21)
    parser.add_argument("--codec", choices=tuple(CODECS), default="none")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    machine = describe_machine()
    rows = 4096 if arguments.tiny else arguments.rows
    results = measure(rows, arguments.codec, arguments.rounds, arguments.threads)
    if arguments.json:
        record = {"machine": machine, "rows": rows, "results": [asdict(r) for r in results]}
        json.dump(record, sys.stdout, indent=1)
        return
    print(machine_line(machine))
    print(f"{rows:,} rows, {arguments.threads} thread(s), codec {arguments.codec}")
    print(f"{'':42}{'M rows/s':>9}{'of plain':>15}{'by CPU time':>16}")
    for r in results:
        print(
            f"{r.road:42}{r.rate:9.1f}{r.ratio:8.2f} ± {r.spread:.2f} "
            f"{r.ratio_by_cpu:8.2f} ± {r.spread_by_cpu:.2f}"
        )


if __name__ == "__main__":
    main()
