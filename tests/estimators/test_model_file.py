"""Model files: nothing in them runs, nothing is lost by a save that fails, damage is told."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
import zarr
import zstandard

import dask_gmm.model_file
from dask_gmm import GaussianMixture
from dask_gmm.errors import InputError, ModelFileError, OutputExistsError, StoreError
from tests.memory import peak_of

if TYPE_CHECKING:
    from pathlib import Path


def rows(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 6])


@pytest.fixture
def fitted() -> GaussianMixture:
    gm = GaussianMixture(2, random_state=0)
    gm.fit(rows())
    return gm


def arrays_of(model: Path) -> Path:
    name = json.loads((model / "zarr.json").read_text())["attributes"]["arrays"]
    return model / str(name)


def test_a_failed_save_leaves_the_old_model_whole(
    fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.zarr"
    fitted.save(path)
    calls: list[str] = []
    original = zarr.Group.create_array

    def full_disk(self: zarr.Group, name: str, **how: Any) -> Any:
        calls.append(name)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(self, name, **how)

    monkeypatch.setattr(zarr.Group, "create_array", full_disk)
    other = GaussianMixture(3, random_state=1).fit(rows(1))
    with pytest.raises(StoreError, match="No space left on device"):
        other.save(path, overwrite=True)
    monkeypatch.undo()
    np.testing.assert_array_equal(GaussianMixture.load(path).means_, fitted.means_)
    other.save(path, overwrite=True)
    np.testing.assert_array_equal(GaussianMixture.load(path).means_, other.means_)


def test_a_first_save_that_breaks_off_can_be_repeated(
    fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.zarr"
    broken = pytest.MonkeyPatch()
    broken.setattr(
        dask_gmm.model_file, "_write_arrays", lambda *_: (_ for _ in ()).throw(OSError(5, "Broken"))
    )
    with pytest.raises(StoreError, match="Broken"):
        fitted.save(path)
    broken.undo()
    with pytest.raises(ModelFileError, match="broke off"):
        GaussianMixture.load(path)
    fitted.save(path, overwrite=True)
    GaussianMixture.load(path)


def test_overwriting_leaves_one_set_of_arrays(fitted: GaussianMixture, tmp_path: Path) -> None:
    path = tmp_path / "model.zarr"
    for _ in range(3):
        fitted.save(path, overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == sorted(["zarr.json", arrays_of(path).name])


class Payload:
    """Would run code when unpickled."""

    ran: list[str] = []  # noqa: RUF012

    def __reduce__(self) -> Any:
        return (Payload.ran.append, ("ran",))


def test_pickles_in_a_model_are_never_loaded(fitted: GaussianMixture, tmp_path: Path) -> None:
    path = tmp_path / "model.zarr"
    fitted.save(path)
    weights = arrays_of(path) / "weights"
    shutil.rmtree(weights)
    array = zarr.create_array(
        weights, shape=(1,), chunks=(1,), dtype="int64", zarr_format=2, compressors=None
    )
    del array
    document = json.loads((weights / ".zarray").read_text())
    document |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 4}], "fill_value": None}
    (weights / ".zarray").write_text(json.dumps(document))
    poison = np.empty(1, dtype=object)
    poison[0] = Payload()
    (weights / "0").write_bytes(bytes(numcodecs.Pickle(protocol=4).encode(poison)))
    with pytest.raises(ModelFileError):
        GaussianMixture.load(path)
    assert Payload.ran == []


@pytest.mark.parametrize(
    "change",
    [
        {"fit": {}},
        {"fit": None},
        {"fit": {"n_features": 7}},
        {"fit": {"dtype": "banana"}},
        {"settings": {"covariance_type": "diag"}},
        {"settings": {"n_components": 2, "covariance_type": "elliptic"}},
        {"arrays": "nowhere"},
        {"arrays": 3},
        {"covariance_type": "elliptic"},
    ],
    ids=str,
)
def test_what_describes_no_fit_is_refused(
    change: dict[str, Any], fitted: GaussianMixture, tmp_path: Path
) -> None:
    path = tmp_path / "model.zarr"
    fitted.save(path)
    document = json.loads((path / "zarr.json").read_text())
    attributes = document["attributes"]
    for key, value in change.items():
        merge = isinstance(value, dict) and value
        attributes[key] = {**attributes[key], **value} if merge else value
    try:  # with a digest that holds, where one can be made
        root = zarr.open_group(path, mode="r")
        attributes["digest"] = dask_gmm.model_file._read_model(root, attributes).digest
    except (KeyError, TypeError, InputError):
        pass
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError):
        GaussianMixture.load(path)


@pytest.mark.parametrize("junk", [b"", b"{", b"\x00" * 100])
def test_damaged_documents_and_chunks_are_refused(
    junk: bytes, fitted: GaussianMixture, tmp_path: Path
) -> None:
    for target in ("zarr.json", "means/zarr.json", "means/c/0/0", "lower_bounds/c/0"):
        path = tmp_path / target.replace("/", "-")
        fitted.save(path)
        place = path / target if target == "zarr.json" else arrays_of(path) / target
        place.write_bytes(junk)
        with pytest.raises((ModelFileError, StoreError)):
            GaussianMixture.load(path)


def test_a_chunk_that_is_a_bomb_takes_no_memory(fitted: GaussianMixture, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m.zarr")
    chunk = next(f for f in (arrays_of(tmp_path / "m.zarr") / "means/c").rglob("*") if f.is_file())
    chunk.write_bytes(zstandard.compress(bytes(2**26)))

    def refused() -> None:
        with pytest.raises(ModelFileError):
            GaussianMixture.load(tmp_path / "m.zarr")

    assert peak_of(refused, 2**22) < 2**22


def test_numpy_settings_survive(tmp_path: Path) -> None:
    # What a grid search over np.arange hands out.
    settings: Any = {"n_components": np.int64(3), "random_state": np.int32(4)}
    gm = GaussianMixture(**settings, tol=np.float64(1e-4)).fit(rows())
    gm.save(tmp_path / "model.zarr")
    again = GaussianMixture.load(tmp_path / "model.zarr")
    assert (again.n_components, again.random_state, again.tol) == (3, 4, 1e-4)


def test_storage_options_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    options = {"endpoint": "http://elsewhere.example"}
    gm = GaussianMixture(2, random_state=0, storage_options=options).fit(rows())
    path = tmp_path / "model.zarr"
    gm.save(path)
    assert "elsewhere" not in (path / "zarr.json").read_text()
    root = zarr.open_group(path, mode="r+")
    attributes: dict[str, Any] = dict(root.attrs)
    attributes["settings"] = {**attributes["settings"], "storage_options": options}
    attributes["digest"] = dask_gmm.model_file._read_model(root, attributes).digest
    root.attrs.put(attributes)
    assert GaussianMixture.load(path).storage_options is None


def test_credentials_are_refused_also_with_data_in_memory() -> None:
    gm = GaussianMixture(2, storage_options={"secret_access_key": "S3CR3T"})
    with pytest.raises(InputError) as caught:
        gm.fit(rows())
    assert "S3CR3T" not in str(caught.value)


def test_places_that_cannot_be_written(fitted: GaussianMixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputExistsError, match="a file"):
        fitted.save(tmp_path / "file", overwrite=True)
    with pytest.raises(StoreError):
        fitted.save(tmp_path / "file" / "below")


def test_float32_precisions_have_the_same_bits_after_a_load(tmp_path: Path) -> None:
    gm = GaussianMixture(2, random_state=0).fit(rows().astype(np.float32))
    gm.save(tmp_path / "model.zarr")
    again = GaussianMixture.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(again.precisions_, gm.precisions_)
    assert again.precisions_.dtype == np.float32
