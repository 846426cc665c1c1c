"""fit, predict, score, show and plan: what they write and what they print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.fitting.search.reservoir import Sieve

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_fit_finds_what_the_library_finds(points: Path, model: Path) -> None:
    theirs = GaussianMixture(3, random_state=0).fit(points)
    ours = GaussianMixture.load(model)
    np.testing.assert_array_equal(ours.means_, theirs.means_)
    np.testing.assert_array_equal(ours.covariances_, theirs.covariances_)
    assert ours.lower_bound_ == theirs.lower_bound_


def test_fit_prints_the_mixture_and_how_it_went(points: Path, run: Run) -> None:
    done = run("fit", points, "-k", 3, "--seed", 0)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"converged after \d+ iterations", done.stdout)
    assert re.search(r"rows +4,000", done.stdout)
    assert re.search(r"\d+ passes and a sample of 8 of 8 blocks", done.stdout)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("sample: all rows from 8 block(s)")
    assert lines[1].startswith("start by kmeans")
    assert lines[2].startswith("pass 1: log-likelihood -")


def test_fit_as_json(points: Path, tmp_path: Path, run: Run) -> None:
    words = ("-k", 3, "--seed", 0, "-o", tmp_path / "m.zarr", "--n-init", 2, "--json")
    printed = json.loads(run("fit", points, *words).stdout)
    assert printed["outcome"] == "converged"
    assert printed["converged"] is True
    assert np.shape(printed["covariances"]) == (3, 3, 3)
    assert printed["n_rows"] == 4000
    assert printed["reads"] == printed["passes"] + 1
    assert printed["lower_bounds"][-1] == printed["lower_bound"]
    assert Path(printed["model"]).is_dir()


def test_a_fit_that_stops_early_says_so(points: Path, tmp_path: Path, run: Run) -> None:
    words = ("-k", 3, "--tol", 0, "--max-iter", 2, "-o", tmp_path / "m.zarr")
    done = run("fit", points, *words)
    assert done.exit_code == 3
    assert "without converging" in done.stdout
    assert "warning" not in done.stderr, "the result says it already"
    assert GaussianMixture.load(tmp_path / "m.zarr").converged_ is False


def test_an_accelerated_fit_says_what_is_left(points: Path, run: Run) -> None:
    words = ("fit", points, "-k", 3, "--seed", 0, "--acceleration", "variance-reduced")
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"at most about \S+ nats a row below the optimum", done.stdout)
    assert re.search(r"pass 1: start, \S+ nats/row remaining", done.stderr)
    printed = json.loads(run(*words, "--json").stdout)
    assert printed["acceleration"] == "variance-reduced"
    assert printed["history"][0]["kind"] == "start"
    assert printed["history"][-1]["remaining_gain"] == printed["remaining_gain"]


def test_where_more_than_tol_may_be_left_a_smaller_one_goes_on(points: Path, run: Run) -> None:
    words = ("fit", points, "-k", 6, "--seed", 0, "--acceleration", "none")
    rough = run(*words, "--tol", 1e-2)
    assert re.search(
        r"at most about \S+ nats a row below the optimum: lower --tol",
        " ".join(rough.stdout.split()),
    )
    told, better = (json.loads(run(*words, "--tol", tol, "--json").stdout) for tol in (1e-2, 1e-5))
    assert told["remaining_gain"] > 1e-2
    assert better["lower_bound"] > told["lower_bound"]
    assert better["remaining_gain"] < told["remaining_gain"]


def test_a_budget_of_passes_ends_a_fit(points: Path, run: Run) -> None:
    words = ("--acceleration", "none", "--max-passes", 2, "--tol", 0)
    done = run("fit", points, "-k", 3, *words)
    assert done.exit_code == 3
    assert "without converging: raise --max-passes or --tol" in done.stdout
    assert "warning" not in done.stderr, "the result says it already"
    refused = run("fit", points, "-k", 3, "--max-bytes", "1kB")
    assert refused.exit_code != 0
    assert "does not pay for a fit" in refused.stderr


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_families(covariance: str, points: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.zarr"
    assert run("fit", points, "-k", 2, "--covariance", covariance, "-o", path).exit_code in (0, 3)
    shown = run("show", path)
    assert f"{covariance} covariance" in shown.stdout
    assert run("plan", points, "-k", 2, "--covariance", covariance).exit_code == 0


def test_quiet_says_nothing_but_the_result(points: Path, run: Run) -> None:
    for words in (("-q",), ("--progress", "none"), ("-q", "--progress", "lines")):
        done = run("fit", points, "-k", 2, *words)
        assert done.stderr == ""
        assert done.stdout


def test_progress_as_json(points: Path, run: Run) -> None:
    done = run("fit", points, "-k", 3, "--progress", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "FitStarted"
    assert kinds[-1] == "FitFinished"
    assert events[-1]["outcome"] == "converged"
    finished = [event for event in events if event["event"] == "PassFinished"]
    assert all(event["rows"] == 4000 for event in finished)


def test_overwrite_replaces_a_model(points: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.zarr"
    for k, words, code in ((2, (), 0), (3, (), 1), (3, ("--overwrite",), 0)):
        assert run("fit", points, "-k", k, "-o", path, "-q", *words).exit_code == code
    assert GaussianMixture.load(path).n_components == 3


def test_predict_writes_labels(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    done = run("predict", points, "-m", model, "-o", tmp_path / "l.zarr")
    assert done.exit_code == 0, done.stderr
    assert "4,000" in done.stdout
    labels = zarr.open_array(tmp_path / "l.zarr", mode="r")
    expected = GaussianMixture.load(model).predict(np.asarray(zarr.open_array(points)[...]))
    np.testing.assert_array_equal(np.asarray(labels[...]), expected)
    assert labels.chunks == (500,)


def test_predict_writes_posteriors(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    words = ("-m", model, "-o", tmp_path / "p.zarr", "--probabilities", "--json")
    printed = json.loads(run("predict", points, *words).stdout)
    assert printed["n_rows"] == 4000
    posteriors = np.asarray(zarr.open_array(tmp_path / "p.zarr", mode="r")[...])
    np.testing.assert_allclose(posteriors.sum(axis=1), 1.0)
    assert posteriors.shape == (4000, 3)


def test_an_image_with_its_bands_first(tmp_path: Path, model: Path, run: Run) -> None:
    image = np.random.default_rng(0).normal(size=(3, 20, 30)).astype("float32")
    zarr.create_array(tmp_path / "i.zarr", data=image, chunks=(3, 8, 30))
    words = ("--feature-axis", 0, "-m", model, "-o", tmp_path / "l.zarr")
    assert run("predict", tmp_path / "i.zarr", *words).exit_code == 0
    labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[...])
    expected = GaussianMixture.load(model).predict(image.reshape(3, -1).T).reshape(20, 30)
    np.testing.assert_array_equal(labels, expected)


def test_score(points: Path, model: Path, run: Run) -> None:
    mixture = GaussianMixture.load(model).to_sklearn()
    rows = np.asarray(zarr.open_array(points)[...])
    printed = json.loads(run("score", points, "-m", model, "--json").stdout)
    assert printed["score"] == pytest.approx(mixture.score(rows), rel=1e-12)
    assert printed["bic"] == pytest.approx(mixture.bic(rows), rel=1e-12)
    assert printed["aic"] == pytest.approx(mixture.aic(rows), rel=1e-12)
    assert f"{printed['score']:.6f}" in run("score", points, "-m", model).stdout


def test_the_fit_scores_at_least_as_high_as_the_truth(points: Path, model: Path, run: Run) -> None:
    truth = points.with_name("points.truth.zarr")
    found, true = (
        json.loads(run("score", points, "-m", m, "--json").stdout)["score"] for m in (model, truth)
    )
    assert found > true


def test_show(model: Path, run: Run) -> None:
    done = run("show", model)
    assert "3 components in 3 features, full covariance" in done.stdout
    assert re.search(r"data +\S+points.zarr, known by content [0-9a-f]{16}", done.stdout)
    assert re.search(r"fit +begun \d{4}-\d\d-\d\d .*, .* on ", done.stdout)
    printed = json.loads(run("show", model, "--json").stdout)
    np.testing.assert_array_equal(printed["means"], GaussianMixture.load(model).means_)
    assert printed["fit"]["n_rows"] == printed["record"]["n_rows"] == 4000
    assert printed["record"]["passes"] == printed["fit"]["n_passes"]


def test_show_beside_the_truth(points: Path, model: Path, run: Run) -> None:
    words = ("show", model, "--compare", points.with_name("points.truth.zarr"))
    assert "truth" in run(*words).stdout
    printed = json.loads(run(*words, "--json").stdout)
    assert printed["largest_mean_error_sigma"] < 0.2
    pairs = {(pair["component"], pair["other"]) for pair in printed["matched"]}
    assert {a for a, _ in pairs} == {b for _, b in pairs} == {0, 1, 2}


def test_plan(points: Path, run: Run) -> None:
    done = run("plan", points, "-k", 3, "--workers", 2, "--memory-limit", "1GB")
    assert done.exit_code == 0, done.stderr
    for words in (
        "4,000 rows × 3 features",
        "8 of 500 × 3",
        "2 local workers",
        "its own reader",
        "none: a bit that flips is another number",
        "fits.",
    ):
        assert words in done.stdout
    printed = json.loads(run("plan", points, "-k", 3, "--n-init", 4, "--json").stdout)
    assert printed["decoded_bytes"] == 4000 * 3 * 8
    assert printed["reader"] == "direct"
    assert printed["candidates"] == 4
    assert printed["task_bytes"] == sum(printed["task_parts"].values())
    low, high = printed["pass_seconds"]
    assert 0 < low <= high
    assert printed["refusal"] is None


def test_a_plan_knows_what_the_pass_holds_that_keeps_rows(tmp_path: Path, run: Run) -> None:
    rows = np.random.default_rng(0).normal(size=(110_000, 2))  # more than the sample
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(22_000, 2))
    for extra, searches in ((), True), (("--acceleration", "none"), False):
        sizes = [
            json.loads(run("plan", tmp_path / "rows.zarr", "-k", 2, "--json", *extra, *how).stdout)
            for how in ((), ("--search", "off"))
        ]
        values, plain = (size["task_parts"]["values"] for size in sizes)
        assert (values > plain + Sieve.blind(2).value_bytes(2)) is searches
        assert (sizes[0]["task_bytes"] > sizes[1]["task_bytes"]) is searches


def test_plan_reads_one_block_and_no_more(points: Path, run: Run) -> None:
    from dask_gmm.data.stores import read_counter

    before = read_counter()
    assert run("plan", points, "-k", 3).exit_code == 0
    assert (read_counter() - before).gets <= 2, "one to warm up, one to time"


def test_every_command_explains_itself(run: Run) -> None:
    from dask_gmm.cli.main import main

    assert run("--help").exit_code == 0
    for command in main.commands:
        done = run(command, "--help")
        assert done.exit_code == 0
        assert done.stdout.count(f"dask-gmm {command}") >= 3, "usage and two examples"
        assert "traceback" in done.stdout


def test_the_examples_in_the_help_are_true(run: Run) -> None:
    """Each is parsed by the command it belongs to."""
    import shlex

    from dask_gmm.cli.main import main
    from dask_gmm.cli.options import Command

    for name, command in main.commands.items():
        assert isinstance(command, Command)
        for _, line in command.examples:
            words = shlex.split(line.replace("\\\n", " ").partition("|")[0])
            assert words[:2] == ["dask-gmm", name]
            with command.make_context(name, words[2:]):
                pass


def test_the_cache_is_told_of(points: Path, run: Run) -> None:
    words = ("-k", 3, "--seed", 0)
    done = run("fit", points, *words)
    assert re.search(r"from the cache +\d+% of the passes' blocks", done.stdout)
    assert ", 100% from the cache" in done.stderr
    printed = json.loads(run("fit", points, *words, "--cache", 0, "--json").stdout)
    assert printed["blocks_from_cache"] == 0
    printed = json.loads(run("fit", points, *words, "--cache", "1MB", "--json").stdout)
    assert printed["blocks_from_cache"] == (printed["passes"] - 1) * printed["n_blocks"]


def test_plan_shows_what_the_cache_keeps(points: Path, run: Run) -> None:
    assert re.search(r"the cache keeps .*100% of the data", run("plan", points, "-k", 3).stdout)
    none = run("plan", points, "-k", 3, "--cache", 0)
    assert re.search(r"the cache keeps +nothing", none.stdout)
    words = ("--workers", 2, "--memory-limit", "1GB", "--cache", "10 kB", "--json")
    assert json.loads(run("plan", points, "-k", 3, *words).stdout)["cache_bytes"] == 20_000
    assert run("plan", points, "-k", 3, "--cache", "plenty").exit_code == 2


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of rows and weights; a twentieth of the rows have weight zero and hold NaN."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) + 8.0 * rng.integers(0, 2, size=(4000, 1))
    w = rng.exponential(size=4000)
    w[::20], x[::20] = 0.0, np.nan
    path = tmp_path_factory.mktemp("survey") / "survey.zarr"
    group = zarr.create_group(path)
    group.create_array("answers", data=x, chunks=(500, 2))
    group.create_array("weight", data=w, chunks=(700,))
    return path


def test_plan_with_weights(survey: Path, run: Run) -> None:
    words = ("plan", survey, "--array", "answers", "-k", 2)
    done = run(*words, "--weights", "weight", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["weights"] == f"{survey}/weight"
    assert told["decoded_bytes"] == 4000 * (2 * 8 + 16)
    assert told["task_parts"]["reading"] >= 500 * 2 * 8 + 2 * 700 * 8, "rows that count, and chunks"
    low, high = told["pass_seconds"]
    assert 0 < low <= high
    assert f"weights          {survey}/weight" in run(*words, "--weights", survey / "weight").stdout


def test_json_says_what_was_read_beside_the_mixtures_own_weights(survey: Path, run: Run) -> None:
    done = run("fit", survey, "--array", "answers", "-k", 2, "--weights", "weight", "--json")
    told = json.loads(done.stdout)
    assert (told["data"], told["sample_weight"]) == (str(survey), "weight")
    assert len(told["weights"]) == 2


@pytest.mark.parametrize("command", ["fit", "select", "plan", "score"])
def test_weights_that_are_nowhere(command: str, survey: Path, model: Path, run: Run) -> None:
    words = {"score": ("-m", model), "select": ("-k", "1:2")}.get(command, ("-k", 2))
    done = run(command, survey, "--array", "answers", *words, "--weights", "wait")
    assert done.exit_code == 1
    assert "--weights 'wait' was found nowhere" in done.stderr
    assert f"beside {survey}/answers" in done.stderr


def test_a_model_does_not_go_into_the_weights(survey: Path, tmp_path: Path, run: Run) -> None:
    zarr.create_array(tmp_path / "w.zarr", data=np.ones(4000))
    for command in ("fit", "select"):
        words = ("--array", "answers", "-k", 2, "--weights", tmp_path / "w.zarr")
        done = run(command, survey, *words, "-o", tmp_path / "w.zarr" / "m.zarr")
        assert done.exit_code == 1
        assert "would destroy the input" in done.stderr
