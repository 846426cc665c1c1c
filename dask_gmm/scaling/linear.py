"""Affine maps of rows: to features of mean 0 and deviation 1, and to principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Principal", "Standard"]


@dataclass(frozen=True, eq=False)
class Standard:
    """Each feature minus a location, divided by a width.

    Attributes
    ----------
    center : (D,) float64
        Means; medians where `robust`.
    scale : (D,) float64
        Standard deviations, Σ w (x − mean)² / Σ w without a correction; interquartile ranges over
        1.349, which is the standard deviation of a Gaussian, where `robust`.
    robust : bool
    """

    center: Array
    scale: Array
    robust: bool = False


@dataclass(frozen=True, eq=False)
class Principal:
    """Coordinates along the directions of largest variance.

    Attributes
    ----------
    mean : (D,) float64
        Of the rows, transformed and standardised where they are.
    components : (P, D) float64
        Orthonormal rows, by falling variance; in each the loading of the largest magnitude is
        positive.
    scale : (P,) float64
        What coordinates are divided by: their standard deviations, or 1 where they are not
        whitened.
    variance, share : (P,) float64
        Variance along each, and its part of the variance of all D.
    """

    mean: Array
    components: Array
    scale: Array
    variance: Array
    share: Array
