"""Figures of tests: no screen, no warning, and none left over."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def no_screen() -> None:
    mpl.use("agg")


@pytest.fixture(autouse=True)
def without_warnings() -> Iterator[None]:
    """A figure that warns is one that matplotlib could not draw as it was meant."""
    from matplotlib import pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of what an old matplotlib calls of a new pyparsing; calls of ours are errors.
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, module=r"matplotlib\.|pyparsing"
        )
        yield
    plt.close("all")
