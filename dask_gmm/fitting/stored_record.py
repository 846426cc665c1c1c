"""A fit's record and history as JSON, which a model file keeps beside the mixture.

The history is a column for each attribute of `PassFinished`, so that names are there once. Numbers
that JSON does not know are strings. A digest tells what was changed or damaged. Whatever is read is
checked value by value: what a file says becomes numbers and strings or nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields
from math import isfinite
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.events import Judgement, PassFinished, StepKind
from dask_gmm.fitting.record import EarlierRun, FitRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["described", "history_from", "record_from"]

_DIGEST = "sha256"
_COUNTS = (
    "number",
    "rows",
    "blocks",
    "bytes_read",
    "tasks",
    "resubmitted",
    "blocks_from_cache",
    "incomplete_rows",
)
_JUDGED = ("kind", "objective", "remaining_gain")


def described(record: FitRecord | None, history: Sequence[PassFinished]) -> dict[str, Any]:
    """Return both as JSON values.

    Parameters
    ----------
    record : FitRecord or None
    history : sequence of PassFinished
    """
    judgements = [one.judgement for one in history]
    found: dict[str, Any] = {
        "record": None if record is None else _record_json(record),
        "history": {
            **{name: [getattr(one, name) for one in history] for name in _COUNTS},
            "seconds": [_written(one.seconds) for one in history],
            "lower_bounds": [[_written(bound) for bound in one.lower_bounds] for one in history],
            "kind": [judged and judged.kind.value for judged in judgements],
            "objective": [judged and _written(judged.objective) for judged in judgements],
            "remaining_gain": [judged and _written(judged.remaining_gain) for judged in judgements],
        },
    }
    return {**found, _DIGEST: _digest(found)}


def record_from(stored: Mapping[str, Any]) -> FitRecord | None:
    """Return the record that `described` made this of.

    Raises
    ------
    ValueError
        It is another one, or was changed.
    """
    _check(stored)
    found = stored["record"]
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError("its record is no object")
    # Of what a newer version says beside no use is made; an older one lacks what has a default.
    values = {
        field.name: _of_kind(str(field.type), field.name, found)
        for field in fields(FitRecord)
        if field.name in found or field.default is MISSING
    }
    return FitRecord(**values)


def history_from(stored: Mapping[str, Any]) -> tuple[PassFinished, ...]:
    """Return the history that `described` made this of.

    Raises
    ------
    ValueError
        It is another one, or was changed.
    """
    _check(stored)
    found = stored["history"]
    columns = (*_COUNTS, "seconds", "lower_bounds", *_JUDGED)
    if not isinstance(found, dict) or not all(isinstance(found.get(n), list) for n in columns):
        raise ValueError("its history lacks a column")
    lengths = {len(found[name]) for name in columns}
    if len(lengths) > 1:
        raise ValueError("the columns of its history differ in length")
    return tuple(_pass_of({n: found[n][i] for n in columns}) for i in range(lengths.pop()))


def _record_json(record: FitRecord) -> dict[str, Any]:
    return {field.name: _written(getattr(record, field.name)) for field in fields(record)}


def _pass_of(row: Mapping[str, Any]) -> PassFinished:
    if not isinstance(row["lower_bounds"], list):
        raise ValueError("lower_bounds are no list")
    judgement = None
    if row["kind"] is not None:
        gain = row["remaining_gain"]
        judgement = Judgement(
            StepKind(row["kind"]), _float(row["objective"]), None if gain is None else _float(gain)
        )
    return PassFinished(
        **{name: _int(row[name]) for name in _COUNTS},
        seconds=_float(row["seconds"]),
        lower_bounds=tuple(map(_float, row["lower_bounds"])),
        judgement=judgement,
    )


def _check(stored: Mapping[str, Any]) -> None:
    if not isinstance(stored, dict) or not {"record", "history"} <= set(stored):
        raise ValueError("it is none")
    if _digest({name: value for name, value in stored.items() if name != _DIGEST}) != stored.get(
        _DIGEST
    ):
        raise ValueError("it is not as it was saved")


def _digest(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(found), sort_keys=True).encode()).hexdigest()


def _written(value: Any) -> Any:
    """A value as JSON has it; infinity and NaN by their names."""
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    if isinstance(value, EarlierRun):
        return {f.name: _written(getattr(value, f.name)) for f in fields(value)}
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _float(value: Any) -> float:
    if type(value) in (int, float) or value in ("inf", "-inf", "nan"):
        return float(value)
    raise ValueError(f"{value!r:.40} is no number")


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is neither true nor false")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _floats(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} are no numbers")
    return tuple(map(_float, value))


def _runs(value: Any) -> tuple[EarlierRun, ...]:
    if not isinstance(value, list) or not all(isinstance(run, dict) for run in value):
        raise ValueError(f"{value!r:.40} are no runs")
    return tuple(
        EarlierRun(**{f.name: _of_kind(str(f.type), f.name, run) for f in fields(EarlierRun)})
        for run in value
    )


# By the annotations of `FitRecord`, which are strings here.
_KINDS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "str": _str,
    "int": _int,
    "float": _float,
    "tuple[float, ...]": _floats,
    "tuple[EarlierRun, ...]": _runs,
}


def _of_kind(kind: str, name: str, found: Mapping[str, Any]) -> Any:
    if name not in found:
        raise ValueError(f"its record does not say {name}")
    value = found[name]
    if kind.endswith(" | None"):
        if value is None:
            return None
        kind = kind.removesuffix(" | None")
    return _KINDS[kind](value)
