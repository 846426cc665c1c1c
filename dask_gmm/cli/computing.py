"""What a command computes on, for as long as it does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.library_messages import one_line_warnings
from dask_gmm.cli.place import this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.cli.place import Place
    from dask_gmm.cli.session import Session
    from dask_gmm.cli.settings import Compute

__all__ = ["computing"]


@contextmanager
def computing(compute: Compute, session: Session) -> Iterator[Place]:
    """Make the chosen processors what `GaussianMixture` uses, for the length of the block."""
    with one_line_warnings(session):
        if compute.scheduler is not None or compute.workers is not None:
            from dask_gmm.cli.cluster import cluster_place

            with cluster_place(compute, session) as place:
                yield place
        else:
            with _this_process(compute.threads_per_worker) as place:
                yield place


@contextmanager
def _this_process(threads: int | None) -> Iterator[Place]:
    import dask

    settings: dict[str, Any] = {"scheduler": "threads"}  # even if somebody left a client behind
    if threads is not None:
        settings["num_workers"] = threads
    with dask.config.set(settings):
        yield this_process(threads)
