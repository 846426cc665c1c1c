"""`dask-gmm show`: a model, two side by side, or where a fit stands."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import Command, option, output_options, storage_options
from dask_gmm.cli.scaling import scaling_facts, scaling_json, unscaled_json
from dask_gmm.cli.settings import check_storage_options, options_for
from dask_gmm.quantities import show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.tables import Comparison
    from dask_gmm.fitting.found import Found
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.model_file import ModelFile

__all__ = ["show"]


@click.command(
    cls=Command,
    short_help="Print a model or a checkpoint, or compare two.",
    examples=[
        ("weights, means and widths", "dask-gmm show model.zarr"),
        ("did the fit find the truth?", "dask-gmm show model.zarr --compare points.truth.zarr"),
        ("every number, for a script", "dask-gmm show model.zarr --json | jq .means"),
        ("how far is the fit that commits there?", "dask-gmm show points.checkpoint"),
    ],
)
@click.argument("model")
@option(
    "--compare",
    metavar="MODEL",
    section="Model",
    help="Another model, or the truth of simulated data: components are matched by their means "
    "and shown side by side.",
)
@storage_options
@output_options
@click.pass_obj
def show(session: Session, /, model: str, compare: str | None, storage_option: Any) -> None:
    """Print the mixture that MODEL holds.

    MODEL may also be the checkpoint of a fit or a selection: then it is the mixture that stands
    best there, and how far the fit has come.
    """
    from dask_gmm.cli.tables import key_values, mixture_json, mixture_table
    from dask_gmm.fitting.found import Found

    options = dict(storage_option)
    check_storage_options(options, model, compare)
    file = _open(model, options)
    if compare is not None:
        _show_both(session, (model, file), (compare, _open(compare, options)))
        return
    if isinstance(file, Found):
        _show_checkpoint(session, file)
        return
    if session.json:
        session.emit(
            {
                "command": "show",
                "model": model,
                **mixture_json(file.parameters),
                **unscaled_json(file.parameters, file.scaling),
                **scaling_json(file.scaling),
                "lower_bounds": file.lower_bounds,
                "fit": dict(file.fit),
                "settings": dict(file.settings),
                "written_by": dict(file.written_by),
                "record": None if file.record is None else asdict(file.record),
            }
        )
        return
    session.out.print(mixture_table(file.parameters, session.out.width, file.scaling))
    session.out.print()
    facts = scaling_facts(file.scaling, file.fit.get("feature_names"))
    session.out.print(key_values([*_facts(file), *facts]))


def _open(url: str, options: Mapping[str, Any]) -> ModelFile | Found:
    """Read a model, or a checkpoint where there is none."""
    from dask_gmm.errors import StoreError
    from dask_gmm.fitting.found import read_checkpoint
    from dask_gmm.model_file import load_model

    own = options_for(url, options) or None
    try:
        return load_model(url, storage_options=own)
    except StoreError:
        found = read_checkpoint(url, own)
        if found is None:
            raise
        return found


def _show_checkpoint(session: Session, found: Found) -> None:
    from dask_gmm.cli.tables import key_values, mixture_json, mixture_table

    for sentence in found.skipped:
        session.complain("warning", sentence)
    if session.json:
        session.emit(
            {
                "command": "show",
                "checkpoint": found.name,
                "commit": found.commit,
                "bytes": found.size,
                **found.about,
                **mixture_json(found.parameters),
                **unscaled_json(found.parameters, found.scaling),
                **scaling_json(found.scaling),
            }
        )
        return
    session.out.print(mixture_table(found.parameters, session.out.width, found.scaling))
    session.out.print()
    facts = [*_checkpoint_facts(found), *scaling_facts(found.scaling)]
    session.out.print(key_values(facts))


def _checkpoint_facts(found: Found) -> list[tuple[str, str]]:
    about, data = found.about, found.about["data"]
    passes = about["passes"]
    after = f"after pass {passes}" if passes else "before its first pass"
    ended = "has ended" if about["ended"] else "goes on from here with --checkpoint"
    rows = "rows of unknown number" if data["rows"] is None else f"{data['rows']:,} rows"
    settings = about["settings"]
    what = f"a {about['kind']} to {rows} of {data['features']} features"
    if about["kind"] == "selection":
        what += f", among {len(settings['points'])} mixtures by {settings['criterion']}"
    facts = [("checkpoint", what), ("stands", f"{after}; it {ended}")]
    if about["objective"] is not None:
        facts.append(("log-likelihood", f"{about['objective']:.6f} nats a row"))
    if about["remaining_gain"] is not None:
        facts.append(("left", f"about {about['remaining_gain']:.1e} nats a row"))
    facts.append(("took", show_seconds(about["seconds"])))
    when = datetime.fromtimestamp(about["written"]).astimezone().isoformat(" ", "seconds")
    writer = f"by process {about['pid']} on {about['host']}"
    facts.append(("written", f"{when} {writer}, commit {found.commit}, {show_bytes(found.size)}"))
    return facts


def _facts(file: ModelFile) -> list[tuple[str, str]]:
    p, fit = file.parameters, file.fit
    mixture = (
        f"{p.n_components} components in {p.n_features} features, {p.family.name} covariance, "
        f"{p.n_parameters:,} free parameters"
    )
    facts = [("mixture", mixture)]
    rows = f" to {fit['n_rows']:,} rows" if fit.get("n_rows") else ""
    outcome = {
        "converged": "converged",
        "max_iter": "stopped without converging",
        "max_passes": "stopped by --max-passes",
        "max_bytes": "stopped by --max-bytes",
        "simulated": "the truth of simulated data",
    }.get(str(fit.get("outcome")), str(fit.get("outcome")))
    if fit.get("n_iter"):
        facts.append(("fitted", f"{outcome} after {fit['n_iter']} iterations{rows}"))
    else:
        facts.append(("origin", outcome))
    if fit.get("lower_bound") is not None:
        facts.append(("log-likelihood", f"{fit['lower_bound']:.6f} nats a row"))
    if file.record is not None:
        facts += _record_facts(file.record)
    versions = file.written_by
    facts.append(("written by", f"dask-gmm {versions.get('dask-gmm', '?')}"))
    return facts


def _record_facts(record: FitRecord) -> list[tuple[str, str]]:
    """Say where the data came from, and when and how long they were fitted."""
    from dask_gmm.cli.outcome import reads_in_words

    begun = datetime.fromtimestamp(record.begun).astimezone().isoformat(" ", "seconds")
    return [
        ("data", f"{record.source}, known by {record.data}"),
        ("fit", f"begun {begun}, {show_seconds(record.seconds)} on {record.backend}"),
        ("reads", reads_in_words(record)),
    ]


def _show_both(
    session: Session,
    first: tuple[str, ModelFile | Found],
    second: tuple[str, ModelFile | Found],
) -> None:
    from dask_gmm.cli.tables import compare, comparison_table, key_values
    from dask_gmm.errors import InputError

    (name, file), (other_name, other) = first, second
    a, b = other.parameters, file.parameters
    scalings = [None if m.scaling is None else m.scaling.fingerprint for m in (file, other)]
    if scalings[0] != scalings[1]:
        raise InputError(
            f"{name} and {other_name} are mixtures of rows that were scaled differently, or of "
            f"which one was not: their components have no units in common."
        )
    if a.n_features != b.n_features:
        raise InputError(
            f"{name} has {b.n_features} features and {other_name} has {a.n_features}: these "
            f"models are of different data."
        )
    comparison = compare(a, b)
    if session.json:
        session.emit(
            {
                "command": "show",
                "model": name,
                "compared_with": other_name,
                **comparison_json(comparison),
            }
        )
        return
    simulated = getattr(other, "fit", {}).get("outcome") == "simulated"
    names = ("truth" if simulated else "other", "model")
    session.out.print(comparison_table(a, b, comparison, names, session.out.width))
    session.out.print()
    session.out.print(key_values(comparison_facts(comparison)))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison's numbers."""
    return {
        "matched": [{"component": b, "other": a} for a, b in comparison.matched],
        "mean_error_sigma": comparison.distances,
        "largest_mean_error_sigma": float(comparison.distances.max()),
        "largest_weight_error": comparison.weight_error,
        "largest_width_error": comparison.width_error,
    }


def comparison_facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the largest differences in words."""
    largest = (
        f"means {comparison.distances.max():.2g} σ, weights {comparison.weight_error:.2g}, "
        f"widths {100 * comparison.width_error:.2g} %"
    )
    return [("largest differences", largest)]
