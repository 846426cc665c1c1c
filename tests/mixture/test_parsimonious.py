"""mclust's fourteen families against their definition, by brute force, and their laws."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.common_axes import common_axes
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parsimonious import MCLUST, MCLUST_IN_ONE_DIMENSION
from dask_gmm.mixture.volumes import volumes_of_matrices, volumes_of_variances
from tests.equal_shape import EQUAL_SHAPE
from tests.mixture.parametrised import covariances_at, expected, n_free

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

AS_IN_SCIKIT_LEARN = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
names = pytest.mark.parametrize("name", MCLUST)


def drawn(seed: int, k: int, d: int, *, rows: int = 0, spread: float = 0.7) -> tuple[Array, Array]:
    """N_k and W_k (K, D, D) of components with nothing in common."""
    rng = np.random.default_rng(seed)
    n = rows or 3 * d + 2
    counts = rng.uniform(0.2, 2.0, size=k) * n
    x = rng.normal(size=(k, n, d)) * np.exp(spread * rng.normal(size=(k, 1, d)))
    turns = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    x = x @ turns * np.exp(spread * rng.normal(size=(k, 1, 1)))
    scatter: Array = np.einsum("kni,knj,k->kij", x, x, counts / n)
    return counts, scatter


def estimated(name: str, counts: Array, scatter: Array, reg_covar: float = 0.0) -> Array:
    """What the family makes of scatter about the means, dense."""
    family, (k, d) = covariance_family(name), scatter.shape[:2]
    second = np.zeros(family.form.second_moment_shape(k, d))
    for j, root in enumerate(np.linalg.cholesky(scatter)):
        family.form.add_moment(second, j, family.form.component_moment(root.T, root.T))
    found = family.estimate(counts, np.zeros((k, d)), second, reg_covar)
    return family.form.dense(found, k, d)


@names
def test_degrees_of_freedom(name: str) -> None:
    """Those of the definition; they are the rank of its Jacobian where nothing is spherical."""
    family = covariance_family(name)
    for k, d in ((1, 1), (1, 3), (2, 1), (2, 2), (3, 4), (5, 3)):
        assert family.degrees_of_freedom(k, d) == n_free(name, k, d)
    k, d = 3, 3
    free = np.random.default_rng(0).normal(size=n_free(name, k, d))
    columns = [
        covariances_at(name, free + h, k, d) - covariances_at(name, free - h, k, d)
        for h in 1e-5 * np.eye(free.size)
    ]
    jacobian = np.stack([c.ravel() for c in columns]) / 2e-5
    assert np.linalg.matrix_rank(jacobian, tol=1e-6) == family.degrees_of_freedom(k, d)


def test_degrees_of_freedom_as_mclust_prints_them() -> None:
    """Mclust's `df`: iris VEV,2 and VEV,3, VVV,2; Old Faithful EEE,3."""
    for name, k, d, df in (
        ("VEV", 2, 4, 26),
        ("VEV", 3, 4, 38),
        ("VVV", 2, 4, 29),
        ("EEE", 3, 2, 11),
    ):
        assert covariance_family(name).n_parameters(k, d) == df


def brute_force(name: str, counts: Array, scatter: Array, starts: int) -> float:
    """The highest of some ends of a general optimiser over the free parameters."""
    k, d = scatter.shape[:2]
    rng, ends = np.random.default_rng(1), []

    def goal(free: Array) -> float:
        return -expected(counts, scatter, covariances_at(name, free, k, d))

    for number in range(starts):
        at = rng.normal(size=n_free(name, k, d)) * (0.5 if number else 0.0)
        ends.append(-float(minimize(goal, at, method="BFGS", options={"gtol": 1e-7}).fun))
    return max(ends)


@names
@pytest.mark.parametrize(
    ("k", "d", "starts"), [(2, 2, 2), pytest.param(2, 3, 3, marks=pytest.mark.slow)]
)
def test_the_maximum_by_brute_force(name: str, k: int, d: int, starts: int) -> None:
    counts, scatter = drawn(3, k, d)
    ours = expected(counts, scatter, estimated(name, counts, scatter))
    theirs = brute_force(name, counts, scatter, starts)
    assert ours >= theirs - 1e-9
    assert ours == pytest.approx(theirs, abs=1e-6)


@names
def test_reg_covar_is_as_if_the_rows_had_noise(name: str) -> None:
    """In the scatter: of the four that scikit-learn knows that is the same as on the variances."""
    counts, scatter = drawn(4, 3, 3)
    noisy = scatter + 0.5 * counts[:, None, None] * np.eye(3)
    found = estimated(name, counts, scatter, 0.5)
    np.testing.assert_allclose(found, estimated(name, counts, noisy), rtol=1e-7, atol=1e-9)


problems = st.tuples(
    st.sampled_from(MCLUST),
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0.0, 2.0),
)


