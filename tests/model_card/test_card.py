"""Model cards: valid by their schema, the same from an estimator and from its file, and true."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

from dask_gmm import GaussianMixture
from dask_gmm.cli.main import main
from dask_gmm.model_card import card_schema, model_card
from dask_gmm.model_file import load_model
from tests.estimators.test_shown import record

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.fitting.record import FitRecord

FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "diag": {"covariance_type": "diag"},
    "standardized": {"standardize": "robust", "feature_transform": ("arcsinh", 5)},
    "components": {"n_pca": 1},
    "gaps": {"missing": "marginalize"},
    "dropped": {"missing": "drop"},
    "prior": {"prior": "fraley-raftery"},
    "stopped": {"max_iter": 1, "tol": 0.0},
}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 2)) + 6.0 * rng.integers(0, 2, size=(600, 1))
    return pd.DataFrame(values, columns=["a", "b"])


def fit(case: str, rows: pd.DataFrame) -> GaussianMixture:
    data = rows.mask(np.arange(1200).reshape(600, 2) % 41 == 0) if case in GAPPY else rows
    gm = GaussianMixture(2, **{"random_state": 0, **FITS[case]})
    gm.fit(data)
    return gm


GAPPY = ("gaps", "dropped")


def check(card: dict[str, Any]) -> None:
    """A card is strict JSON and valid by the schema."""
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    schema = card_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(card)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", FITS)
def test_cards_are_valid_and_the_same_from_a_file(
    case: str, rows: pd.DataFrame, tmp_path: Path
) -> None:
    gm = fit(case, rows)
    card = gm.model_card()
    check(card)
    gm.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").model_card() == card
    from_file = model_card(load_model(tmp_path / "m.zarr"), place=str(tmp_path / "m.zarr"))
    check(from_file)
    assert {**from_file, "how_to_load": card["how_to_load"]} == card


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("standardized", "Densities and log-likelihoods are of scaled rows"),
        ("standardized", "no Gaussians in the data's units"),
        ("components", "1 principal components of 2 features"),
        ("gaps", "missing at random"),
        ("dropped", "were left out"),
        ("stopped", "before it converged"),
    ],
)
def test_limitations_follow_from_the_fit(case: str, said: str, rows: pd.DataFrame) -> None:
    assert any(said in line for line in fit(case, rows).model_card()["limitations"])
    assert not any(said in line for line in fit("plain", rows).model_card()["limitations"])


def test_a_card_is_true(rows: pd.DataFrame) -> None:
    gm = fit("plain", rows)
    card = gm.model_card()
    assert card["model"]["n_parameters"] == gm._n_parameters()
    assert [f["name"] for f in card["features"]] == ["a", "b"]
    assert card["data"]["n_rows"] == 600
    assert card["result"]["log_likelihood_per_row"] == gm.lower_bound_
    assert card["fit"]["settings"]["random_state"] == 0
    assert card["result"]["weights"]["smallest"] == gm.weights_.min()
    assert gm.record_ is not None
    assert card["data"]["source"] == gm.record_.source
    assert "storage_options" not in json.dumps(card)


def weighted(known: bool) -> FitRecord:
    return dataclasses.replace(record(), weighted=known)


def test_a_fit_notes_whether_rows_had_weights(rows: pd.DataFrame) -> None:
    for words, expected in (
        ({}, False),
        ({"sample_weight": np.ones(600)}, True),
        ({"where": np.arange(600) > 9}, False),
        ({"where": np.arange(600) > 9, "sample_weight": np.ones(600)}, True),
    ):
        gm = GaussianMixture(2, random_state=0)
        card = gm.fit(rows, **words).model_card()
        check(card)
        assert card["data"]["weighted"] is expected
        assert (card["result"]["bic"] is None) is expected
        assert card["data"]["fingerprint"]


def test_a_record_is_told(rows: pd.DataFrame, tmp_path: Path) -> None:
    gm = fit("plain", rows)
    gm.save(tmp_path / "m.zarr")
    model = load_model(tmp_path / "m.zarr")
    card = model_card(dataclasses.replace(model, record=record()))
    check(card)
    assert card["data"]["source"] == "s3://bucket/x.zarr"
    assert card["data"]["fingerprint"] == "d1"
    assert card["fit"]["record"]["seconds"] == 185.0
    assert card["result"]["bic"] is None, "whether rows have weights is not known"
    card = model_card(dataclasses.replace(model, record=weighted(False)))
    check(card)
    # By the likelihood before the last M-step: no smaller, and by no more than that step gains.
    assert gm.bic(rows) <= card["result"]["bic"] <= gm.bic(rows) + 2 * 600 * gm.tol
    assert model_card(dataclasses.replace(model, record=weighted(True)))["result"]["bic"] is None


def test_another_librarys_mixture_has_a_card(rows: pd.DataFrame) -> None:
    theirs = SklearnGaussianMixture(2, random_state=0).fit(rows.to_numpy())
    card = GaussianMixture.from_sklearn(theirs).model_card()
    check(card)
    assert card["data"]["n_rows"] is None
    assert [f["name"] for f in card["features"]] == [None, None]


def test_an_unfitted_mixture_has_none() -> None:
    with pytest.raises(NotFittedError):
        GaussianMixture().model_card()


def test_a_card_without_a_field_is_not_valid(rows: pd.DataFrame) -> None:
    """The schema would notice: it does not let everything pass."""
    card = fit("plain", rows).model_card()
    validator = jsonschema.Draft202012Validator(card_schema())
    for broken in (
        {**card, "model": {**card["model"], "n_components": 0}},
        {name: value for name, value in card.items() if name != "limitations"},
        {**card, "password": "x"},
    ):
        assert not validator.is_valid(broken)


def test_every_field_is_documented() -> None:
    def undocumented(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, part in schema.get("properties", {}).items():
            where = f"{path}/{name}"
            if "description" not in part and "const" not in part:
                found.append(where)
            found += undocumented(part, where) + undocumented(part.get("items", {}), where)
        return found

    assert undocumented(card_schema(), "") == []


def test_its_code_loads_the_model(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm = fit("plain", rows)
    place = tmp_path / "it's a model.zarr"
    gm.save(place)
    card = model_card(load_model(place), place=str(place))["how_to_load"]
    found: dict[str, Any] = {}
    exec(card["python"], found)
    np.testing.assert_array_equal(found["gm"].means_, gm.means_)
    program, *words = shlex.split(card["command"])
    assert program == "dask-gmm"
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.stderr
    assert "2 components in 2 features" in done.stdout
    # Of an estimator nobody knows the place: the code is for one that is saved as it says.
    monkeypatch.chdir(tmp_path)
    gm.save("model.zarr")
    own: dict[str, Any] = {}
    exec(gm.model_card()["how_to_load"]["python"], own)
    np.testing.assert_array_equal(own["gm"].means_, gm.means_)


def test_what_is_no_json_is_null(rows: pd.DataFrame) -> None:
    gm = GaussianMixture(2, random_state=np.random.RandomState(0), means_init=[[0, 0], [6, 6]])
    card = gm.fit(rows).model_card()
    check(card)
    assert card["fit"]["settings"]["random_state"] is None
    gm.lower_bound_, gm.remaining_gain_ = -np.inf, np.inf
    card = gm.model_card()
    check(card)
    assert card["result"]["log_likelihood_per_row"] is None
