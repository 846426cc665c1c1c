"""Seconds per pass of every model, beside maximum likelihood's over the same rows.

Run from the repository's root:

    python -m tests.benchmarks.bench_models            # a table
    python -m tests.benchmarks.bench_models --json     # the same as JSON, for records

One thread, one BLAS thread, an E-step in blocks of 8 MiB with the kernel that the estimator of the
model would take, and parameters that it would meet. The contestants take turns; what is shown is
the median of the rounds, half the distance between their quartiles, and the median of the ratios to
maximum likelihood's turn of the same round.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from dask_gmm.mixture.kernels import STUDENT, Candidate, get_kernel
from dask_gmm.mixture.kernels.noisy import NoisyKernel
from dask_gmm.mixture.noise import NoisyParameters
from dask_gmm.mixture.student import StudentParameters
from dask_gmm.mixture.variational import VariationalBayes
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.parameters import MixtureParameters

_BLOCK_BYTES = 8 * 2**20
PLAIN = "likelihood"


@dataclass(frozen=True)
class Case:
    """A shape of problem."""

    family: str
    rows: int
    features: int
    components: int


CASES = tuple(
    Case(family, rows, d, k)
    for rows, d, k in ((400_000, 8, 10), (200_000, 16, 40), (100_000, 64, 5))
    for family in ("full", "diag")
)


def models(
    p: MixtureParameters, rows: NDArray[np.float64]
) -> dict[str, tuple[Kernel, MixtureParameters]]:
    """The kernel and the parameters of each model: a new one gets a line."""
    box = np.stack([rows.min(axis=0), rows.max(axis=0)])
    return {
        PLAIN: (get_kernel(), p),
        "noise": (NoisyKernel(get_kernel()), NoisyParameters.of(p, 0.1, box)),
        "t": (STUDENT, StudentParameters.of(p, 5.0)),
        "bayesian": (get_kernel(), posterior(p, rows)),
    }


def posterior(p: MixtureParameters, rows: NDArray[np.float64]) -> MixtureParameters:
    """What variational Bayes makes of the rows after an update from a mixture."""
    few = Rows(rows[:2000])
    (found,) = get_kernel().statistics(few, [Candidate(p)])
    model = VariationalBayes(p.family, 0.0, degrees_of_freedom_prior=float(p.n_features))
    return model.settled(few).update(found)


def a_pass(kernel: Kernel, p: MixtureParameters, rows: NDArray[np.float64]) -> Callable[[], float]:
    """One pass over the rows in blocks, prepared once; its seconds."""
    step = max(1, _BLOCK_BYTES // (8 * rows.shape[1]))
    blocks = [Rows(rows[i : i + step]) for i in range(0, len(rows), step)]

    def turn() -> float:
        begun = time.perf_counter()
        e_step = kernel.e_step([Candidate(p)])
        for block in blocks:
            e_step.statistics(block)
        return time.perf_counter() - begun

    return turn


def main() -> None:
    """Run the cases and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with threadpool_limits(1):
        for case in CASES[:1] if arguments.tiny else CASES:
            n = 2000 if arguments.tiny else case.rows
            p = random_mixture(1, case.family, case.components, case.features)
            rows = draw(2, p, n)
            turns = {name: a_pass(*model, rows) for name, model in models(p, rows).items()}
            timed(turns, 1)  # compiles programs, which each process does once
            seconds = timed(turns, arguments.rounds)
            for name, taken in seconds.items():
                found = {
                    "case": {**asdict(case), "rows": n},
                    "model": name,
                    **Spread.of(taken)._asdict(),
                    "ratio": float(np.median(np.divide(taken, seconds[PLAIN]))),
                }
                results.append(found)
                if not arguments.json:
                    print(
                        f"{case.family:10}{n:9,} × {case.features:<3} K={case.components:<3} "
                        f"{name:12} {found['median']:8.4f} s ± {found['spread']:.4f}   "
                        f"× {found['ratio']:.2f}",
                        flush=True,
                    )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
