"""What `dask-gmm show` prints of data: what there is, and how a command names it."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from dask_gmm.cli.tables import bare_table, key_values
from dask_gmm.data.contents import ArrayContents, GroupContents, TableContents
from dask_gmm.quantities import plural, show_bytes

if TYPE_CHECKING:
    from typing import Any

    from dask_gmm.cli.session import Session
    from dask_gmm.data.contents import Contents, OutputSays

__all__ = ["show_data"]

LINES = 40
"""Arrays or columns that are listed at most."""


def show_data(session: Session, place: str, found: Contents) -> None:
    """Print what is at a place.

    Parameters
    ----------
    session : Session
    place : str
        As the user has written it, for the commands that are advised.
    found : ArrayContents, GroupContents or TableContents
    """
    kind = {ArrayContents: "array", GroupContents: "group", TableContents: "table"}[type(found)]
    if session.json:
        session.emit({"command": "show", kind: place, **_json(found)})
        return
    if isinstance(found, ArrayContents):
        session.out.print(key_values(_array_facts(place, found)))
    elif isinstance(found, GroupContents):
        _print_group(session, place, found)
    else:
        _print_table(session, place, found)


def _json(found: Contents) -> dict[str, Any]:
    about = asdict(found)
    if isinstance(found, TableContents):
        about["columns"] = [{"name": name, "type": kind} for name, kind in found.columns]
    return about


def _array_facts(place: str, a: ArrayContents) -> list[tuple[str, str]]:
    pieces = math.prod(-(-n // c) for n, c in zip(a.shape, a.chunks, strict=True) if c)
    facts = [
        ("array", a.name),
        ("shape", f"{_size(a.shape)}, {a.dtype} ({show_bytes(a.nbytes)} before compression)"),
        ("chunks", f"{pieces:,} of {_size(a.chunks)}" + _in_shards(a)),
    ]
    if a.dimensions is not None:
        facts.append(("dimensions", ", ".join(a.dimensions)))
    if a.units is not None:
        facts.append(("units", a.units))
    if a.measured is None:
        facts.append(("of no use to a fit", a.decoding))
    elif a.decoding:
        facts.append(("decoded", f"{a.decoding}; {a.measured}"))
    if a.said is not None:
        facts.append(("output", _said(a.said)))
    elif a.usable:
        d = a.shape[-1] if len(a.shape) > 1 else 1
        rows = math.prod(a.shape[:-1]) if len(a.shape) > 1 else a.shape[0]
        facts.append(("read as", f"{rows:,} rows of {d:,} features, the last axis"))
        if len(a.shape) > 1:
            facts.append(("fit it", f"dask-gmm fit {shlex.quote(place)} -k K"))
        else:
            facts[-1] = ("read as", "one feature, as one of several arrays of its group")
    return facts


def _print_group(session: Session, place: str, group: GroupContents) -> None:
    table = bare_table()
    for heading in ("array", "shape", "type", "chunks", "what it is"):
        table.add_column(heading, overflow="fold")
    for a in group.arrays[:LINES]:
        stored = a.dtype if a.measured in (None, a.dtype) else f"{a.dtype} → {a.measured}"
        table.add_row(_plain(a.name), _size(a.shape), stored, _size(a.chunks), _plain(_what(a)))
    if len(group.arrays) > LINES:
        table.add_row("…", f"{len(group.arrays) - LINES} more; --json shows all", "", "", "")
    if group.arrays:
        session.out.print(table)
        session.out.print()
    facts = [("group", group.name)]
    if group.encoding is not None:
        facts.append(("encoding", group.encoding))
    if group.said is not None:
        facts.append(("output", _said(group.said)))
    if group.groups:
        inside = ", ".join(group.groups[:LINES])
        more = f" and {len(group.groups) - LINES} more" if len(group.groups) > LINES else ""
        facts.append(("groups inside", inside + more))
        first = shlex.quote(f"{place.rstrip('/')}/{group.groups[0]}")
        facts.append(("look into one", f"dask-gmm show {first}"))
    if not group.arrays and not group.groups:
        facts.append(("holds", "nothing"))
    session.out.print(key_values([*facts, *_how_to_name(place, group)]))


def _what(a: ArrayContents) -> str:
    if a.said is not None:
        return _said(a.said)
    if a.coordinate:
        kind = "a coordinate"
    elif a.measured is None:
        return f"of no use to a fit: {a.decoding}"
    else:
        kind = a.decoding
    units = "" if a.units is None else f"in {a.units}"
    dimensions = "" if a.dimensions is None else f"({', '.join(a.dimensions)})"
    return ", ".join(part for part in (dimensions, kind, units) if part)


def _how_to_name(place: str, group: GroupContents) -> list[tuple[str, str]]:
    """Return how a fit is told which of the arrays to take."""
    fit = f"dask-gmm fit {shlex.quote(place)} -k K"
    if group.encoding == "anndata":
        there = "X" in {*group.groups, *(a.name for a in group.arrays)}
        return [("fit X", fit)] if there else []
    if group.encoding == "csr_matrix":
        return [("fit it", fit)]
    if group.said is not None or group.encoding is not None:
        return []
    usable = [a for a in group.arrays if a.usable]
    tables = [a for a in usable if len(a.shape) > 1]
    if len(group.arrays) == 1 and tables:
        return [("fit it", fit)]
    one = [("fit one", f"{fit} --array {shlex.quote(a.name)}") for a in tables[:1]]
    alike = [a.name for a in usable if a.shape == usable[0].shape]
    several = _with_names("several as features", f"{fit} --features", alike)
    alike = [a.name for a in tables if a.shape[-1] == tables[0].shape[-1]]
    many = _with_names("rows of many as one", f"{fit} --arrays", alike)
    # Arrays with coordinates are variables of one grid, others perhaps samples of one kind.
    named = any(a.coordinate for a in group.arrays)
    return [*several, *one] if named else [*one, *many, *several]


def _with_names(what: str, command: str, found: list[str]) -> list[tuple[str, str]]:
    # What has a comma is two names to the option, and what has one of the others a pattern.
    names = [name for name in found if not set(name) & set(",*?[")]
    return [(what, f"{command} {shlex.quote(','.join(names[:3]))}")] if len(names) > 1 else []


def _print_table(session: Session, place: str, t: TableContents) -> None:
    if t.columns:
        table = bare_table()
        table.add_column("column", overflow="fold")
        table.add_column("type", overflow="fold")
        for name, kind in t.columns[:LINES]:
            table.add_row(_plain(name), _plain(kind))
        if len(t.columns) > LINES:
            table.add_row("…", f"{len(t.columns) - LINES} more; --json shows all")
        session.out.print(table)
        session.out.print()
    facts = [("Parquet table", t.name)]
    if t.said is not None:
        facts.append(("output", _said(t.said)))
    if t.columns:
        groups = plural(t.n_row_groups, "row group")
        files = plural(t.n_files, "file")
        facts.append(("rows", f"{t.n_rows:,} in {groups} of {files}"))
        facts.append(("stored", show_bytes(t.stored_bytes)))
    if t.said is None and t.columns:
        numbers = [name for name, kind in t.columns if kind in _NUMBERS][:3]
        fit = f"dask-gmm fit {shlex.quote(place)} -k K"
        if len(numbers) == len(t.columns):
            facts.append(("fit it", fit))
        elif numbers:
            names = shlex.quote(",".join(numbers))
            facts.append(("fit some columns", f"{fit} --columns {names}"))
    session.out.print(key_values(facts))


_NUMBERS = frozenset(
    ["double", "float", "halffloat", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""Arrow's names of types that are features as they are."""


def _said(said: OutputSays) -> str:
    """Say in a clause what an output is."""
    of = "" if said.data is None else f" of {said.data}"
    by = "" if said.model is None else f", by the model with the parameters {said.model[:12]}"
    version = "" if said.version is None else f" (dask-gmm {said.version})"
    state = (
        "complete"
        if said.complete
        else (
            "not complete: being written, or left by a run that broke off; the same dask-gmm "
            "predict goes on with it"
        )
    )
    return f"{said.values or 'output'}{of}{by}{version}; {state}"


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape) or "one element"


def _in_shards(a: ArrayContents) -> str:
    return "" if a.shards is None else f", in shards of {_size(a.shards)}"


def _plain(text: str) -> Any:
    """Text in which brackets are brackets."""
    from rich.text import Text

    return Text(text)
