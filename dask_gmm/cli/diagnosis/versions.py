"""Findings on the versions of all processes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from dask_gmm.cli.diagnosis.finding import Finding, named, verb
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.cli.diagnosis.asking import Versions
    from dask_gmm.cli.diagnosis.finding import Level
    from dask_gmm.cli.diagnosis.process import ProcessReport

__all__ = ["code_findings", "version_findings"]

_SAME = "Install the same versions everywhere, from one image or one lock file."


class _Group(NamedTuple):
    """Packages whose differences have the same consequence."""

    packages: tuple[str, ...]
    level: Level
    consequence: str
    of_scheduler: bool


_GROUPS = (
    _Group(("python", "dask-gmm", "numpy"), "error", "a fit refuses to begin", False),
    _Group(
        ("dask", "distributed", "msgpack", "cloudpickle", "tornado", "toolz", "lz4"),
        "warning",
        "Dask's processes are made to understand those of their own version",
        True,
    ),
    _Group(
        ("scipy", "llvmlite"),
        "warning",
        "the last bits of a result depend on which worker computes which unit",
        False,
    ),
    _Group(
        ("zarr", "numcodecs", "obstore", "zstandard", "google-crc32c", "threadpoolctl"),
        "warning",
        "data may be read here and not there",
        False,
    ),
    _Group(("fsspec", "pyarrow"), "note", "only some data need them", False),
)
_SHOWN = (
    "python",
    "dask-gmm",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "llvmlite",
    "zarr",
    "obstore",
)


def version_findings(found: Versions) -> list[Finding]:
    """Compare the versions of this process, of the scheduler and of workers."""
    findings = []
    for group in _GROUPS:
        differences: list[str] = []
        concerned: set[str] = set()
        for package in group.packages:
            where = _elsewhere(found, package, of_scheduler=group.of_scheduler)
            if where:
                differences.append(_described(package, found.here.get(package), where))
                concerned.update(worker for those in where.values() for worker in those)
        if differences:
            text = f"{'; '.join(differences)}: {group.consequence}."
            workers = tuple(sorted(concerned - {"the scheduler"}))
            findings.append(Finding(group.level, "versions", text, _SAME, workers))
    minor = _minor(found.here.get("python")), _minor(found.scheduler.get("python"))
    if minor[0] != minor[1] and found.scheduler:
        text = f"Python {minor[0]} here, {minor[1]} on the scheduler, which reads graphs of tasks."
        findings.append(Finding("warning", "versions", text, _SAME))
    if not findings:
        findings.append(Finding("ok", "versions", _alike(found)))
    return findings


def code_findings(here: ProcessReport, workers: Mapping[str, ProcessReport]) -> list[Finding]:
    """Compare the package's own code, which checkouts of one version may differ in."""
    others = sorted(worker for worker, there in workers.items() if there.code != here.code)
    if not others:
        return []
    text = (
        f"{plural(len(others), 'worker')} of {len(workers)} ({named(others)}) "
        f"{verb(len(others), 'has', 'have')} other code of dask-gmm than this process, whatever "
        f"its version says: results may be others, and what is sent may not be understood."
    )
    return [Finding("warning", "versions", text, _SAME, tuple(others))]


def _elsewhere(found: Versions, package: str, *, of_scheduler: bool) -> dict[str, list[str]]:
    """Return the versions that differ from this process's, and who has them."""
    where: dict[str, list[str]] = defaultdict(list)
    processes = dict(found.workers)
    if of_scheduler and found.scheduler:
        processes["the scheduler"] = found.scheduler
    here = found.here.get(package)
    for process, versions in processes.items():
        there = versions.get(package)
        if package == "python":
            if _minor(there) != _minor(here):
                where[str(there)].append(process)
        elif there != here and not (package == "dask-gmm" and None in (here, there)):
            # A checkout on the path does not know its version.
            where[there or "not installed"].append(process)
    return dict(where)


def _described(package: str, here: str | None, where: Mapping[str, list[str]]) -> str:
    there = ", ".join(
        f"{version} on {named(processes)}" for version, processes in sorted(where.items())
    )
    return f"{_title(package)} {here or 'not installed'} here, {there}"


def _title(package: str) -> str:
    return "Python" if package == "python" else package


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])


def _alike(found: Versions) -> str:
    here = found.here
    shown = ", ".join(f"{_title(p)} {here[p]}" for p in _SHOWN if here.get(p) is not None)
    if not found.workers:
        return f"{shown}."
    return f"{shown}: the same here and on {plural(len(found.workers), 'worker')}."
