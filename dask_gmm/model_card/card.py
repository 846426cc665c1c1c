"""From a model and its fit's record to a card: facts only, null where nobody knows."""

from __future__ import annotations

import json
import math
import shlex
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dask_gmm.data.urls import normalize_url
from dask_gmm.fitting.record import EarlierRun
from dask_gmm.mixture.variational import VariationalPosterior
from dask_gmm.scaling.stored import arrays_of, described
from dask_gmm.scaling.words import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.model_file import ModelFile
    from dask_gmm.scaling import Scaling

__all__ = ["card_schema", "model_card"]

FORMAT, FORMAT_VERSION = "dask-gmm-model-card", 1
_NO_FIT = ("simulated", "given")

# Settings that say which fit was made; the others say where data lie, or how much is printed.
_HOW = (
    "tol",
    "reg_covar",
    "prior",
    "max_iter",
    "max_passes",
    "max_bytes",
    "n_init",
    "init_params",
    "init_size",
    "random_state",
    "warm_start",
    "acceleration",
    "search",
    "stopping",
    "on_collapse",
    "kernel",
    "tol_per_row",
    "weight_concentration_prior_type",
    "missing",
    "missing_chunks",
    "feature_transform",
    "standardize",
    "n_pca",
    "whiten",
    "scaling_from",
)


def card_schema() -> dict[str, Any]:
    """Return the JSON Schema of cards, draft 2020-12."""
    text = (files("dask_gmm.model_card") / "schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def model_card(model: ModelFile, *, place: str | None = None) -> dict[str, Any]:
    """Return what is known of a fitted mixture.

    Parameters
    ----------
    model : ModelFile
        Its contents.
    place : str, optional
        The path or URL of the model's file, for the code that loads it.

    Returns
    -------
    dict
        JSON values only, valid by `card_schema`; no credentials.
    """
    parameters, fit, record = model.parameters, model.fit, model.record
    card = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {
            "type": parameters.words,
            "n_components": parameters.n_components,
            "n_features": parameters.n_features,
            "covariance_type": parameters.family.name,
            "n_parameters": model.n_parameters,
            "digest": model.digest,
            "parameters_digest": parameters.fingerprint,
            "priors": {k: v.tolist() for k, v in sorted(model.priors.items())} or None,
        },
        "features": _features(model),
        "data": _data(model, record),
        "scaling": _scaling(model.scaling, fit.get("feature_names")),
        "fit": _fit(model, record),
        "result": _result(model, record),
        "software": {key: str(value) for key, value in sorted(model.written_by.items())},
        "intended_use": _uses(model),
        "limitations": _limitations(model),
        "how_to_load": _how_to_load(place),
    }
    plain: dict[str, Any] = _plain(card)
    return plain


def _features(model: ModelFile) -> list[dict[str, Any]]:
    d, names = int(model.fit["n_features"]), model.fit.get("feature_names")
    elementwise = None if model.scaling is None else model.scaling.elementwise
    kinds = [""] * d if elementwise is None else list(elementwise.kinds)
    return [
        {
            "name": None if names is None else str(names[i]),
            "transform": kinds[i] or None,
        }
        for i in range(d)
    ]


def _data(model: ModelFile, record: FitRecord | None) -> dict[str, Any]:
    fit = model.fit
    return {
        "source": None if record is None else record.source,
        "fingerprint": None if record is None else record.data,
        "n_rows": fit.get("n_rows"),
        "n_incomplete_rows": fit.get("n_incomplete_rows"),
        "n_blocks": None if record is None else record.n_blocks,
        "missing": model.settings.get("missing"),
        "weighted": None if record is None else record.weighted,
        "dtype_of_parameters": str(fit["dtype"]),
    }


def _scaling(scaling: Scaling | None, names: Any) -> dict[str, Any] | None:
    if scaling is None:
        return None
    about = described(scaling)
    return {
        "words": in_words(scaling, names),
        "affine": scaling.linear,
        "n_outputs": scaling.n_outputs,
        "transform": about["transform"],
        "standardize": about["standardize"],
        "numbers": {name: array.tolist() for name, array in arrays_of(scaling).items()},
    }


def _fit(model: ModelFile, record: FitRecord | None) -> dict[str, Any]:
    settings = {name: model.settings.get(name) for name in _HOW}
    found: dict[str, Any] = {
        "settings": settings,
        "prior": model.fit.get("prior"),
        "acceleration": model.fit.get("acceleration"),
        "n_iter": model.fit.get("n_iter"),
        "n_passes": model.fit.get("n_passes"),
        "record": None,
        "updates": _updates(model, record),
    }
    if record is not None:
        found["record"] = {
            "backend": record.backend,
            "begun": record.begun,
            "seconds": record.seconds,
            "reads": record.reads,
            "bytes_read": record.bytes_read,
            "start": record.start,
            "sample_rows": record.sample_rows,
            "moves_tried": record.moves_tried,
            "moves_accepted": record.moves_accepted,
            "rare_components": record.rare_components,
            "rejected_steps": record.rejected,
            "resumed_after": record.resumed_after,
        }
    return found


