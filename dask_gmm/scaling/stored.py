"""A scaling as JSON and arrays, for files; nothing in them is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.scaling.elementwise import KINDS, Elementwise
from dask_gmm.scaling.linear import Principal, Standard
from dask_gmm.scaling.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["arrays_of", "described", "scaling_from"]

_STANDARD = ("center", "scale")
_PRINCIPAL = ("mean", "components", "deviations", "variance", "share")


def described(scaling: Scaling) -> dict[str, Any]:
    """Return what is not in arrays, as JSON, and the names of those that there are."""
    standard = scaling.standard
    return {
        "n_features": scaling.n_features,
        "transform": None if scaling.elementwise is None else list(scaling.elementwise.kinds),
        "standardize": None if standard is None else "robust" if standard.robust else "moments",
        "arrays": list(arrays_of(scaling)),
    }


def arrays_of(scaling: Scaling) -> dict[str, Array]:
    """Return the arrays of a scaling by name."""
    found: dict[str, Array] = {}
    if scaling.elementwise is not None:
        found["cofactors"] = scaling.elementwise.cofactors
    if scaling.standard is not None:
        found |= {name: getattr(scaling.standard, name) for name in _STANDARD}
    p = scaling.principal
    if p is not None:
        values = (p.mean, p.components, p.scale, p.variance, p.share)
        found |= dict(zip(_PRINCIPAL, values, strict=True))
    return found


def scaling_from(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Scaling:
    """Return the scaling that `described` and `arrays_of` have told of.

    Raises
    ------
    ValueError, LookupError, TypeError
        They have not: shapes do not fit, or numbers are none to divide by.
    """
    d, kinds = int(about["n_features"]), about["transform"]
    elementwise = standard = principal = None
    if kinds is not None:
        if len(kinds) != d or not set(kinds) <= {"", *KINDS}:
            raise ValueError(f"transform={kinds!r}")
        elementwise = Elementwise(tuple(map(str, kinds)), _checked(arrays, "cofactors", (d,)))
    if about["standardize"] is not None:
        center = _checked(arrays, "center", (d,), positive=False)
        scale = _checked(arrays, "scale", (d,))
        standard = Standard(center, scale, about["standardize"] == "robust")
    if "components" in arrays:
        p = len(arrays["components"])
        principal = Principal(
            _checked(arrays, "mean", (d,), positive=False),
            _checked(arrays, "components", (p, d), positive=False),
            _checked(arrays, "deviations", (p,)),
            _checked(arrays, "variance", (p,)),
            _checked(arrays, "share", (p,)),
        )
    return Scaling(d, elementwise, standard, principal)


def _checked(
    arrays: Mapping[str, Array], name: str, shape: tuple[int, ...], *, positive: bool = True
) -> Array:
    found = arrays[name]
    if found.shape != shape or not np.isfinite(found).all() or (positive and (found <= 0.0).any()):
        raise ValueError(f"the scaling's {name} of shape {found.shape}")
    return found
