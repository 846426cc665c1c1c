"""`dask-gmm demo`: the whole thing at work, on data larger than the memory of its workers."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import Command, compute_options, option, output_options
from dask_gmm.cli.session import DONE, NOT_CONVERGED
from dask_gmm.cli.settings import Compute
from dask_gmm.cli.values import BYTES, COUNT
from dask_gmm.quantities import show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.simulate import Simulation
    from dask_gmm.estimators import GaussianMixture
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["demo"]

TIMES_MEMORY = 3.1
"""Size of the store, in memory limits of the whole cluster."""

CHUNK_BYTES = 16_000_000


@click.command(
    cls=Command,
    short_help="See a fit of data larger than memory.",
    examples=[
        ("two minutes, 2.6 GB of disk", "dask-gmm demo"),
        (
            "keep the data and the model to play with",
            "dask-gmm demo --directory /scratch --keep",
        ),
        (
            "larger: 8 workers of 1 GB against 25 GB of data",
            "dask-gmm demo --workers 8 --memory-limit 1GB -k 12",
        ),
    ],
)
@option(
    "--components", "-k", type=COUNT, default="4", section="Data", help="Components to simulate."
)
@option("--features", "-d", type=COUNT, default="16", section="Data", help="Features of each row.")
@option(
    "--size",
    type=BYTES,
    section="Data",
    help=f"Size of the simulated store. Default: {TIMES_MEMORY:g} times the memory limit of all "
    "workers together.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="INT",
    section="Data",
    help="Another seed makes another mixture.",
)
@option(
    "--directory",
    type=click.Path(file_okay=False),
    section="Data",
    help="Where to write the store. Default: the directory for temporary files, which needs the "
    "space.",
)
@option(
    "--keep",
    is_flag=True,
    section="Data",
    help="Leave the store, its truth and the model there when done.",
)
@compute_options(workers=2, memory_limit="400MiB", cluster=False)
@output_options
@click.pass_obj
def demo(session: Session, /, directory: str | None, keep: bool, **values: Any) -> int:
    """Fit a mixture to three times more data than its workers have memory.

    Simulates a Zarr store on disk, starts local worker processes with a memory limit, fits the
    store on them, and prints what was simulated beside what was found. The store is removed
    afterwards unless --keep is given.
    """
    from dask_gmm.cli.cluster import peak_memory
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.synthetic import draw_mixture
    from dask_gmm.estimators import GaussianMixture

    compute = Compute.take({"scheduler": None, "timeout": 30.0, **values})
    assert compute.workers is not None
    assert compute.memory_limit is not None
    total_limit = compute.workers * compute.memory_limit
    size = values["size"] or int(TIMES_MEMORY * total_limit)
    with _folder(directory, size, keep=keep) as folder:
        job = _simulation(folder / "points.zarr", size, values)
        truth = draw_mixture(job.recipe)
        with computing(compute, session) as place:
            _simulate(session, job, truth)
            session.note(
                f"fitting {job.recipe.components} components on {place.name} of "
                f"{show_bytes(compute.memory_limit)} …"
            )
            with observing(session) as observe:
                mixture = GaussianMixture(
                    job.recipe.components, random_state=values["seed"], callbacks=[observe]
                ).fit(job.output)
            peaks = peak_memory(place.client)
        model = None
        if keep:
            model = str(folder / "model.zarr")
            mixture.set_params(callbacks=None).save(model)
        outcome = _DemoResult(job, truth, mixture, compute, max(peaks.values()), total_limit, model)
        _report(session, outcome)
    return DONE if mixture.converged_ else NOT_CONVERGED


def _simulation(store: Path, size: int, values: dict[str, Any]) -> Simulation:
    from dask_gmm.cli.simulate import Simulation
    from dask_gmm.cli.synthetic import Layout, Recipe

    features = values["features"]
    rows = -(-size // (8 * features))
    chunk_rows = max(1, min(CHUNK_BYTES // (8 * features), -(-rows // 8)))
    recipe = Recipe(values["components"], features, 3.0, "full", values["seed"])
    # Random digits do not compress; trying costs a minute.
    return Simulation(str(store), recipe, Layout(rows, chunk_rows, None, "none", 3), "float64", {})


@contextmanager
def _folder(directory: str | None, size: int, *, keep: bool) -> Iterator[Path]:
    """Yield a new folder with room for `size` bytes, and remove it unless it is to be kept."""
    from dask_gmm.cli.outputs import check_disk

    parent = Path(directory or tempfile.gettempdir())
    check_disk(parent, int(1.02 * size), "The demonstration's store")
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dask-gmm-demo-", dir=parent))
    done = False
    try:
        yield folder
        done = True
    finally:
        if not (keep and done):
            shutil.rmtree(folder, ignore_errors=True)


def _simulate(session: Session, job: Simulation, truth: MixtureParameters) -> None:
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.simulate import simulate_store
    from dask_gmm.fitting.events import PassAdvanced, PassStarted

    session.note(f"writing {job.layout.rows:,} rows ({show_bytes(job.n_bytes)}) to {job.output} …")
    with observing(session, "writing") as observe:
        observe(PassStarted(1, 1))
        seconds = simulate_store(job, truth, lambda p: observe(PassAdvanced(1, p)))
    session.note(f"written in {show_seconds(seconds)}")


@dataclass(frozen=True)
class _DemoResult:
    job: Simulation
    truth: MixtureParameters
    mixture: GaussianMixture
    compute: Compute
    peak: int
    total_limit: int
    model: str | None


def _report(session: Session, result: _DemoResult) -> None:
    from dask_gmm.cli.outcome import fit_json, fit_story, print_result, record_of
    from dask_gmm.cli.show import comparison_facts, comparison_json
    from dask_gmm.cli.simulate import truth_of
    from dask_gmm.cli.tables import compare, comparison_table, key_values, mixture_json
    from dask_gmm.estimators.attributes import parameters_of

    found = parameters_of(result.mixture)
    comparison = compare(result.truth, found)
    workers, limit = result.compute.workers, result.compute.memory_limit
    assert workers is not None
    assert limit is not None
    if session.json:
        session.emit(
            {
                "command": "demo",
                "store_bytes": result.job.n_bytes,
                "memory_limit": limit,
                "workers": workers,
                "store_over_memory": result.job.n_bytes / result.total_limit,
                "peak_worker_bytes": result.peak,
                "data": result.job.output if result.model else None,
                "model": result.model,
                "truth": mixture_json(result.truth),
                "fit": fit_json(result.mixture),
                "comparison": comparison_json(comparison),
            }
        )
        return
    ratio = result.job.n_bytes / result.total_limit
    memory = (
        f"a store of {show_bytes(result.job.n_bytes)}, {ratio:.1f} times the {workers} × "
        f"{show_bytes(limit)} of the workers; peak of a worker {show_bytes(result.peak)}"
    )
    facts = [
        *fit_story(result.mixture),
        *comparison_facts(comparison),
        ("memory", memory),
    ]
    if result.model is not None:
        facts.append(
            ("kept", f"{result.job.output}, {truth_of(result.job.output)}, {result.model}")
        )
    print_result(
        session,
        comparison_table(result.truth, found, comparison, ("truth", "found"), session.out.width),
        key_values(facts),
    )
    record = record_of(result.mixture)
    if record.passes:
        session.note(
            f"\nFitted in {show_seconds(record.seconds)}, sample and starts included. Next: "
            f"dask-gmm fit YOUR.zarr -k {result.job.recipe.components}"
        )
