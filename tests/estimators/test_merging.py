"""Components combined into clusters: what a user gets, keeps, and applies to rows."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.exceptions import NotFittedError

from dask_gmm import ComponentMerging, GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError, ModelFileError, OutputExistsError, StoreNotFoundError
from dask_gmm.fitting.events import PassStarted

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
SQUARE, CLOUD = RNG.uniform(0, 4, (600, 2)), RNG.normal(9, 0.7, (400, 2))
X = np.concatenate([SQUARE, CLOUD])[RNG.permutation(1000)]


@cache
def fitted() -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(5, random_state=0, max_iter=20, tol=1e-2).fit(X)
    return gm


@cache
def merged() -> ComponentMerging:
    return fitted().merge(X, 2)


def by_hand(merging: ComponentMerging, rows: np.ndarray) -> np.ndarray:
    posteriors = fitted().predict_proba(rows)
    shares = [posteriors[:, merging.labels == c].sum(axis=1) for c in range(merging.n_clusters)]
    return np.stack(shares, axis=1)


def test_a_square_and_a_cloud_are_two_clusters() -> None:
    found = merged()
    assert (found.n_components, found.n_clusters, found.chosen_by) == (5, 2, "given")
    assert (found.n_rows, found.weight, found.n_passes, found.n_greedy) == (1000, 1000.0, 2, 4)
    labels = found.predict(X)
    assert sorted(np.bincount(labels)) == [400, 600]
    assert len(set(labels[X[:, 0] > 5])) == 1
    np.testing.assert_allclose(found.weights.sum(), 1.0)
    np.testing.assert_allclose(np.sort(found.weights), [0.4, 0.6], atol=1e-3)
    assert found.entropies[1] < 1e-3 * 1000 < found.entropies[2]
    assert found.merged[-1] == 1000.0
    assert fitted().merge(X).n_clusters == fitted().merge(X, "elbow").n_clusters == found.elbow()
    assert fitted().merge(X, "elbow-rows").chosen_by == "elbow-rows"


def test_probabilities_are_sums_and_labels_their_largest() -> None:
    found = merged().with_clusters(3)
    assert found.chosen_by == "given"
    np.testing.assert_allclose(found.predict_proba(X), by_hand(found, X), rtol=1e-12)
    assert np.array_equal(found.predict(X), by_hand(found, X).argmax(axis=1))
    lazy = found.predict(da.from_array(X, chunks=(300, 2)))
    assert lazy.chunks == ((300, 300, 300, 100),)
    assert np.array_equal(lazy.compute(), found.predict(X))
    named = found.predict_proba(
        xr.DataArray(X, dims=("row", "band"), coords={"row": np.arange(1000)})
    )
    assert named.dims == ("row", "cluster")
    assert found.predict_proba(X.astype(np.float32)).dtype == np.float32
    several = found.predict([X[:10], X[10:30]])
    assert [len(labels) for labels in several] == [10, 20]
    masked = found.predict(X, where=np.arange(1000) < 10)
    assert np.array_equal(masked[10:], np.full(990, -1))
    found.model.missing = "drop"  # a copy's own settings
    assert fitted().missing == "error"
    found.model.missing = "error"


def test_labels_of_any_number() -> None:
    found = merged()
    assert found.labels_of(5).tolist() == [0, 1, 2, 3, 4]
    assert found.labels_of(1).tolist() == [0] * 5
    assert np.array_equal(found.labels, found.labels_of(2))
    for count in (0, 6, 2.0, True, "2"):
        with pytest.raises(InputError, match=r"cannot be had of 5 components"):
            found.labels_of(count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no curve"):
        found.elbow("entropy")


def test_the_curve_is_that_of_the_data_given(tmp_path: Path) -> None:
    """Of weights, a mask and a store: as of the rows alone."""
    weights = np.where(np.arange(1000) < 500, 2.0, 0.0)
    doubled = fitted().merge(X, 2, sample_weight=weights)
    halved = fitted().merge(X, 2, where=np.arange(1000) < 500)
    plain = fitted().merge(X[:500], 2)
    np.testing.assert_allclose(doubled.entropies, 2.0 * plain.entropies, rtol=1e-12)
    np.testing.assert_allclose(halved.entropies, plain.entropies, rtol=1e-12)
    assert (doubled.n_rows, doubled.weight) == (500, 1000.0)
    store = tmp_path / "rows.zarr"
    zarr.create_array(store, data=X, chunks=(100, 2))
    before = read_counter()
    started: list[Any] = []
    gm = GaussianMixture.from_sklearn(fitted().to_sklearn()).set_params(
        callbacks=[started.append], cache=0
    )
    stored = gm.merge(str(store), 2)
    assert (read_counter() - before).gets == 2 * 10
    assert [e.number for e in started if isinstance(e, PassStarted)] == [1, 2]
    np.testing.assert_allclose(stored.entropies, merged().entropies, rtol=1e-12)
    assert stored.model.callbacks is None


def test_scaled_rows_are_scaled() -> None:
    gm = GaussianMixture(3, standardize=True, random_state=0, max_iter=5, tol=1e-2).fit(
        X * [1, 100]
    )
    found = gm.merge(X * [1, 100])
    assert np.array_equal(found.with_clusters(3).predict(X * [1, 100]), gm.predict(X * [1, 100]))


def test_outputs(tmp_path: Path) -> None:
    store = tmp_path / "rows.zarr"
    zarr.create_array(store, data=X, chunks=(300, 2))
    found, labels = merged(), tmp_path / "labels.zarr"
    assert found.predict_to(str(store), labels) == 1000
    written = np.asarray(zarr.open_array(labels)[:])
    assert np.array_equal(written, found.predict(X))
    assert written.dtype == np.uint8
    with pytest.raises(OutputExistsError, match="label"):  # those of other clusters
        found.with_clusters(3).predict_to(str(store), labels)
    shares = tmp_path / "shares.zarr"
    found.predict_to(str(store), shares, probabilities=True, dtype="float32")
    shared = np.asarray(zarr.open_array(shares)[:])
    np.testing.assert_allclose(shared, found.predict_proba(X), atol=1e-6)
    table = tmp_path / "labels.parquet"
    found.predict_to(str(store), table, probabilities=True)
    import pyarrow.parquet as pq

    read = pq.read_table(table)
    assert read.column_names == ["label", "posterior_0", "posterior_1"]
    assert np.array_equal(read["label"].to_numpy(), found.predict(X))
    with pytest.raises(InputError, match="of one: call predict_to for each"):
        found.predict_to([X, X], tmp_path / "many.zarr")
    with pytest.raises(InputError, match="keep= is for tables"):
        found.predict_to(str(store), tmp_path / "other.zarr", keep=["id"])


def test_files(tmp_path: Path) -> None:
    found, path = merged(), tmp_path / "clusters.json"
    found.save(path)
    again = ComponentMerging.load(path, fitted())
    assert again.described() == found.described()
    assert np.array_equal(again.predict(X), found.predict(X))
    with pytest.raises(OutputExistsError, match="pass overwrite=True"):
        found.save(path)
    found.with_clusters(1).save(path, overwrite=True)
    assert ComponentMerging.load(path, fitted()).n_clusters == 1
    other = GaussianMixture(5, random_state=1, max_iter=1, tol=10.0).fit(X)
    with pytest.raises(ModelFileError, match="of another mixture"):
        ComponentMerging.load(path, other)
    with pytest.raises(StoreNotFoundError, match="no file of clusters at"):
        ComponentMerging.load(tmp_path / "nothing.json", fitted())
    with pytest.raises(NotFittedError):
        ComponentMerging.load(path, GaussianMixture())
    with pytest.raises(InputError, match=r"end with \.json"):
        found.save(tmp_path / "clusters.zarr")
    note = tmp_path / "note.json"
    note.write_text("{}")
    with pytest.raises(OutputExistsError, match="is no file of clusters"):
        found.save(note, overwrite=True)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("format", "other", "is no file of clusters"),
        ("format_version", 2, "Upgrade dask-gmm"),
        ("merges", [[0, 1], [0, 2], [3, 4], [5, 6]], "no hierarchy"),
        ("merges", [[0, 7], [1, 2], [3, 4], [5, 6]], "no hierarchy"),
        ("gains", [1.0, -1.0, 0.0, 0.0], "its gains are not 4 numbers"),
        ("merged", [1.0], "its merged are not 4 numbers"),
        ("n_clusters", 9, "cannot be had"),
        ("chosen_by", "me", "chosen_by"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps({**merged().described(), name: value}))
    with pytest.raises(ModelFileError, match=said):
        ComponentMerging.load(path, fitted())


def test_mistakes() -> None:
    with pytest.raises(NotFittedError):
        GaussianMixture().merge(X)
    for count in (0, 6, 1.5, True, "entropy", None):
        with pytest.raises(InputError, match="cannot be had of 5 components"):
            fitted().merge(X, count)  # type: ignore[arg-type]
    for passes in (1, 2.5, True, "many"):
        with pytest.raises(InputError, match="2 or more"):
            fitted().merge(X, max_passes=passes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        fitted().merge([[0.0, np.nan]])
    with pytest.raises(ValueError, match="is expecting 2 features"):
        fitted().merge([[0.0], [1.0]])
    with pytest.raises(ValueError, match="0 sample"):
        fitted().merge(np.empty((0, 2)))


def test_what_is_shown() -> None:
    text = repr(merged())
    assert text.startswith(
        "5 components combined into 2 clusters, as asked\nOf 1,000 rows, in 2 reads"
    )
    assert [line.split()[0] for line in text.splitlines()[4:]] == ["1", "2", "3", "4", "5"]
    assert sum(line.endswith("*") for line in text.splitlines()) == 1
    assert "+" in text
    html = merged()._repr_html_()
    assert 'class="dgmm-best"' in html
    assert "raise max_passes" in repr(replace(merged(), n_greedy=1))
    assert "raise max_passes" not in text


def test_few_components_have_no_elbow_and_certain_rows_none_either() -> None:
    one = GaussianMixture(1).fit(X).merge(X)
    assert (one.n_clusters, one.n_passes, one.entropies.tolist()) == (1, 1, [0.0])
    two = GaussianMixture(2, random_state=0).fit(X).merge(X)
    assert (two.n_clusters, two.n_passes) == (2, 1)
    apart = np.concatenate([RNG.normal(c, 0.1, (50, 2)) for c in (0, 5, 10, 15)])
    gm = GaussianMixture(4, random_state=0).fit(apart)
    assert gm.merge(apart).n_clusters == 4
