"""`dask-gmm show`: whatever is at a place, by itself or beside another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import Command, option, output_options, storage_options
from dask_gmm.cli.outcome import height_of, prior_in_words
from dask_gmm.cli.scaling import scaling_facts, scaling_json, unscaled_json
from dask_gmm.cli.settings import check_storage_options, options_for
from dask_gmm.quantities import plural, show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.tables import Comparison
    from dask_gmm.data.contents import Contents
    from dask_gmm.fitting.found import Found
    from dask_gmm.fitting.record import EarlierRun, FitRecord
    from dask_gmm.model_file import ModelFile

__all__ = ["show"]


@click.command(
    cls=Command,
    short_help="Print what is at a place: data, a model, a checkpoint; or compare two models.",
    examples=[
        ("weights, means and widths", "dask-gmm show model.zarr"),
        ("did the fit find the truth?", "dask-gmm show model.zarr --compare points.truth.zarr"),
        ("every number, for a script", "dask-gmm show model.zarr --json | jq .means"),
        ("how far is the fit that commits there?", "dask-gmm show points.checkpoint"),
        ("what data are there, and what are they called?", "dask-gmm show s3://bucket/points.zarr"),
        ("what is known of a model, for whoever receives it", "dask-gmm show model.zarr --card"),
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
@option(
    "--card",
    is_flag=True,
    section="Model",
    help="Print the model's card as JSON: what it is, what it was fitted to and how, how that "
    "ended, and how to load it.",
)
@storage_options
@output_options
@click.pass_obj
def show(
    session: Session, /, model: str, compare: str | None, card: bool, storage_option: Any
) -> None:
    """Print the mixture that MODEL holds.

    MODEL may also be the checkpoint of a fit or a selection: then it is the mixture that stands
    best there, and how far the fit has come. Or it is data: an array, a group of them, a Parquet
    table, labels that 'dask-gmm predict' has written. Of these metadata are read and nothing else.
    """
    from dask_gmm.fitting.found import Found
    from dask_gmm.model_file import ModelFile

    options = dict(storage_option)
    check_storage_options(options, model, compare)
    if card and compare is not None:
        raise click.UsageError("--card is of one model, --compare of two: give one of them.")
    file = _look(model, options)
    if compare is not None:
        other = _look(compare, options)
        _show_both(session, (model, _mixture(model, file)), (compare, _mixture(compare, other)))
    elif card:
        _show_card(session, model, file)
    elif isinstance(file, Found):
        _show_checkpoint(session, file)
    elif isinstance(file, ModelFile):
        _show_model(session, model, file)
    else:
        from dask_gmm.cli.show_data import show_data

        show_data(session, model, file)


def _show_model(session: Session, model: str, file: ModelFile) -> None:
    from dask_gmm.cli.tables import key_values, mixture_json, mixture_table

    if session.json:
        session.emit(
            {
                "command": "show",
                "model": model,
                "parameters_digest": file.parameters.fingerprint,
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


def _look(url: str, options: Mapping[str, Any]) -> ModelFile | Found | Contents:
    """Read a model or a checkpoint, or what the metadata of data say.

    Raises
    ------
    StoreNotFoundError
        Nothing of that kind is there.
    """
    from dask_gmm.data.contents import contents_at
    from dask_gmm.data.stores import store_spec
    from dask_gmm.errors import InputError, StoreError, StoreNotFoundError
    from dask_gmm.fitting.found import read_checkpoint
    from dask_gmm.model_file import FORMAT, load_model

    own = options_for(url, options) or None
    spec = store_spec(url, own)
    contents = contents_at(spec, leave=FORMAT)
    if contents is not None:
        return contents
    try:
        return load_model(url, storage_options=own)
    except StoreError as error:
        found = None
        with suppress(InputError):  # a place that no checkpoint can be at
            found = read_checkpoint(url, own)
        if found is not None:
            return found
        if not isinstance(error, StoreNotFoundError):
            raise
        raise StoreNotFoundError(
            f"There is nothing to show at {spec.url}: no model, no checkpoint, no Zarr array or "
            f"group and no Parquet table. Check the path and, in an object store, the bucket."
        ) from None


def _mixture(url: str, found: ModelFile | Found | Contents) -> ModelFile | Found:
    """Return what holds a mixture.

    Raises
    ------
    InputError
    """
    from dask_gmm.errors import InputError
    from dask_gmm.fitting.found import Found
    from dask_gmm.model_file import ModelFile

    if isinstance(found, ModelFile | Found):
        return found
    raise InputError(f"{url} holds data and no mixture: --compare is for models and checkpoints.")


def _show_card(session: Session, model: str, file: ModelFile | Found | Contents) -> None:
    from dask_gmm.errors import InputError
    from dask_gmm.model_card import model_card
    from dask_gmm.model_file import ModelFile

    if not isinstance(file, ModelFile):
        raise InputError(
            f"{model} is no model file, and a card is of a model: fit with --output to save one."
        )
    session.emit(model_card(file, place=model))


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
                "grid": [asdict(point) for point in found.grid],
                **mixture_json(found.parameters),
                **unscaled_json(found.parameters, found.scaling),
                **scaling_json(found.scaling),
            }
        )
        return
    if found.grid:
        session.out.print(_grid_table(found))
        session.out.print()
    session.out.print(mixture_table(found.parameters, session.out.width, found.scaling))
    session.out.print()
    facts = [*_checkpoint_facts(found), *scaling_facts(found.scaling)]
    session.out.print(key_values(facts))


def _grid_table(found: Found) -> Table:
    """Return where each mixture of a selection stands."""
    from dask_gmm.cli.tables import bare_table

    table = bare_table()
    criterion = found.about["settings"]["criterion"]
    for heading, justify in (("K", "right"), ("covariance", "left"), (criterion, "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("passes", justify="right")
    table.add_column("stands")
    chosen = (found.parameters.n_components, found.parameters.family.name)
    for point in found.grid:
        best = (point.n_components, point.covariance_type) == chosen
        goes_on = "goes on" if point.passes else "has not begun"
        table.add_row(
            str(point.n_components),
            point.covariance_type,
            "" if point.value is None else f"{point.value:,.4f}",
            str(point.passes),
            (point.outcome or goes_on) + (", the best so far" if best and point.passes else ""),
            style="bold" if best else None,
        )
    return table


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
        height = height_of(settings.get("prior"))
        if found.parameters.objective_name == "lower bound":
            height = found.parameters.objective_name
        facts.append((height, f"{about['objective']:.6f} nats a row"))
    if about["remaining_gain"] is not None:
        facts.append(("left", f"about {about['remaining_gain']:.1e} nats a row"))
    facts.append(("took", show_seconds(about["seconds"])))
    writer = f"{_when(about['written'])} by process {about['pid']} on {about['host']}"
    facts.append(("written", f"{writer}, commit {found.commit}, {show_bytes(found.size)}"))
    return facts


def _facts(file: ModelFile) -> list[tuple[str, str]]:
    p, fit = file.parameters, file.fit
    mixture = (
        f"{p.n_components} components in {p.n_features} features, {p.family.name} covariance, "
        f"{file.n_parameters:,} free parameters"
    )
    facts = [("mixture", mixture)]
    rows = f" to {fit['n_rows']:,} rows" if fit.get("n_rows") else ""
    outcome = {
        "converged": "converged",
        "max_iter": "stopped without converging",
        "max_passes": "stopped by --max-passes",
        "max_bytes": "stopped by --max-bytes",
        "stream": "goes on with each batch,",
        "simulated": "the truth of simulated data",
        "given": "made of parameters that were given",
    }.get(str(fit.get("outcome")), str(fit.get("outcome")))
    if fit.get("n_iter"):
        facts.append(("fitted", f"{outcome} after {plural(fit['n_iter'], 'iteration')}{rows}"))
    else:
        facts.append(("origin", outcome))
    bound = fit.get("lower_bound_per_row", fit.get("lower_bound"))
    if bound is not None:
        height = height_of(fit.get("prior"))
        if "lower_bound_per_row" in fit:
            height = p.objective_name
        facts.append((height, f"{bound:.6f} nats a row"))
    if fit.get("prior") is not None:
        facts.append(("prior", prior_in_words(fit["prior"])))
    facts += p.facts
    if file.record is not None:
        facts += _record_facts(file.record)
    versions = file.written_by
    facts.append(("written by", f"dask-gmm {versions.get('dask-gmm', '?')}"))
    facts.append(("parameters", f"{p.fingerprint[:12]}, as labels made by it say"))
    return facts


def _record_facts(record: FitRecord) -> list[tuple[str, str]]:
    """Say where the data came from, and when and how long they were fitted."""
    from dask_gmm.cli.outcome import reads_in_words

    begun = _when(record.begun)
    return [
        *(("came after", _earlier(run)) for run in record.earlier),
        ("data", f"{record.source}, known by {record.data}"),
        (record.kind, f"begun {begun}, {show_seconds(record.seconds)} on {record.backend}"),
        ("reads", reads_in_words(record)),
    ]


def _earlier(run: EarlierRun) -> str:
    """Say what an update, or a batch, has come to."""
    rows = "" if run.n_rows is None else f" to {plural(run.n_rows, 'row')}"
    return f"a {run.kind}{rows} of {run.source}, begun {_when(run.begun)}"


def _when(seconds: float) -> str:
    """Write a time, in seconds since 1970, as a clock here shows it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


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
