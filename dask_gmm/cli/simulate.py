"""`dask-gmm simulate`: a Zarr store of any size from a mixture that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import covariance_choice
from dask_gmm.cli.options import (
    Command,
    option,
    output_options,
    overwrite_option,
    storage_options,
)
from dask_gmm.cli.settings import check_storage_options, options_for
from dask_gmm.cli.values import CHUNK, COUNT
from dask_gmm.quantities import show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.synthetic import Layout, Recipe
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.model_file import ModelFile

__all__ = ["simulate", "simulate_store", "truth_of"]


def truth_of(url: str) -> str:
    """Return where the true mixture of a simulated store lies: next to it, as a model."""
    return url.rstrip("/").removesuffix(".zarr") + ".truth.zarr"


@click.command(
    cls=Command,
    short_help="Write a Zarr store of any size from a known mixture.",
    examples=[
        ("a million rows to play with", "dask-gmm simulate points.zarr"),
        (
            "64 GB of overlapping components, in shards",
            "dask-gmm simulate big.zarr --rows 1e9 --separation 2 --shard 256MB",
        ),
        (
            "straight into a bucket, as Zarr v2",
            "dask-gmm simulate s3://bucket/points.zarr --zarr-format 2 --seed 7",
        ),
    ],
)
@click.argument("output")
@option("--rows", "-n", type=COUNT, default="1M", section="Data", help="Rows: 250k, 10M, 1e9.")
@option("--features", "-d", type=COUNT, default="8", section="Data", help="Features D of each row.")
@option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    section="Data",
    help="Type of the numbers; float32 halves the bytes of every pass.",
)
@option(
    "--chunk",
    type=CHUNK,
    default="16MB",
    section="Data",
    help="Size of a chunk, in bytes (16MB) or in rows (100k). 8 to 32 MB read fastest.",
)
@option(
    "--shard",
    type=CHUNK,
    section="Data",
    help="Pack chunks into shards of this size: fewer objects in a bucket. Zarr v3 only.",
)
@option(
    "--compressor",
    type=click.Choice(["default", "none", "zstd", "lz4", "gzip"]),
    default="default",
    section="Data",
    help="'default' is Zarr's own. Random rows hardly shrink: 'none' writes and reads fastest.",
)
@option(
    "--zarr-format",
    type=click.Choice(["2", "3"]),
    default="3",
    section="Data",
    help="Version of the Zarr format; 2 for readers that know no other.",
)
@storage_options
@option(
    "--components",
    "-k",
    type=COUNT,
    default="8",
    section="Mixture",
    help="Number K of Gaussian components.",
)
@option(
    "--covariance",
    type=covariance_choice,
    default="full",
    metavar="NAME",
    section="Mixture",
    help="What the components' covariances are like: full, tied, diag, spherical, or one of "
    "mclust's families, EII to VVV.",
)
@option(
    "--separation",
    type=click.FloatRange(0),
    default=4.0,
    metavar="SIGMA",
    section="Mixture",
    help="Distance of the two closest means in widths of the widest component (1.5): 2 overlaps "
    "and takes EM many passes, 4 hardly does.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    metavar="INT",
    section="Mixture",
    help="The same seed makes the same rows, whatever the chunks and the number of threads.",
)
@option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    section="Compute",
    help="Threads that generate and write. Default: one a core.",
)
@overwrite_option("a Zarr array (and its truth)")
@output_options
@click.pass_obj
def simulate(session: Session, /, output: str, **values: Any) -> None:
    """Write rows of a random mixture to a new Zarr array at OUTPUT.

    The array is written chunk by chunk and never held, so it may be larger than memory and disk
    is the only limit. The true mixture is saved next to it as a model (points.truth.zarr for
    points.zarr), which 'dask-gmm show --compare' and 'dask-gmm score' understand.
    """
    from dask_gmm.cli.library_messages import one_line_warnings
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.synthetic import Recipe, draw_mixture
    from dask_gmm.cli.tables import key_values, mixture_json, mixture_table
    from dask_gmm.fitting.events import PassAdvanced, PassStarted

    recipe = Recipe(
        values["components"],
        values["features"],
        values["separation"],
        values["covariance"],
        values["seed"],
    )
    job = Simulation(
        output,
        recipe,
        _layout(values),
        values["dtype"],
        dict(values["storage_option"]),
        overwrite=values["overwrite"],
        threads=values["threads"],
    )
    with one_line_warnings(session):
        truth = draw_mixture(recipe)
        job.check()
        with observing(session, "writing") as observe:
            observe(PassStarted(1, 1))
            seconds = simulate_store(job, truth, lambda p: observe(PassAdvanced(1, p)))
    if session.json:
        session.emit(
            {
                "command": "simulate",
                "data": output,
                "truth": truth_of(output),
                "n_rows": job.layout.rows,
                "dtype": job.dtype,
                "bytes": job.n_bytes,
                "seconds": seconds,
                "seed": recipe.seed,
                "mixture": mixture_json(truth),
            }
        )
        return
    session.out.print(mixture_table(truth, session.out.width))
    session.out.print()
    session.out.print(
        key_values(
            [
                ("data", f"{output}: {job.layout.rows:,} × {recipe.features} {job.dtype}"),
                ("truth", truth_of(output)),
                ("written", f"{show_bytes(job.n_bytes)} in {show_seconds(seconds)}"),
            ]
        )
    )


def _layout(values: dict[str, Any]) -> Layout:
    from dask_gmm.cli.synthetic import Layout, shard_rows_for

    row_bytes = values["features"] * (4 if values["dtype"] == "float32" else 8)
    chunk = min(_rows_in(values["chunk"], row_bytes), values["rows"])
    shard = None
    if values["shard"] is not None:
        if values["zarr_format"] == "2":
            raise click.UsageError("--shard needs --zarr-format 3: version 2 has no shards.")
        shard = shard_rows_for(chunk, min(_rows_in(values["shard"], row_bytes), values["rows"]))
    return Layout(values["rows"], chunk, shard, values["compressor"], int(values["zarr_format"]))


def _rows_in(size: tuple[str, int], row_bytes: int) -> int:
    unit, number = size
    return number if unit == "rows" else max(1, number // row_bytes)


@dataclass(frozen=True)
class Simulation:
    """One store to simulate."""

    output: str
    recipe: Recipe
    layout: Layout
    dtype: str
    storage_options: dict[str, Any]
    overwrite: bool = False
    threads: int | None = None

    @property
    def n_bytes(self) -> int:
        """Decoded bytes of the array."""
        return self.layout.rows * self.recipe.features * (4 if self.dtype == "float32" else 8)

    def check(self) -> None:
        """Refuse what is there already, what cannot be written and what does not fit the disk."""
        from dask_gmm.cli import outputs

        check_storage_options(self.storage_options, self.output)
        outputs.check_array_output(self.output, self.storage_options, overwrite=self.overwrite)
        outputs.check_model_place(
            truth_of(self.output), self.storage_options, overwrite=self.overwrite
        )
        path = outputs.local_path(self.output)
        if path is not None:
            outputs.check_disk(path, self.n_bytes, "The store")


def simulate_store(
    job: Simulation,
    truth: MixtureParameters,
    on_progress: Callable[[PassProgress], None] | None = None,
) -> float:
    """Write a store and its truth, or leave nothing of them; return the seconds it took."""
    import time

    import numpy as np

    from dask_gmm.cli.outputs import remove_output
    from dask_gmm.cli.synthetic import Rows, write_rows
    from dask_gmm.interrupts import held
    from dask_gmm.model_file import save_model

    begun = time.perf_counter()
    place = truth_of(job.output)
    attributes = {"simulated_by_dask_gmm": {**vars(job.recipe), "truth": place}}
    written = [job.output]
    try:
        write_rows(
            Rows(truth, job.recipe.seed, np.dtype(job.dtype)),
            job.layout,
            job.output,
            options=options_for(job.output, job.storage_options),
            overwrite=job.overwrite,
            attributes=attributes,
            threads=job.threads,
            on_progress=on_progress,
        )
        written.append(place)
        save_model(
            place,
            _truth_file(truth, job.layout.rows),
            overwrite=job.overwrite,
            storage_options=options_for(place, job.storage_options) or None,
        )
    except BaseException:
        with held():
            for url in written:
                remove_output(url, job.storage_options)
        raise
    return time.perf_counter() - begun


def _truth_file(truth: MixtureParameters, n_rows: int) -> ModelFile:
    """Return the truth as a model that `GaussianMixture.load` takes."""
    import numpy as np

    from dask_gmm.model_file import ModelFile, fingerprint

    settings = {"n_components": truth.n_components, "covariance_type": truth.family.name}
    fit = {
        "converged": True,
        "n_iter": 0,
        "lower_bound": None,
        "n_features": truth.n_features,
        "dtype": "float64",
        "feature_names": None,
        "n_rows": n_rows,
        "n_passes": None,
        "outcome": "simulated",
    }
    return ModelFile(truth, np.empty(0), settings, fit, fingerprint())
