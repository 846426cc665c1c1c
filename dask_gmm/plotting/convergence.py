"""Convergence: the objective by pass or by second, and how much was still to be gained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.fitting.events import StepKind
from dask_gmm.plotting.fitted import check_fitted
from dask_gmm.plotting.given import drawing, drawing_many
from dask_gmm.plotting.look import INK, PALE, small
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.plotting.fitted import Fitted

    Array = NDArray[np.float64]

__all__ = ["plot_convergence"]

_BLUE, _VERMILION = "#0072b2", "#c4450c"

_DIGITS = 1e-5
"""Part of the objective that its axis shows at least: ticks of seven digits have room."""

_ENDINGS = {
    "converged": "converged",
    "max_iter": "ended by max_iter",
    "max_passes": "ended by max_passes",
    "max_bytes": "ended by max_bytes",
    "stream": "took in a batch",
    "collapsed": "ended where a component collapsed",
    "dropped": "given up",
}


def plot_convergence(gm: Fitted, *, by: str = "pass", ax: Any = None) -> Any:
    """Draw the objective after each pass over the data, and what was left to gain.

    The second panel has, on a logarithmic axis, what the fit itself guessed was left at each pass,
    and in the end says, rather too much than too little; for plain EM, which guesses nothing, what
    each iteration gained, which is what stops it. The line is the tolerance.

    Parameters
    ----------
    gm : fitted mixture
        Of a model file older than histories, or from scikit-learn, `lower_bounds_` alone are drawn.
    by : {'pass', 'second'}, default='pass'
    ax : Axes or two Axes, optional
        One has the objective only. By default two, of a new figure one column wide.

    Returns
    -------
    ndarray of Axes, (2,), or Axes
        What was given, or made.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    sklearn.exceptions.NotFittedError, InputError (both a ValueError)
        The mixture is not fitted; nothing is known of its iterations, or not when they were; or
        `by` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> from dask_gmm.plotting import plot_convergence
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> gm = GaussianMixture(3, random_state=0).fit(X)
    >>> objective, left = plot_convergence(gm)
    >>> objective.figure.savefig("convergence.png")
    """
    check_fitted(gm)
    if by not in ("pass", "second"):
        raise InputError(f"by={by!r} is unknown; choose 'pass' or 'second'.")
    course = _course(gm, by)
    if ax is not None and not np.iterable(ax):
        with drawing(ax):
            _objective(ax, course)
            ax.set_xlabel(course.axis)
        return ax
    panels = drawing_many(ax, 2, 1, height=3.2, name="ax", sharex=True, height_ratios=(3, 2))
    with panels as grid:
        upper, lower = grid[:, 0]
        _objective(upper, course)
        _left(lower, course, gm)
        lower.set_xlabel(course.axis)
        upper.tick_params(labelbottom=False)
        if ax is None:
            upper.figure.align_ylabels([upper, lower])
    return grid[:, 0]


@dataclass(frozen=True)
class _Course:
    """How a fit went, pass by pass.

    Attributes
    ----------
    axis : str
        What x is.
    x, objective : (n,) float64
    rejected : (n,) bool
    left : (n,) float64
        What the fit guessed was left, NaN where it did not.
    ended : float or None
        What it says in the end.
    title : str
    least : float
        The least span of the axis.
    height : str
        What was maximised.
    """

    axis: str
    x: Array
    objective: Array
    rejected: NDArray[np.bool_]
    left: Array
    ended: float | None
    title: str
    least: float
    height: str


def _course(gm: Any, by: str) -> _Course:
    history = [p for p in getattr(gm, "history_", None) or () if p.judgement is not None]
    outcome = _ENDINGS.get(getattr(gm, "outcome_", ""), "")
    if not history:
        bounds = np.asarray(getattr(gm, "lower_bounds_", None) or [], np.float64)
        if by == "second" or not len(bounds):
            what = "how long they took" if len(bounds) else "how the fit went"
            raise InputError(
                f"This mixture does not know {what}: it comes from scikit-learn or from a model "
                f"file that keeps no history. Fit it again"
                + (", or draw it by='pass'." if len(bounds) else ".")
            )
        n = len(bounds)
        none = np.full(n, np.nan)
        title = f"{outcome or 'fitted'} after {plural(n, 'iteration')}"
        x = np.arange(1.0, n + 1)
        least = _least(gm, bounds)
        flat = np.zeros(n, bool)
        return _Course("iteration", x, bounds, flat, none, None, title, least, _height(gm))
    judged = [p.judgement for p in history]
    rejected = np.array([j.kind is StepKind.REJECTED for j in judged])
    left = np.array([np.nan if j.remaining_gain is None else j.remaining_gain for j in judged])
    n, axis, x = len(history), "pass over the data", np.array([float(p.number) for p in history])
    if by == "second":
        axis, x = _seconds(gm, history)
    extra = f", {int(rejected.sum())} rejected" if rejected.any() else ""
    title = f"{outcome or 'fitted'} after {plural(n, 'pass', 'passes')}{extra}"
    objective = np.array([j.objective for j in judged], np.float64)
    ended, least = getattr(gm, "remaining_gain_", None), _least(gm, objective[~rejected])
    return _Course(axis, x, objective, rejected, left, ended, title, least, _height(gm))


def _height(gm: Any) -> str:
    """Name what was maximised; with a prior it is no likelihood."""
    return "log-likelihood" if getattr(gm, "prior", None) is None else "log-posterior"


def _least(gm: Any, objective: Array) -> float:
    """Return the least span of an axis: the tolerance, and never one that ticks are long for."""
    sound = np.abs(objective[np.isfinite(objective)])
    size = float(sound.max()) if sound.size else 1.0
    return max(float(getattr(gm, "tol", None) or 0.0), _DIGITS * max(size, 1.0))


def _seconds(gm: Any, history: list[Any]) -> tuple[str, Array]:
    """Return when each pass ended, and from when that is counted."""
    record = getattr(gm, "record_", None)
    ends = () if record is None else record.pass_ends
    numbers = [p.number for p in history]
    if numbers and len(ends) >= max(numbers):
        return "seconds from the first read", np.array([float(ends[i - 1]) for i in numbers])
    return "seconds of passes", np.cumsum([float(p.seconds) for p in history])


def _objective(ax: Axes, course: _Course) -> None:
    from matplotlib.ticker import MaxNLocator

    sound = np.isfinite(course.objective)
    kept, bad = sound & ~course.rejected, course.rejected
    ax.plot(course.x[kept], course.objective[kept], "o-", color=_BLUE, label="accepted")
    if kept.any():
        low, high = course.objective[kept].min(), course.objective[kept].max()
        room = max(course.least - (high - low), 0.0) / 2.0
        low, high = low - room, high + room
        margin = 0.06 * (high - low)
        ax.set_ylim(low - margin, high + margin)
        # Where a bold step fell far below it would make all others one line.
        y = np.clip(np.where(sound, course.objective, -np.inf), low - 0.5 * margin, None)
        ax.plot(course.x[bad], y[bad], "x", color=_VERMILION, label="rejected", mew=1.2)
    if bad.any():
        ax.legend(loc="lower right", fontsize=small())
    ax.set_ylabel(f"{course.height}\nin nats per row")
    ax.set_title(course.title, loc="left")
    if not course.axis.startswith("seconds"):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.ticklabel_format(axis="y", useOffset=False)


def _left(ax: Axes, course: _Course, gm: Any) -> None:
    known = np.isfinite(course.left) & (course.left > 0.0)
    tol = getattr(gm, "tol", None)
    y: list[float] = [float(tol)] if tol else []
    guessed = known.copy()
    guessed[-1] &= course.ended is None  # else it is what is said in the end
    if guessed.any():
        ax.plot(
            course.x[guessed], course.left[guessed], "o-", color=_BLUE, label="left, as guessed"
        )
    else:
        kept = ~course.rejected & np.isfinite(course.objective)
        gains, x = np.diff(course.objective[kept]), course.x[kept][1:]
        up = gains > 0.0
        if up.any():
            ax.plot(x[up], gains[up], "o-", color=_BLUE, label="gain of an iteration")
        y += gains[up].tolist()
    if known[-1] and course.ended is not None:
        ax.plot(
            course.x[-1:], course.left[-1:], "v", color=INK, ms=5, label="left in the end, at most"
        )
    y += course.left[known].tolist()
    ax.set_ylabel("nats per row")
    if tol:
        ax.axhline(float(tol), color=PALE, lw=0.9, ls="--", label=f"tol = {float(tol):g}")
    _decades(ax, y)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper right", fontsize=small())


def _decades(ax: Axes, y: list[float]) -> None:
    """Make an axis logarithmic that holds these, with room for a legend above."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_yscale("log")
    low, high = (min(y), max(y)) if y else (1e-3, 1.0)
    span = max(np.log10(high / low), 0.5)
    ax.set_ylim(low / 10 ** (0.15 * span), high * 10 ** (0.9 * span))
    ax.yaxis.set_major_locator(LogLocator(numticks=5))
    ax.yaxis.set_minor_locator(NullLocator())
