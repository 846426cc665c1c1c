"""scikit-learn's own tests of its mixtures, run with our class in place of theirs.

The installed test modules are loaded afresh, their `GaussianMixture` is replaced, and their tests
become tests of this module. What is left out is named with its reason; a test that scikit-learn
adds later runs without being asked for.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sklearn.mixture
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_gmm import BayesianGaussianMixture, GaussianMixture

if TYPE_CHECKING:
    from types import ModuleType

PRIVATE = "calls private functions of scikit-learn's own implementation on arrays"
LEFT_OUT = {
    "test_suffstat_sk_full": PRIVATE,
    "test_suffstat_sk_tied": PRIVATE,
    "test_suffstat_sk_diag": PRIVATE,
    "test_gaussian_suffstat_sk_spherical": PRIVATE,
    "test_compute_log_det_cholesky": PRIVATE,
    "test_gaussian_mixture_log_probabilities": PRIVATE,
    "test_gaussian_mixture_precisions_init": "calls private methods that take responsibilities",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": (
        "counts calls of a private function; test_given_starts_read_nothing_extra is ours"
    ),
    "test_gaussian_mixture_array_api_compliance": "array API input (PyTorch, ...) is not ours",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": (
        "array API input (PyTorch, ...) is not ours"
    ),
    "test_log_dirichlet_norm": PRIVATE,
    "test_log_wishart_norm": PRIVATE,
    "test_compare_covar_type": (
        "calls private methods; what they compare is in tests/mixture/test_variational.py"
    ),
}
# Tests that came with a version later than the oldest.
SINCE = {
    "test_gaussian_mixture_array_api_compliance": (1, 8),
    "test_gaussian_mixture_raises_where_array_api_not_implemented": (1, 8),
}
REPLACED = ("test_gaussian_mixture", "test_bayesian_mixture", "test_mixture")
OURS = {
    "GaussianMixture": GaussianMixture,
    "BayesianGaussianMixture": BayesianGaussianMixture,
}


def _load(name: str) -> ModuleType:
    spec = importlib.util.find_spec(f"sklearn.mixture.tests.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # test_mixture builds its estimators in decorators, at import.
    with pytest.MonkeyPatch.context() as patch:
        for own, ours in OURS.items():
            patch.setattr(sklearn.mixture, own, ours)
        spec.loader.exec_module(module)
    replaced = [own for own in OURS if hasattr(module, own)]
    assert replaced
    assert all(getattr(module, own) is OURS[own] for own in replaced)
    return module


def _tests(module: ModuleType) -> dict[str, Any]:
    return {n: f for n, f in vars(module).items() if n.startswith("test_") and callable(f)}


_MODULES = {name: _load(name) for name in REPLACED}
# Seconds, and the conformance suites say at once what it says.
MARKED_SLOW = (
    "test_monotonic_likelihood",
    "test_invariant_translation",
    "test_bayesian_mixture_fit_predict",
    "test_bayesian_mixture_fit_predict_n_init",
    "test_bayesian_mixture_predict_predict_proba",
    "test_bayesian_mixture_precisions_prior_initialisation",
    "test_check_covariance_precision",
)
for _of, _module in _MODULES.items():
    for _name, _test in _tests(_module).items():
        if _name not in LEFT_OUT:
            # Both mixtures have tests of one name.
            _unique = f"{_name}_of_{_of.removeprefix('test_')}" if _name in globals() else _name
            globals()[_unique] = pytest.mark.slow(_test) if _name in MARKED_SLOW else _test


# Our log-densities of float32 rows are float64, and that test wants them to be float32.
FLOAT64_ONLY = ("test_score",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Stand in for scikit-learn's fixture `global_dtype`, in both its values."""
    if "global_dtype" in metafunc.fixturenames:
        only = metafunc.function.__name__ in FLOAT64_ONLY
        metafunc.parametrize("global_dtype", [np.float64] if only else [np.float64, np.float32])


@pytest.fixture(params=[42, pytest.param(7, marks=pytest.mark.slow)])
def global_random_seed(request: pytest.FixtureRequest) -> Any:
    """scikit-learn's fixture of this name."""
    return request.param


def test_enough_of_their_suite_runs() -> None:
    theirs = _tests(_MODULES["test_gaussian_mixture"])
    bayesian = _tests(_MODULES["test_bayesian_mixture"])
    version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    known = {name for name in LEFT_OUT if SINCE.get(name, version) <= version}
    assert {*theirs, *bayesian} >= known, "a left-out test is gone: update LEFT_OUT"
    assert len(set(theirs) - set(LEFT_OUT)) >= 31
    assert len(set(bayesian) - set(LEFT_OUT)) >= 11
    assert len(_tests(_MODULES["test_mixture"])) == 2


# Once the fit has passed they ask how many classes an estimator with predict_proba has, of
# classifiers or not. `tests/data/test_sparse_source.py` holds sparse data against dense.
_FOR_CLASSIFIERS = {
    f"check_estimator_sparse_{kind}": "asks for tags of a classifier"
    for kind in ("array", "matrix")
}


@parametrize_with_checks(
    [GaussianMixture()], expected_failed_checks=lambda estimator: _FOR_CLASSIFIERS
)
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# Rows repeated are other draws for k-means than rows with weights, and the check compares the ends
# of one start each, components in their order: with one component it passes.
_OTHER_DRAWS = {
    "check_sample_weight_equivalence_on_dense_data": "another start, perhaps another order",
    "check_sample_weight_equivalence_on_sparse_data": "another start, perhaps another order",
    **_FOR_CLASSIFIERS,
}


@pytest.mark.slow
@parametrize_with_checks(
    [
        GaussianMixture(n_components=2, covariance_type="diag"),
        BayesianGaussianMixture(),
        BayesianGaussianMixture(n_components=2, covariance_type="diag"),
    ],
    expected_failed_checks=lambda estimator: (
        _FOR_CLASSIFIERS if estimator.n_components == 1 else _OTHER_DRAWS
    ),
)
def test_estimator_checks_of_variances(estimator: Any, check: Any) -> None:
    check(estimator)
