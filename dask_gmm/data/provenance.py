"""What an output says of itself: whether it is complete, and what it is made of.

The attribute `dask_gmm` of an output's metadata holds both, so that whoever opens the array, with
Zarr alone, can tell one that is being written from one that is whole, and a later run can tell its
own work from another's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dask_gmm.data.concatenated_source import ConcatenatedSource
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import crosses_network
from dask_gmm.errors import IncompletePassError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dask_gmm.data.base import Source
    from dask_gmm.data.weights import Weights
    from dask_gmm.data.zarr_source import ZarrSource

__all__ = [
    "ATTRIBUTE",
    "IMPUTED_ROWS",
    "Recipe",
    "attributes_of_output",
    "check_complete",
    "check_unchanged",
    "data_known_by",
    "is_incomplete",
    "known_by",
    "recipe_in",
    "recipe_of",
]

ATTRIBUTE = "dask_gmm"

IMPUTED_ROWS = "imputed rows"
"""What the values of an output are called that has the features of its data."""

# A fit looks at the files of so many blocks, to say what it was fitted to.
_MOST_BLOCKS = 20_000

# What the parts of a recipe are called where two differ; those of digests say no more than that.
_NAMES = {
    "values": "what is written",
    "shape": "the shape",
    "chunks": "the chunks",
    "dtype": "the type",
    "version": "the version of dask-gmm",
    "kernel": "the kernel",
    "data": "the data",
    "data_dtype": "the type of the data",
    "feature_axis": "the axis of the features",
    "columns": "the columns",
    "keep": "the columns that are kept",
    "missing_chunks": "missing_chunks",
}
_DIGESTS = {
    "model": "the model is another",
    "metadata": "the metadata of the data are others",
    "content": "the data have been written to since",
}


@dataclass(frozen=True)
class Recipe:
    """What decides every byte of an output.

    Attributes
    ----------
    parts : mapping
        By name; JSON values.
    exact : bool
        Whether equal recipes mean equal rows: a digest of the data is among the parts. Otherwise
        it is their metadata, and chunks may have been written anew.
    comparable : bool
        Whether a later run can tell at all that it has the same rows. Arrays in memory have
        neither a place nor metadata.
    """

    parts: Mapping[str, Any]
    exact: bool = True
    comparable: bool = True

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits, equal for equal parts in every process."""
        text = json.dumps(dict(self.parts), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Mapping[str, Any]) -> str:
        """Say in a clause how the parts of another recipe, written down before, differ."""
        found = []
        for name in sorted({*self.parts, *other}):
            now, then = self.parts.get(name), other.get(name)
            if now == then:
                continue
            if name in _DIGESTS:
                found.append(_DIGESTS[name])
            else:
                found.append(f"{_NAMES.get(name, name)} was {_shown(then)} and is {_shown(now)}")
        return "; ".join(found)


def recipe_of(
    source: Source, *, values: str, model: str, kernel: str, output: Mapping[str, Any]
) -> Recipe:
    """Describe what an output is made of; nothing but metadata is read.

    Parameters
    ----------
    source : Source
        The rows.
    values : str
        What is computed from them.
    model : str
        Digest of the mixture's parameters.
    kernel : str
        What computes it.
    output : mapping
        Shape, chunks and dtype of the output; JSON values.
    """
    parts: dict[str, Any] = {
        **output,
        "values": values,
        "model": model,
        "kernel": kernel,
        "version": version("dask-gmm"),
        "data": source.name,
        "data_dtype": str(source.dtype),
        "feature_axis": source.feature_axis,
    }
    stored, metadata = stored_parts(source), _metadata_of(source)
    if metadata is not None:
        parts["metadata"] = metadata
    if stored is not None:
        content = _content_of(source)
        parts["missing_chunks"] = stored[0].spec.missing_chunks
        parts["content"] = content
        return Recipe(
            parts, content is not None, comparable=all(part.store is None for part in stored)
        )
    if isinstance(source, ParquetSource):
        content = _content_of(source)
        parts["columns"] = list(source.feature_names)
        parts["content"] = content
        return Recipe(parts, content is not None)
    if isinstance(source, ConcatenatedSource) and _is_known(source):
        content = _content_of(source)
        parts["content"] = content
        opened = (part.store for part in _arrays_of(source))
        return Recipe(parts, content is not None, comparable=all(one is None for one in opened))
    return Recipe(parts, exact=False, comparable=metadata is not None)


