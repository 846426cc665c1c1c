"""What a path, a folder, a pattern or a dataset leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.source import ParquetSource, open_source
from dask_gmm.data.tables.find import _as_regex
from dask_gmm.errors import CorruptChunkError, InputError, StoreNotFoundError
from tests.data.tables.files import all_rows, cloud, write

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("p=1/b.parquet", "p=1/c.parquet", "p=2/a.parquet", "z.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table in four files of 10 rows each, among what others leave in folders."""
    for number, name in enumerate(FILES):
        write(tmp_path / "t" / name, np.full((10, 2), number), group=4)
    for name in ("_SUCCESS", "_metadata", ".p.crc", "p=1/.b.parquet.crc", "_temporary/x.parquet"):
        (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_bytes(b"other")
    return tmp_path / "t"


def numbers(X: Any) -> list[int]:
    found = all_rows(open_source(X, columns=["a"]))[::10, 0]
    return [int(n) for n in found]


def test_a_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    assert numbers(folder) == [0, 1, 2, 3]
    expected = ds.dataset(folder, partitioning="hive").to_table().column("a").to_numpy()
    np.testing.assert_array_equal(all_rows(open_source(folder, columns=["a"]))[:, 0], expected)


PATTERNS = {
    "*.parquet": [3],
    "**/*.parquet": [0, 1, 2, 3],
    "p=1/*": [0, 1],
    "p=[12]/[a-b].parquet": [0, 2],
    "p=[!1]/*.parquet": [2],
    "p=?/c*": [1],
    "p=1/b.parquet": [0],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str, folder: Path) -> None:
    assert numbers(f"{folder}/{pattern}") == PATTERNS[pattern]


@pytest.mark.parametrize("pattern", ["*", "**/*.parquet", "a[.]b", "x+(y)/?", "[", "a]", "[!a]*"])
def test_patterns_are_no_regular_expressions(pattern: str) -> None:
    import re

    assert re.compile(_as_regex(pattern))


def test_datasets_of_pyarrow(folder: Path) -> None:
    assert numbers(ds.dataset(folder, partitioning="hive")) == [0, 1, 2, 3]
    assert numbers(ds.dataset([str(folder / FILES[2]), str(folder / FILES[0])])) == [2, 0]
    for other in (
        ds.dataset(folder).filter(ds.field("a") > 1),
        ds.dataset(pq.read_table(folder / "z.parquet")),
    ):
        with pytest.raises(InputError, match=r"`X.to_table\(\)`"):
            open_source(other)
    gm = GaussianMixture(1, columns=["a"]).fit(ds.dataset(folder, partitioning="hive"))
    assert gm.n_rows_ == 40
    assert gm.predict(ds.dataset(folder)).shape == (40,)


def test_a_file_by_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "t")
    assert isinstance(open_source(path), ParquetSource)


def test_zarr_is_still_zarr(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "x"), data=cloud(), chunks=(100, 2))
    group = zarr.create_group(str(tmp_path / "g"))
    group.create_array("x", data=cloud(), chunks=(100, 2))
    for place in ("x", "g", "g/x"):
        assert not isinstance(open_source(tmp_path / place), ParquetSource)


NOTHING: dict[str, tuple[str, type[Exception], str]] = {
    "no file": ("no.parquet", StoreNotFoundError, "There is no such path"),
    "no match": ("t/*.pq", StoreNotFoundError, "No file matches"),
    "no folder": ("nothing", StoreNotFoundError, "There is no such path"),
    "an empty folder": ("empty", StoreNotFoundError, "There is no"),
    "text": ("text.parquet", CorruptChunkError, "no Parquet file, or is truncated"),
    "nothing in it": ("zero.parquet", CorruptChunkError, "it has 0 bytes"),
}


@pytest.mark.parametrize("mistake", NOTHING)
def test_nothing_there(mistake: str, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("words " * 100)
    (tmp_path / "zero.parquet").write_bytes(b"")
    place, kind, message = NOTHING[mistake]
    with pytest.raises(kind, match=message):
        open_source(tmp_path / place)


def test_files_that_may_hold_rows_are_not_passed_over(folder: Path) -> None:
    (folder / "more.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"holds more.csv, .*, such as .*/t/\*\*/\*.parquet"):
        open_source(folder)
    assert numbers(f"{folder}/**/*.parquet") == [0, 1, 2, 3]


def test_tables_of_a_lake_are_refused(folder: Path) -> None:
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log" / "00000000000000000000.json").write_text("{}")
    with pytest.raises(InputError, match="Delta Lake table: which of its files hold rows"):
        open_source(folder)
