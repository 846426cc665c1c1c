"""How Dask names mixtures and what they predict: equal for what is equal, in every process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import icechunk
import numpy as np
import pytest
import zarr
from dask.base import tokenize
from zarr.storage import FsspecStore, MemoryStore, ZipStore

from dask_gmm import GaussianMixture, select_gaussian_mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Dask raises where it would name something at random."""
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        yield


def rows(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((300, 2))


def fitted(**changed: Any) -> GaussianMixture:
    settings: dict[str, Any] = {"n_components": 2, "random_state": 0, **changed}
    gm: GaussianMixture = GaussianMixture(**settings).fit(rows())
    return gm


def test_equal_fits_have_equal_tokens() -> None:
    one, other = fitted(), fitted(callbacks=[lambda event: None])
    assert one.history_[0].seconds != other.history_[0].seconds
    assert tokenize(one) == tokenize(other) == tokenize(pickle.loads(pickle.dumps(one)))
    assert tokenize(one._parameters()) == tokenize(other._parameters())


def test_whatever_differs_in_a_fit_differs_in_its_token() -> None:
    models = [
        GaussianMixture(2, random_state=0),
        fitted(),
        fitted(tol=1e-5),
        fitted(random_state=1),
        fitted(n_components=3),
        fitted(covariance_type="diag"),
        GaussianMixture(2, random_state=0).fit(rows(1)),
    ]
    by_hand = fitted()
    by_hand.means_ = by_hand.means_ + 1e-12
    assert len({tokenize(model) for model in [*models, by_hand]}) == len(models) + 1


def test_equal_selections_have_equal_tokens() -> None:
    one, other = (select_gaussian_mixture(rows(), [1, 2], random_state=0) for _ in "ab")
    assert one.seconds != other.seconds
    assert tokenize(one) == tokenize(other)
    assert tokenize(one) != tokenize(select_gaussian_mixture(rows(1), [1, 2], random_state=0))


@pytest.mark.slow
def test_another_process_finds_the_same_names(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=rows(), chunks=(100, 2))
    code = (
        "import sys; from tests.estimators.test_tokens import fitted, tokenize; gm = fitted(); "
        "print(tokenize(gm), gm.predict(sys.argv[1]).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.zarr")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    gm = fitted()
    assert done.stdout.split() == [tokenize(gm), gm.predict(tmp_path / "x.zarr").name], done.stderr


def directory(place: Path, values: NDArray[np.float64]) -> Any:
    zarr.create_array(place / "x.zarr", data=values, chunks=(100, 2), overwrite=True)
    return str(place / "x.zarr")


def zip_file(place: Path, values: NDArray[np.float64]) -> Any:
    (place / "x.zip").unlink(missing_ok=True)
    with ZipStore(place / "x.zip", mode="w") as store:
        zarr.create_array(store, data=values, chunks=(100, 2))
    return str(place / "x.zip")


def snapshot(place: Path, values: NDArray[np.float64]) -> Any:
    storage = icechunk.local_filesystem_storage(str(place / "ice"))
    repository = icechunk.Repository.open_or_create(storage)
    session = repository.writable_session("main")
    group: Any = zarr.open_group(session.store, mode="a")
    if "v" not in group or not np.array_equal(group["v"][:], values):
        group.create_array("v", data=values, chunks=(100, 2), overwrite=True)
        session.commit("rows")
    return zarr.open_array(repository.readonly_session("main").store, path="v", mode="r")


def collection(place: Path, values: NDArray[np.float64]) -> Any:
    return da.from_array(values, chunks=(100, 2))


NAMED: list[Callable[[Path, NDArray[np.float64]], Any]] = [
    directory,
    zip_file,
    snapshot,
    collection,
]


@pytest.mark.parametrize("make", NAMED)
def test_what_is_lazy_is_named_by_model_and_content(
    make: Callable[[Path, NDArray[np.float64]], Any], tmp_path: Path
) -> None:
    data = make(tmp_path, rows())
    gm, other = fitted(), fitted(random_state=1)
    names = [
        gm.predict(data).name,
        gm.predict_proba(data).name,
        gm.score_samples(data).name,
        other.predict(data).name,
    ]
    assert len(set(names)) == len(names)
    gm.predict(data).compute(scheduler="threads")  # leaves no trace in the name
    assert fitted().predict(data).name == names[0]
    assert gm.predict(make(tmp_path, rows(1))).name not in names


def test_a_chunk_that_is_written_anew_in_its_place_is_noticed(tmp_path: Path) -> None:
    """`dask.array.from_zarr` would take what it held for the new rows."""
    path = directory(tmp_path, rows())
    gm = fitted()
    before = gm.predict(path)
    zarr.open_array(path, mode="r+")[:] = rows(1)
    after = gm.predict(path)
    assert before.name != after.name
    np.testing.assert_array_equal(after.compute(scheduler="threads"), gm.predict(rows(1)))


def test_what_cannot_tell_of_a_change_has_a_name_of_its_own(tmp_path: Path) -> None:
    directory(tmp_path, rows())
    memory = zarr.create_array(MemoryStore(), data=rows())
    fsspec_dir = FsspecStore.from_url(f"simplecache::file://{tmp_path}/x.zarr", read_only=True)
    for data in (memory, zarr.open_array(fsspec_dir, mode="r")):
        assert fitted().predict(data).name != fitted().predict(data).name
