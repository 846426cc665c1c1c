"""How far from the best optimum a fit ends: with the search on the sample, without it, and others.

Run from the repository's root:

    python -m tests.benchmarks.bench_optimum                        # all sets, 10 seeds: hours
    python -m tests.benchmarks.bench_optimum --seeds 2 --sets 8-40  # D = 8, K = 40 alone
    python -m tests.benchmarks.bench_optimum --first-seed 10        # other seeds
    python -m tests.benchmarks.bench_optimum --contestants search before plain scikit-learn
    python -m tests.benchmarks.bench_optimum --json                 # each run, for records
    python -m tests.benchmarks.bench_optimum --markdown             # the table of the README

Rows are simulated, so that the truth is known: EM from there finds the optimum that all are held
against, in nats per row of all rows (above it is a better one; of heavy-tailed components, where no
mixture of K Gaussians is the truth, there mostly is one). Means lie around the origin so that the
mean distance to the nearest other one is `separation`; covariances are turned and stretched at
random; weights are drawn from a Dirichlet distribution and none is below one part in a hundred. ARI
is the adjusted Rand index of the labels against the simulated components.

search, before
    `GaussianMixture` at `tol=1e-4` on a Dask array, as it comes and with ``search="off"``. Reads
    are the passes and that of the sample.
plain
    Ten restarts of plain EM, the best end by all rows; reads are its passes.
scikit-learn
    Its `GaussianMixture(n_init=10)`; reads are the iterations of all restarts' best. It takes
    minutes where the others take seconds and is left out unless asked for.

"After five reads" is how far the lower bound of the fourth pass lies below, where a fit took more.
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
from unittest import mock

import dask.array as da
import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as ScikitLearnMixture

from dask_gmm import GaussianMixture
from dask_gmm.fitting.search.ends import SampleSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

WITHIN = 1e-3
FEW_READS = 5
LEAST_WEIGHT = 0.01
JUDGED_LABELS = 50_000
DEGREES_OF_FREEDOM = 4.0


@dataclass(frozen=True)
class Problem:
    """A kind of rows: features, components, separation, and whether tails are heavy."""

    features: int
    components: int
    separation: float
    heavy: bool = False

    @property
    def name(self) -> str:
        """What `--sets` calls it; the beginning is enough."""
        tails = "-heavy" if self.heavy else ""
        return f"{self.features}-{self.components}-{self.separation:g}{tails}"


PROBLEMS = (
    Problem(2, 10, 3.0),
    Problem(4, 20, 2.0),
    Problem(4, 20, 3.0),
    Problem(16, 20, 3.0),
    Problem(3, 30, 2.5),
    Problem(2, 40, 3.0),
    Problem(8, 40, 3.0),
    Problem(8, 40, 4.0),
    Problem(8, 60, 4.0),
    Problem(4, 10, 4.0, heavy=True),
    Problem(8, 20, 4.0, heavy=True),
)


@dataclass(frozen=True)
class Simulated:
    """Rows, the component of each, and the mixture they were drawn from."""

    rows: Array
    labels: NDArray[np.intp]
    weights: Array
    means: Array
    covariances: Array


@dataclass(frozen=True)
class Run:
    """What one contestant made of one set."""

    problem: str
    seed: int
    contestant: str
    shortfall: float
    early: float
    reads: int
    seconds: float
    search_seconds: float
    ari: float
    truth_ari: float


def simulate(problem: Problem, n: int, seed: int) -> Simulated:
    """Draw rows of a problem."""
    rng = np.random.default_rng((seed, problem.features, problem.components))
    k, d = problem.components, problem.features
    means = rng.normal(size=(k, d))
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    means *= problem.separation / apart.min(axis=1).mean()
    weights = np.maximum(rng.dirichlet(np.full(k, 3.0)), LEAST_WEIGHT)
    weights /= weights.sum()
    labels = rng.choice(k, size=n, p=weights)
    rows, covariances = np.empty((n, d)), np.empty((k, d, d))
    for component in range(k):
        (index,) = np.nonzero(labels == component)
        turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
        root = turn * np.exp(0.3 * rng.normal(size=d))
        noise = rng.normal(size=(index.size, d))
        if problem.heavy:
            noise /= np.sqrt(rng.chisquare(DEGREES_OF_FREEDOM, size=index.size))[:, None] / np.sqrt(
                DEGREES_OF_FREEDOM
            )
        rows[index] = means[component] + noise @ root.T
        covariances[component] = root @ root.T
    return Simulated(rows, labels, weights, means, covariances)


def lazy(data: Simulated) -> da.Array:
    """The rows as if they had to be read."""
    return da.from_array(data.rows, chunks=(-(-len(data.rows) // 4), -1))


def from_truth(data: Simulated) -> GaussianMixture:
    """EM from the mixture that the rows were drawn from."""
    return GaussianMixture(
        len(data.weights),
        tol=1e-6,
        search="off",
        weights_init=data.weights,
        means_init=data.means,
        precisions_init=np.linalg.inv(data.covariances),
        random_state=0,
    ).fit(lazy(data))


def early_shortfall(gm: Any, best: float, reads: int) -> float:
    """How far a fit lies below after five reads, the sample's among them."""
    if reads <= FEW_READS or not isinstance(gm, GaussianMixture):
        return best - float(gm.lower_bound_)
    return best - float(np.max(gm.lower_bounds_[: FEW_READS - 1]))


