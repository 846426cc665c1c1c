"""`dask-gmm doctor`: whether a fit would find here, or on a cluster, what it needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    option,
    optional_data_options,
    output_options,
    weights_option,
    where_option,
)
from dask_gmm.cli.session import DONE, FAILED
from dask_gmm.cli.settings import Compute, DataPlace, check_storage_options
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.cli.diagnosis.examination import Examination
    from dask_gmm.cli.diagnosis.finding import Finding
    from dask_gmm.cli.session import Session
    from dask_gmm.data.source import Source

__all__ = ["doctor"]


@click.command(
    cls=Command,
    short_help="Find out what would go wrong, or slowly, and what to do.",
    examples=[
        ("can this machine fit these data, and what would slow it down?", "dask-gmm doctor p.zarr"),
        (
            "do all workers of a cluster have the same packages, and can each read the data?",
            "dask-gmm doctor s3://bucket/p.zarr --scheduler tcp://10.0.0.1:8786",
        ),
        ("the cluster alone", "dask-gmm doctor --scheduler tls://10.0.0.1:8786"),
        (
            "only what is wrong, for a script",
            "dask-gmm doctor p.zarr --json | jq '.findings[] | select(.level == \"error\")'",
        ),
    ],
)
@optional_data_options
@weights_option
@where_option
@option(
    "--components",
    "-k",
    type=click.IntRange(1),
    default=8,
    metavar="K",
    section="Mixture",
    help="Components of the fit whose memory is checked, with full covariances; 'dask-gmm plan' "
    "knows all other options.",
)
@compute_options()
@output_options
@click.pass_obj
def doctor(session: Session, /, components: int, **values: Any) -> int:
    """Look at this process or a cluster, and at DATA, before a fit does.

    Compares versions, CPUs, clocks and memory limits of all processes, looks at BLAS threads,
    encryption and the dashboard, at chunk sizes and codecs, and lets each worker read one block
    with its own credentials. Nothing is written, and nothing else is computed. A line per finding:
    'ok', 'note' (worth knowing), 'warning' (costs time, or bits), 'error' (a fit would fail), with
    what to do about it. --timeout also bounds each worker's answers.

    Exit code 0 says that there is no error, 1 that there is one, or that no cluster answers.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.diagnosis.examination import examine

    named = values["data"] is not None
    data, compute = DataPlace.take(values), Compute.take(values)
    if named:
        check_storage_options(data.storage_options, data.data, data.weights, data.where)
    else:
        _check_no_options(data)
    source, unopened = _opened(data) if named else (None, None)
    with computing(compute, session) as place:
        found = examine(place, source, components, compute.timeout, session)
        name = place.name
    if unopened is not None:
        found.findings.append(unopened)
    if session.json:
        session.emit(_as_json(found, data, name))
    else:
        _print(session, found, name)
    return FAILED if found.count("error") else DONE


def _check_no_options(data: DataPlace) -> None:
    """Refuse to be told how to read data that are not named.

    Raises
    ------
    click.UsageError
    """
    told = {
        "--array": data.array,
        "--arrays": data.arrays,
        "--features": data.features,
        "--columns": data.columns,
        "--weights": data.weights,
        "--where": data.where,
        "--equal-per-array": data.equal_per_array,
        "--storage-option": data.storage_options,
    }
    given = [name for name, value in told.items() if value]
    if given:
        raise click.UsageError(f"{given[0]} says how to read DATA: say which, or leave it out.")


def _opened(data: DataPlace) -> tuple[Source | None, Finding | None]:
    """Open the data; what keeps them from being opened is a finding."""
    from dask_gmm.cli.diagnosis.finding import Finding
    from dask_gmm.cli.explain import explain
    from dask_gmm.errors import DaskGMMError

    try:
        return data.open(), None
    except (DaskGMMError, OSError) as error:
        return None, Finding("error", "data", explain(error))


def _as_json(found: Examination, data: DataPlace, place: str) -> dict[str, Any]:
    return {
        "command": "doctor",
        **data.described(),
        "compute": place,
        "healthy": not found.count("error"),
        "errors": found.count("error"),
        "warnings": found.count("warning"),
        "findings": [asdict(finding) for finding in found.findings],
        "processes": [
            {
                "address": address,
                **asdict(process),
                "blas": [library._asdict() for library in process.blas],
            }
            for address, process in found.processes.items()
        ],
        "reads": [
            {
                "address": address,
                **asdict(read),
                "bytes_per_second": read.stored_bytes / read.fetching,
            }
            for address, read in found.reads.items()
        ],
    }


_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def _print(session: Session, found: Examination, place: str) -> None:
    """Print a line for each finding: on a terminal wrapped in a column, else as it is."""
    if session.out.is_terminal:
        session.out.print(_table(found.findings))
    else:
        for finding in found.findings:
            line = f"{finding.level:<8} {finding.subject:<10} {finding.text}"
            session.out.print(line, markup=False, soft_wrap=True)
            if finding.remedy:
                session.out.print(f"{'':19} {finding.remedy}", markup=False, soft_wrap=True)
    session.out.print()
    errors, warnings = found.count("error"), found.count("warning")
    counts = [
        plural(count, noun) for count, noun in ((errors, "error"), (warnings, "warning")) if count
    ]
    verdict = "[bold red]a fit would fail.[/]" if errors else "[bold green]ready.[/]"
    session.out.print(verdict, end=" ")
    session.out.print(f"{', '.join(counts) or 'Nothing to mend'}; on {place}.", markup=False)


def _table(findings: Sequence[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n{finding.remedy}", style="bold")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.subject, text)
    return table
