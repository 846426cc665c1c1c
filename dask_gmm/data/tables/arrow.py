"""pyarrow, imported by whoever meets a table and by nobody else."""

from __future__ import annotations

import threading
from typing import Any

from dask_gmm.errors import InputError

__all__ = ["PARQUET_SUFFIXES", "has_parquet_suffix", "pyarrow_for", "written_how"]

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


def written_how(schema: Any) -> dict[str, Any]:
    """Return how a table of labels is written: the options of pyarrow's writer.

    With checksums of the pages, and dictionaries for labels and words alone: one of identifiers or
    posteriors would take twenty times the time and 150 bytes a row while it is made, and is given
    up in the end.
    """
    pa = pyarrow_for("a table of labels")
    few = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    named = [
        field.name
        for field in schema
        if field.name == "label" or any(is_one(field.type) for is_one in few)
    ]
    return {"write_page_checksum": True, "use_dictionary": named}
