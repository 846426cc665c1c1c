"""Looks at all that a fit would need: this process or a cluster, and the data."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.block_time import job_for
from dask_gmm.cli.diagnosis.finding import Finding
from dask_gmm.cli.diagnosis.layout import layout_findings
from dask_gmm.cli.diagnosis.machines import (
    blas_findings,
    clock_findings,
    core_findings,
    cpu_findings,
    limit_findings,
    local_memory_finding,
    pass_memory_findings,
)
from dask_gmm.cli.diagnosis.process import (
    BlockRead,
    ProcessReport,
    process_report,
    read_one_block,
    reading,
    report,
)
from dask_gmm.cli.diagnosis.reads import blocks_to_read, read_findings
from dask_gmm.cli.diagnosis.versions import code_findings, version_findings
from dask_gmm.cli.patience import within
from dask_gmm.cli.progress import observing
from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution.backend import PassProgress
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.events import PassAdvanced, PassStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dask_gmm.cli.place import Place
    from dask_gmm.cli.session import Session
    from dask_gmm.data.base import Source

__all__ = ["Examination", "examine"]

HERE = "this process"


@dataclass
class Examination:
    """What was found.

    Attributes
    ----------
    findings : list of Finding
    processes : dict of str to ProcessReport
        By address; this process among them.
    reads : dict of str to BlockRead
        Of each process that has read a block.
    """

    findings: list[Finding] = field(default_factory=list)
    processes: dict[str, ProcessReport] = field(default_factory=dict)
    reads: dict[str, BlockRead] = field(default_factory=dict)

    def count(self, level: str) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def examine(
    place: Place, source: Source | None, components: int, timeout: float, session: Session
) -> Examination:
    """Look at everything in turn.

    Parameters
    ----------
    place : Place
        Where a fit would run.
    source : Source, optional
        What it would read.
    components : int
        Of the mixture that it would fit.
    timeout : float
        Seconds that each process has for each answer.
    session : Session
        Where progress goes.
    """
    found = Examination()
    session.note("looking at this process …")
    found.processes[HERE] = report()
    if place.client is None:
        processes = {"": (place.memory_limit, place.n_threads)}
        _examine_here(found)
    else:
        from dask_gmm.execution.cluster.connection import scheduler_errors

        with scheduler_errors(place.client):
            described = _examine_cluster(found, place.client, timeout, session)
        processes = {
            worker: (int(there["memory_limit"] or 0), int(there["nthreads"]))
            for worker, there in described.items()
        }
    if source is not None:
        found.findings += layout_findings(source, place.n_threads)
        # Also of workers that have not answered: their limit may be why.
        found.findings += _fit_in_memory(source, components, processes)
        _examine_reads(found, place.client, source, timeout, session)
    return found


def _examine_here(found: Examination) -> None:
    from dask_gmm.cli.diagnosis.asking import Versions, versions_here

    here = found.processes[HERE]
    found.findings += [
        *version_findings(Versions(versions_here(), {}, {})),
        *cpu_findings(here, {}),
        *blas_findings(here, {}),
        local_memory_finding(here),
    ]


def _examine_cluster(
    found: Examination, client: Any, timeout: float, session: Session
) -> dict[str, Any]:
    """Look at the scheduler and the workers; return the scheduler's description of these."""
    from dask_gmm.cli.diagnosis import asking, connection
    from dask_gmm.execution.cluster import workers_of
    from dask_gmm.execution.cluster.connection import address_of

    begun = time.perf_counter()
    described = workers_of(client, timeout)
    answered, address = time.perf_counter() - begun, address_of(client)
    peer = getattr(getattr(client.scheduler_comm, "comm", None), "extra_info", None) or {}
    found.findings += connection.worker_findings(described, answered, address)
    found.findings += connection.encryption_findings(address, described, peer)
    found.findings.append(connection.dashboard_finding(_dashboard(client, timeout)))
    questions = {w: asking.ask_function(client, w, process_report) for w in described}
    with _progress(session, "asking workers", len(questions)) as told:
        answers = asking.ask_each(client, questions, timeout, told)
    errors = {w: answer for w, answer in answers.items() if isinstance(answer, Exception)}
    workers = {w: answer for w, answer in answers.items() if w not in errors}
    found.processes.update(workers)
    found.findings += connection.silent_findings(errors, len(described))
    heard = [w for w, error in answers.items() if not isinstance(error, TimeoutError | OSError)]
    session.note("comparing versions and clocks …")
    found.findings += version_findings(asking.ask_versions(client, heard, timeout))
    found.findings += _of_workers(found.processes[HERE], workers, described)
    found.findings += clock_findings(asking.ask_clocks(client, list(workers), timeout))
    return described


