"""Is what a fit says is left to gain true? Its estimate, against what EM still gains from its end.

Run from the repository's root:

    python -m tests.benchmarks.bench_calibration                # 80,000 rows, 12 seeds: an hour
    python -m tests.benchmarks.bench_calibration --seeds 3      # quicker
    python -m tests.benchmarks.bench_calibration --tol 1e-5 --sets overlapping heavy-tailed
    python -m tests.benchmarks.bench_calibration --strategy squarem
    python -m tests.benchmarks.bench_calibration --json         # each fit, for records
    python -m tests.benchmarks.bench_calibration --markdown     # a table

The sets are difficult on purpose: more components than there are clusters, heavy tails, populations
that are skewed, cut off at zero and of very unequal weights as those of flow cytometry, plateaus,
values on a grid. Samples are as small beside the rows as `--sample` says, by default 50 rows for
each free parameter and at least 20,000. Rows lie in memory, in blocks as in a store.

The truth is the log-likelihood per row where EM ends that goes on from where the fit has ended:
sixty plain passes, then accelerated ones each of which has to rise, then plain ones again until one
gains less than 1e-10; minus the one where the fit has ended. An accelerated step may reach another,
better optimum than plain ones would: the truth is rather too large. An estimate is honest if the
truth is no more than twice as large. Rises below 1e-8 are those of rounding and of the limit's own
error.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from dask.system import CPU_COUNT
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample, thinned
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.rows import Rows
from tests.benchmarks.bench_passes import REG, Problem, Reads, gaussians, sample_of
from tests.benchmarks.bench_passes import SETS as EASIER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.mixture.parameters import MixtureParameters

LIMIT = 1e-10
ROUNDING = 1e-8
PLAIN_FIRST, ACCELERATED, PLAIN_LAST = 60, 3000, 500
STARTS = 2
ROWS_PER_PARAMETER, LEAST_ROWS = 50, 20_000
TIMES = 2.0
HONEST = f"truth ≤ {TIMES:g}·estimate"


def crowded(seed: int, n: int) -> Problem:
    """Twenty components on five clusters with tails of Student's t: plateau after plateau."""
    return Problem(gaussians(seed, n, 5, 4, 2.0, tail=3.0)[0], 20)


def more_than_there_are(seed: int, n: int) -> Problem:
    """Ten components on four Gaussians: six have nothing to describe."""
    return Problem(gaussians(seed, n, 4, 5, 2.0)[0], 10)


def cytometry(seed: int, n: int) -> Problem:
    """Fifteen populations in eleven channels, twelve components.

    Where a channel is positive its values are log-normal, elsewhere noise about zero; a factor that
    all channels share makes them skewed. They are whole numbers, cut off at zero and at the end of
    the range, and taken as arcsinh(x / 50).
    """
    populations, d = 15, 11
    rng = np.random.default_rng(seed)
    labels = rng.choice(populations, size=n, p=rng.dirichlet(np.full(populations, 0.6)))
    rows = np.empty((n, d))
    for j in range(populations):
        chosen = np.flatnonzero(labels == j)
        positive = rng.random(d) < 0.45
        location = np.where(positive, rng.uniform(4.0, 8.0, d), rng.normal(0.5, 0.8, d))
        rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
        root = rotation * np.exp(0.5 * rng.normal(size=d) - 0.7)
        noise = rng.normal(size=(chosen.size, d)) @ root.T
        noise += 0.5 * rng.gamma(2.0, 0.5, size=(chosen.size, 1)) * rng.normal(size=d)
        clean = np.where(positive, np.exp(location + noise), 30.0 * (location + noise))
        rows[chosen] = clean + 20.0 * rng.normal(size=(chosen.size, d))
    return Problem(np.arcsinh(np.floor(np.clip(rows, 0.0, 2.0**15)) / 50.0), 12)


def grid(seed: int, n: int) -> Problem:
    """Pixels of a photograph as they are: 256 levels, many of them the same."""
    image = load_sample_image("china.jpg" if seed % 2 else "flower.jpg").reshape(-1, 3)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(image))[:n])
    return Problem(image[chosen].astype(np.float64), 12)


def heavier(family: str, components: int) -> Callable[[int, int], Problem]:
    """Six overlapping clusters with heavy tails, by a family with fewer parameters."""

    def rows(seed: int, n: int) -> Problem:
        return Problem(gaussians(seed, n, 6, 8, 1.2, tail=4.0)[0], components, family)

    return rows


SETS: dict[str, Callable[[int, int], Problem]] = {
    "cytometry": cytometry,
    "crowded": crowded,
    "more than there are": more_than_there_are,
    "diagonal, heavy": heavier("diag", 16),
    "spherical, heavy": heavier("spherical", 16),
    "tied, heavy": heavier("tied", 10),
    "grid": grid,
    **EASIER,
}


