"""Populations of one row in 20,000: who finds them, against scikit-learn on all rows.

Run from the repository's root:

    python -m tests.benchmarks.bench_rare                         # all sets, 5 seeds
    python -m tests.benchmarks.bench_rare --seeds 2 --sets 2-4    # D = 2, four clusters
    python -m tests.benchmarks.bench_rare --contestants search scikit-learn
    python -m tests.benchmarks.bench_rare --json                  # each run, for records
    python -m tests.benchmarks.bench_rare --markdown   # as examples/performance.md

Clusters are those of `bench_optimum`; the rare rows lie around a place that is so many standard
deviations away from each of their means (`--apart`), with .7 of their width. A mixture has one
component for each cluster and one more. Of it the component counts that holds most of the rare rows
(by `predict` on all rows): *recall* is the part of them that it holds, *precision* their part of
its rows, and the population is *found* where both are above .8.

search, before
    `GaussianMixture` on a Dask array at the default `tol`, as it comes and with ``search="off"``.
    Its sample is of 100,000 rows. Reads are the passes and that of the sample.
scikit-learn
    Its `GaussianMixture`, one start, on all rows; reads are its iterations.

Seconds are of all threads' CPU time, which others on the machine change least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from sklearn.mixture import GaussianMixture as ScikitLearnMixture

from dask_gmm import GaussianMixture
from tests.benchmarks.bench_optimum import Problem, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FOUND = 0.8
WIDTH = 0.7
PROBLEMS = (
    Problem(2, 4, 4.0),
    Problem(4, 10, 4.0),
    Problem(8, 10, 4.0),
    Problem(8, 20, 4.0),
    Problem(4, 5, 5.0, heavy=True),
)


@dataclass(frozen=True)
class Run:
    """What one contestant made of one set."""

    problem: str
    seed: int
    contestant: str
    rare_rows: int
    recall: float
    precision: float
    score: float
    reads: int
    seconds: float

    @property
    def found(self) -> bool:
        """Whether a component is the population."""
        return min(self.recall, self.precision) > FOUND


def planted(
    problem: Problem, n: int, part: float, apart: float, seed: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Rows of a problem, and which of them are of a population beside its clusters."""
    data = simulate(problem, n, seed)
    rng = np.random.default_rng((seed, 0x4A4E))
    roots = np.linalg.cholesky(data.covariances)

    def nearest(place: Array) -> float:
        """Standard deviations to the nearest cluster."""
        white = np.linalg.solve(roots, (place - data.means)[:, :, None])[:, :, 0]
        return float(np.linalg.norm(white, axis=1).min())

    direction = rng.normal(size=problem.features)
    direction /= np.linalg.norm(direction)
    place = data.weights @ data.means
    while nearest(place) < apart:
        place = place + 0.1 * direction
    rare = np.zeros(n, dtype=bool)
    rare[rng.choice(n, round(part * n), replace=False)] = True
    rows = data.rows.copy()
    rows[rare] = place + WIDTH * rng.normal(size=(int(rare.sum()), problem.features))
    return rows, rare


def fit_ours(rows: Array, k: int, seed: int, search: str) -> tuple[Any, int]:
    """The fit of a Dask array, and its reads."""
    lazy = da.from_array(rows, chunks=(-(-len(rows) // 8), -1))
    gm = GaussianMixture(k, random_state=seed, search=search).fit(lazy)
    return gm, gm.n_passes_ + 1


def fit_scikit_learn(rows: Array, k: int, seed: int) -> tuple[Any, int]:
    """scikit-learn's fit, and its iterations."""
    gm = ScikitLearnMixture(k, random_state=seed).fit(rows)
    return gm, gm.n_iter_


CONTESTANTS: dict[str, Callable[[Array, int, int], tuple[Any, int]]] = {
    "search": lambda rows, k, seed: fit_ours(rows, k, seed, "auto"),
    "before": lambda rows, k, seed: fit_ours(rows, k, seed, "off"),
    "scikit-learn": fit_scikit_learn,
}


def runs_of(
    problem: Problem, n: int, part: float, apart: float, seed: int, contestants: list[str]
) -> list[Run]:
    """All contestants on one set."""
    rows, rare = planted(problem, n, part, apart, seed)
    k, found = problem.components + 1, []
    for name in contestants:
        begun = time.process_time()
        gm, reads = CONTESTANTS[name](rows, k, seed)
        seconds = time.process_time() - begun
        labels = gm.predict(rows)
        mine = labels == np.bincount(labels[rare], minlength=k).argmax()
        hits = int((mine & rare).sum())
        found.append(
            Run(
                problem=problem.name,
                seed=seed,
                contestant=name,
                rare_rows=int(rare.sum()),
                recall=hits / max(int(rare.sum()), 1),
                precision=hits / max(int(mine.sum()), 1),
                score=float(gm.score(rows)),
                reads=reads,
                seconds=seconds,
            )
        )
    return found


def table(runs: list[Run]) -> str:
    """A row for each kind of set and contestant."""
    heads = (
        "set (D-clusters-separation)",
        "who",
        "found",
        "recall",
        "precision",
        "nats a row, less the best of these",
        "reads",
        "CPU s",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    best = {(r.problem, r.seed): -np.inf for r in runs}
    for run in runs:
        key = run.problem, run.seed
        best[key] = max(best[key], run.score)
    median = statistics.median
    for problem in dict.fromkeys(run.problem for run in runs):
        for name in dict.fromkeys(run.contestant for run in runs):
            mine = [r for r in runs if r.problem == problem and r.contestant == name]
            below = [r.score - best[r.problem, r.seed] for r in mine]
            lines.append(
                f"| {problem} | {name} | {sum(r.found for r in mine)} of {len(mine)} "
                f"| {median(r.recall for r in mine):.3f} | {median(r.precision for r in mine):.3f} "
                f"| {median(below):+.5f} | {median(r.reads for r in mine):g} "
                f"(most {max(r.reads for r in mine)}) | {median(r.seconds for r in mine):.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part", type=float, default=1 / 20_000, help="the rare rows' part of all")
    parser.add_argument("--apart", type=float, default=10.0, help="standard deviations")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sets", nargs="+", default=[""], help="beginnings of names, as 8-20")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    chosen = [p for p in PROBLEMS if any(p.name.startswith(s) for s in options.sets)]
    if not chosen:
        parser.error(f"no set begins so; there are {', '.join(p.name for p in PROBLEMS)}")
    warnings.simplefilter("ignore")
    runs: list[Run] = []
    for problem in chosen:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            found = runs_of(
                problem, options.rows, options.part, options.apart, seed, options.contestants
            )
            runs += found
            for run in found:
                sys.stderr.write(
                    f"{run.problem} seed {run.seed} {run.contestant}: recall {run.recall:.3f}, "
                    f"precision {run.precision:.3f}, {run.score:.6f} nats a row, {run.reads} "
                    f"reads, {run.seconds:.1f} s\n"
                )
                sys.stderr.flush()
    if options.json:
        print(json.dumps({"results": [asdict(run) for run in runs]}, indent=1))
    else:
        print(table(runs))


if __name__ == "__main__":
    main()
