"""Which of a test's parameters every run takes, and which only the slow one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def quick_ones(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """All values, as parameters; those that are not among the quick ones are marked slow.

    A tuple holds the values of several arguments.
    """
    values = list(values)
    assert set(quick) <= set(values), "a quick one that is no value is a slip"
    return [
        pytest.param(
            *(v if isinstance(v, tuple) else (v,)), marks=() if v in quick else pytest.mark.slow
        )
        for v in values
    ]


def covering(*choices: Sequence[Any], times: int = 1) -> list[tuple[Any, ...]]:
    """A few of all combinations, in which each value of each choice occurs, so many times.

    The longest choice goes first to last beside the others, which begin anew where they end; the
    next time each of the others is one further on than the one before it.
    """
    turns = [(i, turn) for turn in range(times) for i in range(max(map(len, choices)))]
    found = [
        tuple(choice[(i + turn * j) % len(choice)] for j, choice in enumerate(choices))
        for i, turn in turns
    ]
    return list(dict.fromkeys(found))
