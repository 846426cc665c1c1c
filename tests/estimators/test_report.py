"""Reports of estimators and selections: one read, and what goes with it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import InputError, OutputExistsError
from dask_gmm.report import write as writing
from tests.report.fits import clouds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def rows() -> Any:
    return clouds(n=800)


@pytest.fixture(scope="module")
def gm(rows: Any) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(3, random_state=0).fit(rows)
    return gm


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and have no say in the rest."""
    monkeypatch.setattr(writing, "figures_of", lambda *_: [])


class Counted:
    """A collection of four blocks that counts how often each is made."""

    def __init__(self, rows: Any) -> None:
        self.times = np.zeros(4, dtype=int)
        lock = threading.Lock()

        def count(block: Any, block_info: Any = None) -> Any:
            if block_info is not None:
                with lock:
                    self.times[block_info[0]["chunk-location"][0]] += 1
            return block

        blocks = da.from_array(rows, chunks=(len(rows) // 4, -1))
        self.data = blocks.map_blocks(count, dtype=rows.dtype, meta=np.empty((0, 2)))


def test_all_figures_share_one_read(gm: GaussianMixture, rows: Any, tmp_path: Path) -> None:
    counted = Counted(rows)
    gm.report(tmp_path / "r.html", counted.data)
    assert counted.times.tolist() == [1, 1, 1, 1]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "One more read, of 800 rows" in page
    assert page.count("<figure") == 6


@pytest.mark.usefixtures("undrawn")
def test_an_inspection_that_is_there_costs_none(
    gm: GaussianMixture, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspection = gm.inspect(rows)
    monkeypatch.setattr(GaussianMixture, "inspect", None)
    gm.report(tmp_path / "a.html", inspection=inspection)
    assert "One more read" in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_it_is_what_was_inspected(gm: GaussianMixture, rows: Any, tmp_path: Path) -> None:
    gm.report(tmp_path / "a.html", rows)
    gm.report(tmp_path / "b.html", inspection=gm.inspect(rows))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_selection(rows: Any, tmp_path: Path) -> None:
    found = select_gaussian_mixture(rows, (2, 3, 4), "diag", random_state=0)
    counted = Counted(rows)
    found.report(tmp_path / "s.html", counted.data)
    assert counted.times.tolist() == [1, 1, 1, 1]
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "It was chosen by BIC among 3 mixtures" in page
    assert "select_gaussian_mixture(X, range(2, 5)" in page


def test_a_model_of_a_file_knows_its_course(gm: GaussianMixture, rows: Any, tmp_path: Path) -> None:
    gm.save(tmp_path / "m.zarr")
    GaussianMixture.load(tmp_path / "m.zarr").report(tmp_path / "m.html")
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert 'id="figure-convergence-desc"' in page
    assert "The data were not read again for this report" in page


@pytest.mark.usefixtures("undrawn")
def test_of_scikit_learn(rows: Any, tmp_path: Path) -> None:
    from sklearn.mixture import GaussianMixture as Sklearn

    other = Sklearn(3, random_state=0).fit(rows)
    GaussianMixture.from_sklearn(other).report(tmp_path / "r.html", rows)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Where this mixture came from was not recorded" in page


@pytest.mark.usefixtures("undrawn")
def test_weights_count(rows: Any, tmp_path: Path) -> None:
    weights = np.repeat([1.0, 0.0], 400)
    gm = GaussianMixture(3, random_state=0).fit(rows, sample_weight=weights)
    gm.report(tmp_path / "w.html", rows, sample_weight=weights)
    page = (tmp_path / "w.html").read_text(encoding="utf-8")
    assert "One more read, of 400 rows" in page
    assert ".fit(X, sample_weight=…)" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sample_weight": np.ones(800)}, "sample_weight= belongs to rows"),
        ({"where": np.ones(800, bool)}, "where= belongs to rows"),
        ({"X": "rows", "inspection": "inspection"}, "not both"),
        ({"inspection": np.ones((3, 2))}, r"inspection is ndarray; give what gm\.inspect"),
        ({"X": "rows", "timeline": []}, "timeline is list; give a dask_gmm.Timeline"),
    ],
)
def test_mistakes(
    gm: GaussianMixture, rows: Any, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        gm.report(tmp_path / "r.html", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_fitted_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        GaussianMixture(2).report(tmp_path / "r.html")


def test_a_place_is_looked_at_before_the_read(
    gm: GaussianMixture, rows: Any, tmp_path: Path
) -> None:
    (tmp_path / "r.html").write_text("mine", encoding="utf-8")
    counted = Counted(rows)
    with pytest.raises(OutputExistsError):
        gm.report(tmp_path / "r.html", counted.data, overwrite=True)
    assert counted.times.sum() == 0


def test_matplotlib_is_looked_for_before_the_read(
    gm: GaussianMixture, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    counted = Counted(rows)
    with pytest.raises(ImportError, match=r"pip install 'dask-gmm\[report\]'"):
        gm.report(tmp_path / "r.html", counted.data)
    assert counted.times.sum() == 0
