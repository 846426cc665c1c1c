from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.execution.tree import TreeFold, fold_in_order, node_count, root_level

from .fakes import Expression, expected_tree

sizes = st.integers(1, 200)


def leaves(size: int) -> list[str]:
    return [str(i) for i in range(size)]


@given(size=sizes, seed=st.integers(0, 2**32))
def test_any_order_of_arrival_gives_the_recursive_definition(size: int, seed: int) -> None:
    fold: TreeFold[Expression] = TreeFold(size)
    order = list(range(size))
    random.Random(seed).shuffle(order)
    for index in order:
        fold.add(0, index, Expression(str(index)))
    assert fold.root().text == expected_tree(leaves(size))


@given(size=sizes, level=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_any_size_of_unit_gives_the_same_tree(size: int, level: int, seed: int) -> None:
    fold: TreeFold[Expression] = TreeFold(size)
    units = list(range(node_count(size, level)))
    random.Random(seed).shuffle(units)
    for unit in units:
        positions = range(unit << level, min((unit + 1) << level, size))
        fold.add(
            level, unit, fold_in_order([Expression(str(p)) for p in positions], len(positions))
        )
    assert fold.root().text == expected_tree(leaves(size))


@given(size=sizes, steps=st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_folding_siblings_level_by_level_gives_the_same_tree(size: int, steps: list[int]) -> None:
    values = [Expression(text) for text in leaves(size)]
    for step in [*steps, 8]:
        groups = [values[i : i + (1 << step)] for i in range(0, len(values), 1 << step)]
        values = [fold_in_order(group, len(group)) for group in groups]
    assert values[0].text == expected_tree(leaves(size))


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_floats_keep_their_bits(values: list[float]) -> None:
    forwards: TreeFold[float] = TreeFold(len(values))
    backwards: TreeFold[float] = TreeFold(len(values))
    for i, value in enumerate(values):
        forwards.add(0, i, value)
    for i, value in reversed(list(enumerate(values))):
        backwards.add(0, i, value)
    assert forwards.root().hex() == backwards.root().hex()


@given(size=st.integers(1, 5000))
def test_a_fold_in_order_holds_one_value_per_level(size: int) -> None:
    fold: TreeFold[int] = TreeFold(size)
    most = 0
    for i in range(size):
        fold.add(0, i, 1)
        most = max(most, len(fold))
    assert fold.root() == size
    assert most <= root_level(size) + 1


def test_operands_are_not_changed() -> None:
    left, right = Expression("a"), Expression("b")
    assert fold_in_order([left, right], 2).text == "(a+b)"
    assert (left.text, right.text) == ("a", "b")


def test_what_is_added_twice_is_refused() -> None:
    fold: TreeFold[int] = TreeFold(4)
    fold.add(0, 0, 1)
    with pytest.raises(ValueError, match="added before"):
        fold.add(0, 0, 1)
    for index in (1, 2, 3):
        fold.add(0, index, 1)
    with pytest.raises(ValueError, match="added before"):
        fold.add(1, 1, 1)


@pytest.mark.parametrize(("level", "index"), [(0, 5), (0, -1), (4, 1), (1, 3), (-1, 0)])
def test_nodes_outside_the_tree_are_refused(level: int, index: int) -> None:
    with pytest.raises(ValueError, match="not in a tree of 5"):
        TreeFold[int](5).add(level, index, 1)


def test_an_unfinished_fold_has_no_root() -> None:
    fold: TreeFold[int] = TreeFold(3)
    fold.add(1, 0, 2)
    assert not fold.complete
    with pytest.raises(ValueError, match="2 of 3"):
        fold.root()
    with pytest.raises(ValueError, match="at least one"):
        TreeFold[int](0)
