"""`dask-gmm show`: a model, or two side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import Command, option, output_options, storage_options
from dask_gmm.cli.settings import check_storage_options, options_for

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.cli.tables import Comparison
    from dask_gmm.model_file import ModelFile

__all__ = ["show"]


@click.command(
    cls=Command,
    short_help="Print a model, or compare two.",
    examples=[
        ("weights, means and widths", "dask-gmm show model.zarr"),
        ("did the fit find the truth?", "dask-gmm show model.zarr --compare points.truth.zarr"),
        ("every number, for a script", "dask-gmm show model.zarr --json | jq .means"),
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
    """Print the mixture that MODEL holds."""
    from dask_gmm.cli.tables import key_values, mixture_json, mixture_table
    from dask_gmm.model_file import load_model

    options = dict(storage_option)
    check_storage_options(options, model, compare)
    file = load_model(model, storage_options=options_for(model, options) or None)
    if compare is not None:
        other = load_model(compare, storage_options=options_for(compare, options) or None)
        _show_both(session, (model, file), (compare, other))
        return
    if session.json:
        session.emit(
            {
                "command": "show",
                "model": model,
                **mixture_json(file.parameters),
                "lower_bounds": file.lower_bounds,
                "fit": dict(file.fit),
                "settings": dict(file.settings),
                "written_by": dict(file.written_by),
            }
        )
        return
    session.out.print(mixture_table(file.parameters, session.out.width))
    session.out.print()
    session.out.print(key_values(_facts(file)))


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
    versions = file.written_by
    facts.append(("written by", f"dask-gmm {versions.get('dask-gmm', '?')}"))
    return facts


def _show_both(
    session: Session, first: tuple[str, ModelFile], second: tuple[str, ModelFile]
) -> None:
    from dask_gmm.cli.tables import compare, comparison_table, key_values
    from dask_gmm.errors import InputError

    (name, file), (other_name, other) = first, second
    a, b = other.parameters, file.parameters
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
    names = ("truth" if other.fit.get("outcome") == "simulated" else "other", "model")
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
