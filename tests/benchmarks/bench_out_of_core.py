"""A pass over stored rows against reading alone and computing alone: how well they overlap.

Run from the repository's root:

    python -m tests.benchmarks.bench_out_of_core             # a table, 2 GiB an array
    python -m tests.benchmarks.bench_out_of_core --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_out_of_core --full      # 6 GiB an array

Chunks of 8 MiB, float64 with 16 columns, page cache warm if memory suffices. "reading" is a pass
that computes nothing, "computing" one over the same number of rows that are in memory already. The
three take turns. The target is a pass of 1.15 times the longer of the two, and 5 %: it can be
reached where a core is free for the helper thread that reads. Where every core computes, their
sum is what there is to do.
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
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.data.source import open_source
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters
from tests.benchmarks.bench_reader import COLUMNS, Nothing, make
from tests.benchmarks.bench_reader import Case as ArrayCase

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Case:
    """What is read and computed, on how many threads."""

    codec: str
    family: str
    components: int
    threads: int


CASES = tuple(
    Case(codec, family, components, threads)
    for codec in ("none", "zstd")
    for family, components in (("diag", 2), ("full", 16), ("full", 64))
    for threads in (1, 2)
)


@dataclass(frozen=True)
class Result:
    """Median seconds of a pass and of its parts, and of the ratios turn by turn."""

    case: Case
    reading: float
    computing: float
    both: float
    ratio: float
    ratio_to_sum: float


def job_of(case: Case) -> StatisticsJob:
    """An E-step with components around the rows."""
    k = case.components
    means = 5.0 + np.random.default_rng(0).normal(size=(k, COLUMNS))
    eye = np.eye(COLUMNS)
    shapes = {"full": np.stack([eye] * k), "diag": np.ones((k, COLUMNS))}
    p = MixtureParameters.create(case.family, np.full(k, 1 / k), means, shapes[case.family])
    return StatisticsJob((Candidate(p),))


def measure(case: Case, path: Path, rounds: int) -> Result:
    """Let reading, computing and both take turns."""
    stored = open_source(path)
    rows = np.concatenate([stored.read(stored.block(i)) for i in range(min(32, stored.n_blocks))])
    in_memory = open_source(rows, block_rows=stored.max_block_rows)
    backend = LocalBackend(case.threads)
    stored_plan = plan_pass(stored, n_threads=case.threads)
    memory_plan = plan_pass(in_memory, n_threads=case.threads)
    share = stored.n_blocks / in_memory.n_blocks
    job = job_of(case)

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    turns: dict[str, Callable[[], float]] = {
        "reading": lambda: timed(lambda: backend.run(stored_plan, Nothing())),
        "computing": lambda: share * timed(lambda: backend.run(memory_plan, job)),
        "both": lambda: timed(lambda: backend.run(stored_plan, job)),
    }
    for turn in turns.values():
        turn()
    seconds = {name: np.array([]) for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name] = np.append(seconds[name], turn())
    longer = np.maximum(seconds["reading"], seconds["computing"])
    total = seconds["reading"] + seconds["computing"]
    return Result(
        case,
        *(float(np.median(taken)) for taken in seconds.values()),
        float(np.median(seconds["both"] / longer)),
        float(np.median(seconds["both"] / total)),
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--full", action="store_true", help="6 GiB instead of 2")
    parser.add_argument("--tiny", action="store_true", help="16 MiB: the size of a test")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    records = []
    size = (6 * 2**10 if arguments.full else 16 if arguments.tiny else 2 * 2**10) * 2**20
    for codec in ("none", "zstd"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.zarr"
            make(ArrayCase(codec, 8192), size, path)
            for case in CASES:
                if case.codec != codec:
                    continue
                r = measure(case, path, arguments.rounds)
                records.append(asdict(r))
                if not arguments.json:
                    print(
                        f"{codec:5}{case.family:5} K={case.components:3} {case.threads} thread(s)  "
                        f"reading {r.reading:6.2f} s  computing {r.computing:6.2f} s  "
                        f"pass {r.both:6.2f} s = {r.ratio:5.2f} x the longer, "
                        f"{r.ratio_to_sum:5.2f} x the sum",
                        flush=True,
                    )
    if arguments.json:
        json.dump({"load": os.getloadavg(), "results": records}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
