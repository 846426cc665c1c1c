"""Residuals: whether rows are as far from their component as its own would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.plotting.fitted import shown
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import INK, PALE, component_colours, small
from dask_gmm.plotting.text import halo, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted

    Array = NDArray[np.float64]

__all__ = ["heavier_tails", "plot_residuals"]

_RATIO = 1.5
_CHANCE = 1e-5
MOST_NAMED = 8


def plot_residuals(gm: Fitted, inspection: Inspection, *, ax: Axes | None = None) -> Axes:
    """Draw the part of each component's rows beyond a distance against what the model has there.

    By squared Mahalanobis distance, whose distribution under the model is χ² of D degrees of
    freedom, or for t distributions that which their own degrees of freedom give; rows that miss a
    value are not in it. A component's curve ends where one of as many rows would have less than
    one. The heading names the components whose tails are heavier (see `heavier_tails`), and numbers
    at the left those farthest from the diagonal.

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
    >>> from dask_gmm.plotting import plot_residuals
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> inspection = gm.inspect(X)
    >>> ax = plot_residuals(gm, inspection)
    >>> ax.figure.savefig("residuals.png")
    """
    name = shown(gm, inspection).shape.name
    with drawing(ax, height=2.9) as ax:
        _draw(ax, inspection, name)
    return ax


def heavier_tails(inspection: Inspection) -> tuple[int, ...]:
    """Return the components whose tails are heavier than the model's, the heaviest first.

    Those of whose rows, at some p of 0.05 or less of which the model would have five rows at
    least, more than 1.5 p lie beyond, which chance does to one in 100 000.
    """
    from scipy.special import betainc

    p, observed, rows = _tails(inspection)
    expected = rows[:, None] * p
    found = np.maximum(rows[:, None] * observed, 1e-300)
    # The binomial distribution's, of parts of rows too (Abramowitz & Stegun 1964, 26.5.24).
    chance = betainc(found, np.maximum(rows[:, None] - found, 0.0) + 1.0, p)
    beyond = (p <= 0.05) & (expected >= 5.0) & (observed > _RATIO * p) & (chance < _CHANCE)
    worst = np.where(beyond, observed / p, 0.0).max(axis=1, initial=0.0)
    order = np.argsort(-worst, kind="stable")
    return tuple(int(k) for k in order if worst[k] > 0.0)


def _tails(inspection: Inspection) -> tuple[Array, Array, Array]:
    """Return p, (B − 1,), the part of each component's rows beyond, (K, B − 1), and its rows, (K,).

    Weights that are in some other unit than rows are brought to it, and unequal ones are as many
    rows as equal ones that would tell as much.
    """
    edges, counts = inspection.distance_edges, inspection.distances
    beyond = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # in the bins from edges[1:-1] on
    total = counts.sum(axis=1, keepdims=True)
    observed = np.divide(beyond, total, out=np.zeros_like(beyond), where=total > 0.0)
    rows = total[:, 0] * (inspection.n_effective / inspection.weight)
    return edges[1:-1], observed, rows


def _draw(ax: Axes, inspection: Inspection, name: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    p, observed, rows = _tails(inspection)
    K = len(rows)
    colours = component_colours(K)
    heavier = heavier_tails(inspection)
    reach = p >= 1.0 / np.maximum(rows, 1.0)[:, None]
    reach &= rows[:, None] * observed >= 0.5  # parts of rows far away are no rows
    least = float(np.where(reach, p, 0.1).min())
    ax.plot([least, 1.0], [least, 1.0], color=INK, lw=0.8, ls=(0, (4, 2)))
    ends: dict[int, tuple[float, float]] = {}
    for k in range(K):
        drawn = reach[k]
        if not drawn.any():
            continue
        x, y = np.append(1.0, p[drawn]), np.append(1.0, observed[k, drawn])
        ax.plot(x, y, color=colours[k], lw=1.3 if k in heavier or K <= 12 else 0.8)
        ends[k] = float(x[-1]), float(y[-1])
    lowest = min([least, *(float(observed[k, reach[k]].min()) for k in ends)])
    ax.set(xscale="log", yscale="log", xlim=(least / 3.0, 1.3), ylim=(lowest / 1.5, 1.6))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_minor_locator(NullLocator())
    ax.set(xlabel=f"part p that a {name} has beyond", ylabel="part of the rows beyond")
    ax.text(
        0.98,
        0.03,
        "above the line:\nheavier tails",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        size=small(),
        color=PALE,
    )
    names = f"heavier tails: {listed(heavier)}" if heavier else "no component has heavier tails"
    ax.set_title(names, loc="left")
    _number(ax, ends, heavier)


def _number(ax: Axes, ends: dict[int, tuple[float, float]], heavier: tuple[int, ...]) -> None:
    """Number the curves at their ends: the worst ones, as far as they keep apart."""
    others = sorted(ends, key=lambda k: -abs(np.log(ends[k][1] / ends[k][0])))
    inches = ax.get_window_extent().height / ax.figure.dpi
    low, high = np.log10(ax.get_ylim())
    gap = (high - low) * (small() * 1.15 / 72.0) / max(inches, 0.5)
    numbers: list[tuple[float, float, list[int]]] = []
    for k in [*heavier, *(k for k in others if k not in heavier)][:MOST_NAMED]:
        if k not in ends:
            continue
        x, y = np.log10(ends[k])
        near = [those for a, b, those in numbers if abs(y - b) < gap and abs(x - a) < 2.0 * gap]
        if not near:
            numbers.append((x, y, [k]))
        elif k in heavier:  # the heading names it, so it is to be found
            near[0].append(k)
    for x, y, those in numbers:
        ax.annotate(
            listed(those, 3),
            (10.0**x, 10.0**y),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            size=small(),
            color=INK,
            path_effects=halo(),
        )
