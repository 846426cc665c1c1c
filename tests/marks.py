"""Which of a test's parameters every run takes, and which only the slow one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


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
