"""The work on a table of labels that is not complete: its recipe, and a part for each block.

A part is a small Parquet file of its own, written whole or not at all, with checksums of its pages.
On a disk the work lies in a hidden folder beside the output's place, in an object store below a
hidden prefix beside it.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.data.atomic_replace import remove, replace_file
from dask_gmm.data.checked_store import translate_error
from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.object_store import ask, listed
from dask_gmm.data.rereading import reread
from dask_gmm.data.stores import StoreSpec, bare_object_store
from dask_gmm.data.tables.arrow import pyarrow_for, written_how
from dask_gmm.data.urls import Options, scheme_of
from dask_gmm.errors import CorruptChunkError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LocalParts", "Parts", "RemoteParts", "parts_of"]

_RECIPE = "recipe.json"
_PART = re.compile(r"block-(\d+)\.parquet")


def _name(index: int) -> str:
    return f"block-{index:08d}.parquet"


class Parts(ABC):
    """Where the parts of a table lie; `far` across a network."""

    far = False

    def __init__(self, place: str) -> None:
        self.place = place

    def indices(self) -> list[int]:
        """Return the blocks whose parts are there, in order."""
        found = [_PART.fullmatch(name) for name in self._names()]
        return sorted(int(match[1]) for match in found if match is not None)

    def read(self, index: int) -> Any:
        """Return a part as a `pyarrow.Table`; its checksums are looked at.

        Raises
        ------
        CorruptChunkError
            It was cut off or damaged, as by a machine that went down.
        StoreError
            It cannot be had.
        """
        return reread(partial(self._read, index), far=self.far)

    def _read(self, index: int) -> Any:
        pyarrow = pyarrow_for(self.place)
        content = self._content(_name(index))
        try:
            with pyarrow.parquet.ParquetFile(content, page_checksum_verification=True) as file:
                return file.read(use_threads=False)
        except (OSError, ValueError) as error:
            raise CorruptChunkError(
                f"{self.place}/{_name(index)} is damaged ({first_line(error)}): run the same call "
                f"again, which writes that part anew."
            ) from error

    def ends_well(self, index: int) -> bool:
        """Whether a part ends as it should."""
        pyarrow = pyarrow_for(self.place)
        try:
            pyarrow.parquet.read_metadata(self._content(_name(index)))
        except (OSError, ValueError):
            return False
        return True

    @abstractmethod
    def write(self, index: int, table: Any) -> None:
        """Write a part whole; raises what the store does."""

    @abstractmethod
    def drop(self, index: int) -> None:
        """Delete a part, which is not whole."""

    @abstractmethod
    def recipe(self) -> Mapping[str, Any] | None:
        """Return what the work says of itself, None where nothing does."""

    @abstractmethod
    def begin(self, attributes: Mapping[str, Any]) -> None:
        """Say what the work is."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the work as far as this process may."""

    @abstractmethod
    def _names(self) -> Iterable[str]: ...

    @abstractmethod
    def _content(self, name: str) -> Any: ...


class LocalParts(Parts):
    """In a folder."""

    def write(self, index: int, table: Any) -> None:
        """Write a part beside its place and move it there."""
        path = Path(self.place) / _name(index)
        copy = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            _write_table(table, copy)
            copy.replace(path)
        except BaseException:
            with suppress(OSError):
                copy.unlink()
            raise

    def drop(self, index: int) -> None:
        """Delete a file."""
        remove(str(Path(self.place) / _name(index)))

    def recipe(self) -> Mapping[str, Any] | None:
        """Read the recipe."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return _parsed((Path(self.place) / _RECIPE).read_bytes())
        return None

    def begin(self, attributes: Mapping[str, Any]) -> None:
        """Write the recipe whole, on the disk when this returns."""
        replace_file(str(Path(self.place) / _RECIPE), json.dumps(attributes).encode())

    def remove(self) -> None:
        """Delete the folder."""
        remove(self.place)

    def _names(self) -> Iterable[str]:
        try:
            return [path.name for path in Path(self.place).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _content(self, name: str) -> Any:
        return Path(self.place) / name


class RemoteParts(Parts):
    """Below a prefix of an object store."""

    far = True

    def __init__(self, place: str, options: Options) -> None:
        super().__init__(place)
        self._spec = StoreSpec(place, options)

    @property
    def _store(self) -> Any:
        return bare_object_store(self._spec)

    def write(self, index: int, table: Any) -> None:
        """Put a part in one request."""
        import obstore

        content = io.BytesIO()
        _write_table(table, content)
        whole = content.getvalue()
        ask(self._store, lambda s: obstore.put(s, _name(index), whole, use_multipart=False))

    def drop(self, index: int) -> None:
        """Delete an object."""
        self._delete([_name(index)])

    def recipe(self) -> Mapping[str, Any] | None:
        """Get the recipe."""
        import obstore

        try:
            content = bytes(self._asked(lambda s: obstore.get(s, _RECIPE).bytes()))
        except FileNotFoundError:
            return None
        return _parsed(content)

    def begin(self, attributes: Mapping[str, Any]) -> None:
        """Put the recipe."""
        import obstore

        content = json.dumps(attributes).encode()
        self._asked(lambda s: obstore.put(s, _RECIPE, content, use_multipart=False))

    def remove(self) -> None:
        """Delete all objects, the recipe last: without it the others are nobody's."""
        names = [name for name in self._names() if name != _RECIPE]
        self._delete([*names, _RECIPE])

    def _names(self) -> Iterable[str]:
        try:
            return [found["path"] for found in listed(self._store)]
        except Exception as error:  # obstore has a dozen kinds of them
            raise translate_error(error, self.place) from error

    def _content(self, name: str) -> Any:
        import obstore

        try:
            found = self._asked(lambda s: obstore.get(s, name).bytes())
        except FileNotFoundError as error:
            raise StoreError(f"{self.place}/{name} was written and is not there.") from error
        return io.BytesIO(bytes(found))

    def _delete(self, names: list[str]) -> None:
        import obstore

        for name in names:
            with suppress(FileNotFoundError):
                ask(self._store, partial(obstore.delete, paths=name))

    def _asked(self, do: Callable[[Any], Any]) -> Any:
        try:
            return ask(self._store, do)
        except FileNotFoundError:
            raise
        except Exception as error:  # obstore has a dozen kinds of them
            raise translate_error(error, self.place) from error


def parts_of(place: str, options: Options = ()) -> LocalParts | RemoteParts:
    """Return the work at a path or URL."""
    return LocalParts(place) if scheme_of(place) == "file" else RemoteParts(place, options)


def _write_table(table: Any, target: Any) -> None:
    """Write a table as one row group, with checksums."""
    pyarrow = pyarrow_for(str(target))
    how = written_how(table.schema)
    pyarrow.parquet.write_table(table, target, row_group_size=max(1, len(table)), **how)


def _parsed(content: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
