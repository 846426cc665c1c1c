"""The fixed tree over positions that every pass adds its values in.

Floating-point addition is not associative, so *which* sums are formed decides the last bits of a
result. Here they are fixed by the blocks alone: ``node(level, i)`` covers the positions
``[i * 2**level, (i + 1) * 2**level)`` and is ``node(level - 1, 2i) + node(level - 1, 2i + 1)``;
where the right child covers no position at all, a node *is* its left child. Threads, units,
workers, retries and the order of arrival change who forms a node and when, never which nodes exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

__all__ = ["Summable", "TreeFold", "fold_in_order", "node_count", "root_level"]


class Summable(Protocol):
    """A value with a pure ``+``: it returns a new value and leaves both operands alone."""

    def __add__(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=Summable)


def node_count(size: int, level: int) -> int:
    """Return how many nodes of `level` cover at least one of `size` positions."""
    return -(-size >> level)


def root_level(size: int) -> int:
    """Return the lowest level at which one node covers all of `size` positions."""
    return (size - 1).bit_length()


class TreeFold(Generic[T]):
    """Fold values that arrive in any order into the root of the fixed tree.

    Siblings merge as soon as both are there, so a fold fed in order of position holds at most one
    value per level, and one fed by `p` parallel producers about `p` more.

    Parameters
    ----------
    size : int
        Number of positions, at least 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"A tree needs at least one position, not {size}.")
        self._size = size
        self._top = root_level(size)
        self._covered = 0
        self._nodes: dict[tuple[int, int], T] = {}

    def __len__(self) -> int:
        """Return the number of values that wait for their sibling."""
        return len(self._nodes)

    @property
    def complete(self) -> bool:
        """Whether every position has arrived."""
        return self._covered == self._size

    def add(self, level: int, index: int, value: T) -> None:
        """Take the value of ``node(level, index)`` and merge upwards as far as possible.

        Raises
        ------
        ValueError
            The node lies outside the tree, or it (or a part of it) was added before.
        """
        if level > self._top and index == 0:
            level = self._top  # higher up there are only left children: every node is the root
        if not 0 <= level <= self._top or not 0 <= index << level < self._size:
            raise ValueError(f"Node {index} of level {level} is not in a tree of {self._size}.")
        width = min(1 << level, self._size - (index << level))
        if (level, index) in self._nodes or self._covered + width > self._size:
            raise ValueError(f"Node {index} of level {level} was added before.")
        self._covered += width
        while level < self._top:
            sibling = self._nodes.pop((level, index ^ 1), None)
            if sibling is not None:
                value = value + sibling if index % 2 == 0 else sibling + value
            elif index % 2 or (index + 1) << level < self._size:
                break
            level, index = level + 1, index >> 1
        self._nodes[level, index] = value

    def nodes(self) -> dict[tuple[int, int], T]:
        """Return the values that wait for their sibling, by level and index."""
        return dict(self._nodes)

    def root(self) -> T:
        """Return the value of the whole tree.

        Raises
        ------
        ValueError
            Some positions have not arrived yet.
        """
        if not self.complete or len(self._nodes) != 1:
            raise ValueError(f"Only {self._covered} of {self._size} positions have arrived.")
        return self._nodes[self._top, 0]


def fold_in_order(values: Iterable[T], size: int) -> T:
    """Return the root over `size` equal-level siblings given in order of position."""
    fold: TreeFold[T] = TreeFold(size)
    for index, value in enumerate(values):
        fold.add(0, index, value)
    return fold.root()
