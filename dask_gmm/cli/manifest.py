"""`dask-gmm manifest`: hashes of what an array stores, and whether they still hold."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    array_option,
    option,
    output_options,
    overwrite_option,
    storage_options,
)
from dask_gmm.cli.session import DONE, FAILED
from dask_gmm.cli.settings import check_storage_options, options_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from dask_gmm.cli.session import Session
    from dask_gmm.data.manifest import Difference, Manifest
    from dask_gmm.data.stored_objects import StoredArrayObjects

__all__ = ["manifest"]

_LISTED = 1000  # differences that are named
_REPORT_EVERY = 0.1


@click.command(
    cls=Command,
    short_help="Hash what an array stores, or verify it later.",
    examples=[
        (
            "hashes of all chunks, while they are known to be good",
            "dask-gmm manifest points.zarr -o points.manifest",
        ),
        (
            "is each chunk still the same? exit code 1 if not",
            "dask-gmm manifest points.zarr --verify points.manifest",
        ),
        (
            "did a copy in a bucket arrive whole?",
            "dask-gmm manifest s3://bucket/points.zarr --verify points.manifest",
        ),
    ],
)
@click.argument("data", metavar="ARRAY")
@array_option
@storage_options
@option(
    "--verify",
    metavar="FILE|URL",
    section="Data",
    help="Read ARRAY against this manifest, and name each chunk or shard that is missing, changed, "
    "unreadable or extra, and whether the metadata are others.",
)
@option(
    "--output",
    "-o",
    metavar="FILE|URL",
    section="Output",
    help="Where the manifest goes. Without it, to stdout.",
)
@overwrite_option("a manifest")
@output_options
@click.pass_obj
def manifest(
    session: Session,
    /,
    data: str,
    array: str | None,
    storage_option: Any,
    verify: str | None,
    output: str | None,
    overwrite: bool,
) -> int:
    """Write the SHA-256 of each chunk or shard that ARRAY stores, or verify them.

    Most Zarr arrays keep no checksums, so a bit that flips on a disk is another number to every
    fit. Make a manifest when the data are new, and verify it before a long fit, or after a copy.
    Everything stored is read once, and nothing is decoded. A manifest is a text file of a line of
    JSON for each object, and knows the array's metadata too; it can verify any copy of the array.
    """
    from dask_gmm.data.stored_objects import StoredArrayObjects
    from dask_gmm.data.stores import store_spec
    from dask_gmm.data.zarr_open import find_by_url

    if verify is not None and output is not None:
        raise click.UsageError("--verify reads a manifest and --output writes one: give either.")
    if verify is None and output is None and session.json:
        raise click.UsageError(
            "--json prints a summary, and without --output the manifest itself goes to stdout: say "
            "where it goes with --output."
        )
    options = dict(storage_option)
    check_storage_options(options, data, verify, output)
    found = find_by_url(store_spec(data, options_for(data, options) or None), array)
    stored = StoredArrayObjects(found.spec, found.array)
    if verify is not None:
        return _verify(session, stored, verify, options)
    _write(session, stored, output, options, overwrite=overwrite)
    return DONE


# -- writing ---------------------------------------------------------------------------------------


def _write(
    session: Session,
    stored: StoredArrayObjects,
    output: str | None,
    options: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    from dask_gmm.cli.outputs import refuse_overlap
    from dask_gmm.cli.tables import key_values
    from dask_gmm.data.manifest import write_manifest, written_to
    from dask_gmm.quantities import show_bytes, show_seconds

    place: AbstractContextManager[IO[bytes]]
    if output is not None:
        refuse_overlap(output, stored.name)
        place = written_to(output, options_for(output, options) or None, overwrite=overwrite)
    else:
        place = nullcontext(sys.stdout.buffer)
    begun = time.perf_counter()
    with (
        place as file,
        _progress(session, stored.expected) as report,
    ):
        total = write_manifest(stored, file, report)
    seconds = time.perf_counter() - begun
    absent = stored.expected - total.objects
    if session.json:
        session.emit(
            {
                "command": "manifest",
                "data": stored.name,
                "manifest": output,
                "objects": total.objects,
                "absent": max(absent, 0),
                "bytes": total.size,
                "seconds": seconds,
            }
        )
        return
    hashed = f"{total.objects:,}, {show_bytes(total.size)}, in {show_seconds(seconds)}"
    if output is None:
        session.note(f"hashed {hashed}")
    else:
        session.out.print(key_values([("manifest", output), ("objects hashed", hashed)]))
    if absent > 0:
        session.complain(
            "warning",
            f"{absent:,} of {stored.expected:,} chunks of {stored.name} are not stored. Zarr "
            f"leaves out those that hold nothing but the fill value; if yours are no such, they "
            f"are lost.",
        )


# -- verifying -------------------------------------------------------------------------------------

_WORDS = {
    "missing": "missing",
    "changed": "changed",
    "unreadable": "unreadable",
    "extra": "not in the manifest",
    "metadata": "changed metadata",
}


def _verify(
    session: Session, stored: StoredArrayObjects, url: str, options: Mapping[str, Any]
) -> int:
    from dask_gmm.data.manifest import opened_from

    begun = time.perf_counter()
    counts = dict.fromkeys(_WORDS, 0)
    listed: list[Difference] = []
    with (
        opened_from(url, options_for(url, options) or None) as found,
        _progress(session, found.total.objects) as report,
    ):
        for difference in found.differences(stored, report):
            counts[difference.kind] += 1
            if len(listed) < _LISTED:
                listed.append(difference)
    seconds = time.perf_counter() - begun
    wrong = sum(counts.values())
    if session.json:
        session.emit(
            {
                "command": "manifest",
                "data": stored.name,
                "verified": url,
                "same": not wrong,
                "objects": found.total.objects,
                "bytes": found.total.size,
                **counts,
                "extra": None if stored.unlisted else counts["extra"],
                "differences": [vars(difference) for difference in listed],
                "seconds": seconds,
            }
        )
    else:
        for difference in listed:
            place = repr(difference.key) if difference.key else stored.name
            line = f"{_WORDS[difference.kind]}: {place} ({difference.detail})"
            session.out.print(line, markup=False, soft_wrap=True)
        if wrong > len(listed):
            session.out.print(f"… and {wrong - len(listed):,} more")
        _conclude(session, stored, found, counts, seconds)
    return FAILED if wrong else DONE


def _conclude(
    session: Session,
    stored: StoredArrayObjects,
    found: Manifest,
    counts: Mapping[str, int],
    seconds: float,
) -> None:
    from dask_gmm.quantities import show_bytes, show_seconds

    wrong = ", ".join(f"{n:,} {_WORDS[kind]}" for kind, n in counts.items() if n)
    session.out.print("[bold red]differs.[/]" if wrong else "[bold green]the same.[/]", end=" ")
    read = f"{found.total.objects:,} objects, {show_bytes(found.total.size)}"
    session.out.print(
        f"{wrong + '; ' if wrong else ''}{read} in the manifest, in {show_seconds(seconds)}.",
        markup=False,
    )
    if stored.unlisted:
        session.note(f"objects beyond the manifest were not looked for: {stored.unlisted}")


# -- progress --------------------------------------------------------------------------------------


@contextmanager
def _progress(session: Session, expected: int) -> Iterator[Callable[[int, int], None]]:
    """Show how far the reading is, as the passes of a fit are shown."""
    from dask_gmm.cli.progress import observing
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.fitting.events import PassAdvanced, PassStarted

    begun = shown = time.perf_counter()
    with observing(session, "hashing") as observe:
        observe(PassStarted(1, 1))

        def report(objects: int, size: int) -> None:
            nonlocal shown
            now = time.perf_counter()
            if now - shown < _REPORT_EVERY:
                return
            shown = now
            total = max(expected, objects)
            observe(PassAdvanced(1, PassProgress(objects, total, 0, None, size, now - begun)))

        yield report
