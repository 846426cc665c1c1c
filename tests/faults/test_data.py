"""Data that rot, vanish or are written anew while a fit reads them, here and on worker processes.

A fit ends with an error that names the place, soon after; what cannot be found at all, a flipped
bit that no checksum covers, a manifest finds.
"""

from __future__ import annotations

import io
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.codecs

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.manifest import open_manifest, write_manifest
from dask_gmm.data.stored_objects import StoredArrayObjects
from dask_gmm.data.stores import store_spec
from dask_gmm.data.zarr_open import find_by_url
from dask_gmm.errors import (
    CorruptChunkError,
    DataChangedError,
    MissingChunkError,
    NonFiniteError,
)
from dask_gmm.fitting.events import PassFinished

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed import Client

    Damage = Callable[[Path], object]

pytestmark = pytest.mark.slow

BOUND = 60.0  # seconds, on a machine where much else runs
N_BLOCKS, BLOCK = 64, 500
VICTIM = "c/37/0"  # no witness; see `dask_gmm.execution.watch`
PLACES = ["here", "two processes"]


def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(3.0 * i, 1.0, (N_BLOCKS * BLOCK // 4, 4)) for i in range(4)])[
        rng.permutation(N_BLOCKS * BLOCK)
    ]


def write(path: Path, data: np.ndarray, **changed: Any) -> zarr.Array[Any]:
    settings: dict[str, Any] = {"compressors": [zarr.codecs.Crc32cCodec()], **changed}
    return zarr.create_array(path, data=data, chunks=(BLOCK, 4), overwrite=True, **settings)


def unlink(path: Path) -> None:
    (path / VICTIM).unlink()


def truncate(path: Path) -> None:
    whole = (path / VICTIM).read_bytes()
    (path / VICTIM).write_bytes(whole[: len(whole) // 2])


def flip(path: Path) -> None:
    whole = bytearray((path / VICTIM).read_bytes())
    whole[1000] ^= 1  # far behind the point: no later reader sees anything odd
    (path / VICTIM).write_bytes(whole)


DAMAGES: dict[str, tuple[Damage, type[Exception]]] = {
    "missing": (unlink, MissingChunkError),
    "truncated": (truncate, CorruptChunkError),
    "flipped": (flip, CorruptChunkError),
    "rewritten": (lambda path: write(path, values()[::-1]), DataChangedError),
    "of another type": (lambda path: write(path, values().astype("f4")), DataChangedError),
}
FITS: dict[str, dict[str, Any]] = {
    "plain": {"acceleration": None, "tol": 0.0, "max_iter": 6},
    "accelerated": {"acceleration": "variance-reduced", "init_size": 2000, "tol": 0.0},
    "selection": {"acceleration": None, "tol": 0.0, "max_iter": 6},
}


def fit(kind: str, path: Path, after_two: Callable[[], object]) -> None:
    def observe(event: object) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            after_two()

    settings = {"cache": 0, "random_state": 0, "callbacks": [observe], **FITS[kind]}
    if kind == "selection":
        select_gaussian_mixture(path, range(2, 5), **settings)
    else:
        GaussianMixture(4, **settings).fit(path)


def working(place: str, client: Client) -> AbstractContextManager[Any]:
    """Fits in it compute in this process, or on the workers."""
    current: AbstractContextManager[Any] = client.as_current()
    return nullcontext() if place == "here" else current


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_mid_fit(
    damage: str, kind: str, place: str, two_processes: Client, tmp_path: Path
) -> None:
    path = tmp_path / "x.zarr"
    write(path, values())
    do, error = DAMAGES[damage]
    begun = 0.0

    def break_it() -> None:
        nonlocal begun
        do(path)
        begun = time.monotonic()

    with working(place, two_processes), pytest.raises(error) as caught:
        fit(kind, path, break_it)
    assert time.monotonic() - begun < BOUND
    assert str(path) in str(caught.value)
    if error is not DataChangedError:
        assert VICTIM in str(caught.value)
    if damage == "of another type":
        assert 'dtype was "float64" and is "float32"' in str(caught.value)


def test_a_bit_that_nothing_covers_is_found_by_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, values(), compressors=None)
    found = find_by_url(store_spec(path))
    stored = StoredArrayObjects(found.spec, found.array)
    manifest = io.BytesIO()
    write_manifest(stored, manifest, lambda *_: None)
    fit("plain", path, lambda: flip(path))  # nobody can know
    opened = open_manifest(manifest, "the manifest")
    differences = list(opened.differences(stored, lambda *_: None))
    assert [(d.kind, d.key) for d in differences] == [("changed", VICTIM)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", [0, 7_654_321, 9_999_999])
def test_nan_in_one_row_of_ten_millions(
    row: int, place: str, two_processes: Client, tmp_path: Path
) -> None:
    path = tmp_path / "x.zarr"
    n, block = 10_000_000, 250_000
    array = zarr.create_array(path, shape=(n, 2), chunks=(block, 2), dtype="f4", compressors=None)
    rng = np.random.default_rng(0)
    for start in range(0, n, block):
        part = rng.normal(size=(block, 2)).astype("f4")
        if start <= row < start + block:
            part[row - start, 1] = np.nan
        array[start : start + block] = part
    mixture = GaussianMixture(2, random_state=0)
    begun = time.monotonic()
    with working(place, two_processes), pytest.raises(NonFiniteError) as caught:
        mixture.fit(path)
    assert time.monotonic() - begun < BOUND
    assert f"(row {row} of {path})" in str(caught.value)
    assert "Feature 1 of" in str(caught.value)
