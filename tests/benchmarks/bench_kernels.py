"""Seconds per pass of the kernels over rows in memory, beside scikit-learn and oneDAL.

Run from the repository's root:

    python -m tests.benchmarks.bench_kernels            # a table
    python -m tests.benchmarks.bench_kernels --json     # the same as JSON, for records
    python -m tests.benchmarks.bench_kernels --full     # full sizes instead of a fifth of the rows
    python -m tests.benchmarks.bench_kernels --onedal PYTHON

`PYTHON` is an interpreter that has `daal4py` and NumPy, in an environment of its own: its versions
need not be ours. One thread, one BLAS thread; each contestant is checked to find the same
log-likelihood at the parameters that all are given. "each of 4" is a pass with four candidates,
per candidate. The contestants take turns, so that whatever else the machine does
meets them all alike; what is shown is the median of the rounds, their spread (half the distance
between the quartiles), and the median of the ratios of neighbouring turns. Times of a fifth of the
rows are shown as such, not multiplied.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_info, threadpool_limits

from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, turns_of

Turn = Callable[[], tuple[float, float]]
"""Runs once; seconds of a pass, and the log-likelihood."""


@dataclass(frozen=True)
class Case:
    """A shape of problem; `separation` is the distance of the means in σ, per feature."""

    family: str
    rows: int
    features: int
    components: int
    dtype: str = "float64"
    separation: float = 4.0


CASES = tuple(
    Case(family, rows, d, k, dtype, separation)
    for family, rows, d, k in (
        ("full", 1_000_000, 4, 8),
        ("full", 1_000_000, 16, 16),
        ("full", 500_000, 32, 32),
        ("full", 200_000, 128, 8),
        ("tied", 1_000_000, 16, 16),
        ("diag", 1_000_000, 16, 16),
        ("diag", 500_000, 32, 64),
        ("spherical", 1_000_000, 16, 16),
    )
    for separation in (4.0, 0.3)
    for dtype in ("float64", "float32")
)


@dataclass(frozen=True)
class Result:
    """Seconds per pass of one contestant, and how many of its passes go into one of the others.

    Attributes
    ----------
    case, contestant
        What ran.
    median, least, spread : float
        Seconds.
    ratios : dict of str to float
        Median of the ratios of another contestant's time to this one's, turn by turn.
    """

    case: Case
    contestant: str
    median: float
    least: float
    spread: float
    ratios: dict[str, float]


def problem(case: Case) -> tuple[np.ndarray, MixtureParameters]:
    """Rows around random means, and parameters a little off them."""
    rng = np.random.default_rng(0)
    k, d = case.components, case.features
    means = case.separation * rng.normal(size=(k, d))
    rows = means[rng.integers(k, size=case.rows)] + rng.normal(size=(case.rows, d))
    eye = np.eye(d)
    covariances = {"full": np.stack([eye] * k), "tied": eye, "diag": np.ones((k, d))}
    return rows.astype(case.dtype), MixtureParameters.create(
        case.family, np.full(k, 1.0 / k), means + 0.1, covariances.get(case.family, np.ones(k))
    )


def contestants(
    rows: np.ndarray, p: MixtureParameters, onedal: str | None, cleaning: ExitStack
) -> dict[str, Turn]:
    """What to run in turns."""
    theirs = GaussianMixture(p.n_components, covariance_type=p.family.name)
    candidate = Candidate(p)

    def scikit_learn() -> tuple[float, float]:
        # In the rows' type, as its own fit has them: mixed types would cost it half its speed.
        theirs.weights_, theirs.means_ = p.weights.astype(rows.dtype), p.means.astype(rows.dtype)
        theirs.covariances_ = p.covariances.astype(rows.dtype)
        theirs.precisions_cholesky_ = p.precisions_cholesky.astype(rows.dtype)
        start = time.perf_counter()
        log_likelihood, log_responsibilities = theirs._e_step(rows)
        theirs._m_step(rows, log_responsibilities)
        return time.perf_counter() - start, float(log_likelihood) * len(rows)

    def ours(name: str, candidates: int = 1) -> Turn:
        e_step = get_kernel(name).e_step([candidate] * candidates)

        def turn() -> tuple[float, float]:
            start = time.perf_counter()
            found = e_step.statistics(Rows(rows))
            return (time.perf_counter() - start) / candidates, found[0].log_likelihood

        return turn

    turns = {
        "scikit-learn": scikit_learn,
        "blas": ours("blas"),
        "compiled": ours("compiled"),
        "compiled, each of 4": ours("compiled", 4),
    }
    if onedal and p.family.name in ("full", "diag"):
        turns["oneDAL"] = _onedal(rows, p, onedal, cleaning)
    return turns


def _onedal(rows: np.ndarray, p: MixtureParameters, interpreter: str, cleaning: ExitStack) -> Turn:
    folder = Path(cleaning.enter_context(tempfile.TemporaryDirectory()))
    np.save(folder / "rows.npy", rows)
    np.save(folder / "means.npy", p.means)
    script = Path(__file__).with_name("onedal_turns.py")
    command = [interpreter, str(script), str(folder), p.family.name, str(p.n_components)]
    return turns_of(command, cleaning)


def measure(case: Case, rounds: int, onedal: str | None) -> list[Result]:
    """Let the contestants take turns."""
    rows, p = problem(case)
    with ExitStack() as cleaning:
        turns = contestants(rows, p, onedal, cleaning)
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        right = turns["compiled"]()[1]
        for _ in range(rounds):
            for name, turn in turns.items():
                taken, found = turn()
                seconds[name].append(taken)
                assert abs(found - right) < 1e-5 * abs(right), (case, name, found, right)
        times = {name: np.array(taken) for name, taken in seconds.items()}
    results = []
    for name, taken in times.items():
        ratios = {n: float(np.median(t / taken)) for n, t in times.items() if n != name}
        results.append(Result(case, name, *Spread.of(taken), ratios))
    return results


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--full", action="store_true", help="all rows instead of a fifth of them")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--onedal", metavar="PYTHON", help="an interpreter with daal4py")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    records: list[dict[str, object]] = []
    with threadpool_limits(1, user_api="blas"):
        for full_case in CASES:
            part = 1 if arguments.full else 500 if arguments.tiny else 5
            case = Case(**{**asdict(full_case), "rows": full_case.rows // part})
            for r in measure(case, arguments.rounds, arguments.onedal):
                records.append(asdict(r))
                if not arguments.json:
                    size = f"{case.rows:>9,} x {case.features:3}, K={case.components:2}"
                    beside = "  ".join(
                        f"{r.ratios[n]:5.1f} x {n}"
                        for n in ("scikit-learn", "oneDAL", "blas")
                        if n in r.ratios and r.contestant.startswith("compiled")
                    )
                    print(
                        f"{case.family:9} {size} {case.dtype} sep {case.separation:3}  "
                        f"{r.contestant:19} {r.median:8.4f} s ± {r.spread:.4f} "
                        f"(least {r.least:.4f})  {beside}",
                        flush=True,
                    )
    if arguments.json:
        fields = ("filepath", "version", "architecture")
        libraries = [{k: i.get(k) for k in fields} for i in threadpool_info()]
        record = {"numpy": np.__version__, "libraries": libraries, "results": records}
        json.dump(record, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
