"""Profiles: each component's values by feature, as quantiles of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.plotting.fitted import coordinate_of, shape_of, shown
from dask_gmm.plotting.given import drawing_many
from dask_gmm.plotting.look import component_colours, small
from dask_gmm.plotting.text import by_line, plain, short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted
    from dask_gmm.scaling import Scaling
    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = ["plot_profiles"]

MOST_BANDS = 8
MOST_NAMED = 12
MOST_PANELS = 8
_DEPTHS = ("depth", "level", "lev", "z", "pressure", "pres", "plev", "altitude", "height")
_DOWNWARD = ("depth", "pressure", "pres", "plev")


def plot_profiles(
    gm: Fitted,
    inspection: Inspection,
    *,
    quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9),
    axes: Any = None,
) -> Any:
    """Draw each component's values by feature: a line, and the band between two quantiles.

    Features named like ``TEMP[depth=5.0]`` are drawn along their coordinate, depth downward, a
    panel for each variable; others in their order. All values are in the data's units; features of
    a table, whose units differ, as deviations from the mean of all rows, over their standard
    deviation. Quantiles are of the rows labelled so, and known to a bin of the inspection; of a
    mixture of principal components they are its own, as the rows' were not kept in those units.
    Bands are of the eight heaviest components; from the thirteenth on they are grey.

    Parameters
    ----------
    gm : fitted mixture
    inspection : Inspection
        From ``gm.inspect(X)``.
    quantiles : three of 0 ... 1, rising, default=(0.1, 0.5, 0.9)
        Where the band begins, the line, and where the band ends.
    axes : Axes or sequence of Axes, optional
        One for each variable. By default a new figure's, one column wide.

    Returns
    -------
    Axes or ndarray of Axes
        What was given; of a new figure an array, (variables,).

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    sklearn.exceptions.NotFittedError, InputError (both a ValueError)
        The mixture is not fitted; quantiles are none; another number of Axes is needed; or the
        inspection is another mixture's.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_profiles
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> inspection = gm.inspect(X)
    >>> axes = plot_profiles(gm, inspection)
    """
    mixture = shown(gm, inspection)
    levels = _levels(quantiles)
    found = _quantiles(gm, inspection, levels)
    panels = _panels(found)
    most = len(panels) if axes is not None else MOST_PANELS
    title = f"quantile {levels[1]:g}, band from {levels[0]:g} to {levels[2]:g}"
    if found.of_mixture:
        title += ", by the mixture"
    if len(panels) > most:
        title += f"\n{most} of {len(panels)} variables"
        panels = panels[:most]
    n, upright = len(panels), panels[0].upright
    columns = n if axes is not None else min(n, 2)
    rows = -(-n // columns)
    height = 0.45 + rows * (2.6 if upright else 2.0)
    with drawing_many(axes, rows, columns, height=height) as grid:
        for ax, panel in zip(grid.flat, panels, strict=False):
            _draw(ax, panel, mixture.weights)
        for ax in grid.flat[n:]:
            ax.set_axis_off()
        handles = _handles(mixture.weights)
        if axes is None:
            figure = grid[0, 0].figure
            figure.suptitle(plain(title), x=0.01, ha="left")
            columns = -(-len(handles) // -(-len(handles) // 7))  # lines of about one length
            figure.legend(
                handles=by_line(handles, columns), loc="outside lower center", ncols=columns
            )
            if upright:  # said once on each line
                for ax in grid[:, 1:].flat:
                    ax.set_ylabel("")
                    ax.tick_params(labelleft=False)
        else:
            grid[0, 0].legend(handles=handles, fontsize=small(), ncols=1 + (len(handles) > 6))
    return axes if axes is not None else grid.ravel()[:n]


def _levels(quantiles: Any) -> tuple[float, float, float]:
    levels = tuple(float(q) for q in quantiles)
    if len(levels) != 3 or not 0.0 < levels[0] <= levels[1] <= levels[2] < 1.0:
        raise InputError(
            f"quantiles={quantiles!r} are no three rising numbers between 0 and 1: give something "
            f"like (0.1, 0.5, 0.9)."
        )
    return levels[0], levels[1], levels[2]


@dataclass(frozen=True, eq=False)
class _Quantiles:
    """Quantiles of each component and feature.

    Attributes
    ----------
    names : tuple of str
        Of D features of the data.
    values : (3, K, D) float64
        In the data's units.
    deviations : (3, K, D) float64
        From the mean of all rows, in their standard deviations; of transformed values, if they are.
    named : bool
        Whether features have names of their own.
    of_mixture : bool
        Whether they are the mixture's and not the rows'.
    spread : (D,) float64
        Standard deviations of all rows, in the data's units.
    """

    names: tuple[str, ...]
    values: Array
    deviations: Array
    named: bool
    of_mixture: bool
    spread: Array


def _quantiles(gm: Any, inspection: Inspection, levels: tuple[float, ...]) -> _Quantiles:
    scaling: Scaling | None = getattr(gm, "scaling_", None)
    back: Callable[[Array], Array] | None = None
    if scaling is not None and scaling.principal is not None:
        found, mean, deviation = _of_mixture(gm, scaling, levels)
        if scaling.elementwise is not None:
            back = scaling.elementwise.inverse
    else:
        found = _of_rows(gm, inspection, levels)
        mean, deviation = _moments(inspection)
        if scaling is not None:
            back = scaling.inverse
    values = found if back is None else np.stack([back(part) for part in found])
    around = np.stack([mean - deviation, mean + deviation])
    around = around if back is None else back(around)
    given = getattr(gm, "feature_names_in_", None)
    D = values.shape[-1]
    return _Quantiles(
        names=tuple(f"x{d}" for d in range(D)) if given is None else tuple(map(str, given)),
        values=values,
        deviations=(found - mean) / deviation,
        named=given is not None,
        of_mixture=scaling is not None and scaling.principal is not None,
        spread=(around[1] - around[0]) / 2.0,
    )


def _of_rows(gm: Any, inspection: Inspection, levels: tuple[float, ...]) -> Array:
    """Return quantiles of each component's histograms, (3, K, D), of the mixture's rows.

    The rows say in which bin a quantile is, and the component's own density where in it: bins may
    be wider than a narrow component. NaN where a component has no value of a feature.
    """
    counts, edges = inspection.feature_counts, inspection.feature_edges
    K, D, F = counts.shape
    means = np.asarray(gm.means_, np.float64)
    form = covariance_family(gm.covariance_type, getattr(gm, "n_factors", None)).form
    deviations = np.sqrt(form.diagonals(np.asarray(gm.covariances_, np.float64), K, D))
    shape = shape_of(gm)
    cumulated = np.concatenate([np.zeros((K, D, 1)), counts.cumsum(axis=-1)], axis=-1)
    total = cumulated[..., -1:]
    found = np.full((len(levels), K, D), np.nan)
    for i, level in enumerate(levels):
        wanted = level * total
        at = np.clip((cumulated <= wanted).sum(axis=-1, keepdims=True) - 1, 0, F - 1)
        below = np.take_along_axis(cumulated, at, axis=-1)
        inside = np.take_along_axis(counts, at, axis=-1)
        part = np.divide(wanted - below, inside, out=np.zeros_like(wanted), where=inside > 0.0)
        along = np.broadcast_to(edges, (K, D, F + 1))
        low, high = (np.take_along_axis(along, at + step, axis=-1) for step in (0, 1))
        part = np.clip(part, 0.0, 1.0)[..., 0]
        value = _inside(part, low[..., 0], high[..., 0], means, deviations, shape)
        found[i] = np.where(total[..., 0] > 0.0, value, np.nan)
    return found


def _inside(
    part: Array, low: Array, high: Array, mean: Array, deviation: Array, shape: ComponentShape
) -> Array:
    """Return the value below which a part of a component's own rows between two values lies.

    All are of shape (K, D).
    """
    a, b = (low - mean) / deviation, (high - mean) / deviation
    above = a > 0.0  # the smaller tail has the digits
    first, last = np.where(above, -b, a), np.where(above, -a, b)
    begin = shape.below(first.T).T
    width = shape.below(last.T).T - begin
    z = shape.quantile((begin + np.where(above, 1.0 - part, part) * width).T).T
    value = mean + np.where(above, -z, z) * deviation
    linear = low + part * (high - low)  # where the component has no rows at all
    found: Array = np.where(width > 1e-290, np.clip(value, low, high), linear)
    return found


def _moments(inspection: Inspection) -> tuple[Array, Array]:
    """Return mean and standard deviation of each feature of all rows, by their histograms."""
    counts, edges = inspection.feature_counts.sum(axis=0), inspection.feature_edges
    middle = (edges[:, 1:] + edges[:, :-1]) / 2.0
    total = np.maximum(counts.sum(axis=1), np.finfo(float).tiny)
    mean = (counts * middle).sum(axis=1) / total
    variance = (counts * (middle - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(np.maximum(variance, (edges[:, 1] - edges[:, 0]) ** 2 / 12.0))


def _of_mixture(gm: Any, scaling: Scaling, levels: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Return the components' own quantiles before components were taken, and mean and deviation.

    A feature of x = A z + b is Gaussian where z is, with variance (A Σ Aᵀ)_dd; and of a t
    distribution, with the square of its scale.
    """
    matrix, offset = scaling.unscaling
    weights, means = np.asarray(gm.weights_, float), np.asarray(gm.means_, float)
    form = covariance_family(gm.covariance_type, getattr(gm, "n_factors", None)).form
    dense = form.dense(np.asarray(gm.covariances_, float), *means.shape)
    middle = means @ matrix.T + offset
    variance = np.einsum("dp,kpq,dq->kd", matrix, dense, matrix, optimize=True)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    chances = np.repeat(np.array(levels)[:, None], len(weights), axis=1)
    found = middle + shape_of(gm).quantile(chances)[:, :, None] * deviation
    w = weights / weights.sum()
    mean = w @ middle
    return found, mean, np.sqrt(w @ (variance + (middle - mean) ** 2))


