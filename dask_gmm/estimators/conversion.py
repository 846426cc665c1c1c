"""Fitted estimators to and from model files and scikit-learn's own class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from dask_gmm.errors import ModelFileError
from dask_gmm.estimators.attributes import copy_parameters, family_of, set_parameters
from dask_gmm.fitting.drift import Drift
from dask_gmm.mixture.parameters import frozen_array
from dask_gmm.mixture.prior import Prior
from dask_gmm.mixture.variational import VariationalPosterior
from dask_gmm.model_file import ModelFile, fingerprint

# Where to look for data is the business of whoever loads a model, not of the model.
_UNSAVED = {"storage_options", "callbacks"}

__all__ = ["copy_fitted", "restore", "to_model_file"]

_FITTED = (
    "converged_",
    "n_iter_",
    "lower_bound_",
    "lower_bounds_",
    "n_features_in_",
    "feature_names_in_",
)
_PRIORS = (
    "weight_concentration_prior",
    "mean_precision_prior",
    "mean_prior",
    "degrees_of_freedom_prior",
    "covariance_prior",
)


def copy_fitted(source: Any, target: Any) -> None:
    """Copy scikit-learn's fitted attributes, those that are there, from one model to another."""
    for name in _FITTED:
        if hasattr(source, name):
            value = getattr(source, name)
            setattr(target, name, value.copy() if hasattr(value, "copy") else value)
    for name in _PRIORS:
        if hasattr(source, f"{name}_"):
            setattr(target, f"{name}_", deepcopy(getattr(source, f"{name}_")))
    copy_parameters(source, target)


def to_model_file(gm: Any) -> ModelFile:
    """Gather what a model file holds; the estimator must be fitted."""
    bound = float(gm.lower_bound_)
    fit = {
        "converged": bool(gm.converged_),
        "n_iter": int(gm.n_iter_),
        "lower_bound": bound if np.isfinite(bound) else None,
        "n_features": int(gm.n_features_in_),
        "dtype": np.dtype(gm.means_.dtype).name,
        "feature_names": [str(n) for n in getattr(gm, "feature_names_in_", ())] or None,
        "n_rows": gm.n_rows_,
        "n_incomplete_rows": gm.n_incomplete_rows_,
        "n_passes": gm.n_passes_,
        "outcome": gm.outcome_,
        "acceleration": gm.acceleration_,
        "remaining_gain": _finite(gm.remaining_gain_),
    }
    parameters, priors = gm._parameters(), {}
    if isinstance(parameters, VariationalPosterior):
        fit |= {
            "lower_bound_per_row": _finite(gm._bound_per_row()),
            "evidence_bound": _finite(gm.evidence_bound_),
        }
        priors = {name: frozen_array(getattr(gm, f"{name}_")) for name in _PRIORS}
    if getattr(gm, "n_frozen_", 0):
        fit["n_frozen"] = gm.n_frozen_
    if updates := getattr(gm, "n_updates_", 0):
        drift = getattr(gm, "drift_", None)
        fit |= {"n_updates": updates, "drift": None if drift is None else vars(drift)}
    settings = {name: _plain(value) for name, value in gm.get_params().items()}
    settings["feature_transform"] = _plain_transform(gm.feature_transform)
    settings |= _plain_prior(gm, fit)
    settings = {
        name: value for name, value in settings.items() if name not in _UNSAVED and _is_json(value)
    }
    bounds = np.asarray(gm.lower_bounds_, dtype=np.float64)
    return ModelFile(
        parameters=parameters,
        lower_bounds=bounds,
        settings=settings,
        fit=fit,
        written_by=fingerprint(),
        scaling=gm._scaling,
        record=gm.record_,
        history=gm.history_,
        priors=priors,
        kept=getattr(gm, "_kept", None),
    )