@settings(max_examples=40, deadline=None)
@given(problems, st.floats(-5.0, 0.0))
def test_no_member_of_the_family_is_better(problem: Any, log_distance: float) -> None:
    """Not those about the maximum, near and far; and the scale is right to rounding."""
    name, seed, k, d, spread = problem
    counts, scatter = drawn(seed, k, d, spread=spread)
    family, best = covariance_family(name), estimated(name, counts, scatter)
    traces = np.einsum("kij,kji->k", np.linalg.inv(best), scatter)
    assert traces.sum() == pytest.approx(counts.sum() * d, rel=1e-9)
    top = expected(counts, scatter, best)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        noise = 10.0**log_distance * rng.normal(size=(k, d, d))
        roots = np.linalg.cholesky(best) @ (np.eye(d) + noise)
        aside = estimated(name, counts, counts[:, None, None] * (roots @ roots.swapaxes(1, 2)))
        assert expected(counts, scatter, aside) <= top + 1e-12 * max(1.0, abs(top))
    assert family.degrees_of_freedom(k, d) <= k * d * (d + 1) // 2


@settings(max_examples=30, deadline=None)
@given(problems)
def test_units_and_directions(problem: Any) -> None:
    """Families turn with the rows, or take any units of features, or both."""
    name, seed, k, d, spread = problem
    counts, scatter = drawn(seed, k, d, rows=8 * d, spread=min(spread, 1.0))
    rng, found = np.random.default_rng(seed), estimated(name, counts, scatter)
    changes = []
    if name[2] != "I" or name[1] == "I":
        changes.append(np.linalg.qr(rng.normal(size=(d, d)))[0])
    if name in ("EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVV", "VVV"):
        changes.append(np.diag(np.exp(3.0 * rng.normal(size=d))))
    for t in changes:
        other = estimated(name, counts, t @ scatter @ t.T)
        back = np.linalg.solve(t, np.linalg.solve(t, other).swapaxes(1, 2))
        value, again = (expected(counts, scatter, c) for c in (found, back))
        # Where the axes have several minima (`common_axes`) another start may find another.
        assert again == pytest.approx(value, abs=1e-8 if name not in ("EVE", "VVE") else 0.05)


@pytest.mark.parametrize("name", AS_IN_SCIKIT_LEARN)
def test_the_four_have_the_same_bits(name: str) -> None:
    ours, theirs = covariance_family(name), covariance_family(AS_IN_SCIKIT_LEARN[name])
    assert ours is not theirs
    assert ours.form is theirs.form
    for attribute in ("independent", "constrained", "full_rank"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    counts, scatter = drawn(5, 3, 4)
    first = np.random.default_rng(0).normal(size=(3, 4))
    second = ours.form.scatter(
        np.ones(3),
        {"full": scatter, "tied": scatter.sum(axis=0)}.get(
            theirs.name, np.diagonal(scatter, axis1=1, axis2=2)
        )
        if theirs.name != "spherical"
        else np.trace(scatter, axis1=1, axis2=2),
        4,
    )
    for reg_covar in (0.0, 1e-6):
        np.testing.assert_array_equal(
            ours.estimate(counts, first, second, reg_covar),
            theirs.estimate(counts, first, second, reg_covar),
        )


def test_equal_shape_by_two_algorithms() -> None:
    counts, scatter = drawn(6, 4, 5)
    second = np.diagonal(scatter, axis1=1, axis2=2).copy()
    first = np.zeros((4, 5))
    found = covariance_family("VEI").estimate(counts, first, second, 1e-3)
    np.testing.assert_allclose(found, EQUAL_SHAPE.estimate(counts, first, second, 1e-3), rtol=1e-11)


@names
def test_the_means_do_not_matter(name: str) -> None:
    """Moments about another point, which the scatter is taken from."""
    family = covariance_family(name)
    counts, scatter = drawn(7, 3, 4)
    k, d = 3, 4
    away = np.random.default_rng(1).normal(size=(k, d))
    second = np.zeros(family.form.second_moment_shape(k, d))
    for j, root in enumerate(np.linalg.cholesky(scatter)):
        rows = np.vstack([root.T, np.sqrt(counts[j]) * away[j : j + 1]])
        family.form.add_moment(second, j, family.form.component_moment(rows, rows))
    found = family.estimate(counts, counts[:, None] * away, second, 0.0)
    np.testing.assert_allclose(
        family.form.dense(found, k, d), estimated(name, counts, scatter), rtol=1e-7, atol=1e-9
    )


@names
def test_one_component_has_them_all(name: str) -> None:
    """Of one component only I says something: mclust's XII, XXI and XXX."""
    counts, scatter = drawn(8, 1, 4)
    full = scatter / counts[0]
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    true = {
        "II": np.eye(4)[None] * diagonal.mean(),
        "EI": diagonal[:, :, None] * np.eye(4),
        "VI": diagonal[:, :, None] * np.eye(4),
    }.get(name[1:], full)
    np.testing.assert_allclose(estimated(name, counts, scatter), true, rtol=1e-12, atol=1e-13)


@names
def test_one_dimension_has_volumes_alone(name: str) -> None:
    """The families are mclust's E and V there."""
    counts, scatter = drawn(9, 3, 1)
    same = next(other for other in MCLUST_IN_ONE_DIMENSION if other[0] == name[0])
    np.testing.assert_allclose(
        estimated(name, counts, scatter), estimated(same, counts, scatter), rtol=1e-13
    )
    assert covariance_family(name).degrees_of_freedom(3, 1) == (1 if name[0] == "E" else 3)


FLAT = np.diag([1.0, 2.0, 0.0])


@names
@pytest.mark.parametrize("reg_covar", [0.0, 1e-3])
def test_a_flat_component(name: str, reg_covar: float) -> None:
    """Zero where there is no maximum, and the others' without it; finite in any case."""
    family = covariance_family(name)
    counts, scatter = drawn(10, 3, 3)
    scatter[1] = FLAT
    second = {"full": scatter, "tied": scatter.sum(axis=0), "spherical": None}.get(
        family.form.name, np.diagonal(scatter, axis1=1, axis2=2)
    )
    if second is None:
        second = np.trace(scatter, axis1=1, axis2=2)
    found = family.estimate(counts, np.zeros((3, 3)), second, reg_covar)
    assert np.isfinite(found).all()
    if reg_covar or not family.full_rank or family.form.name == "spherical":
        family.form.factor(found)
        return
    with pytest.raises(CollapsedComponentError, match="component 1 "):
        family.form.factor(found)
    if not family.independent:
        assert not found[1].any()
        others = family.estimate(counts[[0, 2]], np.zeros((2, 3)), second[[0, 2]], reg_covar)
        np.testing.assert_allclose(found[[0, 2]], others, rtol=1e-12)


def test_where_no_volumes_are_a_minimum() -> None:
    """Most of the weight lies flat: the other axis's variance would go to zero for all."""
    counts, flat = np.array([3.0, 1.0]), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert volumes_of_variances(counts, flat) is None
    dense = flat[:, :, None] * np.eye(2)
    assert volumes_of_matrices(counts, dense) is None
    assert volumes_of_variances(counts[::-1].copy(), flat) is not None
    for name, second in (("VEI", flat), ("VEE", dense), ("VEV", dense)):
        found = covariance_family(name).estimate(counts, np.zeros((2, 2)), second, 0.0)
        with pytest.raises(CollapsedComponentError, match="component 0 "):
            covariance_family(name).form.factor(found)
        np.testing.assert_allclose(
            np.sort(np.linalg.eigvalsh(covariance_family(name).form.dense(found, 2, 2)[1])), 1.0
        )


@names
def test_moments_that_are_no_covariance(name: str) -> None:
    """A corrected sample's: they have no maximum, and the form says so instead of a wrong one."""
    family = covariance_family(name)
    counts, scatter = drawn(11, 2, 2)
    scatter[0] = np.diag([1.0, -50.0])
    second = {
        "full": scatter,
        "tied": scatter.sum(axis=0),
        "spherical": np.array([-49.0, 2.0]),
    }.get(family.form.name, np.diagonal(scatter, axis1=1, axis2=2))
    with pytest.raises(CollapsedComponentError):
        family.form.factor(family.estimate(counts, np.zeros((2, 2)), second, 0.0))


@names
def test_an_overflow_is_one(name: str) -> None:
    family = covariance_family(name)
    second = np.full(family.form.second_moment_shape(2, 2), np.inf)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="not finite"),
    ):
        family.form.factor(family.estimate(np.ones(2), np.zeros((2, 2)), second, 0.0))