@dataclass(frozen=True, eq=False)
class _Panel:
    """One variable: quantiles (3, K, n) along some coordinate (n,)."""

    label: str
    axis: str
    at: Array
    values: Array
    ticks: tuple[str, ...] = ()
    upright: bool = False
    downward: bool = False


def _panels(found: _Quantiles) -> list[_Panel]:
    """Group features by variable."""
    places = [coordinate_of(name) for name in found.names]
    groups: dict[str, list[int]] = {}
    for d, place in enumerate(places):
        groups.setdefault("" if place is None else place[0], []).append(d)
    alone = [*groups.pop("", [])]
    alone += [d for which in groups.values() if len(which) == 1 for d in which]
    panels = [
        _along(variable, [places[d] for d in which], found.values[:, :, which])
        for variable, which in groups.items()
        if len(which) > 1
    ]
    if alone:
        panels.append(_in_order(found, sorted(alone)))
    return panels


def _along(variable: str, places: Sequence[Any], values: Array) -> _Panel:
    """A variable along its dimension, by the numbers that its labels are."""
    axis = places[0][1] or "index"
    labels = [place[2] for place in places]
    try:
        at = np.array([float(label) for label in labels])
    except ValueError:
        at = np.full(len(labels), np.nan)
    if not np.isfinite(at).all():
        return _Panel(variable, axis, np.arange(float(len(labels))), values, tuple(labels))
    order, name = np.argsort(at, kind="stable"), axis.lower()
    return _Panel(
        variable,
        axis,
        at[order],
        values[:, :, order],
        upright=name in _DEPTHS,
        downward=name in _DOWNWARD,
    )


