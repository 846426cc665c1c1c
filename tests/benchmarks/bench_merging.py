"""Seconds of CPU per read of a merging of components, beside a pass of a fit and one of labels.

Run from the repository's root:

    python -m tests.benchmarks.bench_merging            # a table
    python -m tests.benchmarks.bench_merging --json     # the same as JSON, for records

One thread, one BLAS thread, blocks of 8 MiB. "pass" is the E-step of a fit, "labels" what predict
computes, "pairs" the first read of a merging, "along" the second. Mixtures are apart (four standard
deviations between the closest means) or overlap (one and a half): only of rows that two components
have a part in logarithms are taken. The contestants take turns; what is shown is the median of the
rounds, half the distance between their quartiles, and the median of the ratios to the pass of the
same round.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from dask_gmm.cli.synthetic import Recipe, draw_mixture
from dask_gmm.data.source import open_source
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.fitting.prediction import Labels
from dask_gmm.inspection.combining import CombiningJob, combine
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.mixture.parameters import MixtureParameters

_BLOCK_BYTES = 8 * 2**20
CASES = [(apart, k, d) for k, d in ((5, 8), (10, 10), (20, 16), (50, 10)) for apart in (4.0, 1.5)]


def turns_of(p: MixtureParameters, values: np.ndarray) -> dict[str, Callable[[], float]]:
    """One read of each kind over the rows in blocks; its seconds."""
    source, kernel = open_source(values), get_kernel()
    step = max(1, _BLOCK_BYTES // (8 * values.shape[1]))
    blocks = [Rows(values[i : i + step]) for i in range(0, len(values), step)]
    ref = source.block(0)
    first = CombiningJob.first(p, kernel, source)

    def of_job(job: BlockJob[object]) -> Callable[[], float]:
        def turn() -> float:
            begun, call = time.process_time(), job.open()
            for block in blocks:
                call(block, ref)
            return time.process_time() - begun

        return turn

    def run(job: CombiningJob) -> object:
        jobs.append(job)
        call = job.open()
        total = call(blocks[0], ref)
        for block in blocks[1:]:
            total = total + call(block, ref)
        return total

    jobs: list[CombiningJob] = []
    combine(first, run, 2)  # type: ignore[arg-type]

    def labels() -> float:
        begun, call = time.process_time(), Labels(p, kernel).open()
        for block in blocks:
            call(block.values)
        return time.process_time() - begun

    return {
        "pass": of_job(StatisticsJob((Candidate(p),), kernel)),
        "labels": labels,
        "pairs": of_job(first),
        "along": of_job(jobs[-1]),
    }


def main() -> None:
    """Run the cases and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    n = 2000 if arguments.tiny else arguments.rows
    results = []
    with threadpool_limits(1):
        for apart, k, d in CASES[:1] if arguments.tiny else CASES:
            p = draw_mixture(Recipe(k, d, apart, "full", 1))
            values, _ = sample_mixture(p, n, np.random.RandomState(2))
            values = values[np.random.RandomState(3).permutation(n)]
            turns = turns_of(p, values)
            timed(turns, 1)  # compiles programs, which each process does once
            seconds = timed(turns, arguments.rounds)
            for kind, taken in seconds.items():
                ratio = float(np.median(np.divide(taken, seconds["pass"])))
                case = {"rows": n, "features": d, "components": k, "apart": apart}
                found = {"case": case, "read": kind, **Spread.of(taken)._asdict(), "ratio": ratio}
                results.append(found)
                if not arguments.json:
                    print(
                        f"{n:9,} × {d:<3} K={k:<3} {apart:.1f} σ  {kind:8}"
                        f"{found['median']:8.4f} s ± {found['spread']:.4f}   × {ratio:.2f}",
                        flush=True,
                    )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
