"""Selection: the criterion over the number of components, for each kind of covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import INK, PALE, component_colours, small

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.plotting.fitted import Chosen

    Array = NDArray[np.float64]

__all__ = ["plot_selection"]

_MARKERS = "os^Dvp*h"
_NAMES = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "heldout": "held-out log-density"}


def plot_selection(selection: Chosen, *, ax: Axes | None = None) -> Axes:
    """Draw the criterion of each mixture of a selection, as its distance from the best.

    Lower is better, also for held-out rows, of which it is how far below the best they are. The
    axis is linear near the best and logarithmic beyond, so that both the choice and the whole curve
    are seen. Hollow points were given up, or stopped by a budget, and are what they were then;
    crosses on the upper edge have collapsed and have no criterion.

    Parameters
    ----------
    selection : Selection
        From `select_gaussian_mixture`.
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
        It is no selection, or none of its mixtures has a criterion.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import select_gaussian_mixture
    >>> from dask_gmm.plotting import plot_selection
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> ax = plot_selection(select_gaussian_mixture(X, range(2, 5), "diag", random_state=0))
    >>> ax.figure.savefig("selection.png")
    """
    if not all(hasattr(selection, name) for name in ("criterion", "table", "best")):
        raise InputError(
            f"selection is {type(selection).__name__}; give what select_gaussian_mixture returns."
        )
    kinds = list(dict.fromkeys(row.covariance_type for row in selection.table))
    best = _above(selection, [selection.best])
    if not np.isfinite(best).all():
        raise InputError("No mixture of this selection has a criterion: there is nothing to draw.")
    with drawing(ax, height=2.6) as ax:
        _draw(ax, selection, kinds)
    return ax


def _above(selection: Chosen, rows: list[Any]) -> Array:
    """How far each mixture is from the best, positive; NaN where it has no criterion."""
    values = [getattr(row, selection.criterion) for row in [selection.best, *rows]]
    found = np.array([np.nan if v is None else float(v) for v in values])
    sign = -1.0 if selection.criterion == "heldout" else 1.0
    away: Array = sign * (found[1:] - found[0])
    return away


def _draw(ax: Axes, selection: Chosen, kinds: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = component_colours(len(kinds))
    every = _above(selection, list(selection.table))
    _scale(ax, every[np.isfinite(every)])
    hollow = collapsed = False
    for number, kind in enumerate(kinds):
        rows = sorted(
            (row for row in selection.table if row.covariance_type == kind),
            key=lambda row: row.n_components,
        )
        K, y = np.array([row.n_components for row in rows]), _above(selection, rows)
        ended = np.array([row.outcome in ("converged", "max_iter") for row in rows])
        known = np.isfinite(y)
        look: dict[str, Any] = {
            "color": colours[number],
            "marker": _MARKERS[number % len(_MARKERS)],
        }
        ax.plot(K[known], y[known], color=colours[number], lw=1.0)
        ax.plot(K[known & ended], y[known & ended], ls="", label=kind, zorder=3, **look)
        unfinished = known & ~ended
        hollow = hollow or bool(unfinished.any())
        label = "" if (known & ended).any() else kind
        ax.plot(K[unfinished], y[unfinished], ls="", mfc="white", zorder=3, label=label, **look)
        lost = K[~known]
        collapsed = collapsed or bool(len(lost))
        shift = 0.12 * (number - (len(kinds) - 1) / 2)
        ax.plot(
            lost + shift,
            np.full(len(lost), 0.97),
            "x",
            color=colours[number],
            transform=ax.get_xaxis_transform(),
        )
    best = selection.best
    ax.plot([best.n_components], [0.0], "o", mfc="none", mec=INK, ms=9, mew=1.2, zorder=4)
    name = _NAMES.get(selection.criterion, selection.criterion)
    value = getattr(best, selection.criterion)
    ax.set_title(
        f"chosen: {best.n_components} components, {best.covariance_type}\n{name} {value:,.6g}",
        loc="left",
    )
    unit = (
        "below the best,\nin nats per row" if selection.criterion == "heldout" else "above the best"
    )
    ax.set(xlabel="components", ylabel=f"{name} {unit}")
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    _legend(ax, hollow, collapsed)


def _legend(ax: Axes, hollow: bool, collapsed: bool) -> None:
    from matplotlib.lines import Line2D

    handles, labels = ax.get_legend_handles_labels()
    if hollow:
        handles.append(Line2D([], [], marker="o", ls="", mfc="white", color=PALE))
        labels.append("not finished")
    if collapsed:
        handles.append(Line2D([], [], marker="x", ls="", color=PALE))
        labels.append("collapsed")
    ax.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=small(),
        handlelength=1.0,
    )


def _scale(ax: Axes, away: Array) -> None:
    """Linear up to what hardly counts, logarithmic beyond; room for the ring below."""
    from matplotlib.ticker import FixedLocator, NullLocator

    some = away[away > 0.0]
    if not len(some):
        ax.set_ylim(-1.0, 1.0)
        ax.yaxis.set_major_locator(FixedLocator([0.0]))
        return
    # Ten of BIC are called very strong evidence (Kass & Raftery 1995).
    largest, least = float(some.max()), float(some.min())
    low = int(np.floor(np.log10(least)))
    high = int(np.ceil(np.log10(largest)))
    low = max(min(low, high - 1), high - 6)
    ax.set_yscale("symlog", linthresh=10.0**low, linscale=0.6)
    step = max(1, -(-(high - low) // 5))
    ax.yaxis.set_major_locator(FixedLocator([0.0, *(10.0**e for e in range(low, high + 1, step))]))
    ax.yaxis.set_minor_locator(NullLocator())
    lowest = float(away.min())
    ax.set_ylim(min(-0.5 * 10.0**low, 1.2 * lowest), 10.0 ** (high + 0.2))