def _in_order(found: _Quantiles, which: list[int]) -> _Panel:
    """Features that nothing orders but their place: a spectrum, or the columns of a table."""
    names = [found.names[d] for d in which]
    spread = found.spread[which]
    alike = not found.named and float(spread.max()) <= 100.0 * float(spread.min())
    if len(which) == 1:
        return _Panel(names[0], "component", np.zeros(1), found.values[:, :, which])
    if alike:
        return _Panel("value", "feature", np.array(which, float), found.values[:, :, which])
    label = "standard deviations\nfrom the mean of all"
    values = found.deviations[:, :, which]
    if len(which) > 40 and not found.named:
        return _Panel(label, "feature", np.array(which, float), values)
    return _Panel(label, "", np.arange(float(len(which))), values, tuple(names))


def _draw(ax: Axes, panel: _Panel, weights: Array) -> None:
    colours = component_colours(len(weights))
    order = np.argsort(-weights, kind="stable")
    banded, named = set(order[:MOST_BANDS].tolist()), set(order[:MOST_NAMED].tolist())
    single = len(panel.at) == 1
    alpha = 0.28 if len(weights) <= 4 else 0.16
    for k in order:
        low, middle, high = panel.values[:, k]
        if not np.isfinite(middle).any():
            continue
        if single:
            ends = np.array([middle - low, high - middle])
            ax.errorbar([k], middle, yerr=ends, fmt="o", color=colours[k], capsize=2)
            continue
        fill = ax.fill_betweenx if panel.upright else ax.fill_between
        if k in banded:
            fill(panel.at, low, high, color=colours[k], alpha=alpha, lw=0.0)
        line = (middle, panel.at) if panel.upright else (panel.at, middle)
        if k not in named:  # still there, and in nobody's way
            ax.plot(*line, color="#c4c4c4", lw=0.5, zorder=1)
            continue
        marker = "o" if len(panel.at) <= 12 and not panel.upright else ""
        ax.plot(*line, color=colours[k], lw=1.2 if k in banded else 0.8, marker=marker, ms=2.5)
    _label(ax, panel, len(weights), single)


