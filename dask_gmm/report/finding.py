"""`Finding`: a worry about a fit, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from dask_gmm.report.evidence import Evidence

__all__ = ["Check", "Finding", "Severity"]


class Severity(IntEnum):
    """How much a finding matters."""

    NOTE = 1
    """Worth knowing; the mixture may be just right."""
    WARNING = 2
    """Look at it before anything is built on the mixture."""
    PROBLEM = 3
    """The mixture is not what was asked for."""


@dataclass(frozen=True)
class Finding:
    """A worry about a fit.

    Attributes
    ----------
    name : str
        What kind it is, for programs.
    severity : Severity
    sentence : str
        What was seen, with its numbers.
    remedy : str
        What to do.
    rows : tuple of (str, float, tuple of float)
        Rows of the data that it is about: their places, log-densities in nats, and values.
    features : tuple of str
        What these are values of.
    """

    name: str
    severity: Severity
    sentence: str
    remedy: str
    rows: tuple[tuple[str, float, tuple[float, ...]], ...] = ()
    features: tuple[str, ...] = ()


Check: TypeAlias = Callable[[Evidence], Iterator[Finding]]