def _of_workers(
    here: ProcessReport, workers: Mapping[str, ProcessReport], described: Mapping[str, Any]
) -> list[Finding]:
    if not workers:
        return []
    return [
        *code_findings(here, workers),
        *cpu_findings(here, workers),
        *core_findings(described, workers),
        *blas_findings(here, workers),
        *limit_findings({w: described[w] for w in workers}, workers),
    ]


def _dashboard(client: Any, timeout: float) -> str | None:
    """Return the dashboard's link, None where the scheduler has no dashboard."""
    from dask_gmm.execution.cluster.connection import ask

    services = ask(client, client.scheduler.identity, timeout)["services"]
    return str(client.dashboard_link) if "dashboard" in services else None


def _fit_in_memory(
    source: Source, components: int, processes: Mapping[str, tuple[int, int]]
) -> list[Finding]:
    """Hold a pass of a fit of so many components against the memory of each process."""
    if not processes:
        return []
    plan = plan_pass(source, n_threads=sum(threads for _, threads in processes.values()))
    try:
        job = job_for(source, components, "full")
    except (MemoryError, MemoryPlanError) as error:
        return [Finding("error", "memory", str(error) or "the mixture does not fit this process.")]
    what = f"a pass of {components} components with full covariances"
    return pass_memory_findings(plan, job, processes, what)


def _examine_reads(
    found: Examination, client: Any, source: Source, timeout: float, session: Session
) -> None:
    """Let each process that has answered read a block."""
    answers: dict[str, Any]
    if client is None:
        session.note("reading a block …")
        block = blocks_to_read(source, [HERE])[HERE]
        try:
            answers = {HERE: within(timeout, partial(read_one_block, source, block))}
        except Exception as error:  # noqa: BLE001  whatever keeps it from being read is a finding
            answers = {HERE: error}
    elif not source.shippable:
        text = f"workers cannot read {source.name}: {source.stays_because}"
        found.findings.append(Finding("error", "reading", text))
        return
    else:
        from dask_gmm.cli.diagnosis.asking import ask_each, ask_function

        blocks = blocks_to_read(source, [w for w in found.processes if w != HERE])
        if not blocks:
            return
        questions = {w: ask_function(client, w, reading, source, i) for w, i in blocks.items()}
        with _progress(session, "reading a block each", len(questions)) as told:
            answers = ask_each(client, questions, timeout, told)
    errors = {w: answer for w, answer in answers.items() if isinstance(answer, Exception)}
    found.reads.update((w, answer) for w, answer in answers.items() if w not in errors)
    found.findings += read_findings(source, found.reads, errors)


@contextmanager
def _progress(session: Session, verb: str, expected: int) -> Iterator[Callable[[int], None]]:
    """Show how many workers have answered, as the blocks of a pass are shown."""
    begun = time.perf_counter()
    session.note(f"{verb} …")
    with observing(session, verb) as observe:
        observe(PassStarted(1, 1))

        def told(answers: int) -> None:
            seconds = time.perf_counter() - begun
            observe(PassAdvanced(1, PassProgress(answers, expected, 0, None, 0, seconds)))

        yield told