@dataclass(frozen=True)
class Fit:
    """One fit, what it said and what was true.

    Attributes
    ----------
    data, strategy, outcome : str
    seed, rows, parameters, sample_rows : int
    tol : float
    estimate : float or None
        `remaining_gain_`; None where it is none or infinite.
    truth : float
    reads : int
        The sample's included.
    sample_evaluations : int
        E-steps over the sample after its own fit.
    seconds : float
        Of the passes and what lies between them.
    """

    data: str
    strategy: str
    outcome: str
    seed: int
    rows: int
    parameters: int
    sample_rows: int
    tol: float
    estimate: float | None
    truth: float
    reads: int
    sample_evaluations: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Truth over estimate; infinite without an estimate, unless nothing is left."""
        if self.truth < ROUNDING:
            return 0.0
        return self.truth / self.estimate if self.estimate else math.inf


def truth(rows: np.ndarray, end: MixtureParameters) -> float:
    """What EM gains from an end on, in nats per row."""
    model = MaximumLikelihood(end.family, REG)
    objective = SampleObjective(SampleRows(Rows(rows), n_threads=CPU_COUNT), model)
    point = objective(end)
    first = point.value
    for passes in (PLAIN_FIRST, PLAIN_LAST):
        for _ in range(passes):
            before = point
            if point.update is None:
                return before.value - first
            point = objective(point.update)
            if point.value - before.value < LIMIT:
                break
        if passes == PLAIN_FIRST and point.gain > LIMIT:
            point, _ = climb(objective, point, LIMIT, ACCELERATED)
    return point.value - first


def measure(name: str, seed: int, n: int, size: int | None, tol: float, strategy: str) -> Fit:
    """Fit one seed, and go on from its end."""
    problem = SETS[name](seed, n)
    rows, family = problem.rows, covariance_family(problem.family)
    model = MaximumLikelihood(family, REG)
    k = problem.components
    p = family.n_parameters(k, rows.shape[1])
    sample = sample_of(rows, size or max(LEAST_ROWS, ROWS_PER_PARAMETER * p), seed)
    random_state = np.random.RandomState(seed)
    starts = [
        initial_parameters(
            thinned(Rows(sample), k, family),
            n_components=k,
            model=model,
            init_params="kmeans",
            random_state=random_state,
            given=GivenParameters(),
        )
        for _ in range(STARTS)
    ]
    memory, reads = SampleRows(Rows(sample), n_threads=CPU_COUNT), Reads(rows)
    running: Squarem | VarianceReducedEM
    if strategy == "squarem":
        running = Squarem((starts[0],), tol, 1000, model)
    else:
        fitted = fit_sample(memory, starts, model)
        running = VarianceReducedEM(fitted, tol, 100, model, sample=memory)
    before, begun = memory.evaluations, time.perf_counter()
    (result,) = run([running], reads)
    seconds = time.perf_counter() - begun
    left = result.remaining_gain
    end = running.accepted_parameters
    return Fit(
        name,
        strategy,
        result.outcome.value,
        seed,
        len(rows),
        p,
        len(sample),
        tol,
        left if left is not None and math.isfinite(left) else None,
        truth(rows, result.parameters if end is None else end),
        reads.reads,
        memory.evaluations - before,
        seconds,
    )


def summary(fits: Sequence[Fit]) -> dict[str, str]:
    """One line of the table: a set, all seeds."""
    ratios, truths = [f.ratio for f in fits], [f.truth for f in fits]
    return {
        "set": fits[0].data,
        HONEST: f"{sum(r <= TIMES for r in ratios)}/{len(fits)}",
        "truth / estimate": f"{statistics.median(ratios):.2g} ({max(ratios):.2g})",
        "truth": f"{statistics.median(truths):.1e} ({max(truths):.1e})",
        "reads": f"{statistics.median(f.reads for f in fits):g} ({max(f.reads for f in fits)})",
        "sample E-steps": f"{statistics.median(f.sample_evaluations for f in fits):g}",
        "seconds": f"{statistics.median(f.seconds for f in fits):.1f}",
    }


def show(line: dict[str, str], *, markdown: bool, head: bool) -> None:
    """Print a line of the table: medians, in brackets the worst."""
    if markdown:
        if head:
            print("| " + " | ".join(line) + " |\n|" + "---|" * len(line))
        print("| " + " | ".join(line.values()) + " |", flush=True)
        return
    widths = (20, 20, 18, 20, 10, 14, 8)
    if head:
        print("  ".join(f"{name:>{w}}" for name, w in zip(line, widths, strict=True)))
    print("  ".join(f"{v:>{w}}" for v, w in zip(line.values(), widths, strict=True)), flush=True)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON: `results`, a record a fit")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--sample", type=int, help="rows of the sample")
    parser.add_argument("--tol", type=float, default=1e-3, help="of the fits; a fit's default")
    parser.add_argument(
        "--strategy", choices=("variance-reduced", "squarem"), default="variance-reduced"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    everything: list[Fit] = []
    with threadpool_limits(1, user_api="blas"):
        for name in arguments.sets:
            fits = [
                measure(
                    name, seed, arguments.rows, arguments.sample, arguments.tol, arguments.strategy
                )
                for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            ]
            if not arguments.json:
                show(summary(fits), markdown=arguments.markdown, head=not everything)
            everything += fits
    if arguments.json:
        json.dump({"results": [asdict(f) for f in everything]}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
