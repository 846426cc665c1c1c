"""Which arrays are rows and features: their types, their axes, and a box of one as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["check_dtype", "check_layout", "flatten_block"]


def flatten_block(values: NDArray[Any], feature_axis: int) -> NDArray[Any]:
    """Turn a block as it lies in the array into rows.

    Parameters
    ----------
    values : ndarray of shape (..., D, ...)
        A block, its features along `feature_axis`.
    feature_axis : int
        The axis of length D.

    Returns
    -------
    ndarray of shape (n, D)
        A view wherever strides can say it; n may be 0.
    """
    n_features = values.shape[feature_axis]
    rows = values.size // n_features
    if feature_axis == values.ndim - 1:
        return values.reshape(rows, n_features)  # moveaxis alone takes longer than a small read
    return np.moveaxis(values, feature_axis, -1).reshape(rows, n_features)


def check_dtype(dtype: np.dtype[Any], name: str, code: str = "X") -> None:
    """Refuse element types that a density cannot take.

    Parameters
    ----------
    dtype : dtype
    name : str
        What messages call the array.
    code : str
        Code for the array, in the remedies that messages name.

    Raises
    ------
    InputError
        For complex, object, string, date, void and other non-numeric types.
    """
    if dtype.kind in "biuf":
        return
    if dtype.kind == "c":
        raise InputError(
            f"{name} holds {dtype} values. Complex data not supported: make the real and the "
            f"imaginary parts features, for example by "
            f"`x = {code}; numpy.concatenate([x.real, x.imag], axis=-1)`."
        )
    remedies = {
        "O": f"Convert it to numbers, for example by `{code}.astype(float)`",
        "M": (
            f"Subtract a reference date and convert to a number, for example by "
            f"`({code} - numpy.datetime64('2000-01-01')) / numpy.timedelta64(1, 's')`"
        ),
        "m": f"Divide by a unit, for example by `{code} / numpy.timedelta64(1, 's')`",
        "V": (
            "Make its fields features of one numeric type"
            if dtype.names is not None
            else f"Convert it, for example by `{code}.astype('float32')`"
        ),
    }
    strings = f"If they spell numbers, pass `{code}.astype(float)`; else encode them"
    remedy = remedies.get(dtype.kind, strings)
    raise InputError(f"{name} holds {dtype} values; a mixture needs real numbers. {remedy}.")


def check_layout(
    shape: Sequence[int | None],
    feature_axis: int | str,
    name: str,
    axis_names: Sequence[str] | None = None,
    code: str = "X",
) -> int:
    """Check an array's shape and return its feature axis, counted from the front.

    Raises
    ------
    InputError
        For fewer than two axes, an axis that is not there, or an axis of no features.
    """
    if len(shape) < 2:
        got = "scalar array" if not shape else "1D array"
        of_one, one_row = f"{code}.reshape(-1, 1)", f"{code}.reshape(1, -1)"
        if axis_names is not None and code == "X":  # a DataArray, which has no reshape
            dim = "'feature', -1" if shape else "['sample', 'feature']"
            of_one, one_row = f"X.expand_dims({dim})", "X.expand_dims('sample')"
        raise InputError(
            f"Expected 2D array, got {got} instead: {name} has shape {_spell(shape)}, but rows "
            f"and features need an axis each. Pass `{of_one}` if it has a single feature"
            f"{f', `{one_row}` if it is a single row' if shape or axis_names is None else ''}."
        )
    axis = _axis_number(shape, feature_axis, name, axis_names)
    size = shape[axis]
    if size is None:
        raise InputError(
            f"{name} has an unknown number of features (axis {axis} of {_spell(shape)}): pass "
            f"`X.compute_chunk_sizes()`."
        )
    if size == 0:
        raise InputError(
            f"Found array with 0 feature(s) (shape={_spell(shape)}) while a minimum of 1 is "
            f"required: axis {axis} of {name}, the feature axis, is empty."
        )
    return axis


def _axis_number(
    shape: Sequence[int | None],
    feature_axis: int | str,
    name: str,
    axis_names: Sequence[str] | None,
) -> int:
    if isinstance(feature_axis, str):
        if axis_names is None:
            raise InputError(
                f"{name} does not name its axes, so feature_axis={feature_axis!r} says nothing: "
                f"give a number from 0 to {len(shape) - 1}."
            )
        if feature_axis not in axis_names:
            raise InputError(
                f"{name} has no axis {feature_axis!r}; feature_axis is one of "
                f"{', '.join(axis_names)}."
            )
        return list(axis_names).index(feature_axis)
    if not -len(shape) <= feature_axis < len(shape):
        raise InputError(
            f"{name} of shape {_spell(shape)} has no axis {feature_axis}; feature_axis runs from "
            f"0 to {len(shape) - 1} (or -1 for the last)."
        )
    return feature_axis % len(shape)


def _spell(shape: Sequence[int | None]) -> str:
    inner = ", ".join("?" if size is None else str(size) for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
