"""Which rows of a source take part, as its user asks for it; what is said where none does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from dask_gmm.data.masks import nowhere
from dask_gmm.data.missing import MISSING
from dask_gmm.data.weights import no_weight
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from dask_gmm.data.base import Source

    S = TypeVar("S", bound=Source)

__all__ = ["check_missing", "nothing_left", "with_missing"]


def check_missing(missing: str) -> None:
    """Refuse what is none of `MISSING`.

    Raises
    ------
    InputError
    """
    if missing not in MISSING:
        raise InputError(f"missing={missing!r} is unknown; choose one of {', '.join(MISSING)}.")


def with_missing(source: S, missing: str) -> S:
    """Return the source as one that does this with rows that miss values."""
    check_missing(missing)
    if missing == source.missing:
        return source
    return replace(source, missing=missing)  # type: ignore[type-var]


def nothing_left(source: Source) -> InputError:
    """What is raised where a source that selects rows has none that takes part."""
    if source.missing == "error":
        assert source.weights is not None
        if source.weights.selects_only:
            return nowhere(source.weights.name)
        return no_weight("sample_weight")
    if source.weights is not None:
        out = "where is false" if source.weights.selects_only else "it counts for nothing"
        lacks = "it misses a value" if source.missing == "drop" else "it has no value at all"
        remedy = " Use rows that miss some by missing='marginalize'."
        return InputError(
            f"Found array with 0 sample(s): no row takes part, since of each one {out} or {lacks}."
            f"{remedy if source.missing == 'drop' else ''}"
        )
    if source.missing == "drop":
        return InputError(
            "Found array with 0 sample(s): each row misses a value, and missing='drop' leaves such "
            "rows out. Use those that they have by missing='marginalize'."
        )
    return InputError("Found array with 0 sample(s): no row has any value, all are NaN.")
