"""Milliseconds per M-step of each covariance family, and the passes that its fits take.

Run from the repository's root:

    python -m tests.benchmarks.bench_families            # a table
    python -m tests.benchmarks.bench_families --json     # the same as JSON, for records

"M-step" is one estimate of the covariances from moments that rows of no common shape have left,
which is the hardest there is: of overlapping components with axes of their own. "E-step" is that of
100,000 rows on one thread, beside it: what a pass spends on so many rows of each thread. Passes are
those of accelerated fits from a Dask array of 200,000 rows with a tenth of them for a sample, to
the default tolerance, one after the other from the same seed; the plain ones are of plain EM. The
contestants take turns; medians, and half the distance between the quartiles.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from threadpoolctl import threadpool_limits

from dask_gmm import GaussianMixture
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.parsimonious import MCLUST
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.mixture.statistics import SufficientStatistics

SHAPES = ((40, 16), (10, 32))
_E_STEP_ROWS = 100_000


def member(name: str, full: MixtureParameters) -> MixtureParameters:
    """The family's mixture that is nearest to one of free covariances."""
    family = covariance_family(name)
    k, d = full.means.shape
    second = np.zeros(family.form.second_moment_shape(k, d))
    for j, root in enumerate(np.linalg.cholesky(full.covariances)):
        rows = np.sqrt(full.weights[j]) * root.T
        family.form.add_moment(second, j, family.form.component_moment(rows, rows))
    covariances = family.estimate(full.weights, np.zeros((k, d)), second, 0.0)
    return MixtureParameters.create(family, full.weights, full.means, covariances)


def m_step(p: MixtureParameters, s: SufficientStatistics) -> Callable[[], float]:
    """One M-step's estimate; its seconds."""

    def turn() -> float:
        begun = time.perf_counter()
        p.family.estimate(s.counts, s.first, s.second, 1e-6)
        return time.perf_counter() - begun

    return turn


def e_step(p: MixtureParameters, rows: Rows) -> Callable[[], float]:
    """One E-step over the rows; its seconds."""

    def turn() -> float:
        begun = time.perf_counter()
        get_kernel().statistics(rows, [Candidate(p)])
        return time.perf_counter() - begun

    return turn


def steps(k: int, d: int, n: int, rounds: int) -> dict[str, dict[str, Any]]:
    """The times of each family on one shape of problem."""
    full = random_mixture(1, "full", k, d, spread=1.0)
    rows = Rows(draw(2, full, n))
    mixtures = {name: member(name, full) for name in MCLUST}
    found: dict[str, Any] = {
        name: get_kernel().statistics(rows, [Candidate(p)])[0] for name, p in mixtures.items()
    }
    m_steps = timed({name: m_step(p, found[name]) for name, p in mixtures.items()}, rounds)
    e_steps = timed({name: e_step(p, rows) for name, p in mixtures.items()}, rounds)
    return {
        name: {
            "m_step": Spread.of(m_steps[name])._asdict(),
            "e_step": Spread.of(e_steps[name])._asdict(),
        }
        for name in MCLUST
    }


def passes(name: str, values: NDArray[np.float64], k: int, acceleration: str | None) -> int:
    """Passes of a fit."""
    n = len(values)
    gm = GaussianMixture(
        k,
        covariance_type=name,
        acceleration=acceleration,
        init_size=n // 10,
        max_iter=500,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm.fit(da.from_array(values, chunks=(max(1, n // 10), values.shape[1])))
    return int(gm.n_passes_ or 0)


def main() -> None:
    """Time the steps, count the passes, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shapes: tuple[tuple[int, int], ...] = SHAPES
    n_fit, k_fit, d_fit = 200_000, 8, 6
    n_rows = _E_STEP_ROWS
    if arguments.tiny:
        shapes, n_rows, n_fit, k_fit, d_fit = ((3, 3),), 500, 2000, 2, 3
    values = draw(4, random_mixture(3, "full", k_fit, d_fit, spread=2.5), n_fit)
    results: list[dict[str, Any]] = []
    with threadpool_limits(1):
        times = {shape: steps(*shape, n_rows, arguments.rounds) for shape in shapes}
        for name in MCLUST:
            result: dict[str, Any] = {
                "family": name,
                "form": covariance_family(name).form.name,
                "steps": {f"K={k} D={d}": times[k, d][name] for k, d in shapes},
                "passes": passes(name, values, k_fit, "variance-reduced"),
                "plain_passes": passes(name, values, k_fit, None),
            }
            results.append(result)
            if not arguments.json:
                parts = [
                    f"{shape}: M {1e3 * t['m_step']['median']:7.2f} ms ± "
                    f"{1e3 * t['m_step']['spread']:.2f}, E {1e3 * t['e_step']['median']:6.1f} ms"
                    for shape, t in result["steps"].items()
                ]
                print(
                    f"{name}  {result['form']:<9}  {'   '.join(parts)}   "
                    f"passes {result['passes']:3}, plain {result['plain_passes']:3}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
