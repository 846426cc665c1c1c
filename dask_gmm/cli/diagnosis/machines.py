"""Findings on the machines that processes run on: CPUs, BLAS, memory, clocks."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.diagnosis.finding import Finding, named, verb
from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution.plan import PAUSE_FRACTION, PROCESS_BYTES, check_memory, process_memory
from dask_gmm.quantities import plural, show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.cli.diagnosis.process import ProcessReport
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

__all__ = [
    "blas_findings",
    "clock_findings",
    "core_findings",
    "cpu_findings",
    "limit_findings",
    "local_memory_finding",
    "pass_memory_findings",
]

_IDLE_BYTES = 1.5 * PROCESS_BYTES
_CLOCKS_APART = 30.0
_SIGNATURE_SECONDS = 900.0
"""S3 refuses a request whose signature is dated further off than that (RequestTimeTooSkewed)."""


def cpu_findings(here: ProcessReport, workers: Mapping[str, ProcessReport]) -> list[Finding]:
    """Say which kinds of CPU there are, and what more than one costs."""
    if not workers:
        return [Finding("ok", "CPU", f"{here.cpu}, {plural(here.cores, 'core')}.")]
    kinds = Counter(worker.cpu for worker in workers.values())
    listed = "; ".join(f"{plural(count, 'worker')}: {kind}" for kind, count in kinds.most_common())
    findings = []
    kernels = {worker.kernel for worker in workers.values()}
    if len(kernels) > 1 or kernels != {here.kernel}:
        slow = sorted(w for w, there in workers.items() if there.kernel != "compiled")
        findings.append(
            Finding(
                "warning",
                "CPU",
                f"llvmlite does not work on {named(slow) or 'this process'}, which computes by "
                f"BLAS instead, several times slower and with other last bits.",
                "Install llvmlite there: pip install llvmlite",
                tuple(slow),
            )
        )
    if len(kinds) > 1:
        text = (
            f"{len(kinds)} kinds of CPU ({listed}). Each compiles the kernel for itself: a fit is "
            f"as exact as ever, but its last bits depend on which worker computes which unit, and "
            f"may differ from run to run."
        )
        return [*findings, Finding("warning", "CPU", text, _ONE_KIND)]
    lines = [frozenset(worker.fingerprint.split("; ")) for worker in workers.values()]
    others = sorted(frozenset[str]().union(*lines) - lines[0].intersection(*lines))
    if others:
        text = (
            f"one kind of CPU ({listed}), but not the same libraries everywhere "
            f"({', '.join(others)}): the last bits of a fit depend on which worker computes which "
            f"unit."
        )
        return [*findings, Finding("warning", "CPU", text, _ONE_KIND)]
    text = f"{listed}: of one kind, so a fit has the same bits whoever computes what."
    if here.cpu not in kinds:
        text += f" This process has another ({here.cpu}): its own fits differ in the last bits."
    return [*findings, Finding("ok", "CPU", text)]


_ONE_KIND = "Use one kind of machine, and one image, where bitwise reproducibility matters."


def core_findings(
    described: Mapping[str, Any], workers: Mapping[str, ProcessReport]
) -> list[Finding]:
    """Compare the threads of all workers of a machine with its cores."""
    threads: Counter[str] = Counter()
    cores: dict[str, int] = {}
    for worker, there in workers.items():
        threads[there.host] += int(described[worker]["nthreads"])
        cores[there.host] = max(cores.get(there.host, 0), there.cores)
    crowded = sorted(host for host, count in threads.items() if count > cores[host])
    if not crowded:
        return []
    host = crowded[0]
    more = f", and {plural(len(crowded) - 1, 'machine')} more likewise" if len(crowded) > 1 else ""
    text = (
        f"{threads[host]} worker threads share {plural(cores[host], 'core')} of {host}{more}: no "
        f"faster, and each holds blocks of its own."
    )
    remedy = "Start workers with as many threads in all as it has cores (--nworkers, --nthreads)."
    concerned = tuple(sorted(w for w, there in workers.items() if there.host in crowded))
    return [Finding("warning", "threads", text, remedy, concerned)]


def blas_findings(here: ProcessReport, workers: Mapping[str, ProcessReport]) -> list[Finding]:
    """Say whether passes can keep BLAS at one thread everywhere."""
    processes = workers or {"this process": here}
    loose: dict[str, list[str]] = defaultdict(list)
    for worker, there in processes.items():
        for library in there.blas:
            if library.in_a_pass != 1:
                loose[library.name].append(worker)
    if loose:
        text = "; ".join(
            f"{name} of {named(those)} does not keep to one thread" for name, those in loose.items()
        )
        return [
            Finding(
                "warning",
                "BLAS",
                f"{text}: threads of BLAS and of Dask get into each other's way, and sums are "
                f"divided among them.",
                "Set OMP_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1 and MKL_NUM_THREADS=1 where workers "
                "start.",
                tuple(sorted({worker for those in loose.values() for worker in those})),
            )
        ]
    libraries = [library for there in processes.values() for library in there.blas]
    names = ", ".join(sorted({library.name for library in libraries}))
    most = max((library.threads or 1 for library in libraries), default=1)
    text = f"{names or 'no library'}: one thread in a pass, {most} at other times."
    return [Finding("ok", "BLAS", text)]


# -- memory ----------------------------------------------------------------------------------------


def limit_findings(
    described: Mapping[str, Any], workers: Mapping[str, ProcessReport]
) -> list[Finding]:
    """Look at the memory limits of workers, whatever they are to read."""
    limits = {w: int(worker["memory_limit"] or 0) for w, worker in described.items()}
    findings = []
    full = sorted(
        w
        for w, there in workers.items()
        if limits[w] and there.resident > _IDLE_BYTES + limits[w] / 4
    )
    if full:
        worker = max(full, key=lambda w: workers[w].resident / limits[w])
        text = (
            f"{plural(len(full), 'worker')} of {len(described)} {verb(len(full), 'holds', 'hold')} "
            f"much before a fit has begun, {worker} {show_bytes(workers[worker].resident)} of "
            f"{show_bytes(limits[worker])}."
        )
        remedy = "Let go of what other work has left there: client.restart()"
        findings.append(Finding("warning", "memory", text, remedy, tuple(full)))
    for host in sorted({there.host for there in workers.values()}):
        own = [w for w, there in workers.items() if there.host == host]
        promised, there_is = sum(limits[w] for w in own), workers[own[0]].memory
        if promised > 1.02 * there_is:
            text = (
                f"the {plural(len(own), 'worker')} of {host} may use {show_bytes(promised)} in "
                f"all, and it has {show_bytes(there_is)}: the system kills one that is below its "
                f"limit."
            )
            remedy = f"Start them with --memory-limit {show_bytes(there_is / len(own))} at most."
            findings.append(Finding("warning", "memory", text, remedy, tuple(own)))
    unlimited = sorted(w for w, limit in limits.items() if not limit)
    if unlimited:
        count = len(unlimited)
        text = (
            f"{plural(count, 'worker')} of {len(limits)} {verb(count, 'has', 'have')} no memory "
            f"limit: a pass that does not fit is not refused."
        )
        findings.append(Finding("note", "memory", text, workers=tuple(unlimited)))
    if not findings:
        findings.append(Finding("ok", "memory", f"{_limits(limits)} for each worker."))
    return findings


def _limits(limits: Mapping[str, int]) -> str:
    low, high = min(limits.values()), max(limits.values())
    return show_bytes(low) if low == high else f"{show_bytes(low)} to {show_bytes(high)}"


def local_memory_finding(here: ProcessReport) -> Finding:
    """Say what this process may use."""
    return Finding("ok", "memory", f"{show_bytes(here.memory)} for this process.")


def pass_memory_findings(
    plan: Plan, job: BlockJob[Any], processes: Mapping[str, tuple[int, int]], what: str
) -> list[Finding]:
    """Hold what a pass needs against what each process has.

    Parameters
    ----------
    plan : Plan
    job : BlockJob
    processes : mapping of str to (int, int)
        Bytes and threads, by address; the empty one is this process, which may use all of it.
    what : str
        Of which fit it is a pass.
    """
    small: dict[str, str] = {}
    for worker, (limit, threads) in processes.items():
        usable = PAUSE_FRACTION if worker else 1.0
        place = "a worker" if worker else "this process's machine"
        try:
            check_memory(plan, job, limit, threads, usable=usable, place=place)
        except MemoryPlanError as error:
            small[worker] = str(error)
    if small:
        worker, message = min(small.items(), key=lambda item: processes[item[0]][0])
        text, _, remedy = message.partition(" To make it fit: ")
        few = f" ({plural(len(small), 'worker')} of {len(processes)})" if worker else ""
        concerned = tuple(sorted(filter(None, small)))
        return [Finding("error", "memory", f"{what}{few}: {text}", f"{remedy}", concerned)]
    threads = max(threads for _, threads in processes.values())
    text = f"{what} needs {show_bytes(process_memory(plan, job, threads))} a process."
    return [Finding("ok", "memory", text)]


# -- clocks ----------------------------------------------------------------------------------------


def clock_findings(offsets: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Compare the clocks of workers with this one's; (seconds ahead, give or take) by address."""
    if not offsets:
        return []
    apart = [w for w, (ahead, about) in offsets.items() if abs(ahead) - about > _CLOCKS_APART]
    worst = max(apart or offsets, key=lambda w: abs(offsets[w][0]))
    ahead, about = offsets[worst]
    if not apart:
        text = f"all within {show_seconds(abs(ahead) + about)} of this process's."
        return [Finding("ok", "clock", text)]
    way = "ahead of" if ahead > 0 else "behind"
    refused = abs(ahead) > _SIGNATURE_SECONDS
    consequence = (
        "S3 refuses signatures that are dated more than 15 min off"
        if refused
        else "credentials and certificates expire by the clock, and logs cannot be compared"
    )
    text = (
        f"that of {worst} is {show_seconds(abs(ahead))} {way} this process's"
        f"{f', {len(apart)} are off in all' if len(apart) > 1 else ''}: {consequence}."
    )
    remedy = "Let all machines set their clocks by the network (chrony, systemd-timesyncd)."
    return [Finding("error" if refused else "warning", "clock", text, remedy, tuple(sorted(apart)))]
