"""Persisted collections: their blocks lie on one cluster, and only that one can use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from dask_gmm.data.source import Source

__all__ = ["check_persisted"]


def check_persisted(source: Source, client: Any = None) -> None:
    """Raise if a Dask collection holds blocks that are out of reach.

    Parameters
    ----------
    source : Source
        The input of a pass.
    client : distributed.Client, optional
        Where the pass is to run; in this process if left out.

    Raises
    ------
    InputError
        A block is on another cluster than the client's, or has been cancelled.
    """
    name = source.name
    blocks = source.graph_blocks
    if blocks is None:
        return
    here = None if client is None else _address(client)
    for future in blocks.futures():
        cluster = _address(future.client)
        if cluster is None or future.cancelled():
            raise InputError(
                f"{name} was persisted on a Dask cluster that no longer has its blocks (its "
                f"client was closed or restarted, or they were cancelled): make the collection "
                f"again from where its data are stored."
            )
        if cluster != here:
            where = "in this process" if here is None else f"on the one at {here}"
            raise InputError(
                f"{name} was persisted on the Dask cluster at {cluster}, but this is to run "
                f"{where}, where its blocks are out of reach: make the client of {cluster} the "
                f'current one (with client.as_current(), and no scheduler="threads"), or pass the '
                f"collection as it was before persist()."
            )


def _address(client: Any) -> str | None:
    scheduler = getattr(client, "scheduler", None)
    return None if scheduler is None else str(scheduler.address)
