"""Values that stand for "no measurement" by the CF conventions.

Zarr arrays that xarray has written name them in their attributes. Read as numbers they would be
rows of -9999, which a mixture fits as happily as any other. Refusing such an array at once would
refuse many that hold no missing value at all; so the rows are looked at as they are read.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

__all__ = ["MissingValue", "find_missing_value", "missing_values"]


@dataclass(frozen=True)
class MissingValue:
    """A value that means that there is none, and the metadata that say so."""

    value: float | int
    origin: str


def missing_values(array: zarr.Array[Any]) -> tuple[MissingValue, ...]:
    """Return the values that an array's metadata call missing, as far as elements can equal them.

    These are the attributes ``_FillValue`` and ``missing_value`` (numbers, lists of numbers, or
    xarray's base64 of a little-endian double). In Zarr v2, where xarray stores ``_FillValue`` as
    the array's fill value, that counts too if xarray has named the dimensions; but not a 0, which
    is what Zarr fills with when nobody chose. NaN and infinity are refused in any case.
    """
    dtype = np.dtype(array.dtype)
    named = [(f"attribute {name!r}", array.attrs.get(name)) for name in _ATTRIBUTES]
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in array.attrs:
        named.append(("fill value", array.metadata.fill_value or None))
    found: dict[float | int, MissingValue] = {}
    for origin, said in named:
        for item in said if isinstance(said, list | tuple) else [said]:
            value = _as_element(item, dtype)
            if value is not None:
                found.setdefault(value, MissingValue(value, origin))
    return tuple(found.values())


_ATTRIBUTES = ("_FillValue", "missing_value")


def _as_element(said: Any, dtype: np.dtype[Any]) -> float | int | None:
    """Return a finite number as an element of `dtype` would hold it, None if none can."""
    if isinstance(said, str):
        try:
            said = struct.unpack("<d", base64.b64decode(said, validate=True))[0]
        except (binascii.Error, struct.error, ValueError):
            return None
    if isinstance(said, bool | np.bool_) or not isinstance(said, int | float | np.number):
        return None
    if not math.isfinite(said):
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            element = float(dtype.type(said))
        return element if math.isfinite(element) else None
    if dtype.kind == "b" or said != int(said):
        return None
    limits = np.iinfo(dtype)
    return int(said) if limits.min <= said <= limits.max else None


def find_missing_value(
    rows: NDArray[Any], missing: tuple[MissingValue, ...]
) -> tuple[int, int, MissingValue] | None:
    """Return the first row that holds a missing value, the feature and that value.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    missing : tuple of MissingValue

    Returns
    -------
    row, feature : int
    value : MissingValue
    """
    for value in missing:
        hits = rows == value.value
        if hits.any():
            row = int(hits.any(axis=1).argmax())
            return row, int(hits[row].argmax()), value
    return None