def _updates(model: ModelFile, record: FitRecord | None) -> dict[str, Any] | None:
    """What has come after the fit."""
    count = int(model.fit.get("n_updates", 0))
    if not count:
        return None
    runs: list[dict[str, Any]] = []
    if record is not None:
        own = EarlierRun(record.kind, record.source, record.n_rows, record.begun)
        runs = [vars(run) for run in (*record.earlier, own)]
    return {"count": count, "runs": runs, "drift": model.fit.get("drift")}


def _result(model: ModelFile, record: FitRecord | None) -> dict[str, Any]:
    fit, p = model.fit, model.parameters
    bound, rows = fit.get("lower_bound"), fit.get("n_rows")
    bic, posterior = None, fit.get("prior") is not None
    if posterior or _bayesian(model):
        bound = None  # what is known is the log-posterior, or a lower bound of the evidence
    plain = record is not None and record.weighted is False and not fit.get("n_updates")
    if bound is not None and rows and plain:
        bic = -2.0 * rows * bound + model.n_parameters * math.log(rows)
    return {
        "outcome": fit.get("outcome"),
        "converged": fit.get("converged"),
        "log_likelihood_per_row": bound,
        "lower_bound_per_row": fit.get("lower_bound_per_row"),
        "evidence_bound": fit.get("evidence_bound"),
        "log_posterior_per_row": fit.get("lower_bound") if posterior else None,
        "remaining_gain_per_row": fit.get("remaining_gain"),
        "bic": bic,
        "weights": {
            "smallest": float(p.weights.min()),
            "largest": float(p.weights.max()),
            "rows_of_smallest": None if rows is None else float(p.weights.min()) * rows,
        },
    }


def _uses(model: ModelFile) -> list[str]:
    uses = [
        "Density estimation and model-based clustering of rows like those that it was fitted to.",
    ]
    if model.settings.get("missing") == "marginalize":
        uses.append("Rows with missing values: labels, densities, and imputation.")
    return uses


def _limitations(model: ModelFile) -> list[str]:
    """Return what follows from the fit's own facts, each in a sentence."""
    fit, scaling, missing = model.fit, model.scaling, model.settings.get("missing")
    found = [
        (
            f"Components are {model.parameters.shape.name}s: populations of another shape are made "
            f"up of several components, and a component need not be a population."
        ),
        (
            "Log-likelihoods are densities, which change with the units of the features; they "
            "compare mixtures of the same features in the same units."
        ),
    ]
    if _bayesian(model):
        found.append(
            "Log-densities are expectations over the posterior, as scikit-learn's: densities do "
            "not add up to one, and there is no BIC."
        )
    if scaling is not None:
        found.append(
            "Densities and log-likelihoods are of scaled rows, unless original_units=True asks "
            "for those of the data."
        )
        if not scaling.linear:
            found.append(
                f"A transform of the features is not affine: components are no "
                f"{model.parameters.shape.name}s in the data's units, and have medians there but "
                f"no covariances."
            )
        if not scaling.invertible:
            found.append(
                f"It is a mixture of {scaling.n_outputs} principal components of "
                f"{scaling.n_features} features: what varies in the others it does not see."
            )
    if missing == "marginalize":
        found.append("Values are taken to be missing at random, given those that are there.")
    if missing == "drop":
        found.append(
            "Rows that miss a value were left out: the mixture is one of complete rows, which may "
            "differ from the others."
        )
    if fit.get("prior") is not None:
        found.append(
            "It is the mode of a posterior: a prior draws components that have few rows to what "
            "was thought before."
        )
    return found + _limits_of_the_end(fit)


def _limits_of_the_end(fit: Mapping[str, Any]) -> list[str]:
    """Return what follows from how the fit has ended, each in a sentence."""
    found = []
    if fit.get("outcome") == "collapsed":
        found.append("A component collapsed: the parameters are those before its last iteration.")
    elif fit.get("outcome") == "stream":
        found.append(
            "Its rows came in batches, each read once: it is near the optimum of them all and not "
            "at it, and which batch came when has a part in it."
        )
    elif fit.get("converged") is False and fit.get("outcome") not in _NO_FIT:
        found.append("The fit was stopped before it converged.")
    if fit.get("n_updates") and fit.get("outcome") != "stream":
        found.append(
            "Rows came after the fit and were taken in without reading those before, whose "
            "responsibilities are those of earlier mixtures."
        )
    if fit.get("outcome") == "given":
        found.append("Its parameters were given: no data that it was fitted to are known.")
    elif fit.get("outcome") not in _NO_FIT:
        found.append(
            "EM ends in a local optimum: another start may end in another mixture, perhaps a "
            "better one."
        )
    return found


def _bayesian(model: ModelFile) -> bool:
    return isinstance(model.parameters, VariationalPosterior)


def _how_to_load(place: str | None) -> dict[str, Any]:
    url = "model.zarr" if place is None else normalize_url(place)
    return {
        "place": None if place is None else url,
        "python": f"from dask_gmm import load_mixture\n\ngm = load_mixture({url!r})\n",
        "command": f"dask-gmm show {shlex.quote(url)}",
    }


def _plain(value: Any) -> Any:
    """Return a value as strict JSON: what is not finite is null, tuples are lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
