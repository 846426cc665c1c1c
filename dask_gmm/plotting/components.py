"""Components: pairwise ellipses over the density of a sample, and marginals with their curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.plotting.fitted import shown
from dask_gmm.plotting.given import drawing, drawing_many
from dask_gmm.plotting.look import COLUMN, INK, component_colours, small
from dask_gmm.plotting.text import halo, plain, short_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted, Shown

    Array = NDArray[np.float64]

__all__ = ["plot_components"]

MOST_FEATURES = 4
"""As many have room for their ticks, side by side in one column."""

LEAST_WIDTH, MOST_WIDTH = 2.0, 40.0
"""Of a figure, in inches."""

MOST_NAMED = 12
"""Components that a legend names: the heaviest."""


def plot_components(
    gm: Fitted,
    inspection: Inspection,
    *,
    features: Sequence[Any] | None = None,
    width: float | None = None,
    axes: Any = None,
) -> Any:
    """Draw components over the data: each pair of some features, and each feature alone.

    Below the diagonal ellipses of one and two standard deviations (of t distributions: scales) over
    the density of the sample (of the rows that have both features), lines as thick as components
    are heavy. On the diagonal
    the sample's histogram, the mixture's density in black and each component's part of it.
    Standardised rows are shown in the data's units; where ``log1p`` or ``arcsinh`` was taken first,
    or principal components, labels say so.

    Parameters
    ----------
    gm : fitted mixture
    inspection : Inspection
        From ``gm.inspect(X)``.
    features : sequence of str or int, optional
        Names or indices. By default all, of more than four those that separate components most.
    width : float, optional
        Of a new figure, in inches; 3.35, one column, by default, and twice that for more than four
        features.
    axes : array of Axes, optional
        m × m for m features, those above the diagonal are blanked; or one Axes, for one feature
        its curve and for two their ellipses alone. By default a new figure's.

    Returns
    -------
    ndarray of Axes, (m, m), or Axes
        What was given, or made.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    sklearn.exceptions.NotFittedError, InputError (both a ValueError)
        The mixture is not fitted; a feature is unknown; another number of Axes is needed; a width
        is too small, or given with axes, which have their own; or the inspection is another
        mixture's.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_components
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> inspection = gm.inspect(X)
    >>> axes = plot_components(gm, inspection)
    >>> axes.shape
    (2, 2)
    """
    if width is not None:
        _check_width(width, axes)
    mixture = shown(gm, inspection)
    which = _features(mixture, features)
    names = [mixture.names[d] for d in which]
    m, single = len(which), not (axes is None or np.iterable(axes))
    panel = _Panel(mixture, inspection)
    if single and m <= 2:
        with drawing(axes) as ax:
            panel.draw(ax, which[0], which[-1], numbered=True)
            ax.set_xlabel(plain(names[0]))
            ax.set_ylabel(plain(names[1]) if m == 2 else "density")
            if m == 1:
                panel.legend(ax, loc="best")
        return axes
    title = ""
    if features is None and m < mixture.n_features:
        which_ones = (
            "those that separate components most" if mixture.n_components > 1 else "the first"
        )
        title = f"{m} of {mixture.n_features} features, {which_ones}"
    if width is None:
        width = COLUMN if m <= MOST_FEATURES else 2.0 * COLUMN
    height = 2.4 if m == 1 else width * (0.95 if m == 2 else 1.0)
    with drawing_many(axes, m, m, height=height, width=width) as grid:
        for i, j in np.ndindex(m, m):
            if j > i:
                grid[i, j].set_axis_off()
            else:
                panel.draw(grid[i, j], which[j], which[i], numbered=m == 2)
        _label(grid, names, own=axes is None)
        corner, place = (grid[0, 0], "best") if m == 1 else (grid[0, m - 1], "upper right")
        panel.legend(corner, loc=place)
        if axes is None:
            grid[0, 0].figure.suptitle(title, x=0.01, ha="left")
        elif title:
            grid[0, 0].set_title(title, loc="left").set_in_layout(False)
    return grid


def _check_width(width: float, axes: Any) -> None:
    if axes is not None:
        raise InputError("width= is that of a new figure, and axes= have one already: give one.")
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise InputError(
            f"width={width!r} inches is no width of a figure: give {LEAST_WIDTH:g} to "
            f"{MOST_WIDTH:g}; a column has {COLUMN:g}."
        )


def _features(mixture: Shown, features: Sequence[Any] | None) -> list[int]:
    """Return which features to show."""
    if features is None:
        longest = max(len(line) for n in mixture.names for line in short_name(n).splitlines())
        return separating(mixture, MOST_FEATURES if longest <= 10 else MOST_FEATURES - 1)
    given = [features] if isinstance(features, (str, int)) else list(features)
    which = [mixture.index(feature) for feature in given]
    if not which:
        raise InputError("features is empty: give at least one name or index, or leave it out.")
    if len(set(which)) < len(which):
        twice = next(d for d in which if which.count(d) > 1)
        raise InputError(f"features has {mixture.names[twice]!r} twice: give each once.")
    if len(which) > 12:
        raise InputError(
            f"features has {len(which)} features, which makes {len(which) ** 2} panels: give at "
            f"most 12."
        )
    return which


def separating(mixture: Shown, most: int) -> list[int]:
    """Return the features that separate components most, in their own order.

    One after the other the feature that leaves least overlap: the sum over pairs of components, by
    their weights, of the Bhattacharyya coefficient (Bhattacharyya 1943) of the features chosen,
    taken as uncorrelated. So a second feature that tells the same components apart counts little.
    """
    K, D = mixture.means.shape
    if most >= D:
        return list(range(D))
    first, second = np.triu_indices(K, 1)
    left = mixture.weights[first] * mixture.weights[second]
    variances = mixture.deviations**2
    chosen: list[int] = []
    apart = np.empty((D, len(first)))
    for d in range(D):
        v, mean = variances[:, d], (variances[first, d] + variances[second, d]) / 2.0
        gap = mixture.means[first, d] - mixture.means[second, d]
        apart[d] = gap * gap / (8.0 * mean) + 0.5 * np.log(mean / np.sqrt(v[first] * v[second]))
    total = np.zeros(len(first))
    while len(chosen) < most:
        scores = [
            np.inf if d in chosen else float(left @ np.exp(-np.minimum(total + apart[d], 700.0)))
            for d in range(D)
        ]
        chosen.append(int(np.argmin(scores)))
        total += apart[chosen[-1]]
    return sorted(chosen)


class _Panel:
    """Draws one panel after the other of a mixture and its sample."""

    def __init__(self, mixture: Shown, inspection: Inspection) -> None:
        self.mixture = mixture
        self.sample = inspection.sample
        given = inspection.sample_weights
        self.sample_weights = np.ones(len(self.sample)) if given is None else given
        self.colours = component_colours(mixture.n_components)
        # Lighter ones on top: heavy ones are large as a rule, and would hide them.
        self.order = np.argsort(-mixture.weights, kind="stable")
        heaviest = max(float(mixture.weights.max()), np.finfo(float).tiny)
        self.widths = 0.5 + 1.3 * np.sqrt(mixture.weights / heaviest)

    def draw(self, ax: Axes, x: int, y: int, *, numbered: bool) -> None:
        """Draw two features against each other, or one alone."""
        ax.set_xlim(*self._limits(x))
        if x == y:
            self._marginal(ax, x)
        else:
            ax.set_ylim(*self._limits(y))
            self._pair(ax, x, y, numbered)

    def _limits(self, feature: int) -> tuple[float, float]:
        """Where nearly all rows and the heavy components are, and no farther than the rows go."""
        mixture, values = self.mixture, self.mixture.values(self.sample, feature)
        values = values[np.isfinite(values)]
        heavy = mixture.weights >= 0.25 / mixture.n_components
        m, s = mixture.means[heavy, feature], mixture.deviations[heavy, feature]
        low, high = float((m - 2.3 * s).min()), float((m + 2.3 * s).max())
        if len(values):
            first, last = np.quantile(values, [0.002, 0.998])
            low, high = max(low, float(values.min())), min(high, float(values.max()))
            low, high = min(low, float(first)), max(high, float(last))
        margin = 0.04 * (high - low) or max(abs(low), 1.0) * 1e-3
        return low - margin, high + margin

    def _marginal(self, ax: Axes, feature: int) -> None:
        mixture, values = self.mixture, self.mixture.values(self.sample, feature)
        low, high = ax.get_xlim()
        known = np.isfinite(values)
        top = 0.0
        if known.any():
            edges = np.linspace(low, high, _bins(int(known.sum()), 4) + 1)
            w = self.sample_weights[known]
            counts = np.histogram(values[known], edges, weights=w)[0]
            density = counts / (w.sum() * (edges[1] - edges[0]))
            ax.stairs(density, edges, fill=True, color="#d4d4d4", label="rows")
            top = float(density.max())
        m, s = mixture.means[:, feature], mixture.deviations[:, feature]
        near = (m[:, None] + s[:, None] * np.linspace(-4.0, 4.0, 33)).ravel()
        x = np.unique(
            np.concatenate([np.linspace(low, high, 300), near[(near > low) & (near < high)]])
        )
        parts = mixture.weights[:, None] * mixture.densities(x, feature)
        for k in self.order:
            ax.plot(x, parts[k], color=self.colours[k], lw=self.widths[k] * 0.8)
        whole = parts.sum(axis=0)
        ax.plot(x, whole, color=INK, lw=1.0, label="mixture")
        # A component of no width would leave nothing of the others to see.
        highest = float(whole.max())
        ax.set_ylim(
            0.0, 1.08 * (min(highest, 3.0 * top) if 0.0 < top < highest else max(highest, top))
        )
        ax.set_yticks([])

    def _pair(self, ax: Axes, x: int, y: int, numbered: bool) -> None:
        from matplotlib.collections import LineCollection

        self._density(ax, x, y)
        curves, widths, colours = [], [], []
        for k in self.order:
            curve, middle = _ellipse(self.mixture, int(k), x, y), self.mixture.means[k, [x, y]]
            for sigmas, thick in ((1.0, 1.0), (2.0, 0.55)):
                curves.append(middle + sigmas * (curve - middle))
                widths.append(self.widths[k] * thick)
                colours.append(self.colours[k])
        # Not `add_collection`'s own limits: a wide component would make all others small.
        ax.add_collection(LineCollection(curves, linewidths=widths, colors=colours), autolim=False)
        if numbered:
            self._number(ax, x, y)

    def _density(self, ax: Axes, x: int, y: int) -> None:
        from matplotlib.colors import ListedColormap, LogNorm

        first, second = self.mixture.values(self.sample, x), self.mixture.values(self.sample, y)
        known = np.isfinite(first) & np.isfinite(second)
        if not known.any():
            return
        n = _bins(int(known.sum()), 2)
        edges = [np.linspace(*limits, n + 1) for limits in (ax.get_xlim(), ax.get_ylim())]
        counts = np.histogram2d(
            first[known], second[known], edges, weights=self.sample_weights[known]
        )[0]
        if not counts.any():
            return
        least, most = float(counts[counts > 0.0].min()), float(counts.max())
        greys = ListedColormap(np.repeat(np.linspace(0.93, 0.45, 128)[:, None], 3, axis=1))
        ax.pcolormesh(
            *edges,
            np.ma.masked_equal(counts.T, 0.0),
            norm=LogNorm(least, max(most, least * 1.001)),
            cmap=greys,
            rasterized=True,
            zorder=0,
        )

    def _number(self, ax: Axes, x: int, y: int) -> None:
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        for k in self.order[:MOST_NAMED]:
            at = self.mixture.means[k, x], self.mixture.means[k, y]
            if left < at[0] < right and bottom < at[1] < top:
                ax.text(
                    *at,
                    str(k),
                    size=small(),
                    color=INK,
                    ha="center",
                    va="center",
                    path_effects=halo(),
                    clip_on=True,
                )

    def legend(self, ax: Axes, **where: Any) -> None:
        """Name the heaviest components, with their weights."""
        from matplotlib.lines import Line2D

        named = sorted(int(k) for k in self.order[:MOST_NAMED])
        lines = [
            Line2D([], [], color=self.colours[k], lw=self.widths[k] + 0.4, label=f"{k}: {w:.2g}")
            for k, w in zip(named, self.mixture.weights[named], strict=True)
        ]
        left = self.mixture.n_components - len(named)
        title = "component: weight" + (f"\n(and {left} lighter ones)" if left else "")
        legend = ax.legend(
            handles=lines,
            title=title,
            ncols=1 if len(lines) <= 6 else 2,
            fontsize=small(),
            title_fontsize=small(),
            **where,
        )
        legend.set_in_layout(False)  # or panels would make room for it


def _ellipse(mixture: Shown, k: int, x: int, y: int) -> Array:
    """Return points, (n, 2), one standard deviation from a component's mean.

    By deviations and correlation, Σ = S R S: features of very different units lose no digits.
    """
    a, b = mixture.deviations[k, [x, y]]
    r = float(np.clip(mixture.covariance(k, x, y) / (a * b), -1.0, 1.0))
    t = np.linspace(0.0, 2.0 * np.pi, 121)[:-1]
    along, across = np.cos(t), r * np.cos(t) + np.sqrt(1.0 - r * r) * np.sin(t)
    points = mixture.means[k, [x, y]] + np.stack([a * along, b * across], axis=1)
    closed: Array = np.concatenate([points, points[:1]])
    return closed


def _bins(n: int, per: int) -> int:
    """How many bins show n rows: about `per` axes of them."""
    return int(np.clip(n ** (1 / 2) / 2 if per == 2 else 3 * n ** (1 / 3), 12, 60))


def _label(grid: Any, names: Sequence[str], *, own: bool) -> None:
    """Label the outer panels only, with as many ticks as have room."""
    from dask_gmm.plotting.ticks import few_ticks

    m = len(names)
    size = None if m <= 2 else small()
    figure, box = grid[0, 0].figure, grid[0, 0].get_window_extent()
    width, height = box.width / figure.dpi, box.height / figure.dpi
    if own:  # what the layout, which comes last, will make of it
        inside = figure.get_size_inches() - (0.5, 0.6)
        width, height = inside / m - 0.1
    for i, j in np.ndindex(m, m):
        ax = grid[i, j]
        if j > i:
            continue
        power = few_ticks(ax, "x", width)
        if i == m - 1:
            ax.set_xlabel(plain(short_name(names[j], power, inches=width)), size=size)
        else:
            ax.tick_params(labelbottom=False)
        if i == j:
            continue
        power = few_ticks(ax, "y", height)
        if j == 0:
            ax.set_ylabel(plain(short_name(names[i], power, inches=height)), size=size)
        else:
            ax.tick_params(labelleft=False)
