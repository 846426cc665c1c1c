"""A grid of mixtures in shared reads, against a fit of each by itself.

    python -m tests.benchmarks.bench_selection
    python -m tests.benchmarks.bench_selection --json
    python -m tests.benchmarks.bench_selection --cases overlapping --seeds 3 --tol 1e-5
    python -m tests.benchmarks.bench_selection --rows 1000000 --first-seed 4 --seeds 1
    python -m tests.benchmarks.bench_selection --cases many --tol 1e-4 \\
        --contestants "grid" "grid, no search" "separate fits, no search"

For each set of rows whose mixture is known, and each seed: `select_gaussian_mixture` over
K = 2 ... 12 with full and diagonal covariances by BIC (for "many" components over K = 11 ... 19,
for "crowded" ones over K = 20 ... 28, with full ones), accelerated with and without the search on the sample, and by plain EM, and
`GaussianMixture` for each of the 22 by itself, the same ways, with BIC by `criteria`. Shown
are the reads of the data (starts and criteria included; a sample counts by its part of the blocks),
which mixture won, and its BIC above the least that anyone found for that set and seed, per row.
Seconds are those of one turn each, on rows in memory: reading costs nothing there, and so they show
what the work on the sample costs, and what sharing costs or saves in computing.

Seen on one core of a busy Xeon, 200,000 overlapping rows, tol 1e-3, seeds 0 to 2; all four found
the right mixture for each seed:

    grid                 1.64 reads    16 to 29 s
    grid, plain EM       4.64 reads    2 s
    separate fits        58 to 59      17 to 28 s
    separate, plain EM   279 to 300    9 to 11 s

The accelerated grid ended up to 2.6e-4 nats per row above the least BIC, within `tol`. Nearly all
of its seconds are six fits to the sample (five starts and the one from merging) for each of the 22.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture, select_gaussian_mixture
from tests.benchmarks.bench_optimum import Problem, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKS = 100


@dataclass(frozen=True)
class Case:
    """A set of rows: its name, K, D, the distance of means in σ, and the family that is true.

    The distance is that of all pairs (their median), or with `nearest` the mean one to the nearest
    other component, of rows as `bench_optimum` draws them.
    """

    name: str
    components: int
    features: int
    separation: float
    family: str
    sorted: bool = False
    grid: range = range(2, 13)
    families: tuple[str, ...] = ("full", "diag")
    nearest: bool = False


CASES = (
    Case("separated", 5, 4, 6.0, "full"),
    Case("overlapping", 6, 4, 3.0, "full"),
    Case("diagonal", 7, 8, 3.0, "diag"),
    Case("sorted by component", 5, 4, 4.0, "full", sorted=True),
    Case("many", 15, 4, 3.0, "full", grid=range(11, 20), families=("full",)),
    Case("crowded", 24, 8, 4.0, "full", grid=range(20, 29), families=("full",), nearest=True),
)


@dataclass(frozen=True)
class Result:
    """What one contestant did with one set of rows.

    Attributes
    ----------
    reads : float
        Reads of all blocks.
    excess : float
        BIC above the least of the contestants, in nats per row.
    """

    case: str
    seed: int
    contestant: str
    reads: float
    components: int
    family: str
    right: bool
    bic: float
    excess: float
    seconds: float


def problem(case: Case, rows: int, seed: int) -> da.Array:
    """Rows of a mixture of that kind; the same for the same seed."""
    if case.nearest:
        drawn = simulate(Problem(case.features, case.components, case.separation), rows, seed)
        return da.from_array(drawn.rows, chunks=(-(-rows // BLOCKS), case.features))
    rng = np.random.default_rng(seed)
    k, d = case.components, case.features
    means = rng.normal(size=(k, d))
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(k, 1)]
    means *= case.separation / np.median(gaps) * np.sqrt(2.0)
    roots = np.stack([np.diag(rng.uniform(0.6, 1.4, d)) for _ in range(k)])
    if case.family == "full":
        roots = roots + np.tril(rng.normal(size=(k, d, d)), -1) * 0.5
    weights = rng.dirichlet(np.full(k, 8.0))
    label = rng.choice(k, p=weights, size=rows)
    if case.sorted:
        label.sort()
    x = means[label] + np.einsum("nij,nj->ni", roots[label], rng.normal(size=(rows, d)))
    return da.from_array(x, chunks=(-(-rows // BLOCKS), d))


class Reads:
    """Counts the reads of a run from its events."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, event: Any) -> None:
        """Take in an event."""
        if type(event).__name__ in ("SampleDrawn", "StartRead", "PassFinished"):
            self.total += event.blocks / BLOCKS


