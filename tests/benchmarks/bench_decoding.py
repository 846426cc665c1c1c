"""GB/s of measurements out of packed stores, beside an array that holds float32 as it is.

Run from the repository's root:

    python -m tests.benchmarks.bench_decoding             # a table, 256 MiB of measurements each
    python -m tests.benchmarks.bench_decoding --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_decoding --mib 1024 --codec zstd --threads 1

The same rows of 16 features are stored in several encodings, in chunks of as many rows, 1 Mi
elements each. *Reading* is a pass that computes nothing, by the tasks of a fit, the page cache
warm; a *pass* is one of EM with 8 components. All encodings take turns, so that whatever else the
machine does meets them all alike. Bytes are those of the measurements, as they are in memory. Shown
are medians over the rounds, each round's ratio to plain float32 (the middle of them), and the same
for bytes per second of CPU time, which a busy machine disturbs least.

The target is that a pass over packed int16 does at least .8 times as many bytes a second as one
over plain float32.
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

from dask_gmm.data.source import open_source
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters
from tests.benchmarks.bench_reader import CODECS, COLUMNS, Nothing
from tests.benchmarks.machine import describe_machine, machine_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

COMPONENTS = 8
CHUNK = 2**20 // COLUMNS
"""Rows of a chunk."""

PLAIN = "float32"
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("f4", {}),
    "float64": ("f8", {}),
    "int16, mark -> float32": ("i2", {"_FillValue": -32767}),
    "int16, scale, offset -> float64": ("i2", {"scale_factor": 0.01, "add_offset": 5.0}),
    "int16, all -> float64": (
        "i2",
        {"scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32767},
    ),
    "int16, all and a range -> float64": (
        "i2",
        {
            "scale_factor": 0.01,
            "add_offset": 5.0,
            "_FillValue": -32767,
            "valid_range": [-30000, 30000],
        },
    ),
    "uint8, mark -> float32": ("u1", {"_FillValue": 255}),
    "float32, mark": ("f4", {"_FillValue": float(np.float32(-9e9))}),
}


@dataclass(frozen=True)
class Result:
    """What one encoding came to; rates in GB/s of measurements, ratios to plain float32."""

    encoding: str
    dtype: str
    reading: float
    of_pass: float
    reading_ratio: float
    pass_ratio: float
    pass_ratio_by_cpu: float


def write(path: Path, encoding: str, mib: int, codec: str) -> None:
    """Write so many MiB of measurements; none of them is missing."""
    kind, attributes = ENCODINGS[encoding]
    path = path / encoding.replace(" ", "_")
    array = zarr.create_array(path, shape=(0, COLUMNS), chunks=(CHUNK, COLUMNS), dtype=kind,
                              compressors=CODECS[codec])  # fmt: skip
    array.attrs.update(attributes)
    size = open_source(path).dtype.itemsize * COLUMNS
    rows = max(1, (mib << 20) // (size * CHUNK)) * CHUNK
    array.resize((rows, COLUMNS))
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        array[start : start + CHUNK] = counts(rng).astype(kind)


def counts(rng: np.random.Generator) -> NDArray[np.float64]:
    """Clouds of whole numbers that every type holds."""
    centres = 30.0 + 10.0 * rng.integers(0, 10, size=(CHUNK, 1))
    drawn: NDArray[np.float64] = np.round(centres + 5.0 * rng.standard_normal((CHUNK, COLUMNS)))
    return drawn.clip(0, 250)


def job_over(path: Path) -> StatisticsJob:
    """An E-step with components among the rows."""
    source = open_source(path)
    values = source.read(source.block(0)).values[: 50 * COMPONENTS : 50].astype(np.float64)
    spread = np.full((COMPONENTS, COLUMNS, COLUMNS), np.eye(COLUMNS)) / values.var()
    weights = np.full(COMPONENTS, 1 / COMPONENTS)
    return StatisticsJob((Candidate(MixtureParameters.create("full", weights, values, spread)),))


def measure(folder: Path, rounds: int, threads: int) -> list[Result]:
    """Let the encodings take turns at reading and at a pass."""
    backend = LocalBackend(threads)
    turns: dict[tuple[str, str], Callable[[], tuple[float, float]]] = {}
    kinds = {}
    for encoding in ENCODINGS:
        path = folder / encoding.replace(" ", "_")
        source = open_source(path)
        plan, n_bytes = plan_pass(source, n_threads=threads), source.n_rows * source.row_bytes
        kinds[encoding] = str(source.dtype)
        for what, job in (("reading", Nothing()), ("pass", job_over(path))):

            def turn(plan: Any = plan, job: Any = job, n: int = n_bytes) -> tuple[float, float]:
                wall, cpu = time.perf_counter(), time.process_time()
                backend.run(plan, job)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                return n / wall / 1e9, n / cpu / 1e9

            turns[encoding, what] = turn
    for turn in turns.values():
        turn()
    rates = {key: [] for key in turns}
    for _ in range(rounds):
        for key, turn in turns.items():
            rates[key].append(turn())
    found = {key: np.asarray(rate) for key, rate in rates.items()}

    def ratio(encoding: str, what: str, by: int = 0) -> float:
        return float(np.median(found[encoding, what][:, by] / found[PLAIN, what][:, by]))

    return [
        Result(
            encoding,
            kinds[encoding],
            float(np.median(found[encoding, "reading"][:, 0])),
            float(np.median(found[encoding, "pass"][:, 0])),
            ratio(encoding, "reading"),
            ratio(encoding, "pass"),
            ratio(encoding, "pass", 1),
        )
        for encoding in ENCODINGS
    ]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--mib", type=int, default=256, help="of measurements, an array")
    parser.add_argument("--codec", choices=tuple(CODECS), default="none")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        for encoding in ENCODINGS:
            write(Path(name), encoding, arguments.mib, arguments.codec)
        results = measure(Path(name), arguments.rounds, arguments.threads)
    if arguments.json:
        record = {"machine": machine, "results": [asdict(r) for r in results]}
        json.dump(record, sys.stdout, indent=1)
        return
    print(machine_line(machine))
    print(f"{'':34}{'reading':>16}{'a pass':>16}{'(by CPU time)':>16}")
    for r in results:
        print(
            f"{r.encoding:34}{r.reading:7.2f} GB/s {r.reading_ratio:4.2f}{r.of_pass:7.2f} GB/s "
            f"{r.pass_ratio:4.2f}{r.pass_ratio_by_cpu:16.2f}"
        )


if __name__ == "__main__":
    main()
