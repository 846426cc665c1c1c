"""What a mixture says of each of many arrays: values of their rows, and each component's part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import compute

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.open_arrays import each_of, holds_arrays
from dask_gmm.data.provenance import check_unchanged
from dask_gmm.data.weights_of_many import each_alone
from dask_gmm.execution import LocalBackend, single_threaded_blas
from dask_gmm.execution.tree import TreeFold
from dask_gmm.fitting.imputing import Imputed
from dask_gmm.fitting.prediction import WriteJob
from dask_gmm.fitting.shares import Shares, SharesJob, SharesWriteJob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dask.array as da

    from dask_gmm.data.concatenated_source import Many
    from dask_gmm.data.output_group import GroupOutput
    from dask_gmm.data.source import Source
    from dask_gmm.fitting.prediction import RowFunction
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["computed", "of_each", "proportions_of", "write_group"]

_compute: Callable[..., Any] = compute  # untyped in Dask


def of_each(
    X: Any,
    source: Many,
    function: RowFunction,
    lazily: Callable[[Source, RowFunction], da.Array],
    finish: Callable[[Any, Source, Any], Any],
) -> list[Any] | dict[str, Any]:
    """Apply a function to the rows of each of many arrays.

    Parameters
    ----------
    X : object
        What `source` was opened from.
    source : ConcatenatedSource or ConcatenatedDaskSource
    function : RowFunction
    lazily : callable
        Applies it to a source, as a Dask array.
    finish : callable
        Makes of an array, its source and its values what the user gets.

    Returns
    -------
    list, or dict by the names of the arrays where X is no list
        Of those that are in memory computed, of others lazy.
    """
    items = each_of(X) if holds_arrays(X) else [None] * len(source.parts)
    parts = each_alone(source)
    values: list[Any] = [
        lazily(part, _for_array(function, i, part)) for i, part in enumerate(parts)
    ]
    here = [number for number, part in enumerate(parts) if part.in_memory]
    for number, found in zip(here, computed([values[i] for i in here]), strict=True):
        values[number] = found
    results = [finish(*each) for each in zip(items, parts, values, strict=True)]
    keys = list(X) if isinstance(X, dict) else source.names
    return results if isinstance(X, list | tuple) else dict(zip(keys, results, strict=True))


def proportions_of(
    source: Source,
    parameters: MixtureParameters,
    kernel: Kernel,
    run: Callable[[Source, SharesJob], Shares],
) -> Shares:
    """Return the part of each component in each array of a source, which may be one alone."""
    first = source.first_blocks if is_many(source) else (0, source.n_blocks)
    found = run(source, SharesJob(parameters, first, kernel))
    return found.of_all(len(first) - 1)


def write_group(
    source: Many, function: RowFunction, begun: GroupOutput, run: Callable[..., Shares]
) -> None:
    """Write what an output of many arrays lacks, and call it complete.

    Parameters
    ----------
    source : ConcatenatedSource or ConcatenatedDaskSource
    function : RowFunction
    begun : GroupOutput
    run : callable
        Runs a job over all blocks of a source, or some.
    """
    if begun.complete:
        return
    layout, shares = begun.writer.arrays, None
    if begun.blocks is None or begun.blocks:
        size = np.dtype(function.dtype).itemsize * prod(layout.tail) * (source.max_block_rows or 0)
        sums = SharesJob(function.parameters, source.first_blocks, function.kernel)
        job = SharesWriteJob(WriteJob(function, begun.writer, size), sums)
        shares = run(source, job, begun.blocks)
    check_unchanged(begun.recipe, source)
    if begun.blocks is not None or shares is None:  # those of all blocks, in the order of the tree
        fold: TreeFold[Shares] = TreeFold(layout.n_blocks)
        for block, (array, (masses, counts)) in enumerate(begun.sums()):
            fold.add(0, block, Shares(array, masses[None], counts[None], 0))
        shares = fold.root()
    whole = shares.of_all(len(layout.names))
    begun.finish_with(whole.proportions, whole.counts)


def computed(lazy: Sequence[da.Array]) -> Sequence[Any]:
    """Compute what is made of rows in memory, on threads of this process."""
    if not lazy:
        return ()
    # Threads of its own: in a task of a configured pool, that pool may have no thread to spare.
    with single_threaded_blas(), ThreadPoolExecutor(LocalBackend().n_threads) as pool:
        found: Sequence[Any] = _compute(*lazy, scheduler="threads", pool=pool)
    return found


def _for_array(function: RowFunction, number: int, part: Source) -> RowFunction:
    """The function for the rows of one of many arrays, whose draws are its own."""
    if not isinstance(function, Imputed) or function.seed is None:
        return function
    seed = np.random.SeedSequence((function.seed, number)).generate_state(1)[0]
    shape = tuple(n for n in part.sample_shape if n is not None)
    return replace(function, seed=int(seed) // 2, sample_shape=shape)
