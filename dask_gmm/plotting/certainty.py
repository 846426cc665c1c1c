"""Certainty: how sure the mixture is of the labels that it gives."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.plotting.fitted import shown
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import component_colours, small
from dask_gmm.plotting.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted

    Array = NDArray[np.float64]

__all__ = ["plot_certainty"]

MOST = 30
"""Components that a column's height has room for."""

_BOUNDS = (0.5, 0.7, 0.9)
_SHADES = ("#f2c27b", "#c6dbef", "#6baed6", "#08519c")
"""From guesses, of another hue, to what is certain; each darker than the one before it but one."""


def plot_certainty(gm: Fitted, inspection: Inspection, *, ax: Axes | None = None) -> Axes:
    """Draw for each component the parts of its rows by the probability of their label.

    Of more than 30 components those are shown that have the largest part of uncertain labels.

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
    >>> from dask_gmm.plotting import plot_certainty
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> inspection = gm.inspect(X)
    >>> ax = plot_certainty(gm, inspection)
    >>> ax.figure.savefig("certainty.png")
    """
    mixture = shown(gm, inspection)
    K = mixture.n_components
    parts, bounds = _parts(inspection)
    which = np.arange(K)
    if K > MOST:
        uncertain = np.where(inspection.labelled > 0.0, 1.0 - parts[:, -1], -1.0)
        which = np.sort(np.argsort(-uncertain, kind="stable")[:MOST])
    with drawing(ax, height=0.75 + 0.14 * max(len(which), 5)) as ax:
        _draw(ax, inspection, parts[which], which, bounds)
        if K > MOST:
            ax.set_ylabel(f"component ({MOST} of {K}, the least certain)")
    return ax


def _parts(inspection: Inspection) -> tuple[Array, Array]:
    """Return the part of each component's rows between the bounds, (K, 4), and the bounds.

    These are the edges of bins that are nearest to the ones wanted.
    """
    C = inspection.certainty.shape[1]
    edges = np.unique(np.rint(np.array(_BOUNDS) * C).astype(int))
    edges = edges[(edges > 0) & (edges < C)]
    counts = np.add.reduceat(inspection.certainty, np.r_[0, edges], axis=1)
    total = inspection.labelled[:, None]
    found: Array = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0.0)
    return found, edges / C


def _draw(
    ax: Axes, inspection: Inspection, parts: Array, which: NDArray[np.intp], bounds: Array
) -> None:
    from matplotlib.ticker import PercentFormatter

    colours = component_colours(len(inspection.counts))
    y, left = np.arange(len(which)), np.zeros(len(which))
    names = [f"{a:g}–{b:g}" for a, b in pairwise([0.0, *bounds, 1.0])]
    if len(bounds):
        names[0], names[-1] = f"< {bounds[0]:g}", f"≥ {bounds[-1]:g}"
    for name, part, shade in zip(names, parts.T, _SHADES[-len(names) :], strict=True):
        ax.barh(y, part, left=left, height=0.78, color=shade, label=name)
        left = left + part
    share = inspection.labelled / inspection.weight
    for i, k in enumerate(which):
        ax.plot(
            [-0.018],
            [i],
            "s",
            color=colours[k],
            ms=4,
            clip_on=False,
            transform=ax.get_yaxis_transform(),
        )
        text = f"{percent(share[k])} %" if share[k] > 0.0 else "no rows"
        ax.annotate(
            text,
            (1.0, i),
            xytext=(4, 0),
            textcoords="offset points",
            xycoords=("axes fraction", "data"),
            va="center",
            size=small(),
            annotation_clip=False,
        )
    ax.set(xlim=(0.0, 1.0), ylim=(len(which) - 0.4, -0.6), ylabel="component")
    ax.set_yticks(y, [str(k) for k in which])
    ax.tick_params(axis="y", length=0, pad=7)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ax.set_xlabel("part of its rows, by their label's probability\n(right: its part of all rows)")
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, fontsize=small(), handlelength=1.0
    )
