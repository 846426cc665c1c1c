"""The timeline: what each thread did when, and where the time has gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.plotting.given import drawing
from dask_gmm.plotting.look import INK, small
from dask_gmm.plotting.text import by_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dask_gmm.plotting.fitted import Traced

    Array = NDArray[np.float64]

__all__ = ["plot_timeline"]

MOST_LANES = 60
"""Threads, and if they are more workers, that have a lane each."""

_MOMENTS = 800
_COMPUTING, _WAITING, _BEFORE = "#0b4a86", "#f2b957", "#dcdcdc"


def plot_timeline(timeline: Traced, *, ax: Axes | None = None) -> Axes:
    """Draw what each thread did along time: computing, waiting for rows, or nothing.

    Up to 60 threads have a lane each, more are drawn by worker, and of more than 60 workers the
    part of all threads is drawn. Of a unit it is known how long its thread waited, not when: both
    are spread over its time. Times are the workers' own clocks'; where these differ lanes are
    shifted. What came before the first pass, sample, starts and search, is grey; numbers are those
    of the passes, and crosses mark those in which lost work was done again, and how many units.

    Parameters
    ----------
    timeline : Timeline
        That was a fit's observer: ``GaussianMixture(callbacks=[timeline])``.
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
        It is no timeline, or has seen no pass.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture, Timeline
    >>> from dask_gmm.plotting import plot_timeline
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> timeline = Timeline()
    >>> gm = GaussianMixture(2, random_state=0, callbacks=[timeline]).fit(X)
    >>> ax = plot_timeline(timeline)
    >>> ax.figure.savefig("timeline.png")
    """
    if not all(hasattr(timeline, name) for name in ("passes", "stages")):
        raise InputError(
            f"timeline is {type(timeline).__name__}; give a dask_gmm.Timeline that was among the "
            f"callbacks of a fit."
        )
    spans = [span for traced in timeline.passes for span in traced.spans]
    if not spans:
        raise InputError(
            "This timeline has seen no unit of a pass: fit with "
            "GaussianMixture(callbacks=[timeline]) first."
        )
    course = _course(timeline, spans)
    lanes = len(course.names)
    with drawing(ax, height=0.9 + (min(max(lanes, 8), 60) * 0.065 if lanes else 1.3)) as ax:
        _draw(ax, course)
    return ax


@dataclass(frozen=True, eq=False)
class _Course:
    """What was done when.

    Attributes
    ----------
    edges : (M + 1,) float64
        Seconds from the beginning.
    computing, waiting : (L, M) float64
        Parts of each moment, of each lane's threads.
    names : tuple of str
        Of the lanes; empty where all threads are one.
    kind : str
        What a lane is.
    stages : tuple of (str, float, float)
        Name, begin and end.
    passes : tuple of (int, float, int)
        Number, begin, and how many units were done again.
    """

    edges: Array
    computing: Array
    waiting: Array
    names: tuple[str, ...]
    kind: str
    stages: tuple[tuple[str, float, float], ...]
    passes: tuple[tuple[int, float, int], ...]


def _course(timeline: Traced, spans: list[Any]) -> _Course:
    begun = np.array([span.begun for span in spans], np.float64)
    seconds = np.maximum([span.seconds for span in spans], 1e-9)
    waiting = np.clip([span.waiting for span in spans], 0.0, seconds)
    origin = min([float(begun.min()), *(float(begin) for _, begin, _ in timeline.stages)])
    end = max(float((begun + seconds).max()), *(b + s for _, b, s in timeline.stages), origin)
    threads = sorted({(span.worker, span.thread) for span in spans})
    lane_of, names, kind = _lanes(threads)
    of = np.array([lane_of[span.worker, span.thread] for span in spans])
    sizes = np.bincount([lane_of[thread] for thread in threads])
    edges = np.linspace(0.0, max(end - origin, 1e-6), _MOMENTS + 1)
    part = waiting / seconds
    where = of, begun - origin, seconds, edges, sizes
    return _Course(
        edges=edges,
        computing=_spread(1.0 - part, *where),
        waiting=_spread(part, *where),
        names=names,
        kind=kind,
        stages=tuple((n, b - origin, b - origin + s) for n, b, s in timeline.stages),
        passes=tuple(
            (p.number, min(s.begun for s in p.spans) - origin, int(p.resubmitted))
            for p in timeline.passes
            if p.spans
        ),
    )


def _lanes(
    threads: list[tuple[str, int]],
) -> tuple[dict[tuple[str, int], int], tuple[str, ...], str]:
    """Say which thread is in which lane, and what lanes are called."""
    workers = sorted({worker for worker, _ in threads})
    if len(threads) <= MOST_LANES:
        names = tuple(str(i) for i in range(len(threads)))
        return {thread: i for i, thread in enumerate(threads)}, names, "thread"
    if len(workers) <= MOST_LANES and len(workers) > 1:
        at = {worker: i for i, worker in enumerate(workers)}
        names = tuple(str(i) for i in range(len(workers)))
        return {thread: at[thread[0]] for thread in threads}, names, "worker"
    what = f"{len(threads):,} threads"
    return dict.fromkeys(threads, 0), (), what


def _spread(
    height: Array,
    lane: NDArray[np.intp],
    begun: Array,
    seconds: Array,
    edges: Array,
    sizes: NDArray[np.intp],
) -> Array:
    """Return the mean of a height in each moment, (L, M), over a lane's threads.

    Each span is a box of that height. What lies before t is a sum of ramps, which is gathered at
    the edges of moments from where ramps begin and end: no loop over spans and moments.
    """
    step, L, M = edges[1], len(sizes), len(edges) - 1
    before = np.zeros((L, M + 2))  # ∫ from 0 to edge, as second differences
    for at, sign in ((begun, 1.0), (begun + seconds, -1.0)):
        place = np.clip(at / step, 0.0, M)
        whole = np.minimum(place.astype(np.intp), M - 1)
        rest = place - whole
        # A ramp from `place` on, max(0, t − place), at whole t has these second differences.
        np.add.at(before, (lane, whole + 1), sign * height * (1.0 - rest))
        np.add.at(before, (lane, whole + 2), sign * height * rest)
    ramps = before.cumsum(axis=1).cumsum(axis=1)[:, : M + 1]
    found: Array = np.clip(np.diff(ramps, axis=1) / sizes[:, None], 0.0, 1.0)
    return found


def _draw(ax: Axes, course: _Course) -> None:
    from matplotlib.ticker import MaxNLocator

    end = course.edges[-1]
    size, unit = (1.0, "seconds") if end < 600 else (60.0, "minutes")
    size, unit = (size, unit) if end < 4 * 3600 else (3600.0, "hours")
    edges, L = course.edges / size, len(course.names)
    tall = ax.get_window_extent().height / ax.figure.dpi >= 0.7
    for name, begin, finish in course.stages:
        ax.axvspan(begin / size, finish / size, color=_BEFORE, lw=0.0, zorder=0)
        if finish - begin >= 0.12 * end and tall:
            ax.annotate(
                name,
                ((begin + finish) / 2.0 / size, 0.5),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="center",
                rotation=90,
                size=small(),
                color=INK,
            )
    if L:
        image = _colours(course)
        ax.imshow(
            image,
            extent=(edges[0], edges[-1], L - 0.5, -0.5),
            aspect="auto",
            interpolation="nearest",
            zorder=1,
        )
        ax.set(ylim=(L - 0.5, -0.5), ylabel=course.kind)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    else:
        layers = course.computing[0], course.waiting[0]
        ax.stackplot(
            np.repeat(edges, 2)[1:-1],
            *(np.repeat(layer, 2) for layer in layers),
            colors=(_COMPUTING, _WAITING),
            lw=0.0,
        )
        ax.set(ylim=(0.0, 1.0), ylabel=f"part of {course.kind}")
    ax.set(xlim=(edges[0], edges[-1]), xlabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    _passes(ax, course, size)
    _legend(ax, course)


def _colours(course: _Course) -> NDArray[np.float64]:
    """Return an image, (L, M, 4): moments of nothing are clear."""
    from matplotlib.colors import to_rgb

    busy = course.computing + course.waiting
    parts = np.divide(
        np.stack([course.computing, course.waiting]),
        busy,
        out=np.zeros((2, *busy.shape)),
        where=busy > 0.0,
    )
    rgb = np.tensordot(parts, [to_rgb(_COMPUTING), to_rgb(_WAITING)], axes=(0, 0))
    return np.concatenate([rgb, np.minimum(busy, 1.0)[..., None]], axis=2)


def _passes(ax: Axes, course: _Course, size: float) -> None:
    """Mark where passes begin, and what was done again; numbers as far as they keep apart."""
    apart, taken = 0.055 * course.edges[-1], list[tuple[float, float]]()
    for number, begin, again in sorted(course.passes, key=lambda p: p[2] == 0):
        ax.axvline(begin / size, color="#bbbbbb", lw=0.5, zorder=0.5)  # behind what was done
        text = f"{number} ×{again}" if again else str(number)
        reach = apart * (1.0 + 0.35 * (len(text) - 1))
        if any(begin < b + r and b < begin + reach for b, r in taken):
            continue
        taken.append((begin, reach))
        ax.annotate(
            text,
            (begin / size, 1.0),
            xytext=(0, 2),
            textcoords="offset points",
            xycoords=("data", "axes fraction"),
            va="bottom",
            size=small(),
            color=INK,
            annotation_clip=False,
        )


def _legend(ax: Axes, course: _Course) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=_COMPUTING, label="computing"),
        Patch(color=_WAITING, label="waiting for rows"),
    ]
    if course.stages:
        handles.append(Patch(color=_BEFORE, label="before the passes"))
    if any(again for _, _, again in course.passes):
        handles.append(Line2D([], [], ls="", marker="x", color=INK, label="units done again"))
    ax.legend(
        handles=by_line(handles, 2),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=1.8,  # above the passes' numbers
        ncols=2,
        fontsize=small(),
        handlelength=1.0,
    )
