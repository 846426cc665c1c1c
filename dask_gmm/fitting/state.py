"""States as bytes: what a strategy knows between two passes, written so that no bit is lost.

A state is a frozen value: dataclasses of arrays, scalars, strings and other such values, in tuples
or dicts. `to_arrays` takes it apart into arrays, one of which says how they belong together, and
`from_arrays` puts it together again, in this process or in another one. Every number keeps its bits
and its type, every array its dtype, its order in memory and whether it may be written to; what was
one object is one again, so that a state read back takes the memory it took.

Only classes that were registered by `saved` can be read, by their names and through their ordinary
constructors: nothing in a file is executed, and none of it is a pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dask_gmm.errors import InputError, StateError
from dask_gmm.fitting.events import Judgement, Outcome, StepKind
from dask_gmm.mixture.criteria import InformationCriteria
from dask_gmm.mixture.family import CovarianceFamily, covariance_family
from dask_gmm.mixture.form import CovarianceForm, covariance_form
from dask_gmm.mixture.kept import Evaluated
from dask_gmm.mixture.kinds import PARAMETER_CLASSES
from dask_gmm.mixture.moments import Moments
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["VERSION", "from_arrays", "from_bytes", "saved", "to_arrays", "to_bytes"]

VERSION = 1
"""Of the form that states are written in; a reader refuses newer ones."""

_STRUCTURE, _VERSION = "structure", "version"
_MAGIC = b"dask_gmm state\n"
# Booleans, integers, floats and complex numbers: what is bits and nothing else.
_KINDS = "biufc"
_REGISTERED: dict[str, type] = {}

C = TypeVar("C", bound=type)


def saved(cls: C) -> C:
    """Register a frozen dataclass or an enum, which states may hold, by its name; a decorator.

    Raises
    ------
    TypeError
        It is neither, or another class has its name.
    """
    frozen = is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not (frozen or issubclass(cls, Enum)):
        raise TypeError(f"{cls.__name__} is no frozen dataclass and no enum: no part of a state")
    if _REGISTERED.setdefault(cls.__name__, cls) is not cls:
        raise TypeError(f"there is another class {cls.__name__} that states may hold")
    return cls


_STATES = (
    Judgement,
    Outcome,
    StepKind,
    InformationCriteria,
    Moments,
    SufficientStatistics,
    Evaluated,
)
for _cls in (*_STATES, *PARAMETER_CLASSES):
    saved(_cls)


def to_arrays(state: object) -> dict[str, NDArray[Any]]:
    """Take a state apart.

    Parameters
    ----------
    state : object
        None, bool, int, float, str, a NumPy scalar or array of numbers, a covariance family or
        form, or a tuple, a dict with strings for keys, or an instance of a class registered by
        `saved`, of such values.

    Returns
    -------
    dict of str to array
        C-contiguous; in which container they are kept does not matter.

    Raises
    ------
    TypeError
        Some part is nothing that a state may hold.
    """
    writer = _Writer()
    root = writer.write(state)
    structure = json.dumps({"nodes": writer.nodes, "root": root}, separators=(",", ":"))
    head = {_VERSION: np.array(VERSION), _STRUCTURE: np.frombuffer(structure.encode(), np.uint8)}
    return head | writer.arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Put a state together again.

    Raises
    ------
    StateError
        They are no state, or one that a newer version has written, or that holds what is not known
        here.
    """
    try:
        version = int(arrays[_VERSION])
        if version > VERSION:
            raise StateError(
                f"The state was written in form {version}, and this version of dask_gmm reads "
                f"forms up to {VERSION}: read it with the version that wrote it, or a newer one."
            )
        structure = json.loads(np.asarray(arrays[_STRUCTURE], np.uint8).tobytes())
        return _Reader(structure["nodes"], arrays).read(structure["root"])
    except StateError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise StateError(f"These arrays are no state of a fit: {error!r}.") from error


def to_bytes(state: object) -> bytes:
    """The arrays of a state one after the other, in NumPy's ``.npy`` form, behind a checksum.

    The same state gives the same bytes each time.
    """
    arrays, content = to_arrays(state), io.BytesIO()
    content.write(" ".join(arrays).encode() + b"\n")
    for array in arrays.values():
        np.lib.format.write_array(content, array, allow_pickle=False)
    data = content.getvalue()
    return _MAGIC + hashlib.sha256(data).digest() + data


def from_bytes(data: bytes) -> Any:
    """Read what `to_bytes` has written.

    Raises
    ------
    StateError
        Bytes are missing or other ones than were written; or as in `from_arrays`.
    """
    begin = len(_MAGIC) + hashlib.sha256().digest_size
    if not data.startswith(_MAGIC):
        raise StateError(f"The {len(data):,} bytes are no state of a fit.")
    if hashlib.sha256(data[begin:]).digest() != data[len(_MAGIC) : begin]:
        raise StateError(
            f"The {len(data):,} bytes are no whole state of a fit: they were cut short or changed "
            f"after they were written. Go on from an earlier one."
        )
    content = io.BytesIO(data[begin:])
    try:
        names = content.readline().decode().split()
        arrays = {n: np.lib.format.read_array(content, allow_pickle=False) for n in names}
    except ValueError as error:
        raise StateError(f"The {len(data):,} bytes are no state of a fit: {error}.") from error
    return from_arrays(arrays)


