"""What a notebook and a terminal show of estimators, by scikit-learn's own hooks."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from dask_gmm import GaussianMixture, Selection, select_gaussian_mixture
from dask_gmm.fitting.record import FitRecord
from dask_gmm.inspection.inspection import Inspection
from tests.glance.pages import read

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 900)
    means = np.array([[-8.0, 300.0], [0.0, 100.0], [9.0, 200.0]])
    return pd.DataFrame(means[labels] + rng.normal(size=(900, 2)), columns=["T", HOSTILE])


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame) -> GaussianMixture:
    gm = GaussianMixture(3, random_state=0)
    gm.fit(frame)
    return gm


@pytest.fixture(scope="module")
def selection(frame: pd.DataFrame) -> Selection:
    return select_gaussian_mixture(frame, range(1, 5), random_state=0)


def test_before_a_fit_scikit_learn_shows_what_it_shows() -> None:
    gm = GaussianMixture(3)
    shown = gm._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"}
    assert "sk-estimator" in shown["text/html"]
    assert shown["text/plain"] == "GaussianMixture(n_components=3)"


def test_a_fit_is_shown_as_a_card(fitted: GaussianMixture) -> None:
    bundle = fitted._repr_mimebundle_()
    assert bundle["text/plain"] == repr(fitted) == "GaussianMixture(n_components=3, random_state=0)"
    page = read(bundle["text/html"])
    assert page.cells[0] == ["no.", "weight", "T", HOSTILE]
    assert len(page.cells) == 4
    assert "3 components in 2 features, full covariance, 17 free parameters" in page.text
    assert "Fitted to 900 rows: converged" in page.text
    assert repr(fitted) in page.text, "its settings"
    assert fitted._repr_html_() == bundle["text/html"]


def test_it_follows_scikit_learns_switch(fitted: GaussianMixture) -> None:
    with sklearn.config_context(display="text"):
        assert not hasattr(fitted, "_repr_html_")
        assert set(fitted._repr_mimebundle_()) == {"text/plain"}


def test_in_a_pipeline_scikit_learn_draws_it(frame: pd.DataFrame) -> None:
    pipe = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)).fit(frame)
    html = estimator_html_repr(pipe)
    assert "GaussianMixture" in html
    assert "dgmm" not in html


def test_a_summary_has_the_numbers_of_the_card(fitted: GaussianMixture) -> None:
    text = fitted.summary()
    page = read(fitted._repr_html_())
    for row in page.cells[1:]:
        line = next(line for line in text.splitlines() if line.split()[:2] == row[:2])
        assert line.split(maxsplit=2)[2].split() == " ".join(row[2:]).split()


def test_a_summary_is_of_a_fit() -> None:
    with pytest.raises(sklearn.exceptions.NotFittedError):
        GaussianMixture().summary()


SCALED: dict[str, tuple[dict[str, Any], str]] = {
    "affine": ({"standardize": True}, "In the data's units"),
    "a transform": (
        {"feature_transform": {1: "log1p"}, "standardize": True},
        f"scaled rows: log1p of {HOSTILE}",
    ),
    "components": ({"n_pca": 1}, "1 principal components"),
    "components of a transform": (
        {"n_pca": 1, "feature_transform": {1: "log1p"}},
        "principal component 0",
    ),
}


@pytest.mark.parametrize("case", SCALED)
def test_scaled_mixtures_say_what_their_numbers_are_in(case: str, frame: pd.DataFrame) -> None:
    settings, expected = SCALED[case]
    gm = GaussianMixture(3, random_state=0, **settings).fit(frame)
    assert expected in gm.summary()
    assert expected in read(gm._repr_html_()).text
    if gm.scaling_.linear:
        means = gm.original_units().means
        heaviest = int(np.argmax(gm.weights_))
        shown = read(gm._repr_html_()).cells[1][2].split(" ± ")[0].replace(",", "")
        assert float(shown) == pytest.approx(means[heaviest, 0], abs=0.5)


def test_original_units_show_names(frame: pd.DataFrame) -> None:
    gm = GaussianMixture(3, random_state=0, standardize=True).fit(frame)
    original = gm.original_units()
    assert repr(original).splitlines()[1].split() == ["no.", "T", HOSTILE]
    assert read(original._repr_html_()).cells[0] == ["no.", "T", HOSTILE]
    curved = GaussianMixture(2, random_state=0, feature_transform={1: "log1p"}).fit(frame)
    assert "median" in repr(curved.original_units())


def test_a_foreign_and_a_hand_made_mixture_are_shown(frame: pd.DataFrame) -> None:
    theirs = GaussianMixture.from_sklearn(
        SklearnGaussianMixture(2, random_state=0).fit(frame.to_numpy())
    )
    assert "iterations" in theirs.summary()
    made = GaussianMixture(2)
    made.weights_, made.means_ = np.array([0.4, 0.6]), np.array([[0.0], [1.0]])
    assert "sk-estimator" in made._repr_html_(), "not yet a mixture"
    made.precisions_cholesky_ = np.ones((2, 1, 1))
    made.n_features_in_ = 1
    page = read(made._repr_html_())
    assert len(page.cells) == 3
    assert "Fitted" not in page.text


def test_what_does_not_fit_together_is_said(frame: pd.DataFrame) -> None:
    gm = GaussianMixture(2, random_state=0).fit(frame)
    gm.set_params(covariance_type="diag")
    assert "was fitted with covariance_type='full'" in read(gm._repr_html_()).text


def test_criteria_are_shown(fitted: GaussianMixture, frame: pd.DataFrame) -> None:
    found = fitted.criteria(frame)
    page = read(found._repr_html_())
    shown = dict(page.cells)
    assert shown["BIC (lower is better)"] == f"{found.bic:,.4f}"
    assert shown["rows"] == "900"
    assert "independent observations" not in shown
    halved = fitted.criteria(frame, n_effective=450.0)
    assert dict(read(halved._repr_html_()).cells)["independent observations"] == "450"
    assert eval(repr(found), {"Criteria": type(found)}) == found


def test_a_selection_is_shown(selection: Selection) -> None:
    page = read(selection._repr_html_())
    assert page.cells[0][:4] == ["K", "covariance", "parameters", "bic"]
    (chosen,) = [row for row in page.cells if row and row[0].startswith("→")]
    assert chosen[0] == f"→ {selection.best_n_components}"
    assert chosen[1] == selection.best_covariance_type
    assert HOSTILE in page.text
    assert repr(selection).splitlines()[0] in page.text


def test_a_selection_whose_model_was_changed_is_shown(frame: pd.DataFrame) -> None:
    found = select_gaussian_mixture(frame, range(1, 3), "full", random_state=0)
    found.best_model.set_params(covariance_type="diag")
    page = read(found._repr_html_())
    assert "was fitted with covariance_type='full'" in page.text
    assert [row[0] for row in page.cells] == ["K", "1", "→ 2"]


def record() -> FitRecord:
    """A record with some number for each field."""
    words = {"source": "s3://bucket/x.zarr", "data": "d1", "backend": "threads", "start": "kmeans"}
    values: dict[str, Any] = {field.name: 3 for field in dataclasses.fields(FitRecord)}
    values |= {**words, "n_rows": 1_000_000, "seconds": 185.0, "pass_ends": (1.0, 2.0, 3.0)}
    return FitRecord(**{**values, "weighted": None, "bytes_read": 24_000_000})


def test_a_record_is_a_line() -> None:
    assert repr(record()) == (
        "<FitRecord: 3 passes over 1,000,000 rows × 3 features of s3://bucket/x.zarr in 3 min 5 s "
        "on threads; 24.0 MB read>"
    )
    unknown = dataclasses.replace(record(), n_rows=None)
    assert "rows of unknown number" in repr(unknown)


def test_an_inspection_is_a_line() -> None:
    values: dict[str, Any] = {f.name: np.zeros(3) for f in dataclasses.fields(Inspection)}
    shapes = {"feature_counts": np.zeros((4, 2, 10)), "sample": np.zeros((50, 2))}
    numbers = {"n_rows": 900, "weight": 900.0, "log_likelihood": -1800.0}
    shown = repr(Inspection(**{**values, **shapes, **numbers, "lowest": np.zeros((7, 2))}))
    assert shown.startswith("<Inspection of 4 components in 2 features: 900 rows at -2 nats")
    assert "50 of them kept" in shown
    assert "\n" not in shown


def test_nothing_heavy_is_imported_to_show() -> None:
    code = (
        "import sys, numpy as np\nfrom dask_gmm.glance.mixture import MixtureGlance, mixture_html\n"
        "one = np.ones((1, 1))\n"
        "mixture_html(MixtureGlance(np.ones(1), one, one, ('x',), ('Said.',)))\n"
        "heavy = {'matplotlib', 'IPython', 'sklearn', 'dask', 'zarr', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
