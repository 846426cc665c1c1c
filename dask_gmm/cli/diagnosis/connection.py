"""Findings on the cluster's connections: who is there, encryption, the dashboard."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dask_gmm.cli.diagnosis.finding import Finding, named, verb
from dask_gmm.data.urls import redacted
from dask_gmm.quantities import plural, show_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dask_gmm.cli.diagnosis.finding import Level

__all__ = [
    "dashboard_finding",
    "encryption_findings",
    "silent_findings",
    "worker_findings",
]

_DASHBOARD_SECONDS = 3.0
_SLOW_SCHEDULER = 1.0
_RENEW_DAYS = 14


def worker_findings(described: Mapping[str, Any], answered: float, address: str) -> list[Finding]:
    """Say who is there, and who of them takes no work.

    Parameters
    ----------
    described : mapping
        The scheduler's description of each worker.
    answered : float
        Seconds that it took to answer.
    address : str
        Of the scheduler.
    """
    threads = sum(int(worker["nthreads"]) for worker in described.values())
    text = (
        f"the scheduler at {address} answers in {show_seconds(answered)}; "
        f"{plural(len(described), 'worker')} with {plural(threads, 'thread')}."
    )
    found = Finding("ok", "cluster", text)
    if answered > _SLOW_SCHEDULER:
        remedy = "It is busy, or far away: a pass waits for it at each of its tasks."
        found = Finding("warning", "cluster", text, remedy)
    if not described:
        remedy = "Start workers: dask worker ADDRESS, with the scheduler's address."
        return [Finding("error", "cluster", text, remedy)]
    findings = [found]
    resting = {w: str(worker["status"]) for w, worker in described.items()}
    resting = {w: status for w, status in resting.items() if status != "running"}
    level: Level = "error" if len(resting) == len(described) else "warning"
    for status, count in sorted(Counter(resting.values()).items()):
        those = tuple(sorted(w for w, own in resting.items() if own == status))
        who = f"{plural(count, 'worker')} of {len(described)} ({named(those)})"
        text = f"{who} {verb(count, 'is', 'are')} {status}: it takes no work."
        findings.append(Finding(level, "cluster", text, _RESTED.get(status, ""), those))
    return findings


_RESTED = {
    "paused": "A paused worker has filled 80 % of its memory limit: client.restart() empties it."
}


_INSTALL = "Install the same release, and what it needs, where workers start: pip install dask-gmm"


def silent_findings(errors: Mapping[str, Exception], total: int) -> list[Finding]:
    """Say which workers do not answer, or cannot run what a fit sends them."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for worker, error in sorted(errors.items()):
        if isinstance(error, TimeoutError | OSError):
            kind = "gave no answer", "Look for its process and its machine; --timeout waits longer."
        elif isinstance(error, ImportError | AttributeError):
            kind = "cannot run this release of dask-gmm", _INSTALL
        else:
            kind = "answered with an error", "Look into its log."
        kinds.setdefault(kind, []).append(worker)
    findings = []
    for (what, remedy), those in kinds.items():
        why = redacted(" ".join(str(errors[those[0]]).split())).rstrip(".")
        who = f"{plural(len(those), 'worker')} of {total} {what} ({named(those)})"
        text = f"{who}: {why or type(errors[those[0]]).__name__}."
        findings.append(Finding("error", "cluster", text, remedy, tuple(those)))
    return findings


def encryption_findings(
    scheduler: str, workers: Iterable[str], peer: Mapping[str, Any]
) -> list[Finding]:
    """Say whether what travels is encrypted.

    Parameters
    ----------
    scheduler : str
        Its address.
    workers : iterable of str
        Theirs.
    peer : mapping
        What the connection to the scheduler knows of itself: its ``cipher`` and ``peercert``.
    """
    addresses = [scheduler, *workers]
    plain = [address for address in addresses if not _is_encrypted(address)]
    if not plain:
        protocol = " ".join(str(part) for part in (peer.get("cipher") or ())[1::-1])
        text = f"all connections are encrypted{f' ({protocol})' if protocol else ''}."
        return [_expiring(peer.get("peercert") or {}) or Finding("ok", "TLS", text)]
    if all(_is_here(address) for address in plain):
        text = "connections are not encrypted, and do not leave this machine."
        return [Finding("ok", "TLS", text)]
    whose = "the scheduler's connection is"
    if scheduler not in plain:
        whose = f"{plural(len(plain), 'worker')} {verb(len(plain), 'has', 'have')} connections"
    text = (
        f"{whose} not encrypted: who shares the network reads rows and results, and whoever "
        f"reaches a port runs code on the workers."
    )
    remedy = (
        "Give scheduler, workers and this process certificates (of 'dask-gmm certificates', whose "
        "settings say require-encryption: true), or keep all of them in a network of their own."
    )
    return [Finding("warning", "TLS", text, remedy)]


def _expiring(certificate: Mapping[str, Any]) -> Finding | None:
    """Warn of a certificate that expires soon."""
    import ssl

    expires = certificate.get("notAfter")
    if not expires:
        return None
    days = (ssl.cert_time_to_seconds(str(expires)) - time.time()) / 86400
    if days > _RENEW_DAYS:
        return None
    text = f"the scheduler's certificate expires in {days:.0f} days ({expires})."
    return Finding("warning", "TLS", text, "Renew it, and start the cluster anew with it.")


def _is_encrypted(address: str) -> bool:
    return address.partition("://")[0] in ("tls", "wss", "inproc")


def _is_here(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def dashboard_finding(link: str | None) -> Finding:
    """Say where the dashboard is, and whether it answers here."""
    if link is None:
        text = "the scheduler has none (it is switched off, or bokeh is not installed there)."
        return Finding("note", "dashboard", text)
    parts = urlsplit(link)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _DASHBOARD_SECONDS).close()
    except OSError:
        remedy = "Forward its port, as by ssh -L, to look at it; no fit needs it."
        return Finding("note", "dashboard", f"{link} does not answer from here.", remedy)
    return Finding("ok", "dashboard", link)
