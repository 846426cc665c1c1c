"""How far from the best optimum a fit ends: with the search on the sample, without it, and others.

Run from the repository's root:

    python -m tests.benchmarks.bench_optimum                        # all sets, 10 seeds: hours
    python -m tests.benchmarks.bench_optimum --seeds 2 --sets 8-40  # D = 8, K = 40 alone
    python -m tests.benchmarks.bench_optimum --first-seed 10        # other seeds
    python -m tests.benchmarks.bench_optimum --contestants search before plain scikit-learn
    python -m tests.benchmarks.bench_optimum --json                 # each run, for records
    python -m tests.benchmarks.bench_optimum --markdown   # as examples/performance.md
    python -m tests.benchmarks.bench_optimum --sets pixels          # of photographs

Rows are simulated, so that the truth is known: EM from there finds the optimum that all are held
against, in nats per row of all rows (above it is a better one; of heavy-tailed components, where no
mixture of K Gaussians is the truth, there mostly is one). Means lie around the origin so that the
mean distance to the nearest other one is `separation`; covariances are turned and stretched at
random; weights are drawn from a Dirichlet distribution and none is below one part in a hundred. ARI
is the adjusted Rand index of the labels against the simulated components. Pixels of photographs,
blurred by half a grey level against ties, are held against the best of a hundred restarts of plain
EM.

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
import functools
import json
import statistics
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import dask.array as da
import numpy as np
from sklearn.datasets import load_sample_image
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


@dataclass(frozen=True)
class Photograph:
    """Pixels of one of scikit-learn's photographs."""

    photograph: str
    components: int

    @property
    def name(self) -> str:
        """What `--sets` calls it; the beginning is enough."""
        return f"pixels-{self.photograph}-{self.components}"

    def rows(self, n: int) -> Array:
        """The pixels, or every so manieth of them that n are enough."""
        pixels = load_sample_image(f"{self.photograph}.jpg").reshape(-1, 3).astype(np.float64)
        pixels = pixels[:: max(1, len(pixels) // n)]
        return pixels + np.random.default_rng(0).uniform(-0.5, 0.5, pixels.shape)


PROBLEMS: tuple[Problem | Photograph, ...] = (
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
    Photograph("china", 16),
    Photograph("flower", 32),
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


def lazy(rows: Array) -> da.Array:
    """The rows as if they had to be read."""
    return da.from_array(rows, chunks=(-(-len(rows) // 4), -1))


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
    ).fit(lazy(data.rows))


@functools.cache
def best_of_a_hundred(problem: Photograph, n: int) -> float:
    """The objective of the best of a hundred restarts of plain EM, in nats a row."""
    rows = problem.rows(n)
    gm = GaussianMixture(
        problem.components,
        n_init=100,
        acceleration=None,
        search="off",
        tol=1e-5,
        max_iter=500,
        random_state=1_000_000,
    ).fit(rows)
    return float(gm.score(rows))


def early_shortfall(gm: Any, best: float, reads: int) -> float:
    """How far a fit lies below after five reads, the sample's among them."""
    if reads <= FEW_READS or not isinstance(gm, GaussianMixture):
        return best - float(gm.lower_bound_)
    return best - float(np.max(gm.lower_bounds_[: FEW_READS - 1]))


def fit_ours(rows: Array, k: int, seed: int, search: str) -> tuple[Any, int, float]:
    """The fit of a Dask array: the mixture, its reads, and what the search took."""
    gm = GaussianMixture(k, tol=1e-4, random_state=seed, search=search)
    clock = _Clock(SampleSearch.better_than)
    with mock.patch.object(SampleSearch, "better_than", clock):
        gm.fit(lazy(rows))
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


def fit_plain(rows: Array, k: int, seed: int) -> tuple[Any, int, float]:
    """Ten restarts of plain EM."""
    gm = GaussianMixture(
        k,
        n_init=10,
        acceleration=None,
        search="off",
        tol=1e-5,
        max_iter=300,
        random_state=seed,
    ).fit(rows)
    return gm, gm.n_passes_, 0.0


def fit_scikit_learn(rows: Array, k: int, seed: int) -> tuple[Any, int, float]:
    """Ten restarts of scikit-learn's."""
    gm = ScikitLearnMixture(k, n_init=10, tol=1e-5, max_iter=300, random_state=seed).fit(rows)
    return gm, gm.n_iter_, 0.0


CONTESTANTS: dict[str, Callable[[Array, int, int], tuple[Any, int, float]]] = {
    "search": lambda rows, k, seed: fit_ours(rows, k, seed, "auto"),
    "before": lambda rows, k, seed: fit_ours(rows, k, seed, "off"),
    "thorough": lambda rows, k, seed: fit_ours(rows, k, seed, "thorough"),
    "plain": fit_plain,
    "scikit-learn": fit_scikit_learn,
}


@dataclass(frozen=True)
class Judge:
    """What the contestants are held against: the best objective, and labels where they are known.

    Without them the adjusted Rand index is 0.
    """

    rows: Array
    best: float
    labels: NDArray[np.intp] | None
    truth_ari: float

    @classmethod
    def of(cls, problem: Problem | Photograph, n: int, seed: int) -> Judge:
        """Draw the rows of a set, and find the optimum from their truth."""
        if isinstance(problem, Photograph):
            return cls(problem.rows(n), best_of_a_hundred(problem, n), None, 0.0)
        data = simulate(problem, n, seed)
        truth = from_truth(data)
        judge = cls(data.rows, float(truth.score(data.rows)), data.labels[:JUDGED_LABELS], 0.0)
        return replace(judge, truth_ari=judge.ari(truth))

    def ari(self, gm: Any) -> float:
        """The adjusted Rand index of a mixture's labels of the first rows."""
        if self.labels is None:
            return 0.0
        return float(adjusted_rand_score(self.labels, gm.predict(self.rows[: len(self.labels)])))


def runs_of(problem: Problem | Photograph, n: int, seed: int, contestants: list[str]) -> list[Run]:
    """All contestants on one set."""
    judge = Judge.of(problem, n, seed)
    best, found = judge.best, []
    for name in contestants:
        begun = time.process_time()
        gm, reads, search_seconds = CONTESTANTS[name](judge.rows, problem.components, seed)
        seconds = time.process_time() - begun
        found.append(
            Run(
                problem=problem.name,
                seed=seed,
                contestant=name,
                shortfall=best - float(gm.score(judge.rows)),
                early=early_shortfall(gm, best, reads),
                reads=reads,
                seconds=seconds,
                search_seconds=search_seconds,
                ari=judge.ari(gm),
                truth_ari=judge.truth_ari,
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
