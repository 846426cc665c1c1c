"""Seconds per pass of a fit under a prior, beside the same fit without one.

Run from the repository's root:

    python -m tests.benchmarks.bench_prior              # a table
    python -m tests.benchmarks.bench_prior --json       # the same as JSON, for records
    python -m tests.benchmarks.bench_prior --full       # five times the rows

Plain EM of ten passes from given parameters over rows in memory, on all threads. "likelihood" has
no prior, "fraley-raftery" the default one, whose numbers a sample gives before the first pass (that
is not timed: passes are, by the fit's own history), "adapting" draws each mean to one of its own.
The contestants take turns; what is shown is the median over the rounds of the fastest pass but one
of each fit, half the distance between the quartiles, and the median of the ratios to the turn
without a prior of the same round. "M-step" is what the driver does between two passes.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture, Prior
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.model import MaximumLikelihood, MixtureModel
from dask_gmm.mixture.posterior import MaximumAPosteriori
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

_PASSES = 10
_M_STEPS = 5


@dataclass(frozen=True)
class Case:
    """A shape of problem."""

    family: str
    rows: int
    features: int
    components: int


CASES = tuple(
    Case(family, rows, d, k)
    for rows, d, k in ((400_000, 8, 8), (100_000, 50, 20))
    for family in ("full", "tied", "diag", "spherical")
)


def priors(p: MixtureParameters) -> dict[str, Prior | str | None]:
    """The contestants."""
    return {
        "likelihood": None,
        "fraley-raftery": "fraley-raftery",
        "adapting": Prior.adapting(p.means, relevance=16),
    }


def a_fit(
    prior: Prior | str | None, p: MixtureParameters, rows: NDArray[np.float64]
) -> Callable[[], float]:
    """A fit of some passes; the seconds of a pass that was not disturbed."""

    def turn() -> float:
        gm = GaussianMixture(
            p.n_components,
            covariance_type=p.family.name,
            prior=prior,
            acceleration=None,
            tol=0.0,
            max_iter=_PASSES,
            weights_init=p.weights,
            means_init=p.means,
            precisions_init=p.precisions,
            init_size=20_000,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many passes and no more
            gm.fit(rows)
        return sorted(done.seconds for done in gm.history_)[1]

    return turn


def m_step_of(prior: Prior | str | None, p: MixtureParameters, rows: NDArray[np.float64]) -> float:
    """Seconds of an M-step with its objective."""
    model: MixtureModel = MaximumLikelihood(p.family, 1e-6)
    if prior is not None:
        asked = Prior() if isinstance(prior, str) else prior
        model = MaximumAPosteriori(p.family, 1e-6, asked, p.n_components).settled(Rows(rows))
    (found,) = get_kernel().statistics(Rows(rows), [Candidate(p)])
    taken = []
    for _ in range(_M_STEPS):
        begun = time.perf_counter()
        model.objective(found, p)
        model.centring_error(found)
        model.update(found)
        taken.append(time.perf_counter() - begun)
    return min(taken)


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
    results = []
    for case in CASES[:1] if arguments.tiny else CASES:
        n = 2000 if arguments.tiny else case.rows * (5 if arguments.full else 1)
        p = random_mixture(1, case.family, case.components, case.features)
        rows = draw(2, p, n)
        asked = priors(p)
        turns = {name: a_fit(prior, p, rows) for name, prior in asked.items()}
        timed(turns, 1)  # compiles programs, which each process does once
        seconds = timed(turns, arguments.rounds)
        for name, taken in seconds.items():
            found = {
                "case": {**asdict(case), "rows": n},
                "prior": name,
                **Spread.of(taken)._asdict(),
                "ratio": float(np.median(np.divide(taken, seconds["likelihood"]))),
                "m_step": m_step_of(asked[name], p, rows[:20_000]),
            }
            results.append(found)
            if not arguments.json:
                print(
                    f"{case.family:10}{n:9,} × {case.features:<3} K={case.components:<3} "
                    f"{name:15} {found['median']:8.4f} s ± {found['spread']:.4f}   "
                    f"× {found['ratio']:.3f}   M-step {1e3 * found['m_step']:.2f} ms",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
