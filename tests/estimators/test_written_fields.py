"""Values of several kinds, written in one read: groups and tables, gone on with, on a cluster."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.sink import OpenBlockWriter, Output
from dask_gmm.data.stores import read_counter, writable_store
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.fitting.events import OutputResumed
from tests.marks import quick_ones
from tests.object_store import object_store  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped
ROWS = np.random.default_rng(0).standard_normal((1000, 3))
N_BLOCKS = 20

WRITES: dict[str, Callable[..., int]] = {
    "regression": lambda gm, X, to, **how: gm.predict_regression_to(X, to, given=[0], **how),
    "covariances": lambda gm, X, to, **how: gm.predict_regression_to(
        X, to, given=[0], return_cov=True, **how
    ),
    "ranks": lambda gm, X, to, **how: gm.predict_to(X, to, top_k=2, **how),
    "anomalies": lambda gm, X, to, **how: gm.predict_to(X, to, anomaly_threshold=-5.0, **how),
}


@pytest.fixture
def x(tmp_path: Path) -> str:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(50, 3))
    return str(tmp_path / "x.zarr")


@pytest.fixture(scope="module")
def gm() -> GaussianMixture:
    gm = GaussianMixture(3, random_state=0, tol=1.0)
    gm.fit(ROWS)
    return gm


def expected(write: str, gm: GaussianMixture, rows: Any = ROWS) -> dict[str, np.ndarray]:
    if write == "ranks":
        labels, posteriors = gm.top_k(rows, 2)
        return {"labels": labels, "posteriors": posteriors.astype(np.float32)}
    if write == "anomalies":
        densities = gm.score_samples(rows)
        return {"log_density": densities, "anomaly": densities < -5.0}
    kind = "std" if write == "regression" else "cov"
    found = gm.predict_regression(rows, given=[0], **{f"return_{kind}": True})
    return dict(zip(("mean", kind), found, strict=True))


def check(output: Path, write: str, gm: GaussianMixture) -> None:
    for name, values in expected(write, gm).items():
        found = np.asarray(zarr.open_array(output / name, mode="r")[...])
        np.testing.assert_array_equal(found, values.reshape(found.shape))


@pytest.mark.parametrize(
    ("write", "where"),
    quick_ones(
        [(write, where) for write in WRITES for where in ("here", "cluster")],
        [("regression", "here"), ("ranks", "here")],
    ),
)
def test_one_read_and_the_same_bits(
    write: str,
    where: str,
    gm: GaussianMixture,
    x: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    cluster: Client | None = None
    if where == "cluster":
        cluster = request.getfixturevalue("two_processes")

    def reads() -> int:
        counts = [read_counter()] if cluster is None else cluster.run(read_counter).values()
        return sum(count.gets for count in counts)

    before = reads()
    with nullcontext() if cluster is None else cluster.as_current():
        assert WRITES[write](gm, x, tmp_path / "y.zarr") == len(ROWS)
    assert reads() - before == N_BLOCKS
    check(tmp_path / "y.zarr", write, gm)
    opened = xr.open_zarr(tmp_path / "y.zarr")
    assert set(opened.data_vars) == set(expected(write, gm))
    if write in ("regression", "covariances"):
        assert list(opened["target"].values) == ["feature 1", "feature 2"]


def fail_after(n: int, gm: GaussianMixture, X: Any, output: Any, write: str, **how: Any) -> None:
    """Write n blocks of each array, one after the other, and have the next one fail."""
    original, written = OpenBlockWriter.write, list[int]()

    def failing(self: OpenBlockWriter, block: Any, values: Any) -> None:
        if len(written) == 2 * n:
            raise StoreError("This store has had enough.")
        written.append(block.index)
        original(self, block, values)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(OpenBlockWriter, "write", failing)
        with pytest.raises(StoreError, match="has had enough"):
            WRITES[write](gm, X, output, **how)


def resumed(gm: GaussianMixture, X: Any, output: Any, write: str, **how: Any) -> int:
    """Go on; return the blocks that were finished before."""
    events: list[Any] = []
    gm.set_params(callbacks=[events.append])
    try:
        assert WRITES[write](gm, X, output, **how) == len(ROWS)
    finally:
        gm.set_params(callbacks=None)
    return sum(event.blocks for event in events if isinstance(event, OutputResumed))


@pytest.mark.parametrize("write", quick_ones(WRITES, ["anomalies"]))
def test_finished_blocks_are_skipped(
    write: str, gm: GaussianMixture, x: str, tmp_path: Path
) -> None:
    output = tmp_path / "y.zarr"
    fail_after(7, gm, x, output, write)
    assert not any((output / name).exists() for name in expected(write, gm))
    assert resumed(gm, x, output, write) == 7
    check(output, write, gm)
    with pytest.raises(OutputExistsError, match="overwrite"):
        WRITES[write](gm, x, output)
    assert resumed(gm, x, output, write, resume="must") == N_BLOCKS
    assert resumed(gm, x, output, write, overwrite=True) == 0


def test_who_dies_between_the_ends_goes_on(gm: GaussianMixture, x: str, tmp_path: Path) -> None:
    """The first of two arrays is complete, the other is not called so yet."""
    output, original, finished = tmp_path / "y.zarr", Output.finish, list[str]()

    def finish(self: Output) -> None:
        if finished:
            raise StoreError("The machine has gone.")
        finished.append(self.writer.url)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Output, "finish", finish)
        with pytest.raises(StoreError, match="has gone"):
            WRITES["ranks"](gm, x, output)
    assert (output / "labels").exists()
    assert not (output / "posteriors").exists()
    before = read_counter().gets
    assert resumed(gm, x, output, "ranks") == N_BLOCKS
    assert read_counter().gets == before, "nothing is read again"
    check(output, "ranks", gm)
    other = GaussianMixture(2, random_state=0, tol=1.0).fit(ROWS)
    with pytest.raises(OutputExistsError):
        WRITES["ranks"](other, x, output)


def test_another_output_is_refused(gm: GaussianMixture, x: str, tmp_path: Path) -> None:
    fail_after(3, gm, x, tmp_path / "y.zarr", "anomalies")
    with pytest.raises(InputError, match="threshold was"):
        gm.predict_to(x, tmp_path / "y.zarr", anomaly_threshold=-6.0)
    assert gm.predict_to(x, tmp_path / "y.zarr", anomaly_threshold=-6.0, resume="never") == 1000


@pytest.mark.parametrize("write", quick_ones(WRITES, ["ranks"]))
def test_tables(write: str, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[[3, 700], 0] = np.nan
    frame = pd.DataFrame(rows, columns=["u", "v", "w"]).assign(id=np.arange(len(ROWS)))
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=130)
    gm = GaussianMixture(3, random_state=0, tol=1.0, missing="drop", columns=["u", "v", "w"])
    gm.fit(frame)
    X, output = tmp_path / "x.parquet", tmp_path / "y.parquet"
    if write in ("regression", "covariances"):
        cov = write == "covariances"
        gm.predict_regression_to(X, output, given="u", return_cov=cov, keep=["id"])
        own = [
            "v",
            "w",
            *(["cov_v_v", "cov_v_w", "cov_w_v", "cov_w_w"] if cov else ["v_std", "w_std"]),
        ]
        with pytest.raises(InputError, match="'v' cannot be kept"):
            gm.predict_regression_to(X, output, given="u", keep=["v"], overwrite=True)
    else:
        WRITES[write](gm, X, output, keep=["id"])
        own = ["label_0", "label_1", "posterior_0", "posterior_1"]
        own = own if write == "ranks" else ["log_density", "anomaly"]
    table = pd.read_parquet(output)
    assert list(table) == ["id", *own]
    assert list(table["id"]) == list(range(len(ROWS)))
    assert table.loc[[3, 700], own].isna().all(axis=None)
    complete = np.delete(np.arange(len(ROWS)), [3, 700])
    if write not in ("regression", "covariances"):
        values = list(expected(write, gm, frame[["u", "v", "w"]]).values())
        whole = np.column_stack([np.asarray(v).reshape(len(ROWS), -1) for v in values])
        found = table[own].to_numpy(float)[complete]
        np.testing.assert_allclose(found, whole[complete], rtol=1e-6)
    else:
        mean = gm.predict_regression(frame, given="u")
        np.testing.assert_array_equal(table.loc[complete, ["v", "w"]], mean[complete])


def test_coordinates_come_along(tmp_path: Path) -> None:
    X = xr.Dataset(
        {name: (("y", "x"), ROWS[:, i].reshape(20, 50)) for i, name in enumerate("uvw")},
        coords={"y": np.arange(20) * 2.0},
    ).chunk(y=5)
    gm = GaussianMixture(2, random_state=0, tol=1.0).fit(X)
    gm.predict_regression_to(X, tmp_path / "y.zarr", given="u", targets=["w"])
    opened = xr.open_zarr(tmp_path / "y.zarr")
    mean, std = gm.predict_regression(X, given="u", targets=["w"], return_std=True)
    xr.testing.assert_equal(opened["mean"], mean)
    xr.testing.assert_equal(opened["std"], std)


@pytest.mark.slow
def test_in_an_object_store(
    gm: GaussianMixture,
    x: str,
    object_store: ObjectStoreServer,  # noqa: F811
) -> None:
    """There it is written in place, and what was begun is gone on with."""
    options: Any = {"storage_options": object_store.options}
    output = object_store.url("ranks.zarr")
    fail_after(7, gm, x, output, "ranks", **options)
    assert resumed(gm, x, output, "ranks", **options) == 7
    for name, values in expected("ranks", gm).items():
        store = writable_store(f"{output}/{name}", object_store.options)
        found = np.asarray(zarr.open_array(store, mode="r")[...])
        np.testing.assert_array_equal(found, values.reshape(found.shape))
    with pytest.raises(OutputExistsError):
        WRITES["ranks"](gm, x, output, **options)
