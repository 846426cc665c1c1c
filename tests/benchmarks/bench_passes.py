"""Reads of all the data that a fit needs: plain EM, SQUAREM and variance-reduced EM.

Run from the repository's root:

    python -m tests.benchmarks.bench_passes               # N = 500,000, 10 seeds: about an hour
    python -m tests.benchmarks.bench_passes --seeds 3     # quicker
    python -m tests.benchmarks.bench_passes --rows 5000000 --sets overlapping
    python -m tests.benchmarks.bench_passes --sets "crowded 4-D" "crowded 6-D" "crowded 8-D" \\
        --rows 200000 --sample 20000 --tol 1e-6 --seeds 3 --levels 1e-3 1e-4 1e-5 \\
        --contestants "without anchors" "same start" searched
    python -m tests.benchmarks.bench_passes --json        # each run, for records
    python -m tests.benchmarks.bench_passes --markdown   # as examples/performance.md

Rows lie in memory here, so that a pass is cheap; what is counted is how often all of them are
evaluated. The reading of the sample counts as one read for everybody. For each seed all start from
the same k-means on the same sample, and plain EM goes on until a pass gains less than 1e-9 nats per
row: that is its limit. The strategies are those that `GaussianMixture` runs.

Reads are counted up to the first pass whose log-likelihood is within 1e-3 (1e-6) nats per row of
the limit. "Same start" gives variance-reduced EM that one start; "best of 5" is what a fit does by
default without the search, "searched" with it; "without anchors" is "same start" without what
variance-reduced EM does on plateaus. "By objective" is SQUAREM as it fits models that have only an
objective, here the likelihood without its moments, from the same start or, as a fit from a store
does, from the best of five ends on the sample. A fit that goes to another optimum is counted as
better or worse if it ends more than 1e-4 off plain EM's limit; its reads then are those to its own.
That is where EM ends that goes on from there with Anderson steps that rise, over all rows in
memory, until an EM step gains less than 1e-10 or 4000 have been made. "Short" is what that gains.

The crowded sets are plateau after plateau. They are not among the default ones, as plain EM takes
thousands of passes there: leave it out, and every fit has a limit of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.system import CPU_COUNT
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample, thinned
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import StepKind
from dask_gmm.fitting.loop import PlainEM
from dask_gmm.fitting.sampling import automatic_size
from dask_gmm.fitting.search.choice import choose_search
from dask_gmm.fitting.search.ends import SampleSearch
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.rows import Rows
from tests.fitting.runs import fit
from tests.mixture.problems import by_objective

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.fitting.acceleration.climbing import CorrectedSample, Point
    from dask_gmm.fitting.acceleration.variance_reduced import SampleTrust
    from dask_gmm.fitting.acceleration.verified import Trial
    from dask_gmm.fitting.loop import FitResult, Fitting
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

    Made = tuple[Fitting[Any], Sequence[MixtureParameters], SampleRows | None]

REG = 1e-6
LIMIT = 1e-9
SAME_OPTIMUM = 1e-4
BLOCK = 65_536
LEVELS = (1e-3, 1e-6)
CLIMBED, MOST_CLIMBED = 1e-10, 4000
DEFAULT = ("plain", "squarem", "same start", "best of 5")
CONTESTANTS = (*DEFAULT, "without anchors", "searched", "by objective", "best of 5 by objective")


@dataclass(frozen=True)
class Problem:
    """Rows, and what to fit to them."""

    rows: np.ndarray
    components: int
    family: str = "full"


def gaussians(
    seed: int, n: int, k: int, d: int, spread: float, tail: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of k components with random covariances, and the component of each.

    `spread` is the standard deviation of the means, in each feature, in units of a typical σ;
    `tail` makes them Student's t with so many degrees of freedom.
    """
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(k, d))
    roots = np.stack(
        [
            np.linalg.qr(rng.normal(size=(d, d)))[0] * np.exp(0.3 * rng.normal(size=d))
            for _ in range(k)
        ]
    )
    labels = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 5.0)))
    rows = np.empty((n, d))
    for j in range(k):
        chosen = np.flatnonzero(labels == j)
        noise = rng.normal(size=(chosen.size, d))
        if tail is not None:
            noise /= np.sqrt(rng.chisquare(tail, size=(chosen.size, 1)) / tail)
        rows[chosen] = means[j] + noise @ roots[j].T
    return rows, labels


