"""Commands that write something of each row to a new array: what they share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.options import option
from dask_gmm.cli.settings import check_storage_options, options_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.settings import Compute, DataPlace
    from dask_gmm.data.base import Source
    from dask_gmm.estimators import GaussianMixture
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


def load_for(model: str, data: DataPlace) -> tuple[GaussianMixture, Source]:
    """Load a model and point it at the data; both are looked at before anything is computed."""
    from dask_gmm.data.tables.parquet_source import ParquetSource
    from dask_gmm.errors import InputError
    from dask_gmm.estimators import GaussianMixture

    mixture = GaussianMixture.load(
        model, storage_options=options_for(model, data.storage_options) or None
    )
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
    header: dict[str, Any],
    overwrite: bool,
    resume: bool | None,
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
    header : dict
        Of the JSON.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import (
        check_array_output,
        check_table_output,
        check_weights_stay,
        refuse_overlap,
    )
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.tables import key_values
    from dask_gmm.cli.values import show_count, show_seconds
    from dask_gmm.data.coordinates import output_place
    from dask_gmm.data.tables.arrow import has_parquet_suffix
    from dask_gmm.fitting.events import OutputResumed, PassAdvanced

    check_storage_options(data.storage_options, data.data, data.where, model, output)
    refuse_overlap(output, data.data, model)
    mixture, source = load_for(model, data)
    # Where it must go on it deletes nothing, and a complete one is what it may find.
    replaces = overwrite or bool(resume)
    if has_parquet_suffix(output):
        place = output
        check_table_output(place)
    else:
        place = output_place(output, data.data, source, name or what)
        check_array_output(place, data.storage_options, overwrite=replaces, beside=True)
    check_weights_stay(place, source)
    begun = time.perf_counter()
    found, computed = 0, 0

    def count(event: Event) -> None:
        nonlocal found, computed
        match event:
            case OutputResumed():
                found = event.blocks
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
    if session.json:
        session.emit(
            {
                **header,
                "n_rows": rows,
                "n_rows_computed": computed,
                "blocks_skipped": found,
                "seconds": seconds,
            }
        )
        return
    facts = [(what, place), ("rows", f"{rows:,} in {show_seconds(seconds)}")]
    if computed:
        facts[1] = ("rows", f"{facts[1][1]} ({show_count(computed / seconds)} rows/s)")
    if found:
        facts.append(("skipped", f"{found:,} blocks that were finished before"))
    session.out.print(key_values(facts))
