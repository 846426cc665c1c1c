"""Maps: the labels of gridded samples, each component in its own colour."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.plotting.fitted import check_fitted
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import COLUMN, component_colours, small
from dask_gmm.plotting.text import percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.plotting.fitted import Fitted

__all__ = ["plot_map"]

MOST_NAMED = 12


def plot_map(
    labels: Any, *, gm: Fitted | None = None, ax: Axes | None = None, most: int = 600
) -> Axes:
    """Draw the labels of samples that lie on a grid.

    Larger grids are thinned before they are read: every so-manieth line and column, which the
    heading says. The legend has the components of most places, with their part of those labelled.

    Parameters
    ----------
    labels : (m, n) array of integers, or xarray.DataArray
        From `predict`; -1, or NaN, where a place has none. A DataArray is drawn by its coordinates.
    gm : fitted mixture, optional
        Of which the labels are: colours are those of as many components.
    ax : Axes, optional
        By default a new figure's, one column wide.
    most : int, default=600
        Lines and columns that are drawn at most.

    Returns
    -------
    Axes

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    sklearn.exceptions.NotFittedError, InputError (both a ValueError)
        The mixture is not fitted; labels have not two dimensions, or are no labels of the mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_map
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> labels = gm.predict(X).reshape(30, 50)
    >>> ax = plot_map(labels, gm=gm)
    >>> ax.figure.savefig("map.png")
    """
    if gm is not None:
        check_fitted(gm)
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 1:
        raise InputError(f"most={most!r} is no number of lines: give 1 or more.")
    if isinstance(labels, str | os.PathLike):
        raise InputError(
            f"labels is the name {os.fspath(labels)!r}: open it, as by xarray.open_dataarray or "
            f"zarr.open_array, and give the array."
        )
    shape = getattr(labels, "shape", None)
    if shape is None:
        labels = np.asarray(labels)
        shape = labels.shape
    if len(shape) != 2 or 0 in shape:
        dims = getattr(labels, "dims", None)
        pick = f"labels.isel({dims[0]}=0)" if dims and len(shape) > 2 else "labels[0]"
        raise InputError(
            f"labels have shape {tuple(shape)}; a map has two dimensions, none of them empty: "
            f"choose one, such as {pick}."
        )
    steps = [max(1, -(-n // int(most))) for n in shape]
    thinned = labels[:: steps[0], :: steps[1]]
    values = _checked(np.asarray(thinned), gm)
    y, x = (_Axis.of(thinned, axis, shape[axis], steps[axis]) for axis in (0, 1))
    proportion = _proportion(x, y)
    tall = 1.8 if proportion is None else 0.62 * COLUMN * proportion
    height = float(np.clip(tall + 0.6, 1.6, 4.0))
    with drawing(ax, height=height) as ax:
        _draw(ax, values, x, y, None if gm is None else len(gm.weights_))
        if proportion is not None:
            ax.set_aspect("equal")
        if max(steps) > 1:
            ax.set_title(f"every {_nth(steps[0])} line, every {_nth(steps[1])} column", loc="left")
    return ax


def _checked(values: NDArray[Any], gm: Any) -> NDArray[np.int64]:
    """Return labels as integers, -1 where there is none."""
    if values.dtype.kind == "f":
        whole = np.where(np.isnan(values), -1.0, values)
        if not np.array_equal(whole, np.rint(whole)):
            raise InputError("labels hold fractions: give what predict returns, not probabilities.")
        values = whole
    elif values.dtype.kind not in "iu":
        raise InputError(f"labels are of type {values.dtype}: give whole numbers, from predict.")
    found = values.astype(np.int64)
    if found.min() < -1:
        raise InputError(f"labels hold {found.min()}: components count from 0, -1 is none.")
    if gm is not None and found.max() >= len(gm.weights_):
        raise InputError(
            f"labels hold {found.max()}, and the mixture has components 0 to "
            f"{len(gm.weights_) - 1}: they are another mixture's."
        )
    return found


@dataclass(frozen=True, eq=False)
class _Axis:
    """Where lines or columns lie, by a coordinate if there is one."""

    edges: NDArray[Any]
    label: str
    unit: str
    names: tuple[str, ...] = ()
    downward: bool = False

    @classmethod
    def of(cls, labels: Any, axis: int, n: int, step: int) -> _Axis:
        """Say where every `step`-th of n lines or columns lies."""
        places = np.minimum(np.arange(labels.shape[axis] + 1) * step, n) - 0.5
        if not hasattr(labels, "dims"):
            return cls(places, "column" if axis else "line", "pixel", downward=True)
        name = str(labels.dims[axis])
        coordinate = labels.coords.get(name)
        if coordinate is None:
            return cls(places, name, "pixel", downward=True)
        unit = str(coordinate.attrs.get("units", ""))
        values = np.asarray(coordinate)
        label = f"{name} in {unit}" if unit else name
        if values.dtype.kind in "iuf" and np.isfinite(values).all() and _monotonic(values):
            down = name.lower() == "depth" or coordinate.attrs.get("positive") == "down"
            edges = _between(values.astype(np.float64))
            return cls(edges, label, _family(name, unit), downward=down)
        if values.dtype.kind == "M" and not np.isnat(values).any() and _monotonic(values):
            edges = _between(values.astype("M8[us]").astype(np.int64).astype(np.float64))
            return cls(edges.astype(np.int64).astype("M8[us]"), name, "time")
        places = np.arange(len(values) + 1) - 0.5
        return cls(places, name, "name", tuple(str(value) for value in values))


def _family(name: str, unit: str) -> str:
    """Say what a coordinate counts, so that two of a kind are drawn to one scale."""
    if unit.startswith("degree") or name.lower() in ("lat", "lon", "latitude", "longitude"):
        return "degrees"
    return unit or name


def _monotonic(values: NDArray[Any]) -> bool:
    steps = np.diff(values.astype(np.int64) if values.dtype.kind in "M" else values.astype(float))
    return bool((steps > 0).all() or (steps < 0).all())


def _between(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of cells about these centres."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2.0
    ends = 2.0 * values[[0, -1]] - middle[[0, -1]]
    return np.concatenate([ends[:1], middle, ends[1:]])


def _proportion(x: _Axis, y: _Axis) -> float | None:
    """Return height over width where both axes count the same; None else, or if it is a strip."""
    if x.unit != y.unit or x.unit in ("time", "name"):
        return None
    wide, tall = (float(abs(axis.edges[-1] - axis.edges[0])) for axis in (x, y))
    return tall / wide if 0.2 <= tall / wide <= 4.0 else None


def _draw(ax: Axes, values: NDArray[np.int64], x: _Axis, y: _Axis, K: int | None) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    K = max(int(values.max()) + 1, 1) if K is None else K
    colours = ListedColormap(list(component_colours(K)))
    norm = BoundaryNorm(np.arange(K + 1) - 0.5, K)
    ax.pcolormesh(
        x.edges, y.edges, np.ma.masked_less(values, 0), cmap=colours, norm=norm, rasterized=True
    )
    if y.downward:
        ax.invert_yaxis()
    ax.set(xlabel=plain(x.label), ylabel=plain(y.label))
    _ticks(ax, x, y)
    counts = np.bincount(values[values >= 0], minlength=K)
    if not counts.any():
        ax.text(0.5, 0.5, "no place has a label", transform=ax.transAxes, ha="center", va="center")
        return
    _legend(ax, counts)


def _ticks(ax: Axes, x: _Axis, y: _Axis) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    for axis, place in ((ax.xaxis, x), (ax.yaxis, y)):
        if place.unit == "time":
            locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
            axis.set_major_locator(locator)
            dates = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axis.set_major_formatter(dates)
        elif place.names:
            some = np.arange(0, len(place.names), -(-len(place.names) // 4))
            axis.set_ticks(some, [plain(place.names[i][:12]) for i in some])
        else:
            axis.set_major_locator(MaxNLocator(4, integer=place.unit == "pixel", min_n_ticks=1))


def _legend(ax: Axes, counts: NDArray[np.int64]) -> None:
    from matplotlib.patches import Patch

    colours = component_colours(len(counts))
    there = np.flatnonzero(counts)
    most = np.sort(there[np.argsort(-counts[there], kind="stable")][:MOST_NAMED])
    left = len(there) - len(most)
    patches = [
        Patch(color=colours[k], label=f"{k}: {percent(counts[k] / counts.sum())} %") for k in most
    ]
    if left:
        patches.append(Patch(alpha=0.0, label=f"and {left} more"))
    ax.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.03),
        fontsize=small(),
        handlelength=0.9,
    )


def _nth(step: int) -> str:
    if step == 1:
        return "single"
    last = "th" if step % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th")
    return f"{step}{last}"
