"""Mixtures as a terminal shows them: means to a hundredth of their widths, wherever they lie."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from dask_gmm.cli.tables import compare, comparison_table, mixture_table
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from rich.table import Table


def mixture(offset: float, width: float, d: int = 2) -> MixtureParameters:
    means = offset + width * np.array([[0.0], [3.0]]) * np.ones(d)
    return MixtureParameters.create("diag", [0.75, 0.25], means, np.full((2, d), width**2))


def lines(table: Table, width: int) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return [line for line in capture.get().splitlines() if re.match(r" *\d", line)]


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    ("offset", "deviation"), [(0.0, 1.0), (1e3, 1.0), (1.6e9, 200.0), (-5e6, 0.5), (1e-20, 1e-26)]
)
def test_means_can_be_told_apart(offset: float, deviation: float, width: int) -> None:
    p = mixture(offset, deviation)
    for table in (
        mixture_table(p, width),
        comparison_table(p, p, compare(p, p), ("truth", "model"), width),
    ):
        shown = lines(table, width)
        assert len(shown) == 2
        numbers = [re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", line) for line in shown]
        for k, found in enumerate(numbers):
            assert any(abs(float(x) - p.means[k, 0]) <= 0.011 * deviation for x in found[1:])
        assert all(len(line) <= width for line in shown)


def test_usual_numbers_are_short() -> None:
    (first, second) = lines(mixture_table(mixture(2.0, 1.0), 80), 80)
    assert first.split() == ["0", "0.7500", "2", "2", "1", "1"]
    assert second.split() == ["1", "0.2500", "5", "5", "1", "1"]
