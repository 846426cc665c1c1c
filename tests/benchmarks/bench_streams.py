"""How far a stream's mixture is below the optimum of its rows, and how well drift is foretold.

Run from the repository's root:

    python -m tests.benchmarks.bench_streams            # tables
    python -m tests.benchmarks.bench_streams --json     # the same as JSON, for records

First `partial_fit`: batches of rows of one mixture, and after so many of them the shortfall, the
mean log-likelihood of all rows of the stream at their optimum (by EM from the truth, or of streams
that begin with their first batch from where they have ended) less that at the stream's mixture, in
nats a row, by rules for step sizes. Then the same where the means wander. Then
`update`: a mixture fitted to old rows takes in new ones whose means are shifted; what the old rows'
responsibilities have drifted, as estimated without reading them and as they did; and what a fit
over all rows gains, beside the estimate. "heavy" rows are of t distributions of 4 degrees of
freedom, which no component fits. Last, seconds a row of each beside a plain pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm import GaussianMixture
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES: dict[str, dict[str, Any]] = {
    "α = 0.6": {"exponent": 0.6},
    "α = 0.7, t₀ = 2": {"exponent": 0.7, "offset": 2.0},
    "α = 0.8": {"exponent": 0.8},
    "α = 1": {"exponent": 1.0},
    "half-life": {"half_life": 10_000.0},
}
SPREADS = {"overlapping": 1.5, "apart": 4.0}
K, D = 6, 4
CONVERGED: dict[str, Any] = {"tol": 1e-8, "max_iter": 500, "acceleration": None}


def started_at(truth: MixtureParameters, **settings: Any) -> GaussianMixture:
    """An estimator that starts from a mixture."""
    return GaussianMixture(
        truth.n_components,
        weights_init=truth.weights,
        means_init=truth.means,
        precisions_init=truth.precisions,
        **settings,
    )


def mean_likelihood(gm: GaussianMixture, rows: NDArray[np.float64]) -> float:
    """Of rows in memory, in nats a row."""
    return float(get_kernel().log_densities(rows, gm._parameters()).mean())


def shuffled(rows: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The rows in no order."""
    return np.random.default_rng(seed).permutation(rows)


def shifted(truth: MixtureParameters, by: float, seed: int) -> MixtureParameters:
    """The mixture with its means moved by so much, each in a direction of its own."""
    directions = np.random.default_rng(seed).normal(size=truth.means.shape)
    directions *= by / np.linalg.norm(directions, axis=1, keepdims=True)
    return MixtureParameters.create(
        truth.family, truth.weights, truth.means + directions, truth.covariances
    )


