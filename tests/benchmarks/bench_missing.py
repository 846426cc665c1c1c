"""Seconds per pass over rows that miss values, beside the same rows complete.

Run from the repository's root:

    python -m tests.benchmarks.bench_missing            # a table
    python -m tests.benchmarks.bench_missing --json     # the same as JSON, for records
    python -m tests.benchmarks.bench_missing --full     # five times the rows

One thread, one BLAS thread, an E-step in blocks of 8 MiB. "plain" is the kernel as it is, over
complete rows; "none" is the kernel for missing values over the same rows, which only looks for
them; "20 patterns, rows" has gaps in one row of ten, "20 patterns, values" in so many rows that
one value of ten is missing, by one of 20 patterns each; "random" misses each value by itself, one
in ten. The contestants take turns; what is shown is the median of the rounds, half the distance
between their quartiles, and the median of the ratios to the plain turn of the same round.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

_PART = 0.1
_PATTERNS = 20
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Case:
    """A shape of problem."""

    family: str
    rows: int
    features: int
    components: int


CASES = tuple(
    Case(family, rows, d, k)
    for rows, d, k in ((200_000, 8, 8), (200_000, 16, 16), (40_000, 50, 20))
    for family in ("full", "tied", "diag", "spherical")
)


def patterns(d: int) -> NDArray[np.bool_]:
    """Twenty ways to miss about a quarter of the features, and never all."""
    rng = np.random.default_rng(5)
    found: set[bytes] = set()
    while len(found) < min(_PATTERNS, 2**d - 2):
        flags = rng.random(d) < 0.25
        if flags.any() and not flags.all():
            found.add(flags.tobytes())
    return np.stack([np.frombuffer(flags, dtype=bool) for flags in sorted(found)])


def gaps_of(kind: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows with gaps of a kind."""
    if kind in ("plain", "none"):
        return rows
    rng = np.random.default_rng(6)
    n, d = rows.shape
    if kind == "random":
        return np.where(rng.random((n, d)) < _PART, np.nan, rows)
    kinds = patterns(d)
    part = _PART if kind == "20 patterns, rows" else min(1.0, _PART / kinds.mean())
    missing = kinds[rng.integers(len(kinds), size=n)] & (rng.random(n) < part)[:, None]
    return np.where(missing, np.nan, rows)


KINDS = ("plain", "none", "20 patterns, rows", "20 patterns, values", "random")


def a_pass(kind: str, p: MixtureParameters, rows: NDArray[np.float64]) -> Callable[[], float]:
    """One pass over the rows in blocks, prepared once; its seconds."""
    values = gaps_of(kind, rows)
    step = max(1, _BLOCK_BYTES // (8 * values.shape[1]))
    blocks = [Rows(values[i : i + step]) for i in range(0, len(values), step)]
    kernel = get_kernel() if kind == "plain" else MarginalKernel(get_kernel())

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
    parser.add_argument("--full", action="store_true", help="five times the rows")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = CASES[:1] if arguments.tiny else CASES
    results = []
    with threadpool_limits(1):
        for case in cases:
            n = 2000 if arguments.tiny else case.rows * (5 if arguments.full else 1)
            p = random_mixture(1, case.family, case.components, case.features)
            rows = draw(2, p, n)
            turns = {kind: a_pass(kind, p, rows) for kind in KINDS}
            timed(turns, 1)  # compiles programs, which each process does once
            seconds = timed(turns, arguments.rounds)
            for kind, taken in seconds.items():
                ratios = np.divide(taken, seconds["plain"])
                results.append(
                    {
                        "case": {**asdict(case), "rows": n},
                        "gaps": kind,
                        **Spread.of(taken)._asdict(),
                        "ratio": float(np.median(ratios)),
                    }
                )
                if not arguments.json:
                    found = results[-1]
                    print(
                        f"{case.family:10}{n:9,} × {case.features:<3} K={case.components:<3} "
                        f"{kind:20} {found['median']:8.4f} s ± {found['spread']:.4f}   "
                        f"× {found['ratio']:.2f}",
                        flush=True,
                    )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
