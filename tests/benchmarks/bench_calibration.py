"""Is what a fit says is left to gain enough? Its estimate, and what EM still gains from its end.

Run from the repository's root:

    python -m tests.benchmarks.bench_calibration                # 12 seeds, all ways: half an hour
    python -m tests.benchmarks.bench_calibration --seeds 3      # quicker
    python -m tests.benchmarks.bench_calibration --tol 1e-5 --sets overlapping heavy-tailed
    python -m tests.benchmarks.bench_calibration --strategies squarem plain
    python -m tests.benchmarks.bench_calibration --json         # each fit, for records
    python -m tests.benchmarks.bench_calibration --markdown     # a table

The sets are difficult on purpose: more components than there are clusters, heavy tails, populations
that are skewed, cut off at zero and of very unequal weights as those of flow cytometry, plateaus,
values on a grid. Samples are as small beside the rows as `--sample` says, by default 50 rows for
each free parameter and at least 20,000. Rows lie in memory, in blocks as in a store.

The truth is the log-likelihood per row where EM ends that goes on from where the fit has ended,
minus the one where the fit has ended. EM goes in plain steps, some of which are followed by an
extrapolation as SQUAREM's; but that goes no farther from the plain step than a Kullback-Leibler
divergence of the complete data of 5e-4, so that it passes along plateaus and does not leap into
another optimum's basin, and it has to rise at least as much as the plain step. It ends when even as
many such gains as there were steps so far, and not fewer than 300, would not add a part of 3e-3 to
what has been gained, or after 4000 steps. Behind a saddle on which EM creeps longer than that there
may be more: there the truth is too small. An estimate is honest if the truth is no more than twice
as large. Truths below 1e-8 are those of rounding, and any estimate is enough for them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.system import CPU_COUNT
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from dask_gmm.fitting.acceleration.climbing import SampleObjective
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample, thinned
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.loop import PlainEM, run
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.mixture.coordinates import Metric, from_vector, to_vector
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.rows import Rows
from tests.benchmarks.bench_passes import (
    ORDINARY,
    REG,
    Problem,
    Reads,
    crowded,
    gaussians,
    sample_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.loop import FitResult, FitState, Fitting
    from dask_gmm.mixture.parameters import MixtureParameters

ROUNDING = 1e-8
LEAST_STEPS, MOST_STEPS = 300, 4000
NEGLIGIBLE, PLAIN_FIRST, NEAR = 3e-3, 20, 0.03
STRATEGIES = ("variance-reduced", "squarem", "plain")
STARTS = 2
ROWS_PER_PARAMETER, LEAST_ROWS = 50, 20_000
TIMES = 2.0
HONEST = f"truth ≤ {TIMES:g}·estimate"


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
    "crowded": crowded(4),
    "more than there are": more_than_there_are,
    "diagonal, heavy": heavier("diag", 16),
    "spherical, heavy": heavier("spherical", 16),
    "tied, heavy": heavier("tied", 10),
    "grid": grid,
    **ORDINARY,
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
        `remaining_gain_`.
    guess : float or None
        What has ended the fit; no promise. None where it is none or infinite, as in plain EM.
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
    guess: float | None
    truth: float
    reads: int
    sample_evaluations: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Truth over estimate; infinite without an estimate, unless nothing is left."""
        return self._over(self.estimate)

    @property
    def guess_ratio(self) -> float:
        """Truth over guess."""
        return self._over(self.guess)

    def _over(self, said: float | None) -> float:
        if self.truth < ROUNDING:
            return 0.0
        return self.truth / said if said else math.inf


def truth(rows: np.ndarray, result: FitResult) -> float:
    """What EM gains from an end on, in nats per row."""
    model = MaximumLikelihood(result.parameters.family, REG)
    objective = SampleObjective(SampleRows(Rows(rows), n_threads=CPU_COUNT), model)
    point, steps = objective(result.parameters), 1
    while steps < MOST_STEPS and point.update is not None:
        left = point.gain * max(steps, LEAST_STEPS)
        gained = max(point.value - result.lower_bound, ROUNDING)
        if steps >= LEAST_STEPS and left < NEGLIGIBLE * gained:
            break
        before, point = point, objective(point.update)
        steps += 1
        near = None if steps < PLAIN_FIRST else extrapolated(before, point)
        if near is not None:
            trial = objective(near)
            steps += 1
            if trial.update is not None and trial.value >= point.value + point.gain:
                point = trial
    return point.value - result.lower_bound


