"""Kept statistics as JSON and arrays, which a model file holds beside the mixture.

Every number comes back to the bit; a digest tells what was changed or damaged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_gmm.mixture.kept import KeptStatistics
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["ARRAYS", "arrays_of", "described", "kept_from"]

_PARTS = ("counts", "first", "second")
ARRAYS = ("reference", *_PARTS)
"""Names of the arrays."""


def described(kept: KeptStatistics) -> dict[str, Any]:
    """Return the numbers beside the arrays as JSON values."""
    found = kept.statistics
    numbers = {
        "weight": found.weight,
        "log_likelihood": found.log_likelihood,
        "missing_entropy": found.missing_entropy,
        "entropy": kept.entropy,
        "drift": kept.drift,
    }
    written = {name: float(value).hex() for name, value in numbers.items()}
    return {"rows": found.rows, **written, "digest": kept.fingerprint}


def arrays_of(kept: KeptStatistics) -> dict[str, NDArray[np.float64]]:
    """Return the arrays, by `ARRAYS`."""
    return {name: getattr(kept.statistics, name) for name in ARRAYS}


def kept_from(
    about: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
    parameters: MixtureParameters,
) -> KeptStatistics:
    """Return the statistics that `described` and `arrays_of` made these of.

    Raises
    ------
    ValueError, TypeError, LookupError
        They are other ones, or were changed.
    """

    def number(name: str) -> float:
        return float.fromhex(about[name])

    found = SufficientStatistics.create(
        parameters.form,
        arrays["reference"],
        rows=int(about["rows"]),
        weight=number("weight"),
        log_likelihood=number("log_likelihood"),
        **{name: arrays[name] for name in _PARTS},
    )
    found = replace(found, missing_entropy=number("missing_entropy"))
    if found.reference.shape != parameters.means.shape:
        raise ValueError("they are of another mixture")
    kept = KeptStatistics(found, number("entropy"), number("drift"))
    if kept.fingerprint != about["digest"]:
        raise ValueError("they are not as they were saved")
    return kept
