"""`dask-gmm merge`, `compare`, `--order` and `predict --clusters`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from dask_gmm import ComponentMerging, GaussianMixture, compare
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_merge_prints_the_curve_and_writes_what_predict_reads(
    run: Run, model: Path, points: Path, tmp_path: Path
) -> None:
    clusters, labels = tmp_path / "clusters.json", tmp_path / "labels.zarr"
    done = run("merge", model, points, "-n", 2, "-o", clusters)
    assert done.exit_code == 0, done.stderr
    assert "2, of 3 components" in done.stdout
    assert "2 of 2 are certain" in done.stdout
    assert sum("← chosen" in line for line in done.stdout.splitlines()) == 1
    gm = GaussianMixture.load(model)
    known = gm.merge(str(points), 2)
    assert ComponentMerging.load(clusters, gm).described() == known.described()

    again = run("merge", model, points, "-n", 2, "-o", clusters, "--overwrite", "--json", "-q")
    assert again.exit_code == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["labels"] == known.labels.tolist()
    assert result["entropies"] == known.entropies.tolist()
    assert (result["model"], result["clusters"]) == (str(model), str(clusters))

    words = ("predict", points, "-m", model, "--clusters", clusters, "-q")
    assert run(*words, "-o", labels).exit_code == 0
    assert np.array_equal(zarr.open_array(labels)[:], known.predict(zarr.open_array(points)[:]))
    one = run(*words, "-o", labels, "--n-clusters", 1, "--overwrite", "--probabilities", "--json")
    assert one.exit_code == 0, one.stderr
    shares = np.asarray(zarr.open_array(labels)[:])
    np.testing.assert_allclose(shares, np.ones((4000, 1)), rtol=1e-12)


def test_mistakes_of_merging(run: Run, model: Path, points: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("mine")
    for words, said in [
        (("merge", model, points, "-n", 9), "cannot be had of 3 components"),
        (("merge", model, points, "-n", "many"), "is no number of clusters"),
        (("merge", model, points, "-n", 0), "is no number of clusters"),
        (("merge", model, points, "--max-passes", 1), "--max-passes"),
        (("merge", model, points, "-o", note), "let it end with .json"),
        (
            ("predict", points, "-m", model, "--n-clusters", 2, "-o", tmp_path / "l.zarr"),
            "--clusters",
        ),
        (
            ("predict", points, "-m", model, "--clusters", note, "-o", tmp_path / "l.zarr"),
            "is no file of clusters",
        ),
    ]:
        done = run(*words)
        assert done.exit_code in (1, 2), words
        assert said in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_compare_prints_and_says_the_same_as_json(run: Run, model: Path, points: Path) -> None:
    truth = points.with_name("points.truth.zarr")
    done = run("compare", truth, model, "--samples", 500)
    assert done.exit_code == 0, done.stderr
    assert "Hellinger" in done.stdout
    known = compare(GaussianMixture.load(truth), GaussianMixture.load(model), n_samples=500)
    result = json.loads(run("compare", truth, model, "--samples", 500, "--json").stdout)
    assert result["hellinger"]["upper"] == known.hellinger.upper
    assert result["kl_first_second"]["estimate"] == known.forward.estimate
    assert result["order"] == known.order.tolist()
    assert [m["second"] for m in result["matches"]] == known.order.tolist()
    bounds = json.loads(run("compare", truth, model, "--samples", 0, "--json").stdout)
    assert bounds["symmetric_kl"]["estimate"] is None
    assert run("compare", truth, model, "--samples", 1).exit_code == 2
    assert "points.zarr" in run("compare", points, model).stderr


@pytest.mark.parametrize(("order", "sign"), quick_ones([("weight", -1), ("1", 1)], [("1", 1)]))
def test_fits_and_selections_in_order(
    run: Run, points: Path, tmp_path: Path, order: str, sign: int
) -> None:
    for command, more in (("fit", ("-k", 3)), ("select", ("-k", "2,3", "--covariance", "diag"))):
        place = tmp_path / f"{command}.zarr"
        done = run(command, points, *more, "--order", order, "--seed", 0, "-o", place, "-q")
        assert done.exit_code == 0, done.stderr
        gm = GaussianMixture.load(place)
        sorted_by = gm.weights_ if order == "weight" else gm.means_[:, 1]
        assert np.all(sign * np.diff(sorted_by) > 0)
    done = run("fit", points, "-k", 2, "--order", "size", "-q")
    assert done.exit_code == 1
    assert "order='size' is no order of components" in done.stderr
