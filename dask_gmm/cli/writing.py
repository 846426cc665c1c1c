"""Commands that write something of each row to a new array: what they share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.options import option
from dask_gmm.cli.settings import check_storage_options, options_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.settings import Compute, DataPlace
    from dask_gmm.data.base import Source
    from dask_gmm.estimators.fitting import FittingMixture
    from dask_gmm.fitting.events import Event

__all__ = ["load_for", "output_resume_option", "write_rows"]

output_resume_option = option(
    "--resume/--no-resume",
    default=None,
    section="Output",
    help="What becomes of an output there that an earlier run has not completed. --resume goes on "
    "with it and fails where there is none (and does nothing where it is complete by now); "
    "--no-resume begins it anew. Without either: go on if there is one, else begin. One of another "
    "model or of other data is never gone on with; remote data, and those of more than 20,000 "
    "files, are taken for the same by their metadata and two finished blocks.",
)


def load_for(model: str, data: DataPlace) -> tuple[FittingMixture, Source]:
    """Load a model and point it at the data; both are looked at before anything is computed."""
    from dask_gmm.data.tables.parquet_source import ParquetSource
    from dask_gmm.errors import InputError
    from dask_gmm.estimators import load_mixture

    mixture = load_mixture(model, storage_options=options_for(model, data.storage_options) or None)
    source = data.open(getattr(mixture, "feature_names_in_", None))
    if source.n_features != mixture.n_features_in_:
        table = isinstance(source, ParquetSource)
        option = "name them with --columns." if table else "is --feature-axis right?"
        raise InputError(
            f"{data.data} has {source.n_features} features along axis {source.feature_axis}, but "
            f"the model {model} was fitted to {mixture.n_features_in_}: {option}"
        )
    return mixture.set_params(**data.estimator_arguments()), source


def write_rows(
    session: Session,
    data: DataPlace,
    compute: Compute,
    model: str,
    output: str,
    write: Callable[..., int],
    *,
    doing: str,
    what: str,
    name: str | None = None,
    fields: Sequence[str] = (),
    load: Callable[[str, DataPlace], tuple[FittingMixture, Source]] = load_for,
    header: dict[str, Any],
    found: Mapping[str, float] | None = None,
    overwrite: bool,
    resume: bool | None,
    proportions: str | None = None,
) -> None:
    """Let a model write something of each row, and say how it went.

    Parameters
    ----------
    write : callable
        Takes the mixture and what `predict_to` and `impute_to` have in common; returns the rows.
    doing, what : str
        What the progress line and the summary call it.
    name : str, optional
        Of the array, where it goes into a group; `what` by default.
    fields : sequence of str
        Of the arrays, where there are several, which always go into a group.
    load : callable
        Loads a model and points it at data.
    header : dict
        Of the JSON.
    found : mapping, optional
        What `write` has found out by its end, for the JSON and the summary.
    proportions : str, optional
        File for the table of components' proportions in each of many arrays.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import check_weights_stay, refuse_overlap
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.proportions import check_proportions, proportions_json, proportions_table
    from dask_gmm.cli.tables import key_values
    from dask_gmm.data.concatenated_source import is_many
    from dask_gmm.data.tables.arrow import has_parquet_suffix
    from dask_gmm.fitting.events import OutputResumed, PassAdvanced
    from dask_gmm.quantities import show_count, show_seconds

    check_storage_options(data.storage_options, data.data, data.where, model, output)
    refuse_overlap(output, data.data, model)
    mixture, source = load(model, data)
    # Where it must go on it deletes nothing, and a complete one is what it may find.
    replaces = overwrite or bool(resume)
    many = is_many(source) and not (fields or has_parquet_suffix(output))
    if proportions is not None:
        check_proportions(proportions, source, output)
    place = _checked_place(
        output, data, source, fields or (name or what,), replaces=replaces, grouped=bool(fields)
    )
    check_weights_stay(output if fields else place, source)
    begun = time.perf_counter()
    skipped, computed = 0, 0

    def count(event: Event) -> None:
        nonlocal skipped, computed
        match event:
            case OutputResumed():
                skipped = event.blocks
            case PassAdvanced():
                computed = event.progress.rows_done

    try:
        with computing(compute, session), observing(session, doing) as observe:
            mixture.set_params(callbacks=[observe, count])
            rows = write(
                mixture,
                overwrite=overwrite,
                resume={None: "auto", True: "must", False: "never"}[resume],
                storage_options=options_for(output, data.storage_options) or None,
            )
    except KeyboardInterrupt:
        session.note(f"What is finished of {output} is kept: the same command goes on from it.")
        raise
    seconds = time.perf_counter() - begun
    table = _written_table(output, data, proportions) if many else None
    if session.json:
        result = {
            **header,
            **(found or {}),
            "n_rows": rows,
            "n_rows_computed": computed,
            "blocks_skipped": skipped,
            "seconds": seconds,
        }
        shares = {} if table is None else {"proportions": proportions_json(*table[:2])}
        session.emit({**result, **shares})
        return
    facts = [(what, place), ("rows", f"{rows:,} in {show_seconds(seconds)}")]
    if computed:
        facts[1] = ("rows", f"{facts[1][1]} ({show_count(computed / seconds)} rows/s)")
    if skipped:
        facts.append(("skipped", f"{skipped:,} blocks that were finished before"))
    facts += [(key.replace("_", " "), f"{value:.6g}") for key, value in (found or {}).items()]
    if proportions is not None:
        facts.append(("proportions", proportions))
    session.out.print(key_values(facts))
    if table is not None:
        session.out.print(proportions_table(*table[:2], width=session.out.width))


def _checked_place(
    output: str,
    data: DataPlace,
    source: Source,
    names: Sequence[str],
    *,
    replaces: bool,
    grouped: bool,
) -> str:
    """Return where an output goes, once it is known that it can be written there."""
    from dask_gmm.cli.outputs import check_array_output, check_group_output, check_table_output
    from dask_gmm.data.concatenated_source import is_many
    from dask_gmm.data.coordinates import output_place
    from dask_gmm.data.tables.arrow import has_parquet_suffix
    from dask_gmm.data.urls import join_url, normalize_url

    if has_parquet_suffix(output):
        check_table_output(output)
        return output
    if is_many(source):
        check_group_output(output, data.storage_options, overwrite=replaces)
        return output
    if not grouped:
        place = output_place(output, data.data, source, names[0])
        check_array_output(place, data.storage_options, overwrite=replaces, beside=True)
        return place
    for name in names:
        place = join_url(normalize_url(output), name)
        check_array_output(place, data.storage_options, overwrite=replaces, beside=True)
    return f"{output} ({', '.join(names)})"


def _written_table(output: str, data: DataPlace, path: str | None) -> tuple[Any, Any, Any]:
    """Return names, proportions and counts of an output of many arrays; write them to a file."""
    from dask_gmm.cli.proportions import write_csv
    from dask_gmm.data.output_group import proportions_at

    table = proportions_at(output, options_for(output, data.storage_options) or None)
    if path is not None:
        write_csv(path, *table)
    return table
