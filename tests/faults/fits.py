"""The fits that faults must not change: plain EM, an accelerated one and a selection."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr

from dask_gmm import GaussianMixture, select_gaussian_mixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Callback = Callable[[Any], None]

__all__ = ["BLOCKS", "KINDS", "At", "bits", "make_data", "undisturbed"]

BLOCKS, ROWS = 24, 40
KINDS = ("plain", "accelerated", "selection")
COMMON = {"random_state": 0, "init_size": 100, "cache": 0}


def make_data(folder: Path) -> str:
    """Store three clouds that overlap, so that a fit takes some passes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=2.0, size=(3, 2))
    rows = centres[rng.integers(0, 3, BLOCKS * ROWS)] + rng.standard_normal((BLOCKS * ROWS, 2))
    zarr.create_array(str(folder / "x.zarr"), data=rows, chunks=(ROWS, 2))
    return str(folder / "x.zarr")


def bits(kind: str, x: Any, callback: Callback = lambda _: None) -> tuple[Any, ...]:
    """Fit, and return what came of it to the last bit."""
    options: dict[str, Any] = {**COMMON, "callbacks": [callback]}
    table: tuple[Any, ...] = ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge
        if kind == "plain":
            model = GaussianMixture(3, acceleration=None, max_iter=6, tol=0.0, **options).fit(x)
        elif kind == "accelerated":
            model = GaussianMixture(
                3, acceleration="squarem", max_passes=7, tol=0.0, **options
            ).fit(x)
        else:
            found = select_gaussian_mixture(x, [1, 2, 3], acceleration=None, max_iter=4, **options)
            model = found.best_model
            table = tuple((row.score.hex(), row.icl.hex(), row.outcome) for row in found.table)
    fitted = (model.means_, model.covariances_, model.weights_, model.lower_bounds_)
    return (*table, *(np.asarray(value).tobytes() for value in fitted))


@cache
def undisturbed(kind: str, x: str) -> tuple[Any, ...]:
    """Fit where nothing goes wrong: in this process."""
    with dask.config.set(scheduler="threads"):
        return bits(kind, x)


class At:
    """A callback that does something once, when a pass is so many blocks far."""

    def __init__(self, act: Callable[[], Any], number: int = 2, blocks: int = 0) -> None:
        self.act, self.number, self.blocks, self.done = act, number, blocks, False

    def __call__(self, event: Any) -> None:
        if self.done or getattr(event, "number", 0) < self.number:
            return
        progress = getattr(event, "progress", None)
        if self.blocks == 0 or (progress is not None and progress.blocks_done >= self.blocks):
            self.done = True
            self.act()
