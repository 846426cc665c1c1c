"""Progress in a notebook: HTML that is replaced in place, and stays as a summary in the end.

It is plain HTML with a display id, which JupyterLab, Notebook, VS Code and Colab update without an
extension. No script and no style sheet, which some of them remove; colours are the page's own text
colour and one that stands out from light and dark.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

from dask_gmm.progress.curve import curve_svg
from dask_gmm.progress.state import details, outlook, signed, speed, title
from dask_gmm.quantities import show_seconds

if TYPE_CHECKING:
    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.run import Ending, Run
    from dask_gmm.progress.state import ProgressState

__all__ = ["Widget", "widget_html"]

DRAW_EVERY = 0.25
"""Seconds between two drawings, at least: each is a message to the browser."""

ACCENT, GOOD, BAD = "#2b83c6", "#2e9e5b", "#d1495b"
_FAINT = "opacity:.72"
_RULE = "rgba(128,128,128,.35)"


class Widget:
    """A run's state in a notebook's cell.

    Parameters
    ----------
    run : Run
    state : ProgressState
    """

    def __init__(self, run: Run, state: ProgressState) -> None:
        self._run, self._state = run, state
        self._drawn = time.monotonic()
        self._begun = self._drawn
        self._display_id = f"dask-gmm-{run.id}"
        self._show("display", None)

    def __call__(self, event: Event) -> None:
        """Take in an event, and draw what is known now if it is time to."""
        self._state.take(event)
        if time.monotonic() - self._drawn >= DRAW_EVERY:
            self._draw(None)

    def close(self, ending: Ending) -> None:
        """Leave a summary."""
        self._draw(ending)

    def _draw(self, ending: Ending | None) -> None:
        self._show("update_display", ending)
        self._drawn = time.monotonic()

    def _show(self, how: str, ending: Ending | None) -> None:
        import IPython.display

        untyped: Any = IPython.display
        getattr(untyped, how)(self._data(ending), raw=True, display_id=self._display_id)

    def _data(self, ending: Ending | None) -> dict[str, str]:
        elapsed = time.monotonic() - self._begun
        html = widget_html(self._run, self._state, ending, elapsed)
        if ending is not None:
            return {"text/html": html, "text/plain": ending.sentence(self._state)}
        parts = [title(self._state), *details(self._state)]
        plain = ", ".join(parts) if self._state.in_passes else f"{self._state.stage} …"
        return {"text/html": html, "text/plain": plain}


def widget_html(
    run: Run,
    state: ProgressState,
    ending: Ending | None,
    elapsed: float,
) -> str:
    """Return the widget's HTML, self-contained, with nothing in it that is not escaped.

    Parameters
    ----------
    run : Run
    state : ProgressState
    ending : Ending or None
        None while it runs.
    elapsed : float
        Seconds since it began, while it runs.
    """
    what = " · ".join(escape(part) for part in (run.doing, state.what, run.source) if part)
    label = escape(f"dask_gmm: {run.doing} of {run.source}", quote=True)
    body = _running(state, elapsed) if ending is None else _ended(state, ending)
    return (
        f'<div role="group" aria-label="{label}" style="font-size:13px;line-height:1.5;'
        f"max-width:46em;padding:.6em .9em;border:1px solid {_RULE};border-radius:6px;"
        f'box-sizing:border-box"><div style="{_FAINT};overflow-wrap:anywhere">{what}</div>'
        f"{body}</div>"
    )


def _running(state: ProgressState, elapsed: float) -> str:
    if state.in_passes:
        return _heading(title(state), show_seconds(elapsed)) + _pass(state) + _facts(state)
    return _heading(f"{state.stage} …", show_seconds(elapsed)) + _facts(state)


def _pass(state: ProgressState) -> str:
    """How far the running pass is, as a bar and in words."""
    a, left = state.advance, state.seconds_left()
    done, total = (a.blocks_done, a.blocks_total) if a is not None else (0, 1)
    share = 100.0 * done / total if total else 0.0
    words = f"{done:,} of {total:,} blocks" if a is not None else "reading …"
    words += "" if left is None else f" · {show_seconds(left)} left"
    words += "".join(f" · {part}" for part in speed(state.rates()))
    return (
        f'<div role="progressbar" aria-label="blocks of this pass" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{done}" style="height:8px;margin:.25em 0 .2em;'
        f'border-radius:4px;background:rgba(128,128,128,.25);overflow:hidden">'
        f'<div style="height:100%;width:{share:.1f}%;background:{ACCENT}"></div></div>'
        f'<div style="{_FAINT}">{escape(words)}</div>'
    )


def _ended(state: ProgressState, ending: Ending) -> str:
    well = ending.how == "done"
    good = well and not state.unfinished
    mark = "✓" if good else "!" if well else "✕"
    first, *rest = ending.parts(state)
    colour = GOOD if good else BAD
    heading = (
        f'<div style="display:flex;gap:.5em;font-weight:600;margin-top:.1em">'
        f'<span aria-hidden="true" style="color:{colour}">{mark}</span>'
        f'<span style="flex:1">{escape(first)}</span>'
        f'<span style="font-weight:400">{escape(rest[0])}</span></div>'
    )
    return heading + _facts(state)


def _heading(text: str, aside: str) -> str:
    return (
        f'<div style="display:flex;gap:.5em;font-weight:600;margin-top:.1em">'
        f'<span style="flex:1">{escape(text)}</span>'
        f'<span style="font-weight:400">{escape(aside)}</span></div>'
    )


def _facts(state: ProgressState) -> str:
    """What is known of the fit: a curve, and a name and a value a line beside it."""
    rows = "".join(
        f'<div style="display:flex;gap:.8em"><dt style="{_FAINT};font-weight:400;flex:0 0 8.5em;'
        f'margin:0">{escape(name)}</dt><dd style="margin:0;flex:1;font-variant-numeric:tabular-nums'
        f'">{escape(value)}</dd></div>'
        for name, value in _known(state)
    )
    if not rows:
        return ""
    curve = curve_svg(state, ACCENT, BAD)
    if curve:
        rings = ", rings: rejected" if state.rejected else ""
        said = f'<div style="font-size:11px;{_FAINT}">log-likelihood by pass{rings}</div>'
        curve = f"<div>{curve}{said}</div>"
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:.4em 1.6em;align-items:center;'
        f'margin-top:.5em"><dl style="margin:0;flex:1 1 22em">{rows}</dl>{curve}</div>'
    )


def _known(state: ProgressState) -> list[tuple[str, str]]:
    known = []
    if state.bounds:
        change = signed(state.change)
        known.append(("log-likelihood", f"{state.bounds[-1]:.6f} nats/row{change}"))
    if state.remaining is not None:
        known.append(("left to gain", f"{state.remaining:.1e} nats/row"))
    if len(state.bounds) > 1:
        rejected = f", {len(state.rejected)} rejected" if state.rejected else ""
        known.append(("passes", f"{len(state.bounds)}{rejected}"))
    if state.points:
        known.append(("mixtures ended", f"{state.points_done} of {state.points}"))
    elif state.candidates > 1:
        known.append(("at a time", f"{state.candidates} {state.among}"))
    if state.searched:
        known.append(("search", state.searched.removeprefix("searched for a better optimum: ")))
    if state.rare:
        known.append(("rare", f"{state.rare} component(s) found in low density"))
    if state.skipped:
        known.append(("done before", f"{state.skipped:,} blocks"))
    if any(state.last_rates):
        known.append(("last pass", " · ".join(speed(state.last_rates))))
    if more := outlook(state):
        known.append(("to go", more[0]))
    return known
