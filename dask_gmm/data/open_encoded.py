"""Matrices in AnnData's layout: a Zarr group whose attribute says how it is encoded.

The store of an AnnData has its matrix ``X``, dense or sparse, beside ``layers/NAME``, what was
made of it (``obsm/X_pca``), and tables of the cells (``obs``) and genes (``var``). What is said
here is as of its specification (anndata: "On-disk format", versions 0.1.0 of ``anndata``,
``csr_matrix`` and ``array``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_gmm.data.sparse_source import StoredSparseSource
from dask_gmm.errors import InputError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from dask_gmm.data.base import Source
    from dask_gmm.data.zarr_open import FoundArray, FoundGroup

__all__ = ["is_anndata", "open_encoded", "with_gene_names"]


def is_anndata(X: object) -> bool:
    """Whether X looks like an AnnData in memory, which nobody needs to have installed."""
    return hasattr(X, "obs_names") and hasattr(X, "var_names") and hasattr(X, "X")


@held()
def open_encoded(
    found: FoundGroup, feature_axis: int | str, block_rows: int | None = None
) -> Source | None:
    """Describe the matrix of an encoded group, None where the group is no such one.

    Raises
    ------
    InputError
        The matrix is stored by columns, or its arrays are no matrix.
    """
    kind = found.group.attrs.get("encoding-type")
    if kind == "anndata":
        matrix = found.group.get("X")
        if isinstance(matrix, zarr.Array):
            return with_gene_names(found.array("X"), found.array("X").source(feature_axis))
        if not isinstance(matrix, zarr.Group):
            raise InputError(
                f"{found.name} is an AnnData without X: name what to read by array=, for example "
                f"array='obsm/X_pca'."
            )
        found = found.inside("X")
        kind = found.group.attrs.get("encoding-type")
    if kind == "csc_matrix":
        raise InputError(
            f"{found.name} is a sparse matrix stored by columns (csc_matrix), of which no row can "
            f"be read without all columns: write it by rows, as `X.tocsr()` has them."
        )
    if kind != "csr_matrix":
        return None
    if feature_axis not in (-1, 1):
        raise InputError(
            f"feature_axis={feature_axis!r} does not fit {found.name}, a sparse matrix, whose rows "
            f"are rows: leave it out."
        )
    shape: Any = found.group.attrs.get("shape")
    data, indices, indptr = (
        found.array(name).source(None) for name in ("data", "indices", "indptr")
    )
    size = [int(n) for n in shape]
    source = StoredSparseSource.of(data, indices, indptr, size, found.name, block_rows=block_rows)
    return _named(found, source)


def with_gene_names(found: FoundArray, source: Source) -> Source:
    """Return the source of a dense matrix with the names of genes, if it is that of an AnnData."""
    if found.array.attrs.get("encoding-type") != "array":
        return source
    return _named(found.beside(), source)


def _named(found: FoundGroup, source: Source) -> Source:
    """Return a source with the names of its features, where it is X or a layer and has some."""
    parts = found.group.path.split("/") if found.group.path else []
    names = None
    for up in range(len(parts) + 1):
        root = found.above(up)
        if root is not None and root.group.attrs.get("encoding-type") == "anndata":
            inside = parts[len(parts) - up :]
            if not inside or inside[0] in ("X", "layers"):
                names = _gene_names(root.group)
            break
    if names is None or len(names) != source.n_features:
        return source
    return replace(source, feature_names=names)  # type: ignore[type-var]


def _gene_names(group: zarr.Group) -> tuple[str, ...] | None:
    """Return the index of the table of genes, None where it has none that is plainly stored."""
    table = group.get("var")
    if not isinstance(table, zarr.Group):
        return None
    index = table.get(str(table.attrs.get("_index", "_index")))
    if not isinstance(index, zarr.Array):
        return None
    return tuple(str(name) for name in np.asarray(index[:]).tolist())
