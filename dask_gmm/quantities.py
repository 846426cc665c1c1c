"""Numbers with their units, as people read them."""

from __future__ import annotations

import math

__all__ = ["plural", "show_bytes", "show_count", "show_seconds"]


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Write a count with its noun: ``1 row``, ``2,000 rows``; `nouns` if it is no noun and s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def show_bytes(size: float) -> str:
    """Write a number of bytes with three digits and a decimal unit: ``2.52 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{_three(size)} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:,.3g} PB"


def show_count(number: float) -> str:
    """Write a count or rate with three digits: ``12.3 M``; small ones as they are."""
    for unit in ("", " k", " M", " G"):
        if number < 999.5:
            return f"{_three(number)}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:,.0f} T"


def _three(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.{1 if number >= 9.995 else 2}f}"


def show_seconds(seconds: float) -> str:
    """Write a duration: ``0.35 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
