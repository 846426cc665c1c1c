"""Rows of a random mixture, any part of them at any time, and a Zarr store full of them.

Rows come in tiles of fixed size, each from a generator keyed with (seed, tile): a row depends on
the seed and its index alone, so stores of the same seed hold the same rows whatever their chunks,
their compression, or the number of threads that wrote them. Nothing is held but a chunk a thread.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.system import CPU_COUNT

from dask_gmm.errors import InputError
from dask_gmm.execution.backend import PassProgress
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.interrupts import held
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Layout", "Recipe", "Rows", "draw_mixture", "write_rows"]

TILE = 16_384
"""Rows that one generator makes; part of what a seed means."""

WIDEST = 1.5
"""Largest standard deviation of a component in any direction."""

_TRUTH, _ROWS = 0, 1  # the two families of generators that a seed keys


@dataclass(frozen=True)
class Recipe:
    """What a random mixture shall be like.

    Attributes
    ----------
    components, features : int
    separation : float
        Distance between the two closest means, in units of 1.5, the largest standard deviation
        that a component can have in any direction. 2 overlaps, 4 hardly does.
    covariance : str
        Family of the covariances.
    seed : int
    """

    components: int
    features: int
    separation: float
    covariance: str
    seed: int


def draw_mixture(recipe: Recipe) -> MixtureParameters:
    """Draw the mixture of a recipe: always the same one."""
    k, d = recipe.components, recipe.features
    rng = np.random.default_rng((recipe.seed, _TRUTH))
    weights = rng.dirichlet(np.full(k, 4.0))
    weights = 0.9 * weights + 0.1 / k  # none so light that a fit would hardly see it
    sigma = rng.uniform(0.5, WIDEST, (k, d))
    weights = weights / weights.sum()
    family = covariance_family(recipe.covariance)
    covariances: NDArray[np.float64]
    if isinstance(family, FactorFamily):
        # Half of each variance is the factors', in random directions.
        family.check(d)
        loadings = rng.standard_normal((k, d, family.n_factors))
        loadings /= np.linalg.norm(loadings, axis=2, keepdims=True)
        variances = 0.5 * sigma**2
        loadings *= np.sqrt(variances)[:, :, None]
        covariances = np.concatenate([variances[:, :, None], loadings], axis=2)
    elif family.form.dense_factors:
        many = sigma[:1] if family.form.shared else sigma
        rotated = np.stack([_rotated(rng, s) for s in many])
        covariances = rotated[0] if family.form.shared else rotated
    else:
        covariances = (sigma**2)[:, : math.prod(family.form.covariance_shape(1, d))]
        covariances = covariances.reshape(family.form.covariance_shape(k, d))
    covariances = family.nearest(weights, covariances, d)
    return MixtureParameters.create(family, weights, _means(rng, recipe), covariances)


def _rotated(rng: np.random.Generator, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """A covariance with axes of the given standard deviations in random directions."""
    q, _ = np.linalg.qr(rng.standard_normal((sigma.size, sigma.size)))
    covariance = (q * sigma**2) @ q.T
    return np.asarray((covariance + covariance.T) / 2)


def _means(rng: np.random.Generator, recipe: Recipe) -> NDArray[np.float64]:
    """Means that stay clear of each other: far ones of many, stretched to the separation."""
    k, d = recipe.components, recipe.features
    if k == 1:
        return rng.standard_normal((1, d))
    candidates = rng.standard_normal((max(64, 8 * k), d))
    chosen = [0]
    distance = np.linalg.norm(candidates - candidates[0], axis=1)
    for _ in range(k - 1):
        chosen.append(int(distance.argmax()))
        new = np.linalg.norm(candidates - candidates[chosen[-1]], axis=1)
        distance = np.minimum(distance, new)
    means = candidates[chosen]
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)
    closest = gaps[~np.eye(k, dtype=bool)].min()
    return np.asarray(means * (recipe.separation * WIDEST / closest))


@dataclass(frozen=True)
class Rows:
    """The rows of a mixture, by index.

    Attributes
    ----------
    parameters : MixtureParameters
    seed : int
    dtype : numpy.dtype
        float32 or float64.
    """

    parameters: MixtureParameters
    seed: int
    dtype: np.dtype[Any]

    def between(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start … stop - 1, shape (stop - start, D)."""
        rows = np.empty((stop - start, self.parameters.n_features), self.dtype)
        at = start
        while at < stop:
            tile, offset = divmod(at, TILE)
            n = min(TILE - offset, stop - at)
            rows[at - start : at - start + n] = self._tile(tile)[offset : offset + n]
            at += n
        return rows

    def _tile(self, index: int) -> NDArray[Any]:
        p = self.parameters
        seed = np.random.SeedSequence((self.seed, _ROWS), spawn_key=(index,))
        rng = np.random.Generator(np.random.SFC64(seed))
        counts = rng.multinomial(TILE, p.weights)
        places = rng.permutation(TILE)
        noise = rng.standard_normal((TILE, p.n_features), dtype=self.dtype.type)
        rows = np.empty_like(noise)
        stop = 0
        for k, count in enumerate(counts):
            start, stop = stop, stop + int(count)
            if isinstance(p.family, FactorFamily):
                coloured = p.form.colour(p.precisions_cholesky, k, noise[start:stop])
                part = coloured.astype(self.dtype)
            else:
                part = _coloured(noise[start:stop], _factor(p, k).astype(self.dtype))
            rows[places[start:stop]] = part + p.means[k].astype(self.dtype)
        return rows