def _label(ax: Axes, panel: _Panel, K: int, single: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    from dask_gmm.plotting.ticks import few_ticks

    inches = 1.2 if panel.upright else 1.6
    power = few_ticks(ax, "x" if panel.upright else "y", inches, most=4 if panel.upright else 6)
    value, along = plain(f"{panel.label} {power}".strip()), plain(panel.axis)
    if panel.upright:
        ax.set(xlabel=value, ylabel=along, ylim=(panel.at.min(), panel.at.max()))
        ax.yaxis.set_major_locator(MaxNLocator(6))
        if panel.downward:
            ax.invert_yaxis()
        return
    ax.set(xlabel=along, ylabel=value)
    if single:
        ax.set_xlim(-0.5, K - 0.5)
    else:
        margin = 0.02 * (panel.at.max() - panel.at.min())
        ax.set_xlim(panel.at.min() - margin, panel.at.max() + margin)
    if panel.ticks:
        some = np.arange(0, len(panel.ticks), -(-len(panel.ticks) // 16))
        names = [plain(short_name(panel.ticks[i])).replace("\n", " ") for i in some]
        upright = sum(map(len, names)) > 34
        ax.set_xticks(some, names, rotation=90 if upright else 0)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=single or panel.axis == "feature"))


def _handles(weights: Array) -> list[Any]:
    """Name the heaviest components."""
    from matplotlib.lines import Line2D

    colours = component_colours(len(weights))
    most = np.sort(np.argsort(-weights, kind="stable")[:MOST_NAMED])
    found = [Line2D([], [], color=colours[k], lw=2.0, label=str(k)) for k in most]
    if len(weights) > len(most):
        found.append(Line2D([], [], ls="", label=f"and {len(weights) - len(most)} more"))
    return found
