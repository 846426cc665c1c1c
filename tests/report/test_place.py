"""Where a report goes: what is refused, and that it is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.report import check_report_place
from dask_gmm.report.page import GENERATOR
from dask_gmm.report.place import put_report
from tests.object_store import object_store  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.object_store import ObjectStoreServer

PAGE = f'<!doctype html>\n<html><meta name="generator" content="{GENERATOR}"></html>\n'


def test_it_is_written_and_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "fit.html"
    put_report(path, PAGE)
    assert path.read_text(encoding="utf-8") == PAGE
    with pytest.raises(OutputExistsError, match=r"is a report already.*--overwrite"):
        check_report_place(path)
    put_report(path, PAGE + "<!-- new: é -->", overwrite=True)
    assert path.read_text(encoding="utf-8").endswith("<!-- new: é -->")
    assert [found.name for found in tmp_path.iterdir()] == ["fit.html"]


def _other_page(folder: Path) -> Path:
    path = folder / "index.html"
    path.write_text("<!doctype html><p>mine", encoding="utf-8")
    return path


def _folder(folder: Path) -> Path:
    path = folder / "site.html"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (_other_page, OutputExistsError, "no report of dask-gmm's"),
        (_folder, OutputExistsError, "is a folder"),
        (lambda folder: folder / "no" / "fit.html", StoreError, "there is no folder"),
        (lambda folder: folder / "fit.zarr", InputError, "let it end with .html"),
        (lambda _: [[1.0, 2.0]], InputError, r"a list: give its name first, and then the data"),
        (lambda _: "https://example.org/fit.html", InputError, "HTTP is read-only"),
        (lambda _: "s3://fit.html", InputError, "names no object in a bucket"),
    ],
)
def test_a_place_is_refused_even_to_overwrite(
    tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], said: str
) -> None:
    place = make(tmp_path)
    with pytest.raises(error, match=said):
        check_report_place(place, overwrite=True)
    with pytest.raises(error, match=said):
        put_report(place, PAGE, overwrite=True)
    left = [found.name for found in tmp_path.iterdir()]
    assert len(left) <= 1
    if left == ["index.html"]:
        assert Path(place).read_text(encoding="utf-8") == "<!doctype html><p>mine"


def test_a_disk_that_is_full_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.html"
    put_report(path, PAGE)

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Choose another place"):
        put_report(path, "new", overwrite=True)
    assert path.read_text(encoding="utf-8") == PAGE
    assert [found.name for found in tmp_path.iterdir()] == ["fit.html"]


def test_in_memory_of_this_process() -> None:
    """As in any store that is reached by a URL and is none of obstore's."""
    place = "memory://report-places/fit.html"
    put_report(place, PAGE)
    with pytest.raises(OutputExistsError, match="is a report already"):
        put_report(place, PAGE)
    put_report(place, PAGE, overwrite=True)


@pytest.mark.slow
def test_in_a_bucket(object_store: ObjectStoreServer) -> None:  # noqa: F811
    """Whole in one request, and as a browser wants to hear of it."""
    place, options = object_store.url("reports/fit.html"), object_store.options
    put_report(place, PAGE, storage_options=options)
    with pytest.raises(OutputExistsError, match="is a report already"):
        check_report_place(place, storage_options=options)
    put_report(place, PAGE + "<!-- new -->", overwrite=True, storage_options=options)
    bucket, _, key = place.removeprefix("s3://").partition("/")
    found = object_store.client().get_object(Bucket=bucket, Key=key)
    assert found["ContentType"] == "text/html; charset=utf-8"
    assert found["Body"].read().decode() == PAGE + "<!-- new -->"
    with pytest.raises(StoreError, match="no-such-bucket"):
        put_report("s3://no-such-bucket/fit.html", PAGE, storage_options=options)
