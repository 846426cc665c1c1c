"""Why an encrypted scheduler is out of reach: what Dask's settings lack, or who refuses whom.

Dask itself tries again until its patience ends, and then says that nobody answered: a certificate
that is refused looks to it like a network that is down.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed
from distributed.comm.addressing import parse_address, parse_host_port

__all__ = ["refusal", "settings_problem"]

# Annotated in places only, and differently from release to release.
Security = Any
_distributed: Any = distributed

_MAKES_THEM = "'dask-gmm certificates' makes a folder of them"
_ONE_FOLDER = (
    "Give scheduler, workers and this process the certificates of one authority: a copy of one "
    f"folder, named in DASK_CONFIG ({_MAKES_THEM})."
)


def settings_problem(address: str, security: Security | None = None) -> str | None:
    """Say what Dask's settings lack for a connection to an address; None if nothing.

    Parameters
    ----------
    address : str
        Of a scheduler.
    security : Security, optional
        What the client has; by default it is made of Dask's settings.
    """
    security = security or _distributed.Security()
    scheme, rest = parse_address(address)
    if scheme == "tcp" and security.require_encryption:
        return (
            f"{address} is not encrypted, and Dask's settings here refuse such connections "
            f"(distributed.comm.require-encryption): write tls://{rest}."
        )
    if scheme != "tls":
        return None
    named = security.get_tls_config_for_role("client")
    if not (named["ca_file"] and named["cert"]):
        config = os.environ.get("DASK_CONFIG")
        absent = config is not None and not Path(config).exists()
        return (
            f"{address} is encrypted, and Dask's settings here name no certificates "
            f"(distributed.comm.tls)"
            f"{f', for there is no {config}, which DASK_CONFIG names' if absent else ''}: name the "
            f"folder of the cluster's certificates in DASK_CONFIG ({_MAKES_THEM})."
        )
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        return _unreadable(named, error)
    return None


def _unreadable(named: dict[str, Any], error: Exception) -> str:
    settings = "(distributed.comm.tls, in a file that DASK_CONFIG names)"
    for file in filter(None, (named["ca_file"], named["cert"], named["key"])):
        try:
            Path(file).read_bytes()
        except OSError as own:
            why = "is not there" if isinstance(own, FileNotFoundError) else f"{own.strerror}"
            return (
                f"Dask's settings {settings} name {file}, which cannot be read: {why.lower()}. "
                f"Copy the folder of the cluster's certificates to where its tls.yaml says, as "
                f"this user, or correct the paths in there."
            )
    pair = f"{named['cert']} and {named['key'] or 'its key'}"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{pair} do not belong together {settings}: take both from one folder."
    return f"{named['ca_file']}, {pair} cannot be used as certificates {settings}: {error}."


def refusal(address: str, timeout: float, security: Security | None = None) -> str | None:
    """Say why two sides of a connection do not understand each other; None if that is not it.

    Connects once, and waits for the scheduler's first word. Nothing but TLS is said.

    Parameters
    ----------
    address : str
        Of a scheduler.
    timeout : float
        Seconds to wait for each answer.
    security : Security, optional
        What the client has; by default it is made of Dask's settings.
    """
    security = security or _distributed.Security()
    scheme, rest = parse_address(address)
    if scheme not in ("tcp", "tls"):
        return None
    place = parse_host_port(rest)
    try:
        if scheme == "tcp":
            if not _speaks_tls(place, timeout):
                return None
            return (
                f"What answers at {address} is encrypted: write tls://{rest}, and name the folder "
                f"of the cluster's certificates in DASK_CONFIG ({_MAKES_THEM})."
            )
        _handshake(place, security, timeout)
    except ssl.SSLError as error:
        if not _is_of_tls(error) and _speaks_first(place, timeout):
            return (
                f"What answers at {address} is not encrypted: start the scheduler and its workers "
                f"with certificates (DASK_CONFIG; {_MAKES_THEM}), or write tcp://{rest}."
            )
        return _disagreement(address, security, error)
    except OSError:  # nobody is there, or says anything: Dask waits longer
        return None
    return None


def _disagreement(address: str, security: Security, error: ssl.SSLError) -> str:
    named = security.get_tls_config_for_role("client")
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The scheduler at {address} has no certificate that {named['ca_file']} vouches for "
            f"({error.verify_message}). {_ONE_FOLDER}"
        )
    why = (error.reason or str(error)).replace("_", " ").lower()
    if _is_of_tls(error):
        why = why.partition("alert ")[2]
        return (
            f"The scheduler at {address} refuses the certificate {named['cert']} ({why}). "
            f"{_ONE_FOLDER}"
        )
    return f"No encrypted connection to {address} comes about ({why}). {_ONE_FOLDER}"


def _is_of_tls(error: ssl.SSLError) -> bool:
    """Whether the other side speaks TLS: it has sent a certificate, or an alert."""
    return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in (error.reason or "")


def _handshake(place: tuple[str, int], security: Security, timeout: float) -> None:
    """Connect as Dask does, until the scheduler, who speaks first, has spoken.

    In TLS 1.3 a client is done before its own certificate is looked at: only the first answer
    says whether it is let in.
    """
    context = security.get_connection_args("client")["ssl_context"]
    with _connected(place, timeout) as plain, context.wrap_socket(plain) as stream:
        stream.recv(1)


def _speaks_tls(place: tuple[str, int], timeout: float) -> bool:
    # Whose certificate it is does not matter: nothing is said but hello.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if _speaks_first(place, min(1.0, timeout)):
        return False
    try:
        with _connected(place, timeout) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return _is_of_tls(error)  # of TLS 1.2, which asks for our certificate at once
    except OSError:
        return False


def _speaks_first(place: tuple[str, int], timeout: float) -> bool:
    """Whether somebody says anything to who has not said a word: Dask without TLS does."""
    with suppress(OSError), _connected(place, timeout) as plain:
        return bool(plain.recv(1))
    return False


def _connected(place: tuple[str, int], timeout: float) -> socket.socket:
    return socket.create_connection(place, timeout)
