"""What ranks the moves bounds what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.search.growing import with_halves
from dask_gmm.fitting.search.moves import Move, disjoint, moved, ranked
from dask_gmm.fitting.search.parts import climb_together, held_rows, part_of, with_part
from dask_gmm.fitting.search.removals import Removal, cheapest_removals
from dask_gmm.fitting.search.splits import Split, split_in_two
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.rows import Rows
from tests.fitting.search.problems import KERNEL, sample_of
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

N, D, K = 600, 2, 4
INDEPENDENT = [name for name in FAMILIES if covariance_family(name).independent]
seeds = st.integers(0, 2**16)


def mean_density(p: MixtureParameters, rows: Rows) -> float:
    return float(np.average(KERNEL.log_densities(rows.values, p), weights=rows.weights))


def drawn(seed: int, family: str, weighted: bool) -> tuple[MixtureParameters, Rows]:
    p = random_mixture(seed, family, K, D, spread=1.5)
    weights = np.random.default_rng(seed).exponential(size=N) if weighted else None
    return p, Rows(draw(seed + 1, p, N), weights)


def removals_of(p: MixtureParameters, rows: Rows) -> list[Removal]:
    r = KERNEL.posteriors(rows.values, p)
    (statistics,) = KERNEL.statistics(rows, [Candidate(p)])
    weighted = r if rows.weights is None else r * rows.weights[:, None]
    model = likelihood(p.family)
    return cheapest_removals(p, statistics, r, rows.weights, weighted.T @ r, model)


def without(p: MixtureParameters, removal: Removal) -> MixtureParameters:
    """The mixture of K − 1 components."""
    left = [k for k in range(K) if k != removal.gone]
    if removal.into is None:
        return part_of(p, left)
    weights, means = p.weights.copy(), p.means.copy()
    covariances = p.covariances.copy()
    assert removal.union is not None
    weights[removal.into] += weights[removal.gone]
    means[removal.into] = removal.union.means[0]
    if not p.form.shared:
        covariances[removal.into] = removal.union.covariances[0]
    whole = type(p).create(p.family, weights / weights.sum(), means, covariances)
    some = part_of(whole, left)
    return type(p).create(p.family, weights[left], some.means, some.covariances)


@pytest.mark.slow
@settings(max_examples=20)
@given(seed=seeds, family=st.sampled_from(INDEPENDENT), weighted=st.booleans())
def test_a_removal_costs_no_more_than_it_says(seed: int, family: str, weighted: bool) -> None:
    p, rows = drawn(seed, family, weighted)
    objective = SampleObjective(sample_of(rows.values, rows.weights), likelihood(family))
    end, sound = climb(objective, objective(p), 1e-7, 200)
    assume(sound)  # on few rows a component may close in on some
    p = end.parameters
    before = mean_density(p, rows)
    for removal in removals_of(p, rows):
        lost = before - mean_density(without(p, removal), rows)
        assert lost <= removal.cost + 1e-4  # EM has ended near its optimum, not at it
        if removal.into is None and removal.cost < 10.0:
            assert lost == pytest.approx(removal.cost, abs=1e-9)


@settings(max_examples=25)
@given(seed=seeds, family=st.sampled_from(INDEPENDENT), weighted=st.booleans())
def test_em_of_a_part_raises_the_whole_by_as_much(seed: int, family: str, weighted: bool) -> None:
    p, rows = drawn(seed, family, weighted)
    part = [0, 2]
    held = KERNEL.posteriors(rows.values, p)[:, part].sum(axis=1)
    some = held_rows(rows, held, 0.0, N)
    assert some is not None
    before = part_of(p, part)
    (end,) = climb_together(
        lambda candidates: KERNEL.statistics(some, candidates), [before], likelihood(family), 4
    )
    assert end is not None
    after = with_part(p, part, end.parameters)
    assert after is not None
    promised = mean_density(end.parameters, some) - mean_density(before, some)
    promised *= some.total_weight / rows.total_weight
    assert mean_density(after, rows) >= mean_density(p, rows) + promised - 1e-10


@settings(max_examples=25)
@given(seed=seeds, family=st.sampled_from(FAMILIES), weighted=st.booleans())
def test_a_split_gains_no_less_than_it_says(seed: int, family: str, weighted: bool) -> None:
    p, rows = drawn(seed, family, weighted)
    held = held_rows(rows, KERNEL.posteriors(rows.values, p)[:, 1], 0.0, N)
    assert held is not None
    found = split_in_two(held, part_of(p, [1]), likelihood(family), KERNEL)
    assume(found is not None)
    assert found is not None
    gain, halves = found
    larger = with_halves(p, [Split(1, gain, halves)])
    assert larger is not None
    promised = gain * held.total_weight / rows.total_weight
    assert mean_density(larger, rows) >= mean_density(p, rows) + promised - 1e-9


UNITS = {
    "as it is": lambda x: x,
    "a constant column": lambda x: np.column_stack([x, np.full(len(x), 7.0)]),
    "a sum of columns": lambda x: np.column_stack([x, x.sum(axis=1)]),
    "other units": lambda x: x * [1.0, 1e9, 1e-6],
}


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_two_clusters_are_found_in_any_units(
    units: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(800, 3))
    values[400:, 1] += 5.0
    values = units(values)
    regular = 1e-6 if values.shape[1] == 4 else 0.0  # a subspace has no density without
    rows, model = Rows(values, np.ones(len(values))), likelihood("full", regular)
    d = values.shape[1]
    one = model.update(KERNEL.statistics(rows, [Candidate(random_mixture(0, "full", 1, d))])[0])
    found = split_in_two(rows, one, model, KERNEL)
    assert found is not None
    assert found[0] == pytest.approx(0.345, abs=0.02)  # whatever the units


@pytest.mark.parametrize(("far", "enough"), [(8, False), (20, True)])
def test_halves_hold_rows_enough_to_say_what_they_are(far: int, enough: bool) -> None:
    values = np.random.default_rng(0).normal(size=(400, 2))
    values[:far] += 40.0
    model = likelihood("full")
    rows = Rows(values, np.ones(len(values)))
    one = model.update(KERNEL.statistics(rows, [Candidate(random_mixture(0, "full", 1, 2))])[0])
    found = split_in_two(rows, one, model, KERNEL)
    assert (found is not None) is enough
    if found is not None:
        assert found[1].weights.min() == pytest.approx(far / len(rows), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_clusters_are_found_in_one_component(family: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(800, 3))
    values[400:, 1] += 5.0
    model = likelihood(family)
    rows = Rows(values, np.ones(len(values)))
    one = random_mixture(0, family, 1, 3)
    for _ in range(2):
        one = model.update(KERNEL.statistics(rows, [Candidate(one)])[0])
    if not one.family.independent:  # other components say what the covariance is
        one = type(one).create(family, one.weights, one.means, np.eye(3))
    found = split_in_two(rows, one, model, KERNEL)
    assert found is not None
    gain, two = found
    assert np.allclose(np.sort(two.means[:, 1]), [0.0, 5.0], atol=0.2)
    assert gain == pytest.approx(mean_density(two, rows) - mean_density(one, rows), abs=0.05)


def test_what_one_gaussian_explains_is_not_worth_a_split() -> None:
    rows = Rows(np.random.default_rng(0).normal(size=(2000, 2)), np.ones(2000))
    model = likelihood("full")
    one = model.update(KERNEL.statistics(rows, [Candidate(random_mixture(0, "full", 1, 2))])[0])
    found = split_in_two(rows, one, model, KERNEL)
    assert found is not None
    assert found[0] < 2e-3


@pytest.mark.parametrize("rows", [np.zeros((50, 2)), np.arange(4.0).reshape(2, 2)])
def test_no_split_where_there_is_nothing_to_split(rows: NDArray[np.float64]) -> None:
    one = random_mixture(0, "full", 1, 2)
    assert split_in_two(Rows(rows, np.ones(len(rows))), one, likelihood("full"), KERNEL) is None


@settings(max_examples=25)
@given(seed=seeds, family=st.sampled_from(FAMILIES))
def test_disjoint_moves_promise_together_what_they_promise(seed: int, family: str) -> None:
    p, rows = drawn(seed, family, False)
    halves = random_mixture(seed, family, 2, D)
    removals = removals_of(p, rows)
    moves = ranked([Split(k, 0.1 * k, halves) for k in range(K)], removals)
    assert [m.promise for m in moves] == sorted((m.promise for m in moves), reverse=True)
    assert all(m.split.component not in m.removal.touched for m in moves)
    chosen = disjoint(moves, -np.inf)
    touched = [k for move in chosen for k in move.touched]
    assert len(touched) == len(set(touched))
    for some in ([moves[0]], chosen):
        after = moved(p, some)
        assert after is not None
        assert after.weights.sum() == pytest.approx(1.0)
        assert isinstance(some[0], Move)