@names
def test_no_warnings_at_the_ends_of_float64(name: str) -> None:
    family = covariance_family(name)
    for scale in (1e-140, 1e140):
        counts, scatter = drawn(12, 3, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = estimated(name, counts, scale * scatter)
        np.testing.assert_allclose(found / scale, estimated(name, counts, scatter), rtol=1e-7)
    assert family.name == name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(2, 6), st.booleans())
def test_axes_that_are_shared_are_found(seed: int, k: int, d: int, equal_volume: bool) -> None:
    """Exactly, where the components have them; in any order and sign."""
    rng = np.random.default_rng(seed)
    true = np.linalg.qr(rng.normal(size=(d, d)))[0]
    variances = np.exp(rng.normal(size=(k, d)))
    scatter = (true * variances[:, None, :]) @ true.T
    counts = rng.uniform(1.0, 9.0, size=k)
    scatter = counts[:, None, None] * 0.5 * (scatter + scatter.swapaxes(1, 2))
    axes = common_axes(counts, scatter, equal_volume=equal_volume)
    np.testing.assert_allclose(axes.T @ axes, np.eye(d), atol=1e-13)
    turned = axes.T @ scatter @ axes
    off = turned * (1.0 - np.eye(d))
    assert np.abs(off).max() <= 1e-7 * np.abs(turned).max()


def test_a_saddle_point_is_left() -> None:
    """Two ellipses across each other: along the axes of their sum nothing pulls, yet is worst."""
    one = np.array([[2.0, 1.5], [1.5, 2.0]])
    other = np.array([[2.0, -1.5], [-1.5, 2.0]])
    counts, scatter = np.array([1.0, 1.0]), np.stack([one, other])
    axes = common_axes(counts, scatter, equal_volume=False)
    along = np.diagonal(axes.T @ scatter @ axes, axis1=1, axis2=2)
    np.testing.assert_allclose(np.sort(along[0]), [0.5, 3.5])
