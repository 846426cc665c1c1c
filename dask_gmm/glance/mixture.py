"""A fitted mixture at a glance: a sentence, its components as a table, and small curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.glance.colours import colour_of
from dask_gmm.glance.curves import Marginal, density_panel
from dask_gmm.glance.numbers import mean_and_width
from dask_gmm.glance.page import card, dim, escaped, folded, sentences, table
from dask_gmm.quantities import plural
from dask_gmm.shapes import GAUSSIAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = [
    "COMPONENTS_SHOWN",
    "FEATURES_SHOWN",
    "MixtureGlance",
    "how_it_ended",
    "mixture_body",
    "mixture_html",
    "mixture_text",
    "units_html",
    "units_text",
]

COMPONENTS_SHOWN, FEATURES_SHOWN = 12, 8

_ENDINGS = {
    "converged": "converged",
    "max_iter": "stopped by max_iter before it converged",
    "max_passes": "stopped by max_passes before it converged",
    "max_bytes": "stopped by max_bytes before it converged",
    "stream": "took in a batch, goes on with those that come",
    "collapsed": "stopped because a component collapsed",
}
_NO_FIT = {
    "given": "Its parameters were given: it was fitted to no data.",
    "simulated": "The truth that data were simulated from.",
}


@dataclass(frozen=True, eq=False)
class MixtureGlance:
    """What is shown of a mixture.

    Attributes
    ----------
    weights : (K,) float64
    means, widths : (K, D) float64
        Means and widths along each feature, in the same units.
    features : tuple of str
        Their D names.
    about : tuple of str
        Sentences: what the mixture is, and how its fit ended.
    units : str
        What the numbers are in, where it is not the data's own units; else empty.
    settings : str
        What the estimator was asked for, as its repr says it.
    whole : str
        Where all of the numbers are, of which some are shown.
    title : str
        What people call such a mixture.
    shape : ComponentShape
        Whose widths they are.
    """

    weights: Array
    means: Array
    widths: Array
    features: tuple[str, ...]
    about: tuple[str, ...]
    units: str = ""
    settings: str = ""
    whole: str = "weights_ and original_units()"
    title: str = "Gaussian mixture"
    shape: ComponentShape = GAUSSIAN

    def marginal(self, feature: int) -> Marginal:
        """The mixture along one feature."""
        parts = self.weights, self.means[:, feature], self.widths[:, feature]
        return Marginal(*parts, self.shape)

    @property
    def shown(self) -> list[int]:
        """The components that are shown, the heaviest first."""
        order = np.argsort(-self.weights, kind="stable")
        return [int(k) for k in order[:COMPONENTS_SHOWN]]

    @property
    def left_out(self) -> str:
        """What is not shown and where it is, in a sentence; empty where all is shown."""
        k, d = self.means.shape
        more = []
        if k > COMPONENTS_SHOWN:
            part = float(self.weights[self.shown].sum())
            left = plural(k - COMPONENTS_SHOWN, "more component")
            more.append(f"{left} of {100 * (1.0 - part):.3g} % of the weight")
        if d > FEATURES_SHOWN:
            more.append(plural(d - FEATURES_SHOWN, "more feature"))
        if not more:
            return ""
        return f"… and {' and '.join(more)}: {self.whole} have all."


def how_it_ended(
    *,
    outcome: str,
    n_iter: int,
    n_passes: int | None,
    n_rows: int | None,
    n_incomplete: int,
    lower_bound: float,
    remaining_gain: float | None,
    posterior: bool = False,
) -> str:
    """Say in a sentence what a fit was given and how it ended.

    Parameters
    ----------
    outcome : str
        As `outcome_` of an estimator.
    n_iter : int
    n_passes, n_rows : int or None
        None where nobody knows.
    n_incomplete : int
        Rows that miss a value.
    lower_bound : float
        Nats per row; not finite where nothing was evaluated.
    remaining_gain : float or None
        Nats per row.
    posterior : bool
        Whether that is a log-posterior, as a prior took part, and no log-likelihood.
    """
    if outcome in _NO_FIT:
        return _NO_FIT[outcome]
    rows = "" if n_rows is None else f" to {plural(n_rows, 'row')}"
    if n_incomplete:
        rows += f" ({n_incomplete:,} miss a value)" if rows else ""
    taken = plural(n_iter, "iteration") if n_passes is None else plural(n_passes, "pass", "passes")
    said = f"Fitted{rows}: {_ENDINGS.get(outcome, outcome)} after {taken}"
    if np.isfinite(lower_bound):
        said += " at a log-posterior of" if posterior else " at"
        said += f" {lower_bound:.6g} nats a row"
    if remaining_gain is not None and np.isfinite(remaining_gain):
        left = f"perhaps {remaining_gain:.1e}" if remaining_gain > 1e-9 else "less than 1e-9"
        said += f"; {left} to gain"
    return f"{said}."


def mixture_html(glance: MixtureGlance) -> str:
    """Return a card for a notebook."""
    settings = ""
    if glance.settings:
        settings = folded("Settings", f"<pre>{escaped(glance.settings)}</pre>")
    return card(glance.title, sentences(glance.about), mixture_body(glance), settings)


def mixture_body(glance: MixtureGlance) -> str:
    """Return the table and the curves, for a card."""
    features = glance.features[:FEATURES_SHOWN]
    rows = []
    for k in glance.shown:
        colour = colour_of(k)
        dot = f'<span class="dgmm-dot dgmm-lit" style="--c:{colour}" aria-hidden="true"></span>'
        weight = _weight(float(glance.weights[k]), float(glance.weights.max()), colour)
        rows.append((f"{dot}{k}", [weight, *_both(glance.means[k], glance.widths[k])], False))
    caption = (
        f"Components, the heaviest first: weight, and mean ± {glance.shape.width} of each feature"
    )
    head = ["no.", "weight", *features]
    panels = "".join(
        density_panel(name, glance.marginal(d), glance.shown) for d, name in enumerate(features)
    )
    return "\n".join(
        part
        for part in (
            table(caption, head, rows),
            dim(glance.left_out),
            f'<div class="dgmm-small" aria-hidden="true">{panels}</div>',
            dim(glance.units),
        )
        if part
    )


def _weight(weight: float, heaviest: float, colour: str) -> str:
    part = 100.0 * weight / heaviest if heaviest > 0.0 else 0.0
    bar = (
        f'<span class="dgmm-bar" aria-hidden="true"><span class="dgmm-lit" '
        f'style="width:{part:.1f}%;--c:{colour}"></span></span>'
    )
    return f"{bar}{weight:.4f}"


def mixture_text(glance: MixtureGlance) -> str:
    """Return the same for a terminal, without the curves."""
    features = glance.features[:FEATURES_SHOWN]
    rows = [
        [str(k), f"{glance.weights[k]:.4f}", *_both(glance.means[k], glance.widths[k])]
        for k in glance.shown
    ]
    rows.insert(0, ["no.", "weight", *features])
    lines = [*glance.about, "", *_columns(rows)]
    return "\n".join([*lines, *(part for part in (glance.left_out, glance.units) if part)])


def units_text(
    means: Array, widths: Array | None, features: Sequence[str], shape: ComponentShape = GAUSSIAN
) -> str:
    """Return means and widths, (K, D) both, as lines; of means alone where there are no widths."""
    k, d = means.shape
    rows = [
        [str(i), *_both(means[i], None if widths is None else widths[i])]
        for i in range(min(k, COMPONENTS_SHOWN))
    ]
    rows.insert(0, ["no.", *features[:FEATURES_SHOWN]])
    return "\n".join([_headline(widths, shape), *_columns(rows), *_more(k, d)])


def units_html(
    means: Array, widths: Array | None, features: Sequence[str], shape: ComponentShape = GAUSSIAN
) -> str:
    """Return the same as a card."""
    k, d = means.shape
    rows = [
        (
            str(i),
            [escaped(c) for c in _both(means[i], None if widths is None else widths[i])],
            False,
        )
        for i in range(min(k, COMPONENTS_SHOWN))
    ]
    head = ["no.", *features[:FEATURES_SHOWN]]
    body = table(_headline(widths, shape), head, rows)
    return card("Original units", body, *(dim(line) for line in _more(k, d)))


def _headline(widths: Array | None, shape: ComponentShape) -> str:
    if widths is None:
        return (
            f"In the data's units: each component's median along each feature (no widths: "
            f"components are no {shape.name}s there)"
        )
    return f"In the data's units: each component's mean ± {shape.width} along each feature"


def _more(k: int, d: int) -> list[str]:
    left = [plural(k - COMPONENTS_SHOWN, "more component")] * (k > COMPONENTS_SHOWN)
    left += [plural(d - FEATURES_SHOWN, "more feature")] * (d > FEATURES_SHOWN)
    return [f"… and {' and '.join(left)}: means and widths have all."] if left else []


def _both(means: Array, widths: Array | None) -> list[str]:
    shown = means[:FEATURES_SHOWN]
    if widths is None:
        return [f"{mean:,.5g}" for mean in shown]
    pairs = zip(shown, widths[:FEATURES_SHOWN], strict=True)
    return [" ± ".join(mean_and_width(float(mean), float(width))) for mean, width in pairs]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells with their right edges aligned."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(n) for cell, n in zip(row, wide, strict=True)).rstrip() for row in rows
    ]