def overlapping(seed: int, n: int) -> Problem:
    """Means 1.5 σ from one another, feature by feature, in the root mean square."""
    return Problem(gaussians(seed, n, 8, 8, 1.5 / np.sqrt(2.0))[0], 8)


def separated(seed: int, n: int) -> Problem:
    """Means far apart: plain EM needs few passes, unless the start is wrong."""
    return Problem(gaussians(seed, n, 8, 8, 4.0)[0], 8)


def heavy_tailed(seed: int, n: int) -> Problem:
    """Student's t with three degrees of freedom: no mixture of Gaussians is right."""
    return Problem(gaussians(seed, n, 6, 6, 2.0, tail=3.0)[0], 8)


def diagonal(seed: int, n: int) -> Problem:
    """Sixteen features, variances only, eight components."""
    rng = np.random.default_rng(seed)
    means, scales = rng.normal(size=(8, 16)), np.exp(0.3 * rng.normal(size=(8, 16)))
    labels = rng.choice(8, size=n, p=rng.dirichlet(np.full(8, 5.0)))
    return Problem(means[labels] + scales[labels] * rng.normal(size=(n, 16)), 8, "diag")


def in_order(seed: int, n: int) -> Problem:
    """The overlapping set, its rows sorted by component."""
    rows, labels = gaussians(seed, n, 8, 8, 1.5 / np.sqrt(2.0))
    return Problem(rows[np.argsort(labels, kind="stable")], 8)


def pixels(seed: int, n: int) -> Problem:
    """Both photographs' pixels in their order, blurred by half a grey level against ties."""
    images = [load_sample_image(name).reshape(-1, 3) for name in ("china.jpg", "flower.jpg")]
    rows = np.concatenate(images).astype(np.float64)
    return Problem(rows + np.random.default_rng(seed).uniform(-0.5, 0.5, rows.shape), 8)


def crowded(d: int) -> Callable[[int, int], Problem]:
    """Twenty components on five clusters with tails of Student's t: plateau after plateau."""
    return lambda seed, n: Problem(gaussians(seed, n, 5, d, 2.0, tail=3.0)[0], 20)


ORDINARY: dict[str, Callable[[int, int], Problem]] = {
    "overlapping": overlapping,
    "separated": separated,
    "heavy-tailed": heavy_tailed,
    "diagonal": diagonal,
    "in order": in_order,
    "pixels": pixels,
}
SETS = {**ORDINARY, **{f"crowded {d}-D": crowded(d) for d in (4, 6, 8)}}


