"""pyarrow, imported by whoever meets a table and by nobody else."""

from __future__ import annotations

import threading
from typing import Any

from dask_gmm.errors import InputError

__all__ = ["PARQUET_SUFFIXES", "has_parquet_suffix", "pyarrow_for"]

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

_lock = threading.Lock()


def has_parquet_suffix(path: str) -> bool:
    """Whether a path or URL ends as Parquet files do."""
    return path.lower().rstrip("/").endswith(PARQUET_SUFFIXES)


def pyarrow_for(name: str) -> Any:
    """Return pyarrow with its Parquet reader.

    Parameters
    ----------
    name : str
        What is to be read or written, for the message.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        with _lock:  # a thread that comes second would find pyarrow without its submodule
            import pyarrow as pa
            import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{name} is Parquet, for which pyarrow is needed, and that is not installed here: "
            f"pip install 'dask-gmm[parquet]'."
        ) from error
    return pa
