"""Whatever a message advises works: each piece of code in one is run, with the input at hand.

Those on marks and encodings are in ``tests/conformance/test_conventions.py``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import dask.dataframe
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import scipy.sparse
import xarray as xr
import zarr

import dask_gmm
from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import DaskGMMError
from tests.remedies import advised, is_setting, run_remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Make = Callable[[Path], Any]

da: Any = dask.array  # most of it is untyped
X = np.random.default_rng(0).standard_normal((40, 2)).round(3)
HOLES = np.ma.masked_greater(X, 1.5)
DATES = np.datetime64("2024-01-01", "ns") + (1000 * X).astype("m8[s]")
SECONDS = (DATES - np.datetime64("2000-01-01")) / np.timedelta64(1, "s")
CLEAN = X[~np.ma.getmaskarray(HOLES).any(axis=1)]


def stored(values: NDArray[Any], name: str = "x.zarr", **options: Any) -> Make:
    def make(folder: Path) -> str:
        zarr.create_array(
            str(folder / name), data=values, chunks=(10, *values.shape[1:]), **options
        )
        return str(folder / name)

    return make


def kept(values: Any) -> Make:
    return lambda folder: values


class _Device(np.ndarray[Any, Any]):
    """Blocks that look like those of a device."""

    def get(self) -> NDArray[Any]:
        return np.asarray(self)


def on_a_device(folder: Path) -> Any:
    meta = np.empty((0, 2)).view(_Device)
    return da.from_array(X, chunks=(10, 2)).map_blocks(lambda b: b.view(_Device), meta=meta)


def of_unknown_width(folder: Path) -> Any:
    x = da.from_array(X.T, chunks=(2, 40))
    return x[:, x[0] == x[0]]


def not_as_meta_says(folder: Path) -> Any:
    x = da.from_array(X, chunks=(10, 2))
    return x.map_blocks(lambda b: b.view(_Device), meta=np.empty((0, 2)))


def npy(folder: Path) -> str:
    np.save(folder / "x.npy", X)
    return str(folder / "x.npy")


def zipped(folder: Path) -> str:
    with zarr.storage.ZipStore(folder / "x.zip", mode="w") as store:
        zarr.create_array(store, data=X, chunks=(10, 2))
    return str(folder / "x.zip")


def csv(folder: Path) -> str:
    pd.DataFrame(X, columns=["a", "b"]).to_csv(folder / "x.csv", index=False)
    return str(folder / "x.csv")


def netcdf(folder: Path) -> str:
    data = xr.Dataset({"a": ("n", X[:, 0]), "b": ("n", X[:, 1])})
    data.to_netcdf(folder / "x.nc", engine="scipy")
    return str(folder / "x.nc")


def filtered(folder: Path) -> Any:
    return ds.dataset(pa.table({"a": X[:, 0], "b": X[:, 1]})).filter(ds.field("a") > -100)


DURATIONS = DATES - DATES[0, 0]


def zipped_durations(folder: Path) -> str:
    with zarr.storage.ZipStore(folder / "d.zip", mode="w") as store:
        zarr.create_array(store, name="d", data=DURATIONS, chunks=(10, 2))
    return str(folder / "d.zip")


def in_memory(folder: Path) -> Any:
    group = zarr.create_group(zarr.storage.MemoryStore())
    group.create_array("d", data=DURATIONS, chunks=(10, 2))
    return group


def chained(folder: Path) -> str:
    return f"zip://::{zipped(folder)}"


def with_a_hole(folder: Path) -> str:
    path: str = stored(X)(folder)
    (Path(path) / "c" / "1" / "0").unlink()
    return path


class NetCDFVariable:
    """As netCDF4 has it: masked where it is indexed, and nowhere else."""

    ndim = 2
    shape = HOLES.shape

    def ncattrs(self) -> list[str]:
        return ["_FillValue"]

    def __getitem__(self, key: Any) -> Any:
        return HOLES[key]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.asarray(HOLES.data)


SPARSE = da.from_array(X, chunks=(10, 2)).map_blocks(scipy.sparse.csr_array)
# The input, and what the first piece of advice makes of it, as far as a fit can tell.
CASES: dict[str, tuple[Make, NDArray[Any]]] = {
    "one axis": (kept(da.from_array(X[:, 0], chunks=10)), X[:, :1]),
    "one axis, stored": (stored(X[:, 0]), X[:, :1]),
    "unknown features": (of_unknown_width, X.T),
    "complex": (kept(X[:, :1] + 1j * X[:, 1:]), X),
    "complex, three axes": (kept((X[:, :1] + 1j * X[:, 1:])[:, None]), X),
    "complex, stored": (stored(X[:, :1] + 1j * X[:, 1:]), X),
    "dates": (kept(DATES), SECONDS),
    "dates, Dask": (kept(da.from_array(DATES)), SECONDS),
    "dates, stored": (stored(DATES), SECONDS),
    "durations": (kept(DURATIONS), SECONDS - SECONDS[0, 0]),
    "strings": (kept(X.astype(str)), X),
    "strings, Dask": (kept(da.from_array(X.astype(str))), X),
    "strings, stored": (stored(X.astype("U8")), X),
    "objects that are strings": (kept(X.astype(str).astype(object)), X),
    "objects, Dask": (kept(da.from_array(X.astype(object), chunks=(10, 2))), X),
    "bfloat16": (kept(X.astype(ml_dtypes.bfloat16)), X.astype(ml_dtypes.bfloat16)),
    "sparse": (kept(scipy.sparse.csc_array(X)), X),
    "sparse, Dask": (kept(SPARSE), X),
    "masked": (kept(HOLES), CLEAN),
    "masked rows": (kept([HOLES[i] for i in range(40)]), CLEAN),
    "masked by netCDF": (kept(NetCDFVariable()), CLEAN),
    "masked, Dask": (kept(da.ma.masked_greater(da.from_array(X, chunks=(10, 2)), 1.5)), CLEAN),
    "on a device": (on_a_device, X),
    "not as meta says": (not_as_meta_says, X),
    "Dask Series": (kept(dask.dataframe.from_pandas(pd.Series(X[:, 0]), npartitions=2)), X[:, :1]),
    "lists of rows": (kept([X[:20].tolist(), X[20:].tolist()]), X),
    "columns of one feature": (kept([X[:30, 0], X[30:, 0]]), X[:, :1]),
    "dict of columns": (kept({"a": X[:, 0], "b": X[:, 1]}), X),
    "query": (kept(pl.DataFrame(X, schema=["a", "b"]).lazy()), X),
    ".npy": (npy, X),
    ".csv": (csv, X),
    ".nc": (netcdf, X),
    "filtered": (filtered, X),
    ".zip": (zipped_durations, SECONDS - SECONDS[0, 0]),
    "group in memory": (in_memory, SECONDS - SECONDS[0, 0]),
    "store in memory": (lambda folder: in_memory(folder).store, SECONDS - SECONDS[0, 0]),
    "chained": (chained, X),
    "missing chunk": (with_a_hole, np.concatenate([X[:10], 0 * X[:10], X[20:]])),
}


def message_of(X: Any, **options: Any) -> str:
    with pytest.raises(DaskGMMError) as caught:
        GaussianMixture(1, **options).fit(X)
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_what_messages_advise_works(name: str, tmp_path: Path) -> None:
    make, expected = CASES[name]
    given = make(tmp_path)
    message = message_of(given)
    remedies = advised(message)
    assert remedies, message
    for number, code in enumerate(remedies):
        if is_setting(code):
            options = dict([code.split("=")])
            gm = GaussianMixture(1, **{k: ast.literal_eval(v) for k, v in options.items()})
            values, usable = expected, given
        else:
            gm = GaussianMixture(1)
            usable = run_remedy(code, given)
            source = open_source(usable)
            values = np.concatenate(
                [source.read(source.block(i)).values for i in range(source.n_blocks)]
            )
            if "drop" in message:
                values = usable = values[~np.isnan(values).any(axis=1)]
        if len(values) > 1:
            np.testing.assert_allclose(gm.fit(usable).means_[0], values.mean(axis=0), rtol=1e-6)
        if number == 0:
            np.testing.assert_allclose(np.asarray(values, float), np.asarray(expected, float))


def test_an_output_of_unknown_chunks(tmp_path: Path) -> None:
    x = da.from_array(X, chunks=(10, 2))
    unknown = x[x[:, 0] == x[:, 0]]
    gm = GaussianMixture(1).fit(X)
    with pytest.raises(DaskGMMError) as caught:
        gm.predict_to(unknown, tmp_path / "y.zarr")
    (code,) = advised(str(caught.value))
    assert gm.predict_to(run_remedy(code, unknown), tmp_path / "y.zarr") == 40


# Messages whose advice other tests run.
ELSEWHERE = {
    "conventions.py": "tests/conformance/test_conventions.py",
    "open_weights.py": "tests/data/test_weights.py",
    "sparse_source.py": "tests/data/test_sparse_source.py",
    "weights_of_many.py": "tests/data/test_concatenated_source.py",
    "passes.py": "tests/conformance/test_conventions.py",
    "output_begin.py": "test_an_output_of_unknown_chunks",
    "shards.py": "tests/data/test_lost_chunks.py",
}


def test_no_advice_is_left_out(tmp_path: Path) -> None:
    """Each message in the code that holds a piece of code is among those above."""
    messages = ""
    for i, (make, _) in enumerate(CASES.values()):
        (tmp_path / str(i)).mkdir()
        messages += message_of(make(tmp_path / str(i)))
    missing = []
    for path in Path(dask_gmm.__file__).parent.rglob("*.py"):
        if path.name not in ELSEWHERE:
            pieces = _advice(path.read_text(encoding="utf-8"))
            missing += [f"{path.name}: {piece}" for piece in pieces if piece not in messages]
    assert not missing


def _advice(text: str) -> list[str]:
    """The constant parts of f-strings and strings in which code begins, docstrings left out."""
    tree = ast.parse(text)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
        for part in re.findall(r"`[A-Za-z(][^`]*|`$", node.value)
        if len(part) > 2
    ]