class Reads:
    """Evaluates candidates on all rows, on this machine's threads, and counts the reads."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self._kernel = get_kernel()
        self.reads = 1  # the sample's

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        self.reads += 1
        blocks = [self._rows[i : i + BLOCK] for i in range(0, len(self._rows), BLOCK)]
        with ThreadPoolExecutor(CPU_COUNT) as pool:
            parts = list(
                pool.map(lambda rows: self._kernel.statistics(Rows(rows), candidates), blocks)
            )
        totals = parts[0]
        for part in parts[1:]:
            totals = tuple(a + b for a, b in zip(totals, part, strict=True))
        return totals


class WithoutAnchors(VarianceReducedEM):
    """Variance-reduced EM that does on plateaus what it does elsewhere."""

    def _with_anchors(
        self, objective: CorrectedSample, at: Point, trial: Trial, memory: SampleTrust
    ) -> tuple[Trial, SampleTrust]:
        return trial, memory


@dataclass(frozen=True)
class Run:
    """One strategy on one seed.

    Attributes
    ----------
    data, strategy : str
    seed, rows, parameters, sample_rows : int
    limit : float
        Plain EM's, or the run's own where it went to another optimum; nats per row.
    end : float
        Last accepted log-likelihood over plain EM's limit, in nats per row; NaN without plain EM.
    short : float
        What is left to `limit` from there, in nats per row.
    reads : dict of float to int or None
        Reads until within so much of `limit`.
    total, rejected : int
        Reads of the whole run, and those that were rejected.
    fell : float
        The largest step down between accepted passes.
    sample_evaluations : int
        E-steps over the sample.
    seconds : float
    """

    data: str
    strategy: str
    seed: int
    rows: int
    parameters: int
    sample_rows: int
    limit: float
    end: float
    short: float
    reads: dict[float, int | None]
    total: int
    rejected: int
    fell: float
    sample_evaluations: int
    seconds: float


def sample_of(rows: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw as a fit does from a store: in every block, its share at random."""
    share = min(1.0, size / len(rows))
    drawn = []
    for block, begin in enumerate(range(0, len(rows), BLOCK)):
        part = rows[begin : begin + BLOCK]
        rng = np.random.default_rng((seed, block))
        chosen = rng.choice(len(part), int(np.ceil(share * len(part))), replace=False)
        drawn.append(part[np.sort(chosen)])
    return np.concatenate(drawn)


def own_limit(rows: np.ndarray, result: FitResult, model: MaximumLikelihood) -> float:
    """Where EM ends that goes on from the end of a fit, in memory."""
    objective = SampleObjective(SampleRows(Rows(rows), n_threads=CPU_COUNT), model)
    top, _ = climb(objective, objective(result.parameters), CLIMBED, MOST_CLIMBED)
    return max(top.value, result.lower_bound)


def measure(
    name: str,
    seed: int,
    n: int,
    size: int | None,
    tol: float,
    levels: Sequence[float] = LEVELS,
    chosen: Sequence[str] | None = None,
) -> list[Run]:
    """Run all strategies, or the chosen ones, on one seed."""
    problem = SETS[name](seed, n)
    rows, family = problem.rows, covariance_family(problem.family)
    model = MaximumLikelihood(family, REG)
    k, d = problem.components, rows.shape[1]
    p = family.n_parameters(k, d)
    sample = sample_of(rows, size or automatic_size(p, d), seed)
    random_state = np.random.RandomState(seed)

    def start() -> MixtureParameters:
        return initial_parameters(
            thinned(Rows(sample), k, family),
            n_components=k,
            model=model,
            init_params="kmeans",
            random_state=random_state,
            given=GivenParameters(),
        )

    starts = [start() for _ in range(5)]

    m_step = MStep(model)
    blind = SquaremByObjective(tol, 1000, MStep(by_objective(family.name, REG)))

    def led(
        count: int, way: type[VarianceReducedEM] = VarianceReducedEM, search: str = "off"
    ) -> Made:
        memory = SampleRows(Rows(sample), n_threads=CPU_COUNT)
        fitted = fit_sample(memory, starts[:count], model)
        budget = choose_search(search, acceleration="variance-reduced", given=False)
        if budget is not None:
            searched = SampleSearch(memory.rows, budget, lambda _: None)
            fitted = (*searched.better_than(memory, fitted, model), *fitted)
        return way(tol, 100, m_step, sample=memory), fitted, memory

    contestants: dict[str, Callable[[], Made]] = {
        "plain": lambda: (PlainEM(LIMIT, 5000, m_step), (starts[0],), None),
        "squarem": lambda: (Squarem(tol, 1000, m_step), (starts[0],), None),
        "without anchors": lambda: led(1, WithoutAnchors),
        "same start": lambda: led(1),
        "best of 5": lambda: led(5),
        "searched": lambda: led(5, search="auto"),
        "by objective": lambda: (blind, (starts[0],), None),
        "best of 5 by objective": lambda: (
            blind,
            fit_sample(
                SampleRows(Rows(sample).weighing(float(len(rows))), n_threads=CPU_COUNT),
                starts,
                by_objective(family.name, REG),
            ),
            None,
        ),
    }
    limit, runs = None, []
    for strategy in chosen or DEFAULT:
        make = contestants[strategy]
        begun = time.perf_counter()
        reads = Reads(rows)
        running, begun_from, memory = make()
        result = fit(running, reads, *begun_from)
        seconds = time.perf_counter() - begun
        if strategy == "plain":
            limit = result.lower_bound
        other = limit is None or abs(result.lower_bound - limit) > SAME_OPTIMUM
        aim = own_limit(rows, result, model) if limit is None or other else limit
        heights = [j.objective for j in result.judgements]
        first = {
            level: next((i + 2 for i, h in enumerate(heights) if aim - h <= level), None)
            for level in levels
        }
        accepted = [j.objective for j in result.judgements if j.kind is not StepKind.REJECTED]
        runs.append(
            Run(
                name,
                strategy,
                seed,
                len(rows),
                p,
                len(sample),
                aim,
                np.nan if limit is None else result.lower_bound - limit,
                aim - result.lower_bound,
                first,
                reads.reads,
                sum(j.kind is StepKind.REJECTED for j in result.judgements),
                float(max([0.0, *-np.diff(accepted)])),
                0 if memory is None else memory.evaluations,
                seconds,
            )
        )
    return runs