def _factor(p: MixtureParameters, k: int) -> NDArray[np.float64]:
    """A with A Aᵀ = Σ_k, as a matrix, a vector (its diagonal) or a number."""
    own = p.covariances if p.form.shared else p.covariances[k]
    root = np.linalg.cholesky if p.form.dense_factors else np.sqrt
    return np.asarray(root(own), dtype=np.float64)


def _coloured(noise: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(noise @ factor.T if factor.ndim == 2 else noise * factor)


@dataclass(frozen=True)
class Layout:
    """How a store is to be laid out.

    Attributes
    ----------
    rows : int
    chunk_rows : int
    shard_rows : int or None
        A multiple of `chunk_rows`; None without shards.
    compressor : str
        ``default`` (Zarr's), ``none``, ``zstd``, ``lz4`` or ``gzip``.
    zarr_format : int
        2 or 3.
    """

    rows: int
    chunk_rows: int
    shard_rows: int | None
    compressor: str
    zarr_format: int


def write_rows(
    rows: Rows,
    layout: Layout,
    url: str,
    *,
    options: dict[str, Any],
    overwrite: bool,
    attributes: dict[str, Any],
    threads: int | None = None,
    on_progress: Callable[[PassProgress], None] | None = None,
) -> None:
    """Write a Zarr array of the rows, chunk by chunk, on some threads.

    Raises
    ------
    OSError
        The store cannot be written, or is full.
    """
    array = _create(rows, layout, url, options, overwrite=overwrite, attributes=attributes)
    step = layout.shard_rows or layout.chunk_rows
    starts = iter(range(0, layout.rows, step))
    stop = threading.Event()

    def write(start: int) -> int:
        end = min(start + step, layout.rows)
        if not stop.is_set():
            array[start:end] = rows.between(start, end)
        return end - start

    n = threads or CPU_COUNT
    begun, blocks, done = time.perf_counter(), -(-layout.rows // step), [0, 0]
    row_bytes = rows.parameters.n_features * rows.dtype.itemsize
    with single_threaded_blas(), ThreadPoolExecutor(n, "dask-gmm-simulate") as pool:
        # A few at a time: a queue of all chunks of a large store would be a list of futures.
        pending = {pool.submit(write, start) for start in islice(starts, 2 * n)}
        try:
            while pending:
                ready, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in ready:
                    done[0] += 1
                    done[1] += future.result()
                    pending.update(pool.submit(write, start) for start in islice(starts, 1))
                if on_progress is not None:
                    seconds = time.perf_counter() - begun
                    on_progress(
                        PassProgress(
                            done[0], blocks, done[1], layout.rows, done[1] * row_bytes, seconds
                        )
                    )
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@held()
def _create(
    rows: Rows,
    layout: Layout,
    url: str,
    options: dict[str, Any],
    *,
    overwrite: bool,
    attributes: dict[str, Any],
) -> Any:
    import zarr

    from dask_gmm.data.stores import writable_store

    d = rows.parameters.n_features
    return zarr.create_array(
        store=writable_store(url, options),
        shape=(layout.rows, d),
        chunks=(min(layout.chunk_rows, layout.rows), d),
        shards=None if layout.shard_rows is None else (layout.shard_rows, d),
        dtype=rows.dtype,
        compressors=_compressors(layout, rows.dtype),
        fill_value=0,
        zarr_format=2 if layout.zarr_format == 2 else 3,
        attributes=attributes,
        overwrite=overwrite,
        config={"write_empty_chunks": True},
    )


def _compressors(layout: Layout, dtype: np.dtype[Any]) -> Any:
    from zarr import codecs

    if layout.compressor == "default":
        return "auto"
    if layout.compressor == "none":
        return None
    if layout.zarr_format == 2:
        import numcodecs

        return {
            "zstd": numcodecs.Zstd(level=1),
            "lz4": numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE),
            "gzip": numcodecs.GZip(level=1),
        }[layout.compressor]
    return {
        "zstd": codecs.ZstdCodec(level=1),
        "lz4": codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=dtype.itemsize),
        "gzip": codecs.GzipCodec(level=1),
    }[layout.compressor]


def shard_rows_for(chunk_rows: int, wanted: int) -> int:
    """Round a shard up to whole chunks.

    Raises
    ------
    InputError
        A shard would be smaller than a chunk.
    """
    if wanted < chunk_rows:
        raise InputError(
            f"A shard of {wanted:,} rows would be smaller than a chunk of {chunk_rows:,}: give "
            f"--shard a larger size than --chunk."
        )
    return -(-wanted // chunk_rows) * chunk_rows
