"""What goes together with families whose moments belong to a mixture (factor analysers).

Moments of such a family are those of one mixture's directions: what puts moments together, corrects
them by a sample's or completes gaps by them would put together what does not add up. It is refused
before any work, each with the way that there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.mixture.factors import FactorFamily

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.mixture.family import CovarianceFamily

__all__ = ["check_goes_together"]


def check_goes_together(
    settings: FitSettings, families: Iterable[CovarianceFamily], n_features: int
) -> None:
    """Refuse what a fit of one of these families cannot do.

    Parameters
    ----------
    settings : FitSettings
    families : iterable of CovarianceFamily
    n_features : int
        Of the rows that the mixture sees.

    Raises
    ------
    InputError
        The message says which option, and what to do.
    """
    for family in families:
        if isinstance(family, FactorFamily):
            family.check(n_features)
        if family.conjugate:
            continue
        if not settings.model.improves:
            raise InputError(
                f"covariance_type={family.name!r} is there for maximum likelihood of Gaussian "
                f"components alone, not for {type(settings.model).__name__}: choose "
                f"covariance_type='diag' or 'full'."
            )
        for wrong, what, instead in _impossible(settings):
            if wrong:
                raise InputError(
                    f"covariance_type={family.name!r} does not go together with {what}: {instead}."
                )


def _impossible(settings: FitSettings) -> tuple[tuple[bool, str, str], ...]:
    return (
        (
            settings.acceleration == "variance-reduced",
            "acceleration='variance-reduced', which adds a sample's moments to all rows'",
            "leave it at 'auto', or choose 'squarem' or None",
        ),
        (
            settings.search not in ("auto", "off"),
            f"search={settings.search!r}, which splits and merges components by their moments",
            "leave search out, and raise n_init for more starts in the same reads",
        ),
        (
            settings.on_collapse == "merge",
            "on_collapse='merge', which adds the moments of two components",
            "choose on_collapse='reseed'",
        ),
        (
            settings.init_params == "k-means||",
            "init_params='k-means||', which keeps moments of the rows and no directions",
            "choose init_params='kmeans' and a larger init_size",
        ),
        (
            settings.missing == "marginalize",
            "missing='marginalize'",
            "choose missing='drop', or covariance_type='diag' or 'full'",
        ),
    )
