"""The axes that a figure is drawn into: those given, or new ones of the package's look."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.plotting.look import keep_style, matplotlib_or_error, new_axes, style

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

__all__ = ["drawing", "drawing_many"]


@contextmanager
def drawing(ax: Axes | None, *, height: float = 2.4) -> Iterator[Axes]:
    """Draw into one Axes, which is made, a column wide, where none is given.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    InputError
        What is given is no Axes.
    """
    matplotlib_or_error()
    from matplotlib.axes import Axes as AnyAxes

    if ax is None:
        with drawing_many(None, 1, 1, height=height) as axes:
            yield axes[0, 0]
        return
    if not isinstance(ax, AnyAxes):
        raise InputError(
            f"ax is {type(ax).__name__}; give one matplotlib Axes, such as those of "
            f"plt.subplots(), or leave it out."
        )
    yield ax


@contextmanager
def drawing_many(
    given: Any, rows: int, columns: int, *, height: float = 2.4, name: str = "axes", **more: Any
) -> Iterator[Any]:
    """Draw into an array of Axes, (rows, columns), which are made where none are given.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    InputError
        Another number of Axes is given.
    """
    matplotlib_or_error()
    if given is not None:
        yield _grid(given, rows, columns, name)
        return
    from matplotlib import pyplot as plt

    with style():
        figure, made = new_axes(rows, columns, height=height, **more)
        for ax in made.flat:
            keep_style(ax)
        try:
            yield made
        except BaseException:
            plt.close(figure)  # nobody would: it would be shown half done in a notebook
            raise


def _grid(given: Any, rows: int, columns: int, name: str) -> Any:
    from matplotlib.axes import Axes as AnyAxes

    found = np.array([given] if isinstance(given, AnyAxes) else given, dtype=object)
    wanted = rows * columns
    if found.size != wanted or not all(isinstance(ax, AnyAxes) for ax in found.flat):
        shape = f"{rows} × {columns} = {wanted}" if min(rows, columns) > 1 else f"{wanted}"
        n = sum(isinstance(ax, AnyAxes) for ax in found.flat)
        raise InputError(
            f"{name} holds {n} Axes and this figure needs {shape}: give what "
            f"plt.subplots({rows}, {columns}) makes, or leave {name} out."
        )
    return found.reshape(rows, columns)
