"""`dask-gmm merge`: components of a model combined into clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    option,
    output_options,
    overwrite_option,
    weights_option,
    where_option,
)
from dask_gmm.cli.settings import Compute, DataPlace, check_storage_options, options_for
from dask_gmm.cli.values import CLUSTERS
from dask_gmm.cli.writing import load_for

if TYPE_CHECKING:
    from rich.table import Table

    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import ComponentMerging

__all__ = ["merge"]


@click.command(
    cls=Command,
    short_help="Combine components of a model into clusters.",
    examples=[
        ("how many clusters do the components make?", "dask-gmm merge model.zarr points.zarr"),
        (
            "write them down, for predict --clusters",
            "dask-gmm merge model.zarr points.zarr -o clusters.json",
        ),
        (
            "five of them, of data in a bucket, on 8 local workers",
            "dask-gmm merge model.zarr s3://bucket/points.zarr -n 5 -o clusters.json --workers 8",
        ),
    ],
)
@click.argument("model")
@data_options
@weights_option
@where_option
@missing_option(None)
@option(
    "--n-clusters",
    "-n",
    type=CLUSTERS,
    default="elbow",
    metavar="N|elbow|elbow-rows",
    section="Model",
    help="How many clusters there are to be: a number, or as many as where the entropy bends, "
    "against their number ('elbow') or against the rows merged ('elbow-rows').",
)
@option(
    "--max-passes",
    type=click.IntRange(2),
    default=4,
    metavar="N",
    section="Model",
    help="Most reads of DATA. Two confirm the best merges of all rows as a rule.",
)
@compute_options()
@option(
    "--output",
    "-o",
    metavar="FILE.json",
    section="Output",
    help="Path or URL of a small file of the clusters, for predict --clusters. Without it the "
    "result is only printed.",
)
@overwrite_option("a file of clusters")
@output_options
@click.pass_obj
def merge(
    session: Session,
    /,
    model: str,
    n_clusters: int | str,
    max_passes: int,
    output: str | None,
    overwrite: bool,
    **values: Any,
) -> None:
    """Combine components of MODEL into clusters, by the entropy of what the rows of DATA belong to.

    Where a population is no Gaussian several components describe it. They are merged pair by pair,
    those first whose union leaves the least doubt (Baudry et al. 2010). The table has the entropy
    of each number of clusters: while parts of one cluster are merged it falls steeply, and hardly
    any more when clusters are that lie apart. The model and its densities stay as they are.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import refuse_overlap
    from dask_gmm.cli.progress import observing
    from dask_gmm.estimators.merging import check_clusters_place, check_count

    data, compute = DataPlace.take(values), Compute.take(values)
    places = (data.data, data.weights, data.where, model, output)
    check_storage_options(data.storage_options, *places)
    options: dict[str, Any] = {}
    if output is not None:
        refuse_overlap(output, data.data, data.weights, data.where, model)
        options = options_for(output, data.storage_options)
        check_clusters_place(output, overwrite=overwrite, storage_options=options or None)
    mixture, _ = load_for(model, data)
    check_count(n_clusters, len(mixture.weights_))
    with computing(compute, session), observing(session, "merging") as observe:
        mixture.set_params(callbacks=[observe])
        found = mixture.merge(
            data.data,
            n_clusters,
            sample_weight=data.sample_weight,
            where=data.where,
            max_passes=max_passes,
        )
    if output is not None:
        found.save(output, overwrite=overwrite, storage_options=options or None)
    if session.json:
        numbers = found.described()
        about = {"model": model, "parameters_digest": numbers.pop("model"), "clusters": output}
        session.emit({"command": "merge", **data.described(), **numbers, **about})
        return
    from dask_gmm.cli.tables import key_values

    session.out.print(_table(found))
    session.out.print()
    steps = f"{found.n_greedy} of {len(found.merges)} are certain to be the best over all rows"
    facts = [
        ("clusters", f"{found.n_clusters}, of {found.n_components} components"),
        ("rows", f"{found.n_rows:,} in {found.n_passes} read(s)"),
        ("merges", steps + ("" if found.n_greedy == len(found.merges) else ": raise --max-passes")),
    ]
    if output is not None:
        facts.append(("written", output))
    session.out.print(key_values(facts))


def _table(found: ComponentMerging) -> Table:
    """Return a line for each number of clusters; the chosen one is marked."""
    from dask_gmm.cli.tables import bare_table

    table = bare_table()
    for name in ("clusters", "entropy", "a row", "rows merged"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("which were", overflow="ellipsis", no_wrap=True)
    for cells, chosen in found.levels():
        mark = " ← chosen" if chosen else ""
        *numbers, which = cells
        table.add_row(*numbers, which + mark, style="bold" if mark else None)
    return table
