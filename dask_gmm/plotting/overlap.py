"""Overlap: which components share rows, and how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from dask_gmm.glance.colours import luminance
from dask_gmm.plotting.fitted import shown
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import COLUMN, INK, small
from dask_gmm.plotting.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted

    Array = NDArray[np.float64]

__all__ = ["plot_overlap"]

MOST_NUMBERS = 12
LEAST = 1e-4
"""Where the colours begin: one row in ten thousand."""


def plot_overlap(gm: Fitted, inspection: Inspection, *, ax: Axes | None = None) -> Axes:
    """Draw what part of each component's rows would be drawn for each other one.

    Line j, column k: Σ w r_j r_k / N_j, in percent where there are at most 12 components. A
    component without rows has an empty line.

    Parameters
    ----------
    gm : fitted mixture
    inspection : Inspection
        From ``gm.inspect(X)``.
    ax : Axes, optional
        By default a new figure's, one column wide.

    Returns
    -------
    Axes

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    sklearn.exceptions.NotFittedError, InputError (both a ValueError)
        The mixture is not fitted, or the inspection is another mixture's.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_overlap
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> inspection = gm.inspect(X)
    >>> ax = plot_overlap(gm, inspection)
    >>> ax.figure.savefig("overlap.png")
    """
    K = shown(gm, inspection).n_components
    counts = inspection.counts[:, None]
    shared = np.full((K, K), np.nan)
    np.divide(inspection.overlap, counts, out=shared, where=counts > 0.0)
    with drawing(ax, height=0.92 * COLUMN) as ax:
        _draw(ax, shared)
    return ax


def _draw(ax: Axes, shared: Array) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    K, norm, colours = len(shared), LogNorm(LEAST, 1.0, clip=True), colormaps["Blues"]
    # With a bar beside it, squares would take room from the labels.
    aspect: Literal["equal", "auto"] = "equal" if K <= MOST_NUMBERS else "auto"
    image = ax.imshow(np.ma.masked_invalid(shared), norm=norm, cmap=colours, aspect=aspect)
    ax.set(
        xlabel="would be drawn for component" + " (percent)" * (K <= MOST_NUMBERS),
        ylabel="rows of component",
    )
    ax.set_title(_largest(shared), loc="left")
    for spine in ax.spines.values():
        spine.set_visible(False)
    if K > MOST_NUMBERS:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0.0, 0.045, 1.0)))
        bar.ax.tick_params(labelsize=small())
        bar.outline.set_visible(False)
        return
    ax.set_xticks(range(K))
    ax.set_yticks(range(K))
    ax.tick_params(length=0)
    for j, k in np.ndindex(K, K):
        if shared[j, k] >= 5e-4:
            # Above 0.175 black text has 4.5 : 1, below 0.183 white.
            dark = luminance(colours(norm(shared[j, k]))[:3]) < 0.179
            ax.text(
                k,
                j,
                _cell(float(shared[j, k])),
                ha="center",
                va="center",
                size=small(),
                color="white" if dark else "black",
            )
        elif np.isnan(shared[j, k]) and j == k:
            ax.text(k, j, "–", ha="center", va="center", size=small(), color=INK)


def _largest(shared: Array) -> str:
    """Say which two components share most."""
    if len(shared) == 1:
        return "there is no other component"
    others = np.where(np.eye(len(shared), dtype=bool) | np.isnan(shared), 0.0, shared)
    j, k = np.unravel_index(int(others.argmax()), others.shape)
    if others[j, k] < 5e-4:
        return "no two components share 0.1 % of their rows"
    return f"most shared: {percent(others[j, k])} % of {j} with {k}"


def _cell(part: float) -> str:
    """Write a part in percent, in three characters."""
    return f"{100.0 * part:.0f}" if part >= 0.0095 else f"{100.0 * part:.1f}"
