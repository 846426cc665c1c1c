"""Whether labelled weights and masks are of the same places as labelled data.

Rows and what lies beside them are put together by their positions along dimensions, whose order
alone is free. xarray's users know arrays that are put together by their coordinates: a mask that
runs from north to south is no mask of data that run from south to north, and nobody would see it.
So what has other coordinates than the data is refused.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.zarr_open import coordinates_beside
from dask_gmm.errors import InputError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.zarr_source import ZarrSource

__all__ = ["check_aligned", "check_aligned_with_stored"]

_NEAR = 1e-3
"""Of the smallest step along a dimension: coordinates may have been rounded to float32."""


def check_aligned(role: str, X: Any, beside: Any) -> None:
    """Refuse a DataArray whose coordinates along a dimension are not those of the data.

    Parameters
    ----------
    role : str
        What the user calls it.
    X : object
        The data; or a list or dict of arrays, and `beside` one for each. Of what has no coordinates
        nothing is said.
    beside : object

    Raises
    ------
    InputError
    """
    xarray = sys.modules.get("xarray")
    if xarray is None:
        return
    if isinstance(X, dict) and isinstance(beside, dict):
        for name, array in X.items():
            check_aligned(f"{role}[{name!r}]", array, beside.get(name))
    elif isinstance(X, list | tuple) and isinstance(beside, list | tuple):
        for number, (array, own) in enumerate(zip(X, beside, strict=False)):
            check_aligned(f"{role}[{number}]", array, own)
    labelled = isinstance(X, xarray.DataArray | xarray.Dataset)
    if not labelled or not isinstance(beside, xarray.DataArray):
        return
    for dim in beside.dims:
        theirs, own = beside.indexes.get(dim), X.indexes.get(dim)
        # Of another length it is refused by its shape.
        if theirs is None or own is None or len(theirs) != len(own) or _same(theirs, own):
            continue
        raise _of_other_places(role, dim, theirs, own, f"Pass `{role}.reindex_like(X)`")


def check_aligned_with_stored(
    role: str, sources: Sequence[ZarrSource] | None, beside: Any, dims: Sequence[str]
) -> None:
    """Refuse a DataArray whose coordinates are not those that lie beside stored data.

    Parameters
    ----------
    role : str
        What the user calls it.
    sources : sequence of ZarrSource or None
        The arrays that the data are read from; None of other data.
    beside : xarray.DataArray
    dims : sequence of str
        Names of its dimensions.

    Raises
    ------
    InputError
    StoreError
        The store does not answer.
    """
    named = [dim for dim in dims if dim in beside.indexes]
    if sources is None or not named:
        return
    for array in coordinates_beside(sources, named):
        dim = array.path.rpartition("/")[2]
        if dim not in named or array.shape != (len(beside.indexes[dim]),):
            continue
        own = _meant(array, dim)
        if own is not None and not _same(beside.indexes[dim], own):
            remedy = "Use its reindex or sel"
            raise _of_other_places(role, dim, beside.indexes[dim], own, remedy)


@held()
def _meant(array: Any, dim: str) -> Any:
    """Return a stored coordinate as xarray decodes it, None if it cannot."""
    from xarray import Variable
    from xarray.conventions import decode_cf_variable

    attributes = dict(array.attrs)
    try:
        found = decode_cf_variable(dim, Variable((dim,), np.asarray(array[...]), attributes))
        return np.asarray(found.values)
    except (TypeError, ValueError, OverflowError):  # dates of no calendar
        return None


def _of_other_places(role: str, dim: Any, theirs: Any, own: Any, remedy: str) -> InputError:
    return InputError(
        f"{role} has other coordinates along {dim!r} than the data, {_ends(theirs)} where they "
        f"have {_ends(own)}, but it is put together with them by position. {remedy} if it has the "
        f"same in another order, or `{role}.drop_vars({dim!r})` if only its coordinates are wrong."
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two indexes of one length hold the same, but for rounding, whatever their types."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype == b.dtype and np.array_equal(a, b):
        return True
    if a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        steps = np.abs(np.diff(b.astype(np.float64)))
        near = _NEAR * steps[steps > 0].min(initial=np.inf)
        return bool(np.allclose(a, b, rtol=1e-6, atol=near if np.isfinite(near) else 0.0))
    if a.dtype.kind in "mM" and a.dtype.kind == b.dtype.kind:
        return bool(np.array_equal(a, b))
    return a.dtype.kind in "OUT" and b.dtype.kind in "OUT" and a.tolist() == b.tolist()


def _ends(index: Any) -> str:
    return f"{index[0]} … {index[-1]}" if len(index) > 1 else str(index[0])