def extrapolated(before: Point, at: Point) -> MixtureParameters | None:
    """SQUAREM's step beyond the next plain one, cut off near that; None where it goes nowhere."""
    if at.update is None:
        return None
    start, middle, end = (to_vector(p) for p in (before.parameters, at.parameters, at.update))
    step = middle - start
    change, metric = end - middle - step, Metric(at.parameters)
    lengths = np.linalg.norm(metric.scaled(np.stack([step, change])), axis=1)
    stretch = lengths[0] / lengths[1] if lengths[1] > 0.0 else 1.0
    while stretch > 1.01:
        target = start + 2.0 * stretch * step + stretch**2 * change
        if np.linalg.norm(metric.scaled((target - end)[None])) <= NEAR:
            return from_vector(target, at.parameters)
        stretch = 1.0 + 0.7 * (stretch - 1.0)
    return None


def measure(
    name: str, seed: int, n: int, size: int | None, tol: float, strategies: Sequence[str]
) -> list[Fit]:
    """Fit one seed by each strategy, and go on from where it has ended."""
    problem = SETS[name](seed, n)
    rows, family = problem.rows, covariance_family(problem.family)
    k = problem.components
    p = family.n_parameters(k, rows.shape[1])
    sample = sample_of(rows, size or max(LEAST_ROWS, ROWS_PER_PARAMETER * p), seed)
    random_state = np.random.RandomState(seed)
    starts = [
        initial_parameters(
            thinned(Rows(sample), k, family),
            n_components=k,
            model=MaximumLikelihood(family, REG),
            init_params="kmeans",
            random_state=random_state,
            given=GivenParameters(),
        )
        for _ in range(STARTS)
    ]
    found = []
    for strategy in strategies:
        memory, reads = SampleRows(Rows(sample), n_threads=CPU_COUNT), Reads(rows)
        fitting, state = begun_by(strategy, starts, tol, memory)
        before, begun = memory.evaluations, time.perf_counter()
        (end,) = run([fitting], [state], reads)
        result = fitting.finish(end)
        seconds = time.perf_counter() - begun
        guess = fitting.expected_gain(end)
        found.append(
            Fit(
                name,
                strategy,
                result.outcome.value,
                seed,
                len(rows),
                p,
                len(sample),
                tol,
                result.remaining_gain,
                guess if guess is not None and math.isfinite(guess) else None,
                truth(rows, result),
                reads.reads,
                memory.evaluations - before,
                seconds,
            )
        )
    return found


def begun_by(
    strategy: str, starts: Sequence[MixtureParameters], tol: float, memory: SampleRows
) -> tuple[Fitting[Any], FitState]:
    """Set out as a fit does: only variance-reduced EM has its starts fitted to the sample."""
    model = MaximumLikelihood(starts[0].family, REG)
    if strategy == "variance-reduced":
        led = VarianceReducedEM(tol, 100, MStep(model), sample=memory)
        return led, led.begin(fit_sample(memory, starts, model))
    way = PlainEM if strategy == "plain" else Squarem
    fitting: Fitting[Any] = way(tol, 1000, MStep(model))
    return fitting, fitting.begin(starts[:1])


def summary(fits: Sequence[Fit], what: str) -> dict[str, str]:
    """One line of the table: a set, or several, all seeds."""
    ratios = [f.ratio for f in fits]
    truths, said = [f.truth for f in fits], [f.estimate or math.inf for f in fits]
    more = [f.estimate / f.truth for f in fits if f.estimate and f.truth >= ROUNDING]
    return {
        "set": what,
        "strategy": fits[0].strategy,
        HONEST: f"{sum(r <= TIMES for r in ratios)}/{len(fits)}",
        "of guesses": f"{sum(f.guess_ratio <= TIMES for f in fits)}/{len(fits)}",
        "estimate / truth": f"{statistics.median(more):.2g}" if more else "",
        "worst": f"{1.0 / max(ratios):.2g}" if max(ratios) > 0.0 else "",
        "estimate": f"{statistics.median(said):.1e} ({max(said):.1e})",
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
    widths = (19, 16, 18, 10, 16, 8, 18, 18, 9, 14, 7)
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
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    everything: list[Fit] = []
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ways = tuple(arguments.strategies)

    def lines(fits: Sequence[Fit], what: str, *, head: bool = False) -> None:
        if not arguments.json:
            for i, way in enumerate(ways):
                line = summary([f for f in fits if f.strategy == way], what)
                show(line, markdown=arguments.markdown, head=head and not i)

    with threadpool_limits(1, user_api="blas"):
        for name in arguments.sets:
            fits = [
                fit
                for seed in seeds
                for fit in measure(
                    name, seed, arguments.rows, arguments.sample, arguments.tol, ways
                )
            ]
            lines(fits, name, head=not everything)
            everything += fits
    lines(everything, "all")
    if arguments.json:
        json.dump({"results": [asdict(f) for f in everything]}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
