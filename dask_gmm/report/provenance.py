"""Where a fit came from, what it took, and how to repeat it."""

from __future__ import annotations

from ast import literal_eval
from datetime import UTC, datetime
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.urls import check_options, redacted
from dask_gmm.execution.machine import machine_fingerprint
from dask_gmm.quantities import plural, show_bytes, show_seconds
from dask_gmm.report.words import number

if TYPE_CHECKING:
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.report.evidence import Evidence

__all__ = ["call_of", "facts", "repeatable", "versions"]

_LINE = 88


def facts(record: FitRecord) -> list[tuple[str, str]]:
    """Return what a fit came from and took, named."""
    begun = datetime.fromtimestamp(record.begun, UTC)
    found = [
        ("data", record.source),
        ("fingerprint", record.data),
        ("rows", "unknown" if record.n_rows is None else f"{record.n_rows:,}"),
        *([] if record.weighted is None else [("weighted", _weighted(record))]),
        ("features", f"{record.n_features:,}"),
        ("blocks", f"{record.n_blocks:,}"),
        ("computed on", record.backend),
        ("begun", f"{begun:%Y-%m-%d %H:%M:%S} UTC"),
        ("taken", show_seconds(record.seconds)),
        ("reads of all data", number(record.reads, 3)),
        ("passes", _passes(record)),
        ("bytes decoded", f"{show_bytes(record.bytes_read)} ({record.bytes_read:,})"),
    ]
    if record.start:  # none of a fit that went on from another's parameters
        found.append(("starts made by", f"{record.start} in {show_seconds(record.start_seconds)}"))
    if record.sample_rows:
        sample = (
            f"{record.sample_rows:,} rows of {plural(record.sample_blocks, 'block')} in "
            f"{show_seconds(record.sample_seconds)}"
        )
        found.append(("sample", sample))
    if record.start_reads:
        found.append(("reads for the start", f"{record.start_reads:,}"))
    if record.moves_tried:
        moves = f"{record.moves_accepted:,} of {record.moves_tried:,} moves accepted"
        gain = f"{number(record.search_gain, 2)} nats a row gained"
        taken = show_seconds(record.search_seconds)
        found.append(("search on the sample", f"{moves}, {gain}, in {taken}"))
    if record.rare_components:
        found.append(("rare components found", f"{record.rare_components:,}"))
    if record.blocks_from_cache:
        found.append(("blocks from the cache", f"{record.blocks_from_cache:,}"))
    if record.resubmitted:
        found.append(("units computed again", f"{record.resubmitted:,}"))
    return found


def versions() -> list[tuple[str, str]]:
    """Return what the last bits of a result depend on in this process, named."""
    return [("machine and packages", machine_fingerprint())]


def call_of(gm: Any, source: str | None, selection: Any = None) -> str:
    """Return the line of Python that fits such an estimator again, or selects it.

    Parameters
    ----------
    gm : estimator
    source : str or None
        What the data are called; a path or URL is written as one, else ``X`` is. Weights, where
        rows had some, are left to whoever knows them, and so are arrays, generators of random
        numbers and credentials.
    selection : Selection, optional
        That the mixture is the best of.
    """
    name, data = type(gm).__name__, _spelled(source)
    if getattr(gm, "outcome_", None) == "given":
        return f"{name}.from_parameters(weights, means, covariances)"
    more = _left_out(getattr(gm, "record_", None))
    defaults = signature(type(gm).__init__).parameters
    given = {
        key: value
        for key, value in gm.get_params(deep=False).items()
        if key != "callbacks" and not _same(value, defaults[key].default)
    }
    if selection is None:
        said = [_argument(key, value) for key, value in given.items()]
        return _laid_out(name, said, f".fit({', '.join([data, *more])})")
    best = {"n_components", "covariance_type"}
    said = [data, _counts(selection), _kinds(selection), f"criterion={selection.criterion!r}"]
    said += [_argument(key, value) for key, value in given.items() if key not in best]
    said += more
    return _laid_out("select_gaussian_mixture", said, "")


def _laid_out(name: str, said: list[str], after: str) -> str:
    line = f"{name}({', '.join(said)}){after}"
    if len(line) <= _LINE:
        return line
    inner = "".join(f"    {part},\n" for part in said)
    return f"{name}(\n{inner}){after}"


def _spelled(source: str | None) -> str:
    """A path or URL as Python's text; of data in memory the name that everybody gives them."""
    if source is None or not ("/" in source or "\\" in source) or source.startswith("<"):
        return "X"
    return repr(redacted(source))


def _argument(key: str, value: Any) -> str:
    """A setting as Python has it; ``…`` for what no line holds, or what is nobody's business."""
    spelled = repr(value.item() if isinstance(value, np.generic) else value)
    try:
        literal_eval(spelled)
        if key == "storage_options":
            check_options(value)
    except (ValueError, SyntaxError):  # an array, an object, or a credential: InputError
        spelled = "…"
    return f"{key}={redacted(spelled)}"


def _counts(selection: Any) -> str:
    counts = sorted({row.n_components for row in selection.table})
    if len(counts) > 2 and counts == list(range(counts[0], counts[-1] + 1)):
        return f"range({counts[0]}, {counts[-1] + 1})"
    return repr(counts)


def _kinds(selection: Any) -> str:
    return repr(tuple(dict.fromkeys(row.covariance_type for row in selection.table)))


def repeatable(evidence: Evidence) -> str:
    """Say what a repetition has in common with this fit."""
    state = evidence.setting("random_state")
    if isinstance(state, int):
        return (
            "The same data, settings and versions give the same bits on this kind of processor, "
            "however many threads or workers compute."
        )
    return (
        "No random_state (--seed) was given, so a repetition draws another sample and may end at "
        "another optimum; with one it gives the same bits."
    )


def _weighted(record: FitRecord) -> str:
    said = "rows have weights" if record.weighted else "each row counts once"
    return f"{said}; a mask says which take part" if record.masked else said


def _left_out(record: FitRecord | None) -> list[str]:
    """What the fit was given beside the data, which only who made it has."""
    if record is None:
        return []
    weights = ["sample_weight=…"] if record.weighted else []
    return weights + (["where=…"] if record.masked else [])


def _passes(record: FitRecord) -> str:
    said = f"{record.passes:,}"
    if record.rejected:
        said += f", {record.rejected:,} of them rejected steps"
    if record.resumed_after:
        said += f"; {record.resumed_after:,} of them before it was taken up from a checkpoint"
    return said


def _same(value: Any, default: Any) -> bool:
    """Whether a setting is the default, arrays included, which compare element by element."""
    if value is default:
        return True
    try:
        return type(value) is type(default) and bool(value == default)
    except ValueError:
        return False
