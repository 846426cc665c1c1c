"""Components for rows that a mixture explains worst: bounds on their gain, and what is found."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from dask_gmm.fitting.search import births
from dask_gmm.fitting.search.births import enriched, find_rival
from dask_gmm.fitting.search.parts import part_of
from dask_gmm.fitting.search.reservoir import Reservoir, Sieve, threshold_of
from dask_gmm.rows import Rows
from tests.fitting.search.problems import CENTRES, KERNEL, around, optimum, sample_of
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.fitting.search.births import Rival
    from dask_gmm.mixture.parameters import MixtureParameters

N, EVERY = 40_000, 16
RARE, PLACE = 60, np.array([8.0, 16.0])


def rows_with(rare: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Four clusters of unit variance, and some rows more among them, none in the sample."""
    rng = np.random.default_rng(seed)
    values = CENTRES[rng.integers(4, size=N)] + rng.normal(size=(N, 2))
    places = rng.choice(N // EVERY, len(rare), replace=False) * EVERY + 1
    values[places] = rare
    return values


def cloud(n: int, place: NDArray[np.float64] = PLACE, seed: int = 1) -> NDArray[np.float64]:
    return place + 0.5 * np.random.default_rng(seed).normal(size=(n, 2))


def spare(family: str) -> MixtureParameters:
    """Two components in the first cluster."""
    return around(np.vstack([CENTRES[0] - 0.5, CENTRES[0] + 0.5, CENTRES[1:4]]), family)


def rival_for(
    values: NDArray[np.float64],
    start: MixtureParameters,
    weights: NDArray[np.float64] | None = None,
    reg_covar: float = 1e-6,
) -> tuple[MixtureParameters, Rival | None]:
    """What a fit to every sixteenth row finds in all rows."""
    some = None if weights is None else np.ascontiguousarray(weights[::EVERY])
    sample = sample_of(np.ascontiguousarray(values[::EVERY]), some)
    _, p = optimum(sample, start)
    threshold = threshold_of(sample, p)
    densities = KERNEL.log_densities(values, p)
    rows = Rows(values, weights)
    kept = Reservoir.of(rows, densities, 0, Sieve(threshold, 8192))
    low = densities[::EVERY] < threshold
    model = likelihood(start.family, reg_covar)
    return p, find_rival(kept, p, len(rows), rows.total_weight, sample, low, model)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    family=st.sampled_from(FAMILIES),
    weighted=st.booleans(),
    part=st.floats(0.01, 0.9),
    size=st.floats(1e-5, 0.5),
)
def test_a_component_gains_no_less_than_low_rows_say(
    seed: int, family: str, weighted: bool, part: float, size: float
) -> None:
    p, b = random_mixture(seed, family, 3, 2), random_mixture(seed + 1, family, 1, 2)
    values = draw(seed + 2, p, 400)
    weights = np.random.default_rng(seed).exponential(size=400) if weighted else np.ones(400)
    densities = KERNEL.log_densities(values, p)
    some = densities <= np.quantile(densities, part)
    low = births._Low.of(Rows(values[some], weights[some]), p, float(weights.sum()), 400.0, KERNEL)
    own = births._Own(b, size)
    both, _ = low.with_component(own)
    theirs = np.log(size) + KERNEL.log_densities(values, b)
    exact = weights @ (np.logaddexp(np.log1p(-size) + densities, theirs) - densities)
    assert low.gain(both, own) * float(weights.sum()) <= exact + 1e-9 * abs(exact) + 1e-9


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("full", "tied")))
def test_a_population_that_the_sample_misses_is_found(family: str) -> None:
    values = rows_with(cloud(RARE))
    p, rival = rival_for(values, spare(family))
    assert rival is not None
    assert rival.births == 1
    found = rival.parameters
    (mine,) = np.flatnonzero(np.linalg.norm(found.means - PLACE, axis=1) < 1.0)
    assert found.weights[mine] == pytest.approx(RARE / N, rel=0.05)
    labels = KERNEL.labels(values, found)
    assert (labels == mine).sum() == pytest.approx(RARE, abs=3)
    # All rows confirm what was promised.
    gained = KERNEL.log_densities(values, found).mean() - KERNEL.log_densities(values, p).mean()
    assert gained == pytest.approx(rival.promise, rel=0.5)
    assert gained > 1e-3


@pytest.mark.slow
def test_two_populations() -> None:
    places = (PLACE, np.array([0.0, 20.0]))
    values = rows_with(np.vstack([cloud(RARE, place) for place in places]))
    twice = np.vstack([CENTRES[:2] - 0.5, CENTRES[:2] + 0.5, CENTRES[2:4]])
    start = around(twice, "full")
    _, rival = rival_for(values, start)
    assert rival is not None
    assert rival.births == 2
    for place in places:
        assert np.linalg.norm(rival.parameters.means - place, axis=1).min() < 0.5


def test_rows_count_by_their_weights() -> None:
    """A few heavy rows are as many light ones."""
    values = rows_with(cloud(30))
    weights = np.where(np.linalg.norm(values - PLACE, axis=1) < 4.0, 5.0, 1.0)
    _, rival = rival_for(values, spare("full"), weights)
    assert rival is not None
    near = np.linalg.norm(rival.parameters.means - PLACE, axis=1).argmin()
    assert rival.parameters.weights[near] == pytest.approx(150 / weights.sum(), rel=0.05)


def test_nothing_can_be_spared() -> None:
    _, rival = rival_for(rows_with(cloud(RARE)), around(CENTRES[:4], "full"))
    assert rival is None


