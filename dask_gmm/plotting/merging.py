"""Merging: the entropy of what rows belong to, by the number of clusters that components make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.combining import two_pieces
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import INK, PALE, component_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["plot_merging"]

_NAMES = "n_clusters", "entropies", "merged", "weight"


class Merged(Protocol):
    """Components combined into clusters: `dask_gmm.ComponentMerging` describes its attributes."""

    @property
    def n_clusters(self) -> int:
        """The number that was chosen."""

    @property
    def entropies(self) -> Array:
        """Of 1 ... K clusters."""

    @property
    def merged(self) -> Array:
        """Rows that each step joins."""

    @property
    def weight(self) -> float:
        """All rows."""


def plot_merging(merging: Merged, *, rows: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the entropy of labels by the number of clusters, and the two lines it bends between.

    In nats a row, so that it can be compared between data: the logarithm of two is a row that may
    be either of two clusters. A ring is around the number that was chosen; where the lines part is
    where `ComponentMerging.elbow` has it.

    Parameters
    ----------
    merging : ComponentMerging
        From ``gm.merge(X)``.
    rows : bool, default=False
        Against the part of the rows merged so far instead, from the left where all are one cluster.
    ax : Axes, optional
        By default a new figure's, one column wide.

    Returns
    -------
    Axes

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    InputError
        It is no merging.

    Examples
    --------
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_merging
    >>> means = [[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]]
    >>> gm = GaussianMixture.from_parameters([1 / 6] * 6, means, [1.0] * 6, random_state=0)
    >>> X, _ = gm.sample(600)
    >>> ax = plot_merging(gm.merge(X))
    >>> ax.figure.savefig("merging.png")
    """
    if not all(hasattr(merging, name) for name in _NAMES):
        raise InputError(f"merging is {type(merging).__name__}; give what gm.merge(X) returns.")
    weight = merging.weight or 1.0
    y = np.asarray(merging.entropies) / weight
    counts = np.arange(1, len(y) + 1)
    x = counts.astype(np.float64)
    if rows:
        x = np.concatenate([[0.0], np.cumsum(np.asarray(merging.merged)[::-1])]) / weight
    with drawing(ax, height=2.4) as ax:
        _draw(ax, x, y, merging.n_clusters, rows=rows)
    return ax


def _draw(ax: Axes, x: Array, y: Array, chosen: int, *, rows: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    colour = component_colours(1)[0]
    pieces = two_pieces(x, y)
    if pieces is not None:
        ends = ((0, pieces.place, pieces.first), (pieces.place, len(x) - 1, pieces.second))
        for first, last, (slope, intercept) in ends:
            span = x[[first, last]]
            ax.plot(span, slope * span + intercept, color=PALE, lw=0.9, ls=(0, (4, 2)))
    ax.plot(x, y, color=colour, lw=1.0)
    look: dict[str, Any] = {"color": colour, "marker": "o", "ls": "", "zorder": 3}
    ax.plot(x, y, **look)
    ax.plot([x[chosen - 1]], [y[chosen - 1]], "o", mfc="none", mec=INK, ms=9, mew=1.2, zorder=4)
    ax.set_title(f"chosen: {chosen} of 1 to {len(x)} clusters", loc="left")
    label = "rows merged, as a part of all, from one cluster on" if rows else "clusters"
    ax.set(xlabel=label, ylabel="entropy, nats a row")
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=not rows, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    top = float(y.max()) or 1.0
    ax.set_ylim(-0.08 * top, 1.12 * top)
    if len(x) == 1:
        ax.set_xlim(x[0] - 1.0, x[0] + 1.0)
