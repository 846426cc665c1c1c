"""`predict_to`: what it writes, and how it goes on with what it has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.sink import OpenBlockWriter
from dask_gmm.errors import IncompletePassError, InputError, StoreError
from dask_gmm.fitting.events import OutputResumed, PassAdvanced
from tests.remedies import advised

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

da: Any = dask.array  # most of it is untyped
ROWS = np.random.default_rng(0).standard_normal((1000, 3))
N_BLOCKS = 20


@pytest.fixture
def x(tmp_path: Path) -> str:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(50, 3))
    return str(tmp_path / "x.zarr")


@pytest.fixture(scope="module")
def model() -> GaussianMixture:
    gm = GaussianMixture(3, random_state=0, tol=1.0)
    gm.fit(ROWS)
    return gm


def stop_after(n: int, model: GaussianMixture, X: Any, output: Any, **how: Any) -> None:
    """Write n blocks, one after the other, and have the next one fail."""
    original, written = OpenBlockWriter.write, list[int]()

    def failing(self: OpenBlockWriter, block: Any, values: Any) -> None:
        if len(written) == n:
            raise StoreError("This store has had enough.")
        written.append(block.index)
        original(self, block, values)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(OpenBlockWriter, "write", failing)
        with pytest.raises(StoreError, match="has had enough"):
            model.predict_to(X, output, **how)


def resumed(model: GaussianMixture, X: Any, output: Any, **how: Any) -> tuple[int, int]:
    """Go on; return the blocks that were finished before, and those that were computed now."""
    events: list[Any] = []
    model.set_params(callbacks=[events.append])
    try:
        assert model.predict_to(X, output, **how) == len(ROWS)
    finally:
        model.set_params(callbacks=None)
    told = [event for event in events if isinstance(event, OutputResumed)]
    assert all(event.blocks_total == N_BLOCKS for event in told)
    passes = [event.progress for event in events if isinstance(event, PassAdvanced)]
    return sum(event.blocks for event in told), passes[-1].blocks_done if passes else 0


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("kind", ["path", "dask", "3 axes"])
def test_finished_blocks_are_skipped(
    kind: str, probabilities: bool, model: GaussianMixture, x: str, tmp_path: Path
) -> None:
    X: Any = x
    if kind == "dask":
        X = da.from_zarr(x) + 0
    if kind == "3 axes":
        X = str(tmp_path / "cube.zarr")
        zarr.create_array(X, data=ROWS.reshape(20, 50, 3), chunks=(4, 13, 3))
    outputs = tmp_path / "whole.zarr", tmp_path / "resumed.zarr"
    how = {"probabilities": probabilities}
    assert resumed(model, X, outputs[0], **how) == (0, N_BLOCKS)
    stop_after(7, model, X, outputs[1], **how)
    assert not outputs[1].exists()
    # Two of a collection, which only its name tells from others, are computed again.
    again = 2 if kind == "dask" else 0
    assert resumed(model, X, outputs[1], **how) == (7 - again, 13 + again)
    whole, other = (
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for out in outputs
    )
    assert whole == other
    expected = model.predict_proba(X) if probabilities else model.predict(X)
    np.testing.assert_array_equal(zarr.open_array(outputs[1])[...], expected.compute())
    assert resumed(model, X, outputs[1], resume="must", **how) == (N_BLOCKS, 0)


@pytest.mark.parametrize("kind", ["path", "dask"])
def test_on_a_cluster(
    kind: str, model: GaussianMixture, x: str, tmp_path: Path, two_processes: Client
) -> None:
    X: Any = x if kind == "path" else da.from_zarr(x) + 0
    stop_after(7, model, X, tmp_path / "y.zarr")
    with two_processes.as_current():
        found = resumed(model, X, tmp_path / "y.zarr")
    assert found == ((7, 13) if kind == "path" else (5, 15))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "y.zarr")[...], model.predict(ROWS))


def test_another_mixture_is_refused_and_what_the_message_says_helps(
    model: GaussianMixture, x: str, tmp_path: Path
) -> None:
    output = tmp_path / "y.zarr"
    stop_after(7, model, x, output)
    other = GaussianMixture(2, random_state=0, tol=1.0)
    other.fit(ROWS)
    with pytest.raises(InputError, match=r"was begun .*: the model is another\.") as caught:
        other.predict_to(x, output)
    assert advised(str(caught.value)) == []
    assert 'resume="never"' in str(caught.value)
    with pytest.raises(InputError, match="what is written was labels and is posteriors"):
        model.predict_to(x, output, probabilities=True)
    with pytest.raises(InputError, match="the type was uint8 and is int32"):
        model.predict_to(x, output, dtype="int32")
    slow = GaussianMixture.from_sklearn(model.to_sklearn()).set_params(kernel="reference")
    with pytest.raises(InputError, match=r"the kernel was .* and is reference"):
        slow.predict_to(x, output)
    assert resumed(other, x, output, resume="never") == (0, N_BLOCKS)
    np.testing.assert_array_equal(zarr.open_array(output)[...], other.predict(ROWS))


def test_an_unusable_row_leaves_what_is_finished(
    model: GaussianMixture, x: str, tmp_path: Path
) -> None:
    """Of a store that tells no changes, here in memory, the rest is done once the row is mended."""
    from dask_gmm.data.stores import writable_store

    url = f"memory://{tmp_path.name}"
    array = zarr.create_array(writable_store(url), data=ROWS, chunks=(50, 3))
    array[477, 1] = np.nan
    output = tmp_path / "y.zarr"
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(InputError, match=r"row 477 .* is nan"),
    ):
        model.predict_to(url, output)
    array[477] = ROWS[477]
    assert resumed(model, url, output) == (7, 13), "nine were finished, of which two are compared"
    np.testing.assert_array_equal(zarr.open_array(output)[...], model.predict(ROWS))


def test_data_that_change_while_they_are_read(
    model: GaussianMixture, x: str, tmp_path: Path
) -> None:
    output = tmp_path / "y.zarr"

    def write(event: Any) -> None:
        if isinstance(event, PassAdvanced):
            zarr.open_array(x)[0, 0] = 7.0

    model.set_params(callbacks=[write])
    try:
        with pytest.raises(IncompletePassError, match=r"was written to while .*--no-resume"):
            model.predict_to(x, output)
    finally:
        model.set_params(callbacks=None)
    assert not output.exists()
    with pytest.raises(InputError, match="the data have been written to since"):
        model.predict_to(x, output)
    assert resumed(model, x, output, resume="never") == (0, N_BLOCKS)


def test_the_old_output_is_there_until_the_new_one_is(
    model: GaussianMixture, x: str, tmp_path: Path
) -> None:
    output = tmp_path / "y.zarr"
    model.predict_to(x, output)
    labels = zarr.open_array(output)[...]
    stop_after(7, model, x, output, overwrite=True, probabilities=True)
    np.testing.assert_array_equal(zarr.open_array(output)[...], labels)
    with pytest.raises(StoreError, match="already exists"):
        model.predict_to(x, output, probabilities=True)
    how = {"overwrite": True, "probabilities": True}
    assert resumed(model, x, output, **how) == (7, 13)
    assert zarr.open_array(output).shape == (1000, 3)
