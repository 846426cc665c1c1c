"""Kinds of mixture and the options that go with them: told from the estimators themselves."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm import estimators
from dask_gmm.cli.kinds import BAYESIAN, GAUSSIAN, STUDENT, MixtureKind
from dask_gmm.cli.main import main
from dask_gmm.cli.settings import EMSettings

if TYPE_CHECKING:
    from tests.cli.conftest import Run

KINDS = {"gaussian": GAUSSIAN, "student": STUDENT, "bayesian": BAYESIAN}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
ASKED = {"student": ("--degrees-of-freedom", "each"), "bayesian": ("--bayesian", "process")}
GIVEN = {
    "noise": ("--noise",),
    "prior": ("--prior", "fraley-raftery"),
    "freeze": ("--freeze", "means", "--start-from", "m.zarr"),
    "degrees_of_freedom": ("--degrees-of-freedom", "4"),
    "order": ("--order", "weight"),
    "acceleration": ("--acceleration", "variance-reduced"),
    "search": ("--search", "thorough"),
    "on_collapse": ("--on-collapse", "merge"),
    "covariance": ("--covariance", "VEV"),
}
REFUSED = [
    (name, option) for name, kind in KINDS.items() for option in (*kind.lacks, *kind.limited)
]


def default_settings() -> dict[str, Any]:
    """The values of `fit`'s options that nobody gave."""
    context = main.commands["fit"].make_context("fit", ["x.zarr", "-k", "3"])
    return EMSettings.take(dict(context.params)).common_arguments()


@every_kind
def test_its_estimator_takes_what_is_left(kind: MixtureKind) -> None:
    """What is left out is what a Gaussian mixture has and it has not, and no more."""
    own = set(signature(getattr(estimators, kind.estimator)).parameters)
    common = set(default_settings())
    assert set(kind.arguments(default_settings())) == common & own
    assert set(kind.without) == common - own


@every_kind
def test_it_speaks_of_options_that_there_are(kind: MixtureKind) -> None:
    names = {parameter.name for parameter in main.commands["fit"].params}
    assert {*kind.lacks, *kind.limited} <= names


@pytest.mark.parametrize(("name", "option"), REFUSED)
def test_what_does_not_go_together_is_said_by_both_options(
    name: str, option: str, run: Run
) -> None:
    done = run("fit", "nowhere.zarr", "-k", 2, *ASKED[name], *GIVEN[option])
    assert done.exit_code == 2, done.stderr
    for said in (f"--{option.replace('_', '-')}", ASKED[name][0]):
        assert said in done.stderr
