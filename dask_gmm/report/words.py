"""Numbers and lists as sentences have them."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection

__all__ = [
    "SURE",
    "capital",
    "components",
    "listed",
    "nats",
    "number",
    "per_row",
    "share",
    "surely",
]

_LISTED = 6

SURE = 0.9
"""A label of this probability or more is a sure one."""


def surely(inspection: Inspection) -> NDArray[np.float64]:
    """Σ w of the rows labelled k whose label is a sure one, (K,)."""
    bins = inspection.certainty.shape[1]
    above = np.linspace(0.0, 1.0, bins + 1)[:-1] >= SURE - 1e-9
    found: NDArray[np.float64] = inspection.certainty[:, above].sum(axis=1)
    return found


def share(part: float) -> str:
    """Write a part of a whole in per cent: ``45 %``, ``1.3 %``, ``0.02 %``; never broken."""
    percent = 100.0 * part
    if not isfinite(percent):
        return "an unknown part"
    if percent == 0.0 or percent >= 9.95:
        text = f"{percent:.0f}" if percent < 99.5 or part >= 1.0 else f"{percent:.2f}"
    else:
        text = f"{percent:.2g}" if percent >= 0.001 else f"{percent:.0e}"
    return f"{text}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, with separators where it is large."""
    if not isfinite(value):
        return "unknown" if value != value else ("−∞" if value < 0 else "∞")  # noqa: PLR0124  NaN
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-4:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:z.{digits}g}".replace("-", "−")


def nats(value: float) -> str:
    """Write a difference of log-likelihoods over all rows."""
    return f"{number(value, 3)} nats"


def per_row(value: float) -> str:
    """Write a difference of mean log-likelihoods."""
    return f"{number(value, 2)} nats a row"


def capital(text: str) -> str:
    """Begin a sentence with a text."""
    return text[0].upper() + text[1:]


def listed(words: Sequence[str], most: int = _LISTED) -> str:
    """Join words as a sentence does; of many the first, and how many more."""
    shown = list(words[:most])
    if len(words) > most:
        return ", ".join(shown) + f" and {len(words) - most:,} more"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}"


def components(numbers: Iterable[Any]) -> str:
    """Name components by their numbers, which are labels: ``components 0 and 2``."""
    names = [str(int(k)) for k in numbers]
    return f"component{'s' if len(names) > 1 else ''} {listed(names)}"