def data_known_by(source: Source) -> str:
    """Say in a few words what the rows were known by; nothing is read for it, and nobody asked.

    Returns
    -------
    str
        "content" or "metadata" and 16 hexadecimal digits, as `Recipe` knows the data, or what is
        said of rows in memory: their type and shape. Weights and masks have no part in it.
    """
    # A look at each file would take seconds of more of them, and each of those elsewhere a request.
    near = source.n_blocks <= _MOST_BLOCKS and not _has_remote_tables(source)
    content = _content_of(source) if near else None
    if content is not None:
        return f"content {_digest(content)[:16]}"
    if isinstance(source, DaskSource):  # whose token also tells of these
        source = replace(source, weights=None, missing="error")
    metadata = _metadata_of(source)
    if metadata is not None:
        return f"metadata {_digest(metadata)[:16]}"
    shape = " × ".join("?" if n is None else str(n) for n in source.shape)
    return f"memory {source.dtype} {shape}"


def _has_remote_tables(source: Source) -> bool:
    if isinstance(source, ConcatenatedSource):
        return any(map(_has_remote_tables, source.parts))
    return isinstance(source, ParquetSource) and crosses_network(source.table.spec.url)


def _metadata_of(source: Source) -> str | None:
    """Return a digest of what was opened, None where nothing tells it from other rows."""
    stored = stored_parts(source)
    if stored is not None:
        return _digest(" ".join(map(_told_by, stored)))
    if isinstance(source, ParquetSource):
        return source.table.digest
    if isinstance(source, ConcatenatedSource) and _is_known(source):
        return _digest(" ".join(_told_by_each(source)))
    if isinstance(source, DaskSource):
        return _digest(repr(source.content_token()))
    return None


def _is_known(source: Source) -> bool:
    """Whether all of a source is read from stores, of arrays or of tables."""
    if isinstance(source, ConcatenatedSource):
        return all(map(_is_known, source.parts))
    return isinstance(source, ParquetSource) or stored_parts(source) is not None


def _told_by_each(source: ConcatenatedSource) -> Iterator[str]:
    """Yield what tells the metadata of each of many arrays from others'."""
    for part in source.parts:
        if isinstance(part, ParquetSource):
            yield f"{part.table.digest} {list(part.feature_names)}"
        else:
            yield from map(_told_by, stored_parts(part) or ())


def _told_by(part: ZarrSource) -> str:
    return f"{part.metadata} {'' if part.decoding is None else part.decoding.identity}"


def _arrays_of(source: ConcatenatedSource) -> Iterator[ZarrSource]:
    for part in source.parts:
        yield from stored_parts(part) or ()


def check_unchanged(recipe: Recipe, source: Source) -> None:
    """Refuse to call an output complete if its data have changed since its recipe was made.

    Seen where the recipe is exact: else their metadata, which each pass looks at, are all there is.

    Raises
    ------
    IncompletePassError
    """
    if not recipe.exact or not _is_known(source):
        return
    if _content_of(source) != recipe.parts["content"]:
        raise IncompletePassError(
            f"{source.name} was written to while its rows were read, so no output is all of one "
            f'piece. Once nothing writes there, begin it anew with resume="never" (--no-resume).'
        )


def _content_of(source: Source) -> str | None:
    """Return a name of what is stored of a source, None where nothing tells when it changes."""
    return source.content_name()


def attributes_of_output(recipe: Mapping[str, Any] | None, *, complete: bool) -> dict[str, Any]:
    """Return the attributes of an output; without a recipe nobody can go on with it."""
    own: dict[str, Any] = {"complete": complete}
    if recipe is not None:
        own["recipe"] = dict(recipe)
    return {ATTRIBUTE: own}


def is_incomplete(attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes are those of an output that is being written, or was not finished."""
    own = attributes.get(ATTRIBUTE)
    return isinstance(own, dict) and own.get("complete") is False


def recipe_in(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the recipe in an array's attributes, None if there is none."""
    own = attributes.get(ATTRIBUTE)
    recipe = own.get("recipe") if isinstance(own, dict) else None
    return recipe if isinstance(recipe, dict) else None


def check_complete(attributes: Mapping[str, Any], name: str) -> None:
    """Refuse to read an output of this package that is not whole.

    Raises
    ------
    InputError
    """
    if not is_incomplete(attributes):
        return
    recipe = recipe_in(attributes) or {}
    what = recipe.get("values", "values")
    of = f" of {recipe['data']}" if "data" in recipe else ""
    raise InputError(
        f"{name} is an output of dask-gmm that is not complete: the {what}{of} are being written "
        f"there, or were when a run broke off. Wait for its end, or run its predict_to (dask-gmm "
        f"predict) again, which goes on from what is there."
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    return "unknown" if value is None else str(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def known_by(weights: Weights) -> str:
    """What tells a mask from others, or itself where nothing does."""
    told = weights.content_digest() or weights.content_token()
    return weights.token if told is None else hashlib.sha256(repr(told).encode()).hexdigest()[:16]