class _Writer:
    """Makes JSON of values, and puts arrays aside; each object has one node."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.nodes: list[Any] = []
        self._seen: dict[int, int] = {}

    def write(self, value: object) -> Any:
        match value:
            case np.ndarray():
                return self._once(value, self._array)
            case np.generic():  # a NumPy float is a Python float too, but divides otherwise
                return {"scalar": self._put(np.asarray(value))}
            case Enum():
                return {"enum": [self._name(value), value.name]}
            case None | bool() | int() | str():
                return value
            case float():
                return {"float": struct.pack(">d", value).hex()}
            case tuple():
                return {"tuple": [self.write(item) for item in value]}
            case dict():
                if not all(isinstance(key, str) for key in value):
                    raise TypeError(f"a state's dict has keys that are no strings: {list(value)}")
                return {"dict": [[key, self.write(item)] for key, item in value.items()]}
            case CovarianceFamily():
                return {"family": value.name}
            case CovarianceForm():
                return {"form": value.name}
        return self._once(value, self._dataclass)

    def _once(self, value: Any, make: Any) -> dict[str, int]:
        if id(value) not in self._seen:
            node = make(value)
            self._seen[id(value)] = len(self.nodes)
            self.nodes.append(node)
        return {"node": self._seen[id(value)]}

    def _array(self, value: NDArray[Any]) -> dict[str, Any]:
        if type(value) is not np.ndarray:
            raise TypeError(f"a state cannot hold a {type(value).__name__}: make it an array")
        # The axes as they lie in memory, so that a Fortran array comes back as one. An axis of one
        # element lies anywhere: its stride says nothing.
        axes = list(range(value.ndim))
        if not value.flags.c_contiguous:
            long = [axis for axis in axes if value.shape[axis] > 1]
            ordered = sorted(long, key=lambda axis: -abs(value.strides[axis]))
            if ordered != long:
                axes = [axis for axis in axes if axis not in long] + ordered
        return {
            "array": self._put(value.transpose(axes)),
            "axes": axes,
            "writeable": value.flags.writeable,
        }

    def _put(self, array: NDArray[Any]) -> str:
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"a state cannot hold an array of {array.dtype}: it may hold numbers")
        key = str(len(self.arrays))
        self.arrays[key] = np.array(array, order="C")
        return key

    def _dataclass(self, value: Any) -> dict[str, Any]:
        name = self._name(value)
        return {
            "class": name,
            "fields": {f.name: self.write(getattr(value, f.name)) for f in fields(value)},
        }

    @staticmethod
    def _name(value: object) -> str:
        cls = type(value)
        if _REGISTERED.get(cls.__name__) is not cls:
            raise TypeError(
                f"a state cannot hold a {cls.__name__}: make it a frozen dataclass or an enum and "
                f"register it with dask_gmm.fitting.state.saved"
            )
        return cls.__name__


class _Reader:
    """Makes values of JSON; nodes lie behind those that they hold."""

    def __init__(self, nodes: list[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._values: list[Any] = []
        for node in nodes:
            self._values.append(self._array(node) if "array" in node else self._dataclass(node))

    def read(self, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        ((kind, value),) = written.items()
        match kind:
            case "node":
                return self._values[value]
            case "scalar":
                return self._arrays[value][()]
            case "float":
                return struct.unpack(">d", bytes.fromhex(value))[0]
            case "tuple":
                return tuple(self.read(item) for item in value)
            case "dict":
                return {key: self.read(item) for key, item in value}
            case "enum":
                return _class(value[0])[value[1]]
            case "family":
                try:
                    return covariance_family(value)
                except InputError as error:
                    raise StateError(f"The state needs another family. {error}") from error
            case "form":
                return covariance_form(value)
        raise StateError(
            f"The state holds a {kind!r}, which this version of dask_gmm does not know."
        )

    def _array(self, node: dict[str, Any]) -> NDArray[Any]:
        stored = np.array(self._arrays[node["array"]], order="C")
        array = stored.transpose(np.argsort(node["axes"])) if stored.ndim > 1 else stored
        array.setflags(write=node["writeable"])
        return array

    def _dataclass(self, node: dict[str, Any]) -> Any:
        cls, found = _class(node["class"]), node["fields"]
        known = {f.name for f in fields(cls)}
        # What an older version has not written has its default.
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if not needed <= set(found) <= known:
            raise StateError(
                f"The state's {cls.__name__} has the fields {sorted(found)}, and not "
                f"{sorted(known)}: another version of dask_gmm has written it."
            )
        return cls(**{name: self.read(value) for name, value in found.items()})


def _class(name: str) -> Any:
    try:
        return _REGISTERED[name]
    except KeyError:
        raise StateError(
            f"The state holds a {name}, which is not known here: import what registers it "
            f"(dask_gmm.fitting.state.saved), or read it with the version that wrote it."
        ) from None