def restore(gm: Any, model: ModelFile, name: str) -> None:
    """Give an estimator the settings and fitted attributes that a model file holds.

    Raises
    ------
    ModelFileError
        The file is not one that `to_model_file` has made.
    """
    _check_kind(gm, model, name)
    known = set(gm.get_params()) - _UNSAVED
    settings = {key: value for key, value in model.settings.items() if key in known}
    settings["feature_transform"] = _transform_of(settings.get("feature_transform"))
    if "prior" in known:
        settings["prior"] = _prior_of(settings.get("prior"))
        gm.prior_ = _prior_of(model.fit.get("prior"))
    if {"frozen", "degrees_of_freedom"} & known:
        gm.n_frozen_ = int(model.fit.get("n_frozen", 0))
    gm.set_params(**settings)
    try:
        for prior, value in model.priors.items():
            setattr(gm, f"{prior}_", value.copy() if value.ndim else float(value))
        if family_of(gm) is not model.parameters.family:
            raise ValueError(f"covariance_type={gm.covariance_type!r}")
        _restore_fit(gm, model)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"The model at {name} does not describe a fit ({error}): restore it or fit again."
        ) from error


def _check_kind(gm: Any, model: ModelFile, name: str) -> None:
    """Refuse a mixture of another kind than the estimator's.

    Raises
    ------
    ModelFileError
    """
    if model.parameters.kind not in gm._kinds:
        raise ModelFileError(
            f"The model at {name} is a {model.parameters.kind} mixture, and "
            f"{type(gm).__name__}.load reads {' and '.join(gm._kinds)} ones: "
            f"dask_gmm.load_mixture reads any."
        )


def _restore_fit(gm: Any, model: ModelFile) -> None:
    fit = model.fit
    scaling, expected = model.scaling, model.parameters.n_features
    if scaling is not None and scaling.n_outputs == expected:
        expected = scaling.n_features
    if int(fit["n_features"]) != expected:
        raise ValueError(f"n_features={fit['n_features']}")
    set_parameters(gm, model.parameters, np.dtype(fit["dtype"]))
    gm.scaling_ = scaling
    gm.converged_ = bool(fit["converged"])
    gm.n_iter_ = int(fit["n_iter"])
    gm.lower_bound_ = -np.inf if fit["lower_bound"] is None else float(fit["lower_bound"])
    gm.lower_bounds_ = model.lower_bounds.tolist()
    gm.n_features_in_ = int(fit["n_features"])
    if fit["feature_names"]:
        gm.feature_names_in_ = np.asarray(fit["feature_names"], dtype=object)
    gm.n_rows_ = fit["n_rows"]
    gm.n_incomplete_rows_ = fit.get("n_incomplete_rows", 0)  # models of 0.1 do not say
    gm.n_passes_ = fit["n_passes"]
    gm.outcome_ = fit["outcome"]
    gm.history_, gm.record_ = model.history, model.record
    gm.acceleration_ = fit.get("acceleration")  # models of 0.1 do not say
    gm.remaining_gain_ = fit.get("remaining_gain")
    gm._kept, gm.n_updates_ = model.kept, int(fit.get("n_updates", 0))
    drift = fit.get("drift")
    gm.drift_ = None if drift is None else Drift(**drift)


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


def _plain(value: Any) -> Any:
    """NumPy's scalars, which grid searches hand out, as Python's; arrays and tuples as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _plain_prior(gm: Any, fit: dict[str, Any]) -> dict[str, Any]:
    """A prior as settings have it, and the fit's own numbers of it; nothing of those without."""
    asked = getattr(gm, "prior", None)
    used = getattr(gm, "prior_", None)
    if isinstance(used, Prior):
        fit["prior"] = used.described()
    return {"prior": asked.described()} if isinstance(asked, Prior) else {}


def _prior_of(stored: Any) -> Any:
    """The prior that a model file has: None, a name, or its numbers."""
    return Prior(**stored) if isinstance(stored, Mapping) else stored


def _plain_transform(transform: Any) -> Any:
    """A transform as JSON, whose objects have strings for keys: a dict as a list of pairs."""
    if isinstance(transform, Mapping):
        pairs = transform.items()
        return {"by_feature": [[_plain(key), _plain_transform(kind)] for key, kind in pairs]}
    return [_plain(part) for part in transform] if isinstance(transform, tuple) else transform


def _transform_of(stored: Any) -> Any:
    """The transform that `_plain_transform` made this of."""
    if isinstance(stored, Mapping):
        return {key: _transform_of(kind) for key, kind in stored["by_feature"]}
    return tuple(stored) if isinstance(stored, list) else stored


def _is_json(value: Any) -> bool:
    """Whether a setting survives a model file as it is; starts, callbacks and generators do not."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
