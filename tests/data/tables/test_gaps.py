"""Tables with nulls and a column that says which rows count: read as arrays with a mask are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.source import open_source
from dask_gmm.data.tables import table
from dask_gmm.errors import ArrayNotFoundError, InputError, SampleWeightError, WhereError
from dask_gmm.fitting.events import OutputResumed
from tests.data.tables.files import cloud

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

N = 400
RNG = np.random.default_rng(3)
ROWS = cloud(N)
HOLED = np.where(RNG.random((N, 2)) < 0.15, np.nan, ROWS)
USED = RNG.random(N) < 0.8
WEIGHTS = RNG.exponential(size=N)
# What a weight is where the row does not count nobody asks.
NO_WEIGHT = np.where(USED, WEIGHTS, np.nan)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SMALLEST_BYTES", 70 * 16)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 10**9)


def null_where(values: NDArray[Any], absent: NDArray[Any]) -> pa.Array:
    return pa.array(values, mask=absent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    columns = {
        "a": null_where(HOLED[:, 0], np.isnan(HOLED[:, 0])),
        "b": null_where(HOLED[:, 1], np.isnan(HOLED[:, 1])),
        "id": pa.array(np.arange(N)),
        "use": pa.array(USED),
        "w": null_where(WEIGHTS, ~USED),
    }
    for number, start in enumerate(range(0, N, 150)):
        part = pa.table(columns).slice(start, 150)
        (tmp_path / "t").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "t" / f"{number}.parquet", row_group_size=40)
    return tmp_path / "t"


def mixture(**options: Any) -> GaussianMixture:
    return GaussianMixture(2, random_state=0, reg_covar=1e-4, **options)


def means(gm: GaussianMixture) -> NDArray[Any]:
    found: NDArray[Any] = gm.means_[np.argsort(gm.means_[:, 0])]
    return found


@pytest.mark.parametrize("missing", ["drop", "marginalize"])
def test_the_same_as_arrays_with_a_mask(missing: str, path: Path) -> None:
    gm = mixture(missing=missing, columns=["a", "b"])
    gm.fit(path, where="use", sample_weight="w")
    plain = mixture(missing=missing).fit(HOLED, where=USED, sample_weight=WEIGHTS)
    assert list(gm.feature_names_in_) == ["a", "b"]
    np.testing.assert_allclose(means(gm), means(plain), rtol=0, atol=1e-4)
    # Nor are the mask and the weights features where nobody names those.
    source = open_source(path, where="use", sample_weight="w")
    assert source.feature_names == ("a", "b", "id")
    score = gm.score(path, where="use", sample_weight="w")
    expected = gm.score(HOLED, where=USED, sample_weight=WEIGHTS)
    assert score == pytest.approx(expected, abs=1e-10)


def test_the_same_bits_on_a_cluster(path: Path, two_processes: Client) -> None:
    def fit() -> tuple[bytes, float]:
        gm = mixture(missing="marginalize", columns=["a", "b"])
        gm.fit(path, where="use", sample_weight="w")
        return gm.means_.tobytes(), gm.lower_bound_

    expected = fit()
    with two_processes.as_current():
        assert fit() == expected


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "Dask"])
def test_a_column_of_a_frame_is_the_mask(kind: str) -> None:
    columns = {"a": HOLED[:, 0], "b": HOLED[:, 1], "use": USED, "w": NO_WEIGHT}
    frame: Any = pd.DataFrame(columns)
    if kind == "polars":
        frame = pl.DataFrame(columns)
    elif kind == "arrow":
        frame = pa.table(columns)
    elif kind == "Dask":
        import dask.dataframe as dd

        frame = dd.from_pandas(frame, npartitions=3)
    gm = mixture(missing="marginalize", columns=["a", "b"])
    gm.fit(frame, where="use", sample_weight="w")
    plain = mixture(missing="marginalize").fit(HOLED, where=USED, sample_weight=WEIGHTS)
    np.testing.assert_allclose(means(gm), means(plain), rtol=0, atol=1e-4)


@pytest.mark.parametrize("probabilities", [False, True])
def test_rows_that_take_no_part_are_null(probabilities: bool, path: Path, tmp_path: Path) -> None:
    gm = mixture(missing="drop", columns=["a", "b"]).fit(path, where="use")
    output = tmp_path / "labels.parquet"
    wrote = gm.predict_to(path, output, where="use", keep=["id"], probabilities=probabilities)
    assert wrote == N
    found = pq.read_table(output)
    taken = USED & ~np.isnan(HOLED).any(axis=1)
    labels = found["label"]
    np.testing.assert_array_equal(labels.is_valid().to_numpy(), taken)
    np.testing.assert_array_equal(
        labels.drop_null().to_numpy(), gm.predict(HOLED[taken]).astype(np.uint8)
    )
    np.testing.assert_array_equal(found["id"].to_numpy(), np.arange(N))
    if probabilities:
        shares = np.stack([found[f"posterior_{i}"].drop_null().to_numpy() for i in range(2)], 1)
        np.testing.assert_allclose(shares, gm.predict_proba(HOLED[taken]), atol=1e-12)


@pytest.mark.parametrize("probabilities", [False, True])
def test_nulls_are_gone_on_with(
    probabilities: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data of which nothing tells whether they changed two blocks are compared."""
    from dask_gmm.data import provenance

    gm = mixture(missing="drop", columns=["a", "b"]).fit(path, where="use")
    whole = tmp_path / "whole.parquet"
    gm.predict_to(path, whole, where="use", probabilities=probabilities)
    monkeypatch.setattr(provenance, "_content_of", lambda source: None)

    class EnoughError(Exception):
        pass

    def stop(event: Any) -> None:
        if getattr(getattr(event, "progress", None), "rows_done", 0) >= 200:
            raise EnoughError

    output = tmp_path / "labels.parquet"
    gm.callbacks = [stop]
    with pytest.raises(EnoughError):
        gm.predict_to(path, output, where="use", probabilities=probabilities)
    seen: list[Any] = []
    gm.callbacks = [seen.append]
    gm.predict_to(path, output, where="use", probabilities=probabilities)
    assert any(isinstance(event, OutputResumed) and event.blocks > 0 for event in seen)
    assert pq.read_table(output).equals(pq.read_table(whole))


def test_mistakes(path: Path, tmp_path: Path) -> None:
    gm = mixture(columns=["a", "b"])
    with pytest.raises(WhereError, match=r"row \d+ of \d\.parquet"):  # of the block that was first
        gm.fit(path, where="id")
    with pytest.raises(ArrayNotFoundError, match="column of the table"):
        gm.fit(path, where="nowhere")
    with pytest.raises(InputError, match=r"columns=\['a', 'b'\]"):
        open_source(path, features=["a", "b"])
    with pytest.raises(SampleWeightError, match="is nan"):
        gm.fit(path, sample_weight="w")
    fitted = mixture(missing="marginalize", columns=["a", "b"]).fit(path)
    with pytest.raises(InputError, match="does not end with"):
        fitted.impute_to(path, tmp_path / "filled.parquet")


def test_imputed_rows_of_a_table(path: Path, tmp_path: Path) -> None:
    gm = mixture(missing="marginalize", columns=["a", "b"]).fit(path)
    filled = gm.impute(path)
    np.testing.assert_allclose(filled.compute(), gm.impute(HOLED), atol=1e-12)


def test_selection_with_a_mask(path: Path) -> None:
    found = select_gaussian_mixture(
        path,
        range(1, 4),
        where="use",
        columns=["a", "b"],
        missing="marginalize",
        random_state=0,
    )
    assert found.best_n_components == 2