GARBAGE: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "a heap": lambda rng: 100.0 + 2.0 * rng.normal(size=(30, 2)),
    "a heap far away": lambda rng: 1000.0 + 2.0 * rng.normal(size=(30, 2)),
    "apart": lambda rng: 1000.0 + 50.0 * rng.normal(size=(30, 2)),
    "in one feature": lambda rng: rng.normal([-9999.0, 0.0], [0.0, 1.0], size=(30, 2)),
}


# In one feature alone EM itself merges clusters where all share a covariance, which stretches.
KINDS = [*product(GARBAGE, ["full"]), *product(list(GARBAGE)[:3], ["tied"])]


@pytest.mark.parametrize(("kind", "family"), quick_ones(KINDS, [("a heap", "full")]))
def test_no_clusters_merge_for_garbage(kind: str, family: str) -> None:
    """However much it is worth to the likelihood."""
    values = rows_with(GARBAGE[kind](np.random.default_rng(3)))
    assert rival_for(values, around(CENTRES[:4], family))[1] is None


@pytest.mark.parametrize("far", quick_ones((1e2, 1e3, 1e7, 1e150), (1e3, 1e7)))
def test_a_wild_row_hides_nothing(far: float) -> None:
    values = rows_with(cloud(RARE))
    values[EVERY // 2] = [far, -far]
    _, rival = rival_for(values, spare("full"))
    assert rival is not None
    assert (rival.births, rival.isolated) == (1, 1)
    near = np.linalg.norm(rival.parameters.means - PLACE, axis=1).argmin()
    assert rival.parameters.weights[near] == pytest.approx(RARE / N, rel=0.1)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), n=st.integers(4, 300), held=st.integers(1, 2000))
def test_neighbours(seed: int, n: int, held: int) -> None:
    """As a tree finds them, however many distances are held at a time."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(births, "_DISTANCES", held)
        nearest, reach = births._neighbours(values[: n // 2], values, 3)
    distances, places = map(np.asarray, cKDTree(values).query(values[: n // 2], 4))
    assert np.allclose(np.sqrt(reach), distances[:, -1])
    assert np.array_equal(np.sort(nearest, axis=1), np.sort(places, axis=1))


def test_what_is_isolated() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 2))
    values[10:13] += 1e3  # three together, and one alone
    values[4000] -= 1e4
    values[20:30] += 1e2  # ten are a population
    alone = births._isolated(values, np.eye(2), 5)
    assert np.flatnonzero(alone).tolist() == [10, 11, 12, 4000]
    # Of whole numbers most lie on each other.
    assert not births._isolated(np.round(values[100:3000]), np.eye(2), 5).any()
    assert not births._isolated(values[:4], np.eye(2), 5).any()


@pytest.mark.parametrize("scale", quick_ones((1e-9, 1e9), (1e-9,)))
def test_the_scale_of_weights_has_no_say(scale: float) -> None:
    values = rows_with(cloud(RARE))
    _, one = rival_for(values, spare("full"), np.ones(N))
    _, other = rival_for(values, spare("full"), np.full(N, scale))
    assert one is not None
    assert other is not None
    assert other.births == one.births
    assert np.allclose(other.parameters.means, one.parameters.means, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", quick_ones(range(4), (0,)))
def test_there_is_nothing_to_find(seed: int) -> None:
    """The tails of components are no populations."""
    _, rival = rival_for(rows_with(np.empty((0, 2)), seed), spare("full"))
    assert rival is None


@pytest.mark.parametrize(
    "rare",
    [np.tile(PLACE, (RARE, 1)), cloud(5), np.linspace(PLACE, 2.0 * PLACE, RARE)],
    ids=["one value", "too few", "a line"],
)
def test_rows_that_leave_a_component_no_variance(rare: NDArray[np.float64]) -> None:
    assert rival_for(rows_with(rare), spare("full"))[1] is None


def test_variance_beside_a_line_makes_a_component() -> None:
    line = np.linspace(PLACE, 2.0 * PLACE, RARE) + 0.02 * cloud(RARE, np.zeros(2))
    _, rival = rival_for(rows_with(line), spare("full"))
    assert rival is not None
    assert 1e-5 < np.linalg.eigvalsh(rival.parameters.covariances).min() < 1e-3


def test_one_component_alone() -> None:
    values = rows_with(cloud(RARE))
    assert rival_for(values, around(CENTRES[:1], "full"))[1] is None


def test_an_enriched_sample_stands_for_all_rows() -> None:
    """Each stratum weighs what it does among all rows, and a mean is that of these."""
    values = rows_with(cloud(RARE))
    weights = np.random.default_rng(5).uniform(0.5, 1.5, size=N)
    sample = sample_of(
        np.ascontiguousarray(values[::EVERY]), np.ascontiguousarray(weights[::EVERY])
    )
    p = part_of(spare("full"), [0, 2, 3, 4])
    threshold = threshold_of(sample, p)
    densities = KERNEL.log_densities(values, p)
    kept = Reservoir.of(Rows(values, weights), densities, 0, Sieve(threshold, 150))
    low = densities[::EVERY] < threshold
    total = float(weights.sum())
    rows = enriched(kept.standing, total, sample, low).rows
    assert len(rows) == (~low).sum() + 150
    assert rows.total_weight == pytest.approx(len(sample))
    assert rows.weights is not None
    part = rows.weights[-150:].sum() / rows.total_weight
    assert part == pytest.approx(weights[densities < threshold].sum() / total, rel=0.15)
    mean = np.average(rows.values, axis=0, weights=rows.weights)
    assert np.allclose(mean, np.average(values, axis=0, weights=weights), atol=0.5)