def fit_ours(data: Simulated, seed: int, search: str) -> tuple[Any, int, float]:
    """The fit of a Dask array: the mixture, its reads, and what the search took."""
    gm = GaussianMixture(len(data.weights), tol=1e-4, random_state=seed, search=search)
    clock = _Clock(SampleSearch.better_than)
    with mock.patch.object(SampleSearch, "better_than", clock):
        gm.fit(lazy(data))
    return gm, gm.n_passes_ + 1, clock.seconds


class _Clock:
    """A method that counts the CPU time which it takes."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method, self.seconds = method, 0.0

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begun = time.process_time()
            found = self.method(instance, *arguments)
            self.seconds += time.process_time() - begun
            return found

        return timed


def fit_plain(data: Simulated, seed: int) -> tuple[Any, int, float]:
    """Ten restarts of plain EM."""
    gm = GaussianMixture(
        len(data.weights),
        n_init=10,
        acceleration=None,
        search="off",
        tol=1e-5,
        max_iter=300,
        random_state=seed,
    ).fit(data.rows)
    return gm, gm.n_passes_, 0.0


def fit_scikit_learn(data: Simulated, seed: int) -> tuple[Any, int, float]:
    """Ten restarts of scikit-learn's."""
    gm = ScikitLearnMixture(
        len(data.weights), n_init=10, tol=1e-5, max_iter=300, random_state=seed
    ).fit(data.rows)
    return gm, gm.n_iter_, 0.0


CONTESTANTS: dict[str, Callable[[Simulated, int], tuple[Any, int, float]]] = {
    "search": lambda data, seed: fit_ours(data, seed, "auto"),
    "before": lambda data, seed: fit_ours(data, seed, "off"),
    "thorough": lambda data, seed: fit_ours(data, seed, "thorough"),
    "plain": fit_plain,
    "scikit-learn": fit_scikit_learn,
}


def runs_of(problem: Problem, n: int, seed: int, contestants: list[str]) -> list[Run]:
    """All contestants on one set."""
    data = simulate(problem, n, seed)
    truth = from_truth(data)
    best, some = float(truth.score(data.rows)), data.rows[:JUDGED_LABELS]
    labels = data.labels[:JUDGED_LABELS]
    truth_ari = float(adjusted_rand_score(labels, truth.predict(some)))
    found = []
    for name in contestants:
        begun = time.process_time()
        gm, reads, search_seconds = CONTESTANTS[name](data, seed)
        seconds = time.process_time() - begun
        found.append(
            Run(
                problem=problem.name,
                seed=seed,
                contestant=name,
                shortfall=best - float(gm.score(data.rows)),
                early=early_shortfall(gm, best, reads),
                reads=reads,
                seconds=seconds,
                search_seconds=search_seconds,
                ari=float(adjusted_rand_score(labels, gm.predict(some))),
                truth_ari=truth_ari,
            )
        )
    return found


def table(runs: list[Run]) -> str:
    """A row for each kind of set and contestant."""
    heads = (
        "set (D-K-separation)",
        "who",
        "within 1e-3",
        "above the optimum from the truth (worst)",
        "after five reads (worst)",
        "reads",
        "CPU s",
        "of it searching",
        "ARI (from the truth)",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for problem in dict.fromkeys(run.problem for run in runs):
        for name in dict.fromkeys(run.contestant for run in runs):
            mine = [r for r in runs if r.problem == problem and r.contestant == name]
            if not mine:
                continue
            short, early = [r.shortfall for r in mine], [r.early for r in mine]
            median = statistics.median
            lines.append(
                f"| {problem} | {name} | {sum(s < WITHIN for s in short)} of {len(mine)} "
                f"| {-median(short):+.5f} ({-max(short):+.5f}) "
                f"| {sum(s < WITHIN for s in early)} of {len(mine)} ({-max(early):+.5f}) "
                f"| {median(r.reads for r in mine):g} "
                f"(most {max(r.reads for r in mine)}) | {median(r.seconds for r in mine):.1f} "
                f"| {median(r.search_seconds for r in mine):.1f} "
                f"| {median(r.ari for r in mine):.3f} "
                f"({median(r.truth_ari for r in mine):.3f}) |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sets", nargs="+", default=[""], help="beginnings of names, as 8-40")
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, default=["search", "before", "plain"]
    )
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
            found = runs_of(problem, options.rows, seed, options.contestants)
            runs += found
            for run in found:
                sys.stderr.write(
                    f"{run.problem} seed {run.seed} {run.contestant}: {-run.shortfall:+.5f} "
                    f"({-run.early:+.5f} after five reads), {run.reads} reads, "
                    f"{run.seconds:.1f} s ({run.search_seconds:.1f} s searching), "
                    f"ARI {run.ari:.3f} ({run.truth_ari:.3f})\n"
                )
                sys.stderr.flush()
    if options.json:
        print(json.dumps({"results": [asdict(run) for run in runs]}, indent=1))
    else:
        print(table(runs))


if __name__ == "__main__":
    main()
