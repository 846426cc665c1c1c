"""Mixtures as tables that fit a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.quantities import show_bytes, show_seconds
from dask_gmm.scaling.original_units import means_and_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = [
    "Comparison",
    "bare_table",
    "compare",
    "comparison_table",
    "how_read",
    "key_values",
    "mixture_json",
    "mixture_table",
    "observations",
    "widths",
]

DIGITS = 9
"""Characters of a number in a vector, with the space before it."""
FEWEST_SIGNIFICANT, MOST_SIGNIFICANT = 4, 15
"""Significant digits of a number in a vector."""
MOST_SHOWN = 6
"""Features of a vector that are shown at most; fewer on a narrow terminal."""
COMPONENTS_SHOWN = 40


def widths(parameters: MixtureParameters) -> NDArray[np.float64]:
    """Return each component's width along each feature, shape (K, D)."""
    shape = parameters.n_components, parameters.n_features
    return np.sqrt(parameters.form.diagonals(parameters.covariances, *shape))


def observations(n: float, given: float | None) -> str:
    """Return N of the criteria in words: how many, and who says so."""
    return f"{n:,.10g} ({'the sum of the weights' if given is None else 'as given'})"


def mixture_json(parameters: MixtureParameters) -> dict[str, Any]:
    """Return every number of a mixture."""
    return {
        "covariance_type": parameters.family.name,
        "n_components": parameters.n_components,
        "n_features": parameters.n_features,
        "weights": parameters.weights,
        "means": parameters.means,
        "covariances": parameters.covariances,
        **parameters.more,
    }


def mixture_table(
    parameters: MixtureParameters, width: int, scaling: Scaling | None = None
) -> Table:
    """Return a table with a line per component, heaviest first, for a terminal of some width.

    Means and widths are in the data's units, where rows were scaled by an affine map.
    """
    table = bare_table()
    means, sigma = parameters.means, widths(parameters)
    if scaling is not None and scaling.linear:
        means, sigma = means_and_widths(parameters, scaling)
    digits = _digits_of_means(means, sigma)
    shown = _shown(width - 18, DIGITS + _cell(digits))
    for heading in ("no.", "weight"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("mean", no_wrap=True, overflow="ellipsis")
    table.add_column(parameters.shape.width, no_wrap=True, overflow="ellipsis")
    order = np.argsort(-parameters.weights, kind="stable")
    for k in order[:COMPONENTS_SHOWN]:
        table.add_row(
            str(k),
            f"{parameters.weights[k]:.4f}",
            _vector(means[k], shown, digits),
            _vector(sigma[k], shown),
        )
    left = len(order) - COMPONENTS_SHOWN
    if left > 0:
        table.add_row("…", "", f"{left} more components; --json shows all", "")
    return table


@dataclass(frozen=True)
class Comparison:
    """Two mixtures, component by component.

    Attributes
    ----------
    matched : tuple of (int, int)
        A component of the first mixture and its counterpart in the second.
    distances : (m,) float64
        Largest distance between the two means along a feature, in σ of the first mixture.
    weight_error : float
        Largest difference between two weights.
    width_error : float
        Largest relative difference between two standard deviations.
    """

    matched: tuple[tuple[int, int], ...]
    distances: NDArray[np.float64]
    weight_error: float
    width_error: float


def compare(first: MixtureParameters, second: MixtureParameters) -> Comparison:
    """Match the components of two mixtures so that their means lie closest in total.

    Distances are measured in standard deviations of the first; the optimal assignment is that of
    `scipy.optimize.linear_sum_assignment`.
    """
    from scipy.optimize import linear_sum_assignment

    sigma = widths(first)
    offsets = (first.means[:, None, :] - second.means[None, :, :]) / sigma[:, None, :]
    left, right = linear_sum_assignment(np.sqrt((offsets**2).mean(axis=2)))
    ratio = widths(second)[right] / sigma[left]
    return Comparison(
        tuple(zip(left.tolist(), right.tolist(), strict=True)),
        np.abs(offsets[left, right]).max(axis=1),
        float(np.abs(first.weights[left] - second.weights[right]).max()),
        float(np.abs(ratio - 1.0).max()),
    )


def comparison_table(
    first: MixtureParameters,
    second: MixtureParameters,
    comparison: Comparison,
    names: tuple[str, str],
    width: int,
) -> Table:
    """Return a table with matched components side by side."""
    table = bare_table()
    digits = max(_digits_of_means(p.means, widths(p)) for p in (first, second))
    shown = _shown(width - 38, 2 * _cell(digits))
    one, other = names
    table.add_column("no.", justify="right", no_wrap=True)
    table.add_column(f"weight\n{one}", justify="right", no_wrap=True)
    table.add_column(f"\n{other}", justify="right", no_wrap=True, style="bold")
    table.add_column(f"mean\n{one}", no_wrap=True, overflow="ellipsis")
    table.add_column(f"\n{other}", no_wrap=True, overflow="ellipsis", style="bold")
    table.add_column("off by", justify="right", no_wrap=True)
    pairs = sorted(
        zip(comparison.matched, comparison.distances, strict=True),
        key=lambda pair: -first.weights[pair[0][0]],
    )
    for (a, b), distance in pairs[:COMPONENTS_SHOWN]:
        table.add_row(
            str(b),
            f"{first.weights[a]:.4f}",
            f"{second.weights[b]:.4f}",
            _vector(first.means[a], shown, digits),
            _vector(second.means[b], shown, digits),
            f"{distance:.4f} σ",
        )
    if len(pairs) > COMPONENTS_SHOWN:
        table.add_row("…", "", "", f"{len(pairs) - COMPONENTS_SHOWN} more", "", "")
    return table


def key_values(pairs: list[tuple[str, str]]) -> Table:
    """Return a table of facts; what they say is text, brackets and all."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(value))
    return table


def how_read(size: int, seconds: float) -> str:
    """Return how many bytes all reads of a fit have decoded, in words."""
    speed = f" ({show_bytes(size / seconds)}/s)" if seconds > 0 else ""
    return f"{show_bytes(size)} in {show_seconds(seconds)}{speed}"


def bare_table() -> Table:
    """Return a table without lines but for one below its headings."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)


def _digits_of_means(means: NDArray[np.float64], sigma: NDArray[np.float64]) -> int:
    """Significant digits that show each mean to a hundredth of its standard deviation."""
    ratio = float(np.max(np.abs(means) / sigma))
    if not 0.0 < ratio < np.inf:
        return FEWEST_SIGNIFICANT
    return min(MOST_SIGNIFICANT, max(FEWEST_SIGNIFICANT, int(np.floor(np.log10(ratio))) + 3))


def _shown(width: int, each: int) -> int:
    """How many features of two vectors side by side fit a width, at so many characters each."""
    return max(1, min(MOST_SHOWN, (width - 4) // each))


def _cell(digits: int) -> int:
    """Characters of a number with so many digits, with the space before it."""
    return DIGITS if digits == FEWEST_SIGNIFICANT else digits + len(" -.e-123")


def _vector(values: NDArray[np.float64], shown: int, digits: int = FEWEST_SIGNIFICANT) -> str:
    numbers = "".join(f"{_number(value, digits):>{_cell(digits)}}" for value in values[:shown])
    return numbers + (" …" if len(values) > shown else "")


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return text if len(text) < _cell(digits) else f"{value:.1e}"
