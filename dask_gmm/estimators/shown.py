"""What is shown of a fitted estimator: its numbers, in the data's units where they have some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.glance.mixture import MixtureGlance, how_it_ended
from dask_gmm.mixture.variational import NEEDED, VariationalPosterior
from dask_gmm.quantities import plural
from dask_gmm.scaling.original_units import means_and_widths
from dask_gmm.scaling.words import in_words

if TYPE_CHECKING:
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["feature_names", "glance_of", "is_mixture"]


def is_mixture(gm: Any) -> bool:
    """Whether an estimator has the parameters of a mixture, fitted or set by hand."""
    return all(hasattr(gm, name) for name in ("weights_", "means_", "precisions_cholesky_"))


def feature_names(gm: Any) -> tuple[str, ...] | None:
    """The names of the data's features, None where they have none."""
    names = getattr(gm, "feature_names_in_", None)
    return None if names is None else tuple(map(str, names))


def glance_of(gm: Any) -> MixtureGlance:
    """Gather what is shown of a mixture.

    Raises
    ------
    InputError
        Its parameters are not of its `covariance_type`, which was changed after the fit.
    """
    parameters: MixtureParameters = gm._parameters()
    scaling, names = gm._scaling, feature_names(gm)
    more = tuple(f"{_capital(name)}: {words}." for name, words in parameters.facts)
    about = (_what(parameters, gm._n_parameters()), *_ending(gm), *more)
    settings, title = repr(gm), _capital(parameters.words)
    if scaling is not None and not scaling.linear:
        k, d = parameters.means.shape
        variances = parameters.form.diagonals(parameters.covariances, k, d)
        of_features = names if scaling.principal is None else None
        kind = "feature" if scaling.principal is None else "principal component"
        shown = of_features or tuple(f"{kind} {i}" for i in range(d))
        units = f"In units of the scaled rows: {in_words(scaling, names)}. sample() draws rows in "
        units += "the data's units, and original_units() has the medians there."
        return MixtureGlance(
            weights=parameters.weights,
            means=parameters.means,
            widths=np.sqrt(variances),
            features=shown,
            about=about,
            units=units,
            settings=settings,
            whole="weights_, means_ and covariances_",
            title=title,
            shape=parameters.shape,
        )
    means, widths = means_and_widths(parameters, scaling)
    shown = names or tuple(f"feature {i}" for i in range(means.shape[1]))
    units = ""
    if scaling is not None:
        units = "In the data's units. The fit, its likelihood and means_ are of rows scaled by "
        units += f"{in_words(scaling, names)}."
    return MixtureGlance(
        parameters.weights,
        means,
        widths,
        shown,
        about,
        units,
        settings,
        title=title,
        shape=parameters.shape,
    )


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _what(parameters: MixtureParameters, n_parameters: int) -> str:
    k, d = parameters.means.shape
    words = _capital(parameters.words)
    family = f"{parameters.family.name} covariance"
    beside = f"{n_parameters:,} free parameters"
    if isinstance(parameters, VariationalPosterior):
        beside = f"{parameters.n_needed} of a weight above {NEEDED:.1%}"
    return f"{words}: {plural(k, 'component')} in {plural(d, 'feature')}, {family}, {beside}"


def _ending(gm: Any) -> tuple[str, ...]:
    """How the fit ended; nothing of parameters that no fit has made."""
    if not hasattr(gm, "outcome_"):
        return ()
    return (
        how_it_ended(
            outcome=gm.outcome_,
            n_iter=gm.n_iter_,
            n_passes=gm.n_passes_,
            n_rows=gm.n_rows_,
            n_incomplete=gm.n_incomplete_rows_,
            lower_bound=gm._bound_per_row(),
            remaining_gain=gm.remaining_gain_,
            posterior=getattr(gm, "prior_", None) is not None,
        ),
    )
