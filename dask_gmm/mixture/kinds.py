"""The kinds of parameters there are, by the names that model files have for them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError
from dask_gmm.mixture.noise import NoisyParameters
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.student import StudentParameters
from dask_gmm.mixture.variational import VariationalPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

__all__ = ["PARAMETER_CLASSES", "of_kind"]

PARAMETER_CLASSES: tuple[type[MixtureParameters], ...] = (
    MixtureParameters,
    NoisyParameters,
    StudentParameters,
    VariationalPosterior,
)
"""A new kind is one more class here."""


def of_kind(
    kind: str, parameters: MixtureParameters, more: Mapping[str, ArrayLike]
) -> MixtureParameters:
    """Parameters of a kind, with given weights, means and covariances, and its other arrays.

    Parameters
    ----------
    kind : str
        `MixtureParameters.kind` of its class.
    parameters : MixtureParameters
        Gives the family and the arrays that all kinds have.
    more : mapping of str to array
        `MixtureParameters.more`.

    Raises
    ------
    InputError
        There is no such kind.
    """
    classes = {cls.kind: cls for cls in PARAMETER_CLASSES}
    if kind not in classes:
        raise InputError(
            f"This version of dask_gmm knows no mixtures of the kind {kind!r}: use the version "
            f"that has saved it, or a newer one."
        )
    values: dict[str, Any] = {
        f.name: getattr(parameters, f.name) for f in fields(MixtureParameters)
    }
    values |= {name: frozen_array(array) for name, array in more.items()}
    return classes[kind](**values)