Outcome = tuple[float, int, str, float]


def by_grid(x: da.Array, case: Case, seed: int, tol: float, **settings: Any) -> Outcome:
    """Reads, K, family and BIC of the selection."""
    reads = Reads()
    found = select_gaussian_mixture(
        x,
        case.grid,
        case.families,
        random_state=seed,
        tol=tol,
        callbacks=[reads],
        **settings,
    )
    return reads.total, found.best_n_components, found.best_covariance_type, found.best.bic


def one_by_one(x: da.Array, case: Case, seed: int, tol: float, **settings: Any) -> Outcome:
    """The same of separate fits, each with a read for its BIC."""
    reads, table = Reads(), {}
    for family in case.families:
        for k in case.grid:
            gm = GaussianMixture(
                k,
                covariance_type=family,
                random_state=seed,
                tol=tol,
                callbacks=[reads],
                **settings,
            ).fit(x)
            table[k, family] = gm.set_params(callbacks=None).bic(x)
            reads.total += 1.0
    k, family = min(table, key=table.__getitem__)
    return reads.total, k, family, table[k, family]


CONTESTANTS: dict[str, Callable[[da.Array, Case, int, float], Outcome]] = {
    "grid": by_grid,
    "grid, no search": partial(by_grid, search="off"),
    "grid, plain EM": partial(by_grid, acceleration=None),
    "separate fits": one_by_one,
    "separate fits, no search": partial(one_by_one, search="off"),
    "separate, plain EM": partial(one_by_one, acceleration=None),
}


def measure(case: Case, rows: int, seed: int, tol: float, contestants: list[str]) -> list[Result]:
    """Let the contestants take turns on one set of rows."""
    x = problem(case, rows, seed)
    outcomes = {}
    for name in contestants:
        begun = time.perf_counter()
        outcomes[name] = (*CONTESTANTS[name](x, case, seed, tol), time.perf_counter() - begun)
    least = min(bic for _, _, _, bic, _ in outcomes.values())
    for name, (reads, k, _, bic, seconds) in outcomes.items():
        excess = (bic - least) / (2.0 * rows)
        sys.stderr.write(
            f"{case.name} seed {seed} {name}: K = {k}, {excess:+.5f} nats/row, {reads:.1f} reads, "
            f"{seconds:.0f} s\n"
        )
    sys.stderr.flush()
    return [
        Result(
            case=case.name,
            seed=seed,
            contestant=name,
            reads=reads,
            components=k,
            family=family,
            right=(k, family) == (case.components, case.family),
            bic=bic,
            excess=(bic - least) / (2.0 * rows),
            seconds=seconds,
        )
        for name, (reads, k, family, bic, seconds) in outcomes.items()
    ]


def show(results: list[Result]) -> None:
    """A line for each contestant on each set, over the seeds."""
    names = list(dict.fromkeys((r.case, r.contestant) for r in results))
    print(
        f"{'rows':20} {'contestant':25} {'reads: median':>13} {'most':>6} {'right':>7} "
        f"{'excess: mean':>13} {'most':>9} {'seconds':>8}"
    )
    for case, contestant in names:
        mine = [r for r in results if (r.case, r.contestant) == (case, contestant)]
        reads = [r.reads for r in mine]
        excess = [r.excess for r in mine]
        right = f"{sum(r.right for r in mine)}/{len(mine)}"
        print(
            f"{case:20} {contestant:25} {np.median(reads):13.2f} {max(reads):6.1f} {right:>7} "
            f"{np.mean(excess):13.2e} {max(excess):9.1e} "
            f"{np.median([r.seconds for r in mine]):8.1f}",
            flush=True,
        )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="sets of rows; default: all")
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", choices=CONTESTANTS, default=list(CONTESTANTS)
    )
    arguments = parser.parse_args()
    results: list[Result] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for case in CASES:
            if arguments.cases and case.name not in arguments.cases:
                continue
            for i in range(arguments.seeds):
                seed = arguments.first_seed + i
                results += measure(case, arguments.rows, seed, arguments.tol, arguments.contestants)
    if arguments.json:
        record = {
            "rows": arguments.rows,
            "tol": arguments.tol,
            "results": [asdict(r) for r in results],
        }
        json.dump(record, sys.stdout, indent=1)
        return
    show(results)


if __name__ == "__main__":
    main()
