"""URLs of fsspec's protocols → Zarr stores.

fsspec's filesystems are asked by many threads at once here, and written to by many processes. So
none shows a listing that it has kept, folders are made when they are missing, and what has one
connection is asked one thing at a time: an FTP connection answers in the order of its questions.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import zarr.storage

from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.store_options import CLOUD_OPTIONS
from dask_gmm.data.urls import scheme_of
from dask_gmm.errors import InputError, StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["fsspec_store"]

T = TypeVar("T")


def fsspec_store(
    url: str, options: Mapping[str, Any], *, read_only: bool
) -> zarr.storage.FsspecStore:
    """Return the Zarr store at a URL of one of fsspec's protocols.

    Raises
    ------
    InputError
        fsspec, a package that it needs or the protocol is not there; an option cannot be used.
    StoreError
        The store cannot be reached.
    """
    scheme = scheme_of(url)
    unused = sorted(CLOUD_OPTIONS & options.keys())
    if unused:
        raise InputError(
            f"Storage option {unused[0]!r} has no meaning for {url}: it is for s3://, gs://, az:// "
            f"and https://."
        )
    try:
        import fsspec
    except ImportError as error:
        raise InputError(
            f"{url} needs fsspec, which is not installed: pip install 'dask-gmm[fsspec]', or use a "
            f"path, s3://, gs://, az:// or https://."
        ) from error
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise InputError(
            f"{url} has the unknown scheme {scheme!r}: use a path, s3://, gs://, az://, https://, "
            f"or a protocol of fsspec."
        ) from error
    except ImportError as error:
        raise InputError(
            f"{url} needs a package that is not installed: {first_line(error)}."
        ) from error
    try:
        return _store(url, options, read_only=read_only)
    except (TypeError, ValueError) as error:
        raise InputError(f"{url} cannot be used: {first_line(error)}.") from error
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"Nothing was found at {url}.") from error
    except (OSError, EOFError) as error:
        raise StoreError(f"{url} cannot be reached: {first_line(error)}.") from error


def _store(url: str, options: Mapping[str, Any], *, read_only: bool) -> zarr.storage.FsspecStore:
    # An instance of our own: what is changed of it is nobody else's.
    own = {**options, "skip_instance_cache": True}
    store = zarr.storage.FsspecStore.from_url(url, storage_options=own, read_only=read_only)
    fs: Any = getattr(store.fs, "sync_fs", None)
    if fs is None:
        _forget_listings(store.fs)
        return store
    _forget_listings(fs)
    if _is_ftp(fs):
        wrapped = _wrapped(_steady(fs), one_at_a_time=True)
    else:
        wrapped = _wrapped(fs, one_at_a_time=False)
    return zarr.storage.FsspecStore(wrapped, path=store.path, read_only=read_only)


def _forget_listings(fs: Any) -> None:
    """Let a filesystem list anew each time: other processes write there too."""
    cache: Any = getattr(fs, "dircache", None)
    if hasattr(cache, "use_listings_cache"):
        cache.use_listings_cache = False
        cache.clear()


def _wrapped(fs: Any, *, one_at_a_time: bool) -> Any:
    """Return a filesystem of blocking calls for Zarr's event loop."""
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    turns = asyncio.Semaphore(1) if one_at_a_time else None
    wrapped: Any = AsyncFileSystemWrapper(fs, asynchronous=True, semaphore=turns)
    put = wrapped._pipe_file

    @functools.wraps(put)
    async def put_in_folder(path: str, value: bytes, **kwargs: Any) -> None:
        """Write a file; where that fails for want of its folder, make that first."""
        try:
            await put(path, value, **kwargs)
        except Exception:  # noqa: BLE001  every protocol has errors of its own
            with suppress(Exception):  # somebody else has made it, or what fails now says why
                await wrapped._makedirs(fs._parent(path), exist_ok=True)
            await put(path, value, **kwargs)

    wrapped._pipe_file = put_in_folder
    return wrapped


# -- FTP -------------------------------------------------------------------------------------------


def _is_ftp(fs: Any) -> bool:
    from fsspec.implementations.ftp import FTPFileSystem

    return isinstance(fs, FTPFileSystem)


def _steady(fs: Any) -> Any:
    """Let an FTP filesystem connect anew where its connection has gone, and doubt that files have.

    fsspec calls whatever a server refuses a file that is not there, also that it is closing an idle
    connection.
    """
    whole = fs.cat_file

    def cat_file(
        path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        if start is not None and start < 0:  # from the end, which no server understands
            start = max(0, int(fs.info(path)["size"]) + start)
        content: bytes = whole(path, start, end, **kwargs)
        return content

    fs.cat_file = cat_file
    for name in ("cat_file", "info", "ls", "exists", "find", "pipe_file", "rm", "makedirs"):
        setattr(fs, name, _asked_again(getattr(fs, name), fs._connect))
    return fs


def _asked_again(ask: Callable[..., T], connect: Callable[[], None]) -> Callable[..., T]:
    """Return a question that is asked by a new connection where the old one gives no answer."""

    @functools.wraps(ask)
    def answer(*args: Any, **kwargs: Any) -> T:
        try:
            return ask(*args, **kwargs)
        except Exception as error:
            if _is_answer(error):
                raise
        connect()
        try:
            return ask(*args, **kwargs)
        except FileNotFoundError as error:
            if _is_answer(error):
                raise
            raise OSError(f"the server says {first_line(error.__cause__ or error)}") from error

    return answer


def _is_answer(error: Exception) -> bool:
    """Whether an error is what a server answers, and not that it does not."""
    import ftplib

    if not isinstance(error, FileNotFoundError):
        return not isinstance(error, (ftplib.error_temp, ftplib.error_reply, EOFError, OSError))
    said = error.__cause__  # fsspec makes this of whatever is said
    if not isinstance(said, ftplib.Error):
        return not isinstance(said, EOFError | OSError)
    return isinstance(said, ftplib.error_perm) and str(said)[:3] == "550"
