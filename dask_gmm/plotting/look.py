"""How figures look: one column wide, legible, the colour of a component the same in all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError, MissingPackageError
from dask_gmm.glance.colours import colour_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLUMN",
    "INK",
    "PALE",
    "component_colours",
    "keep_style",
    "matplotlib_or_error",
    "new_axes",
    "setting",
    "small",
    "style",
]

COLUMN = 3.35
"""Width of a journal's column, in inches."""

INK = "#222222"
"""Of text and of what is said of the whole mixture; 15.9 : 1 on white."""

PALE = "#767676"
"""Of what is beside the point; 4.5 : 1 on white, the least that text may have (WCAG 2.2, 1.4.3)."""


def component_colours(n_components: int) -> tuple[str, ...]:
    """Return a colour for each component, as '#rrggbb': that of k is the same in all figures.

    The first twelve are told apart whatever colours one sees, up to sixty each from its
    neighbours; from the sixty-first on they begin again. More than a dozen want numbers too,
    which the figures have.

    Parameters
    ----------
    n_components : int
        K.

    Raises
    ------
    InputError
        K is no number of components.

    Examples
    --------
    >>> from dask_gmm.plotting import component_colours
    >>> few, many = component_colours(3), component_colours(20)
    >>> few == many[:3]
    True
    """
    if n_components < 1:
        raise InputError(f"n_components={n_components} is no number of components: give 1 or more.")
    return tuple(colour_of(k) for k in range(n_components))


def matplotlib_or_error() -> None:
    """Import matplotlib, or say how to get it.

    Raises
    ------
    MissingPackageError (an ImportError)
        It is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":  # it is there and lacks something itself
            raise
        raise MissingPackageError(
            "Figures need the package matplotlib, which is not installed: "
            "pip install 'dask-gmm[report]'."
        ) from None


_STYLE: dict[str, Any] = {
    "figure.figsize": (COLUMN, 2.5),
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.25,
    "legend.columnspacing": 0.9,
    "legend.handletextpad": 0.4,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """Give new figures the package's look: 3.35 in wide, text of 8 pt, nothing in tick marks' way.

    Figures that are given no axes are made in it; use it yourself around figures of your own.
    matplotlib's settings belong to the process: while one thread is inside, others see them too.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from dask_gmm.plotting import style
    >>> with style():
    ...     figure = Figure()
    >>> round(float(figure.get_figwidth()), 2)
    3.35
    """
    matplotlib_or_error()
    import matplotlib as mpl

    settings: Any = mpl.rcParams
    # Not `rc_context`, which would also put back a backend that somebody has chosen meanwhile.
    before = {name: settings[name] for name in _STYLE}
    settings.update(_STYLE)
    try:
        yield
    finally:
        settings.update(before)


def new_axes(
    rows: int = 1, columns: int = 1, *, height: float = 2.5, width: float = COLUMN, **more: Any
) -> tuple[Figure, Any]:
    """Return a figure of pyplot's, which notebooks show, and an array of its axes, (rows, columns).

    Call it, and draw, inside `style`; call `keep_style` on what was drawn.
    """
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **more)


def keep_style(axes: Axes) -> None:
    """Write the style into axes whose ticks are made when they are drawn, outside of it."""
    for name in ("x", "y"):
        for which in ("major", "minor"):
            axes.tick_params(
                axis=name,
                which=which,
                labelsize=setting(f"{name}tick.labelsize"),
                labelcolor=setting(f"{name}tick.labelcolor"),
                color=setting(f"{name}tick.color"),
                width=setting(f"{name}tick.major.width"),
                length=setting(f"{name}tick.{which}.size"),
            )
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(setting("xtick.labelsize"))
        axis.get_offset_text().set_color(INK)


def setting(name: str) -> Any:
    """Return one of matplotlib's settings as it is now."""
    import matplotlib as mpl

    settings: Any = mpl.rcParams
    return settings[name]


def small() -> float:
    """Size of small text in points: seven eighths of the rest, and never under 7."""
    return max(7.0, 0.875 * float(setting("font.size")))
