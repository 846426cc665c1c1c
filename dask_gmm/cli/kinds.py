"""The kinds of mixture that a fit may be asked for, and which options go with each.

A new kind is one more value here, a line in `EMSettings.kind`, and its own options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BAYESIAN", "GAUSSIAN", "STUDENT", "MixtureKind"]

_NOT_ASKED = (None, False, (), "none")


@dataclass(frozen=True)
class MixtureKind:
    """A kind of mixture, and what it goes with.

    Attributes
    ----------
    estimator : str
        Its class among `dask_gmm.estimators`.
    option : str
        What asks for it; empty of the kind that nothing asks for.
    lacks : tuple of str
        Options that it has none of, by the names of their values.
    limited : mapping of str to tuple
        Of other options the values that it goes with.
    without : tuple of str
        Arguments of a Gaussian mixture that its estimator does not have.
    """

    estimator: str
    option: str = ""
    lacks: tuple[str, ...] = ()
    limited: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse options that do not go with it.

        Raises
        ------
        click.UsageError
        """
        for name in self.lacks:
            if values[name] not in _NOT_ASKED:
                raise click.UsageError(
                    f"{_option(name)} and {self.option} do not go together: leave one of the two "
                    f"out."
                )
        for name, may in self.limited.items():
            if values[name] not in may:
                others = " or ".join(str(one) for one in may if one)
                raise click.UsageError(
                    f"{_option(name)} {values[name]} does not go with {self.option}: there it may "
                    f"be {others}."
                )

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a Gaussian mixture that its estimator has too."""
        return {name: value for name, value in values.items() if name not in self.without}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_NO_SEARCH = ("auto", "off", 0)
_BY_OBJECTIVE = ("auto", "squarem", "none")

GAUSSIAN = MixtureKind("GaussianMixture")

STUDENT = MixtureKind(
    "StudentTMixture",
    "--degrees-of-freedom",
    lacks=("noise", "prior", "freeze"),
    limited={
        "acceleration": _BY_OBJECTIVE,
        "search": _NO_SEARCH,
        "on_collapse": ("stop", "raise"),
    },
    without=("noise", "search", "prior"),
)

BAYESIAN = MixtureKind(
    "BayesianGaussianMixture",
    "--bayesian",
    lacks=("degrees_of_freedom", "noise", "order", "prior", "freeze"),
    limited={
        "acceleration": _BY_OBJECTIVE,
        "search": _NO_SEARCH,
        "on_collapse": ("stop",),
        "covariance": ("full", "tied", "diag", "spherical"),
    },
    without=("search", "on_collapse", "noise", "prior", "order"),
)
