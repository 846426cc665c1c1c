"""Many arrays in an object store: by a list of URLs and by a group; labels written back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.output_group import proportions_at
from dask_gmm.data.sink import OpenBlockWriter
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter, writable_store
from dask_gmm.errors import ArrayNotFoundError, InputError, StoreError

if TYPE_CHECKING:
    from tests.object_store import ObjectStoreServer

rng = np.random.default_rng(0)
A = {name: rng.normal(size=(n, 3)) + 5 * i for i, (name, n) in enumerate([("a", 30), ("b", 7)])}


@pytest.fixture
def group(object_store: ObjectStoreServer) -> str:
    url = object_store.url("many.zarr")
    found = zarr.create_group(writable_store(url, object_store.options), overwrite=True)
    for name, x in A.items():
        found.create_array(name, data=x, chunks=(10, 3))
    found.create_array("other", data=np.ones(4))
    return url


def test_by_urls_and_by_names(object_store: ObjectStoreServer, group: str) -> None:
    options = object_store.options
    for X, arrays in (([f"{group}/a", f"{group}/b"], None), (group, "[ab]"), (group, ["a", "b"])):
        source: Any = open_source(X, arrays=arrays, storage_options=options)
        assert source.names == ("a", "b")
        assert source.shippable
        before = read_counter()
        rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
        assert (read_counter() - before).gets == 4
        np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(list(A.values())))
        assert source.read_ahead.requests > 0
    with pytest.raises(ArrayNotFoundError, match="is called 'q'"):
        open_source(group, arrays=["a", "q"], storage_options=options)
    with pytest.raises(InputError, match="is a pattern"):
        open_source(f"{group}/*.zarr", storage_options=options)


def test_labels_are_written_in_place_and_gone_on_with(
    object_store: ObjectStoreServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, out = object_store.options, object_store.url("labels.zarr")
    gm = GaussianMixture(2, random_state=0).fit(list(A.values()))
    gm.set_params(arrays="[ab]", storage_options=options)
    original, written = OpenBlockWriter.write, list[int]()

    def failing(self: OpenBlockWriter, block: Any, values: Any) -> None:
        if len(written) == 2:
            raise StoreError("This store has had enough.")
        written.append(block.index)
        original(self, block, values)

    with monkeypatch.context() as patch:
        patch.setattr(OpenBlockWriter, "write", failing)
        with pytest.raises(StoreError, match="had enough"):
            gm.predict_to(group, out, storage_options=options)
    assert gm.predict_to(group, out, storage_options=options, resume="must") == 37
    names, shares, counts = proportions_at(out, options)
    assert names == ["a", "b"]
    np.testing.assert_allclose(shares, gm.proportions(list(A.values())), rtol=1e-12)
    assert counts.sum(axis=1).tolist() == [30, 7]
    labels: Any = zarr.open_group(writable_store(out, options), mode="r")["labels"]
    for name, x in A.items():
        np.testing.assert_array_equal(labels[name][:], gm.set_params(arrays=None).predict(x))