def heavy(seed: int, truth: MixtureParameters, n: int) -> NDArray[np.float64]:
    """Rows of t distributions of 4 degrees of freedom about the same centres."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(truth.n_components, size=n, p=truth.weights)
    roots = np.linalg.cholesky(truth.covariances)
    noise = np.einsum("nij,nj->ni", roots[labels], rng.normal(size=(n, truth.n_features)))
    scale = np.sqrt(rng.chisquare(4, size=(n, 1)) / 4)
    rows: NDArray[np.float64] = truth.means[labels] + noise / scale
    return rows


def streams(sizes: Sizes) -> list[dict[str, Any]]:
    """The shortfall on the way, by rule; medians over seeds."""
    found = []
    marks = [n for n in (5, 20, 50, 200, 1000) if n <= sizes.batches]
    for kind, spread in SPREADS.items():
        for start in ("near the truth", "first batch"):
            for name, rule in RULES.items():
                short = [_shortfalls(sizes, spread, start, rule, s, marks) for s in sizes.seeds]
                medians = np.median(np.array(short), axis=0)
                falls = {
                    f"{n * sizes.batch:,} rows": float(m)
                    for n, m in zip(marks, medians, strict=True)
                }
                found.append({"components": kind, "start": start, "rule": name, **falls})
    return found


def _shortfalls(
    sizes: Sizes, spread: float, start: str, rule: dict[str, Any], seed: int, marks: list[int]
) -> list[float]:
    """Of one stream, after so many batches."""
    truth = random_mixture(seed, "full", K, D, spread=spread)
    rows = shuffled(draw(seed, truth, sizes.batch * sizes.batches), seed)
    near = start == "near the truth"
    gm = started_at(shifted(truth, 0.5, seed)) if near else GaussianMixture(K, random_state=seed)
    heights = []
    for t in range(sizes.batches):
        gm.partial_fit(rows[t * sizes.batch : (t + 1) * sizes.batch], **rule)
        if t + 1 in marks:
            heights.append(mean_likelihood(gm, rows))
    best = started_at(truth if near else gm._parameters(), **CONVERGED).fit(rows)
    top = mean_likelihood(best, rows)
    return [top - height for height in heights]


def wandering(sizes: Sizes) -> list[dict[str, Any]]:
    """The same where each mean moves by two deviations in all, held against the present."""
    found = []
    for name, rule in RULES.items():
        short = []
        for seed in sizes.seeds:
            truth = random_mixture(seed, "full", K, D, spread=4.0)
            gm = started_at(truth)
            for t in range(sizes.batches):
                now = shifted(truth, 2.0 * t / sizes.batches, seed)
                gm.partial_fit(shuffled(draw(seed * 10_000 + t, now, sizes.batch), t), **rule)
            fresh = draw(77, now, 20_000)
            best = started_at(now, tol=1e-8, max_iter=300, acceleration=None).fit(fresh)
            short.append(mean_likelihood(best, fresh) - mean_likelihood(gm, fresh))
        found.append({"rows are": "wandering", "rule": name, "shortfall": float(np.median(short))})
    return found


def updates(sizes: Sizes) -> list[dict[str, Any]]:
    """What is foretold of an update's drift, and what it was; medians over seeds."""
    found = []
    for kind, spread in SPREADS.items():
        for shape, make in (("Gaussian", draw), ("heavy", heavy)):
            for by in (0.0, 0.5, 2.0):
                each = []
                for seed in sizes.seeds:
                    truth = random_mixture(seed, "full", K, D, spread=spread)
                    old = make(seed, truth, sizes.batch * sizes.batches)
                    new = make(seed + 1, shifted(truth, by, seed), len(old) // 4)
                    each.append(_update(truth, old, new))
                medians = np.median(np.array(each), axis=0)
                numbers = dict(zip(UPDATED, map(float, medians), strict=True))
                found.append({"components": kind, "rows are": shape, "shift": by, **numbers})
    return found


UPDATED = ("KL told", "KL was", "labels told", "labels were", "gap told", "refit gains")


def _update(
    truth: MixtureParameters, old: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[float, ...]:
    gm = started_at(truth, **CONVERGED).fit(old)
    again = copy.deepcopy(gm).update(new, check=old)
    gm.update(new)
    told, was, both = gm.drift_, again.drift_, np.concatenate([old, new])
    assert told is not None
    assert was is not None
    whole = started_at(gm._parameters(), **CONVERGED).fit(both)
    gained = mean_likelihood(whole, both) - mean_likelihood(gm, both)
    drifted = (told.divergence, was.divergence, told.changed_labels, was.changed_labels)
    return (*drifted, told.gap, gained)


def speed(sizes: Sizes) -> list[dict[str, Any]]:
    """Seconds of a pass of each kind over the same rows in memory; medians of rounds in turns."""
    truth = random_mixture(0, "full", 16, 16, spread=1.5)
    rows = draw(1, truth, 4 * sizes.batch * sizes.batches)

    def plain() -> None:
        started_at(truth, max_iter=1, acceleration=None).fit(rows)

    def stepped() -> None:
        begun.partial_fit(rows)

    def updated() -> None:
        fitted.set_params(max_iter=1, acceleration=None).update(rows)

    begun = started_at(truth).partial_fit(rows)
    fitted = started_at(truth, max_iter=5).fit(rows)
    taken: dict[str, list[float]] = {"plain": [], "partial_fit": [], "update": []}
    for _ in range(sizes.rounds):
        for name, turn in (("plain", plain), ("partial_fit", stepped), ("update", updated)):
            start = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - start)
    ratios = {n: np.divide(taken[n], taken["plain"]) for n in taken}
    return [
        {
            "pass": name,
            "rows": len(rows),
            "seconds": float(np.median(seconds)),
            "ratio": float(np.median(ratios[name])),
        }
        for name, seconds in taken.items()
    ]


class Sizes:
    """How much of everything."""

    def __init__(self, *, tiny: bool, full: bool) -> None:
        self.batch = 200 if tiny else 1000
        self.batches = 20 if tiny else (1000 if full else 200)
        self.seeds = range(1 if tiny else 5)
        self.rounds = 1 if tiny else 7


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " -- |" * len(names)]
    for row in rows:
        cells = [f"{v:.2g}" if isinstance(v, float) else f"{v}" for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all parts and print what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="five times the batches")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parts", nargs="*", default=[p.__name__ for p in PARTS])
    arguments = parser.parse_args()
    sizes, results = Sizes(tiny=arguments.tiny, full=arguments.full), []
    warnings.simplefilter("ignore")
    for part in PARTS:
        if part.__name__ not in arguments.parts:
            continue
        found = part(sizes)
        results += [{"part": part.__name__, **one} for one in found]
        if not arguments.json:
            print(f"\n{part.__name__}\n\n{table(found)}", flush=True)
    if arguments.json:
        print(json.dumps({"results": results}))


PARTS = (streams, wandering, updates, speed)

if __name__ == "__main__":
    main()
