"""`SufficientStatistics` is a frozen commutative monoid, up to rounding."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.statistics import SufficientStatistics, number_of_sums
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

K, D = 3, 2
REFERENCE = np.array([[0.0, 1.0], [-3.0, 2.0], [5.0, 5.0]])


def build(
    family: str, rng: np.random.Generator, reference: np.ndarray = REFERENCE
) -> SufficientStatistics:
    kind = covariance_family(family)
    return SufficientStatistics.create(
        kind.form,
        reference,
        rows=int(rng.integers(0, 100)),
        weight=float(rng.uniform(0, 100)),
        log_likelihood=float(rng.normal()),
        counts=rng.uniform(0, 10, size=K),
        first=rng.normal(size=(K, D)),
        second=rng.normal(size=kind.form.second_moment_shape(K, D)),
    )


families = st.sampled_from(FAMILIES)
seeds = st.integers(0, 2**32 - 1)


@given(families, seeds)
def test_zero_is_the_identity(family: str, seed: int) -> None:
    s = build(family, np.random.default_rng(seed))
    zero = SufficientStatistics.zero(s.form, REFERENCE)
    assert s + zero == s
    assert zero + s == s


@given(families, seeds)
def test_addition_commutes_to_the_bit(family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = build(family, rng), build(family, rng)
    assert a + b == b + a


@given(families, seeds)
def test_addition_is_associative_to_rounding(family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (build(family, rng) for _ in range(3))
    left, right = (a + b) + c, a + (b + c)
    assert left.rows == right.rows
    for name in ("counts", "first", "second", "log_likelihood", "weight"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(families, st.lists(st.integers(0, 200), max_size=6), seeds)
def test_any_split_of_the_rows_gives_the_same(family: str, cuts: list[int], seed: int) -> None:
    p = random_mixture(1, family, K, D)
    rows = draw(seed, p, 200)
    kernel, candidate = get_kernel("blas"), Candidate(p)
    (whole,) = kernel.statistics(Rows(rows), [candidate])
    total = SufficientStatistics.zero(p.form, p.means)
    for part in np.split(rows, sorted(cuts)):
        total += kernel.statistics(Rows(part), [candidate])[0]
    assert total.rows == whole.rows == 200
    for name in ("counts", "first", "second", "log_likelihood"):
        np.testing.assert_allclose(
            getattr(total, name), getattr(whole, name), rtol=1e-11, atol=1e-10
        )


def test_other_references_and_families_are_refused() -> None:
    rng = np.random.default_rng(0)
    a = build("full", rng)
    with pytest.raises(ValueError, match="different references"):
        a + build("full", rng, REFERENCE + 1e-15)
    with pytest.raises(ValueError, match="full and a diag"):
        a + build("diag", rng)
    with pytest.raises(TypeError):
        a + 1


def test_the_value_cannot_change() -> None:
    rng = np.random.default_rng(1)
    counts = np.ones(K)
    a = dataclasses.replace(build("full", rng))
    made = SufficientStatistics.create(
        a.form, REFERENCE, rows=1, weight=1, log_likelihood=0, counts=counts,
        first=a.first, second=a.second,
    )  # fmt: skip
    counts[:] = 7.0
    assert made.counts.tolist() == [1.0] * K
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.rows = 3  # type: ignore[misc]
    before = pickle.dumps(a)
    total = a + build("full", rng)
    assert pickle.dumps(a) == before
    for value in (a, total, pickle.loads(before), copy.deepcopy(a)):
        for name in ("reference", "sums", "counts", "first", "second"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(value, name)[...] = 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_travels_unchanged(family: str) -> None:
    a = build(family, np.random.default_rng(2))
    b = pickle.loads(pickle.dumps(a))
    assert a == b
    assert b.form is a.form
    assert a + b == a + a


def test_equality_sees_every_number() -> None:
    a = build("full", np.random.default_rng(3))
    for name in ("reference", "sums"):
        for i in range(getattr(a, name).size):
            changed = getattr(a, name).copy()
            changed.flat[i] = np.nextafter(changed.flat[i], np.inf)
            assert dataclasses.replace(a, **{name: changed}) != a
    assert dataclasses.replace(a, rows=a.rows + 1) != a
    assert a != "statistics"
    assert a != build("diag", np.random.default_rng(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_sums_lie_in_one_array(family: str) -> None:
    kind = covariance_family(family)
    rng = np.random.default_rng(5)
    given: dict[str, Any] = {
        "log_likelihood": -3.0,
        "weight": 4.0,
        "counts": rng.uniform(size=K),
        "first": rng.normal(size=(K, D)),
        "second": np.asfortranarray(rng.normal(size=kind.form.second_moment_shape(K, D))),
    }
    made = SufficientStatistics.create(kind.form, REFERENCE, rows=4, **given)
    parts = [np.ravel(value) for value in given.values()]
    np.testing.assert_array_equal(made.sums, np.concatenate(parts))
    assert made.sums.size == number_of_sums(kind.form, K, D)
    for name, value in given.items():
        np.testing.assert_array_equal(getattr(made, name), value)
    for name in ("counts", "first", "second"):
        assert np.shares_memory(getattr(made, name), made.sums)


@pytest.mark.parametrize("name", ["counts", "first", "second"])
def test_sums_of_another_shape_are_refused(name: str) -> None:
    a = build("full", np.random.default_rng(6))
    given = {part: getattr(a, part) for part in ("counts", "first", "second")}
    given[name] = given[name][:-1]
    with pytest.raises(ValueError, match=f"{name} should have the shape"):
        SufficientStatistics.create(
            a.form, REFERENCE, rows=1, weight=1.0, log_likelihood=0.0, **given
        )


def test_only_a_reference_that_cannot_change_is_shared() -> None:
    mine = REFERENCE.copy()
    s = build("full", np.random.default_rng(7), mine)
    mine[0, 0] = 99.0
    assert s.reference[0, 0] == REFERENCE[0, 0]
    with pytest.raises(ValueError, match="different references"):
        s + build("full", np.random.default_rng(7), mine)
    assert build("full", np.random.default_rng(8), s.reference).reference is s.reference
    view = mine[:]
    view.setflags(write=False)
    assert build("full", np.random.default_rng(8), view).reference is not view


def test_sizes_and_mean() -> None:
    a = build("full", np.random.default_rng(4))
    assert (a.n_components, a.n_features) == (K, D)
    assert a.nbytes == 8 * (2 + K + 2 * K * D + K * D * D)
    assert a.mean_log_likelihood == a.log_likelihood / a.weight
    assert SufficientStatistics.zero(a.form, REFERENCE).mean_log_likelihood == -np.inf