def summary(runs: Sequence[Run]) -> dict[str, str]:
    """One line of the table: a set, a strategy, all seeds."""

    def of(level: float) -> str:
        reads = [r.reads[level] for r in runs]
        found = [np.inf if n is None else n for n in reads]
        worst = max(found)
        return f"{statistics.median(found):g} ({worst:g})"

    n = len(runs)
    return {
        "set": runs[0].data,
        "rows": f"{runs[0].rows:,}",
        "strategy": runs[0].strategy,
        **{f"to {level:.0e}".replace("e-0", "e-"): of(level) for level in runs[0].reads},
        "short": f"{max(r.short for r in runs):.0e}",
        "rejected": f"{sum(r.rejected for r in runs) / sum(r.total for r in runs):.0%}",
        "fell": f"{max(r.fell for r in runs):.0e}",
        "worse": f"{sum(r.end < -SAME_OPTIMUM for r in runs)}/{n}",
        "better": f"{sum(r.end > SAME_OPTIMUM for r in runs)}/{n}",
        "sample E-steps": f"{statistics.median(r.sample_evaluations for r in runs):g}",
        "seconds": f"{statistics.median(r.seconds for r in runs):.1f}",
    }


def show(line: dict[str, str], *, markdown: bool, head: bool) -> None:
    """Print a line of the table."""
    if markdown:
        if head:
            print("| " + " | ".join(line) + " |\n|" + "---|" * len(line))
        print("| " + " | ".join(line.values()) + " |", flush=True)
        return
    widths = [max(len(name), 12) for name in line]
    if head:
        print("  ".join(f"{name:>{w}}" for name, w in zip(line, widths, strict=True)))
    print("  ".join(f"{v:>{w}}" for v, w in zip(line.values(), widths, strict=True)), flush=True)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON: `results`, a record a run")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--sample", type=int, help="rows of the sample; by default a fit's own")
    parser.add_argument("--tol", type=float, default=1e-7, help="of the accelerated fits")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(ORDINARY))
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=DEFAULT)
    arguments = parser.parse_args()
    everything: list[Run] = []
    head = True
    with threadpool_limits(1, user_api="blas"):
        for name in arguments.sets:
            runs = []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                runs += measure(
                    name,
                    seed,
                    arguments.rows,
                    arguments.sample,
                    arguments.tol,
                    arguments.levels,
                    arguments.contestants,
                )
            everything += runs
            for strategy in dict.fromkeys(r.strategy for r in runs):
                if not arguments.json:
                    line = summary([r for r in runs if r.strategy == strategy])
                    show(line, markdown=arguments.markdown, head=head)
                    head = False
    if arguments.json:
        json.dump({"results": [asdict(r) for r in everything]}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
