"""Transforms of single elements: ``log1p``, and ``arcsinh`` with a cofactor.

Both are monotone, so that medians and order go through them, and both are NumPy's own functions in
the type of the rows: what ``np.arcsinh(x / 150)`` says of an array is what a mixture is fitted to.
NaN, a gap perhaps, stays NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import TransformError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "Elementwise"]

KINDS = ("log1p", "arcsinh")


@dataclass(frozen=True, eq=False)
class Elementwise:
    """What is done to the elements of each feature.

    Attributes
    ----------
    kinds : tuple of str
        "log1p", "arcsinh" or "", nothing, for each of D features.
    cofactors : (D,) float64
        What elements are divided by before ``arcsinh``; 1 for other features.
    """

    kinds: tuple[str, ...]
    cofactors: NDArray[np.float64]

    @cached_property
    def groups(self) -> tuple[tuple[str, NDArray[np.intp]], ...]:
        """The features of each kind that is there, in order."""
        kinds = np.array(self.kinds)
        return tuple((kind, np.flatnonzero(kinds == kind)) for kind in KINDS if kind in self.kinds)

    @cached_property
    def alike(self) -> bool:
        """Whether one transform is that of all features."""
        return len(set(self.kinds)) == 1 and len(set(self.cofactors.tolist())) == 1

    def __getstate__(self) -> dict[str, Any]:
        return {"kinds": self.kinds, "cofactors": self.cofactors}

    def fill(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        """Write transformed elements to where they are wanted, perhaps where they came from.

        Parameters
        ----------
        values : (D, n) real
        target : (D, n) float32 or float64
            Those of `values`, or other memory.

        Raises
        ------
        TransformError
            An element has no logarithm; its `row` counts along the last axis.
        """
        if self.alike:
            transform(self.kinds[0], self.cofactors[0], values, target)
            return
        if not _same(values, target):
            np.copyto(target, values, casting="unsafe")
        for d, kind in enumerate(self.kinds):
            if kind:
                try:
                    transform(kind, self.cofactors[d], target[d : d + 1], target[d : d + 1])
                except TransformError as error:
                    raise error.of_feature(d) from None

    def inverse(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the elements that these, of shape (n, D), were made of."""
        found = np.array(values, dtype=np.float64)
        for kind, which in self.groups:
            part = found[:, which]
            found[:, which] = (
                np.expm1(part) if kind == "log1p" else np.sinh(part) * self.cofactors[which]
            )
        return found

    def log_slopes(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the logarithms of the derivatives at elements, (n, D); NaN stays NaN."""
        found = np.where(np.isnan(values), np.nan, 0.0)
        for kind, which in self.groups:
            x = values[:, which].astype(np.float64)
            if kind == "log1p":
                found[:, which] = -np.log1p(x)
            else:
                cofactors = self.cofactors[which]
                found[:, which] = -np.log(cofactors) - np.log(np.hypot(1.0, x / cofactors))
        return found


def transform(kind: str, cofactor: float, values: NDArray[Any], target: NDArray[Any]) -> None:
    """Transform elements, (D, n), in the type of the target.

    Raises
    ------
    TransformError
        An element has no logarithm.
    """
    dtype = target.dtype
    if kind == "arcsinh":
        if cofactor != 1.0:
            np.divide(values, dtype.type(cofactor), out=target, dtype=dtype, casting="unsafe")
            values = target
        np.arcsinh(values, out=target, dtype=dtype, casting="unsafe")
        return
    least = values.min() if values.size else 0.0
    if not least > -1.0:  # NaN is neither
        bad = np.argwhere((values <= -1.0).T)
        if len(bad):
            row, feature = (int(i) for i in bad[0])
            raise TransformError(row, feature, float(values[feature, row]))
    np.log1p(values, out=target, dtype=dtype, casting="unsafe")


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        one.dtype == other.dtype
        and one.strides == other.strides
        and one.__array_interface__["data"] == other.__array_interface__["data"]
    )
