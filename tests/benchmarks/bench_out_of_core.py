"""A pass over stored rows against reading alone and computing alone: how well they overlap.

Run from the repository's root:

    python -m tests.benchmarks.bench_out_of_core             # a table, 2 GiB an array
    python -m tests.benchmarks.bench_out_of_core --json      # the same as JSON, for records
    python -m tests.benchmarks.bench_out_of_core --full      # 6 GiB an array
    python -m tests.benchmarks.bench_out_of_core --cold      # files dropped from the page cache
    python -m tests.benchmarks.bench_out_of_core --codec zstd --threads 1 --keep FOLDER
                                # in pieces: arrays are made in FOLDER once, and stay there

Chunks of 8 MiB, float64 with 16 columns. *Reading* is a pass over the store that computes nothing,
with the same threads and their helpers. *Computing* is the same job over the same number of rows in
memory: over the first 256 MiB of them, again and again in proportion. *Both* is the pass. The three
take turns; shown are medians, ratios turn by turn.

The target is 1.15 times the longer of reading and computing, and 5 %. Reading takes a core too,
if only to decode or to copy from the page cache; where all cores compute already, no order of the
work beats the CPU seconds that there are to spend on the cores that there are. So the table has
both the ratio to the longer of the two, and that to the *bound*

    max(reading, computing, (CPU seconds of reading + CPU seconds of computing) / cores),

the shortest wall time in which these parts can be done at all; the two ratios are the same where a
core is free for the reader. Without `--cold` the page cache holds what memory allows, so that
reading is copying and decoding; with it files come from the disk, as far as the system heeds the
advice to drop them, and most of reading is waiting.
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
    """Medians: seconds of the parts and of the pass, CPU seconds of them, ratios of a turn."""

    case: Case
    reading: float
    computing: float
    both: float
    reading_cpu: float
    computing_cpu: float
    both_cpu: float
    ratio: float
    ratio_to_bound: float


def job_of(case: Case) -> StatisticsJob:
    """An E-step with components around the rows."""
    k = case.components
    means = 5.0 + np.random.default_rng(0).normal(size=(k, COLUMNS))
    eye = np.eye(COLUMNS)
    shapes = {"full": np.stack([eye] * k), "diag": np.ones((k, COLUMNS))}
    p = MixtureParameters.create(case.family, np.full(k, 1 / k), means, shapes[case.family])
    return StatisticsJob((Candidate(p),))


def drop(path: Path) -> None:
    """Ask the system to forget the files below a folder."""
    os.sync()  # what is not written yet cannot be dropped
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(case: Case, path: Path, rounds: int, *, cold: bool = False) -> Result:
    """Let reading, computing and both take turns."""
    stored = open_source(path)
    rows = np.concatenate(
        [stored.read(stored.block(i)).values for i in range(min(32, stored.n_blocks))]
    )
    in_memory = open_source(rows, block_rows=stored.max_block_rows)
    backend = LocalBackend(case.threads)
    stored_plan = plan_pass(stored, n_threads=case.threads)
    memory_plan = plan_pass(in_memory, n_threads=case.threads)
    share = stored.n_blocks / in_memory.n_blocks
    job = job_of(case)

    def timed(call: Callable[[], object], *, from_store: bool = True) -> tuple[float, float]:
        """Wall and CPU seconds."""
        if from_store and cold:
            drop(path)
        start = time.perf_counter(), time.process_time()
        call()
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        return taken if from_store else (share * taken[0], share * taken[1])

    turns: dict[str, Callable[[], tuple[float, float]]] = {
        "reading": lambda: timed(lambda: backend.run(stored_plan, Nothing())),
        "computing": lambda: timed(lambda: backend.run(memory_plan, job), from_store=False),
        "both": lambda: timed(lambda: backend.run(stored_plan, job)),
    }
    for turn in turns.values():
        turn()
    taken = np.array([[turn() for turn in turns.values()] for _ in range(rounds)])
    wall, cpu = np.moveaxis(taken, -1, 0)
    longer = wall[:, :2].max(axis=1)
    bound = np.maximum(longer, cpu[:, :2].sum(axis=1) / len(os.sched_getaffinity(0)))
    return Result(
        case,
        *(float(m) for m in np.median(wall, axis=0)),
        *(float(m) for m in np.median(cpu, axis=0)),
        float(np.median(wall[:, 2] / longer)),
        float(np.median(wall[:, 2] / bound)),
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--full", action="store_true", help="6 GiB instead of 2")
    parser.add_argument("--tiny", action="store_true", help="16 MiB: the size of a test")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files before each turn")
    parser.add_argument("--codec", choices=("none", "zstd"), help="this one only")
    parser.add_argument("--components", type=int, help="cases of so many only")
    parser.add_argument("--threads", type=int, help="cases of so many only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of arrays that stay")
    arguments = parser.parse_args()
    records = []
    size = (6 * 2**10 if arguments.full else 16 if arguments.tiny else 2 * 2**10) * 2**20
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if any(
                getattr(arguments, name) not in (None, getattr(case, name))
                for name in ("codec", "components", "threads")
            ):
                continue
            path = (arguments.keep or Path(folder)) / f"{case.codec}-{size >> 20}.zarr"
            if not path.exists():
                make(ArrayCase(case.codec, 8192), size, path)
            r = measure(case, path, arguments.rounds, cold=arguments.cold)
            records.append(asdict(r))
            if not arguments.json:
                print(
                    f"{case.codec:5}{case.family:5} K={case.components:3} {case.threads} thread(s)"
                    f"  reading {r.reading:6.2f} s  computing {r.computing:6.2f} s  pass "
                    f"{r.both:6.2f} s = {r.ratio:5.2f} x the longer, {r.ratio_to_bound:5.2f} x "
                    f"the bound "
                    f"(CPU {r.reading_cpu:.2f} + {r.computing_cpu:.2f} s, {r.both_cpu:.2f} s)",
                    flush=True,
                )
    if arguments.json:
        json.dump({"load": os.getloadavg(), "results": records}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
