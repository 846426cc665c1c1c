"""Paths, URLs and the options that go with them; what may not go with them is credentials.

A spec of a store travels: into task graphs, logs, model files. So nothing secret may enter one;
every process finds its own credentials in its environment or role.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Options",
    "check_options",
    "crosses_network",
    "is_secret_name",
    "is_secret_value",
    "join_url",
    "normalize_url",
    "redacted",
    "same_place",
    "scheme_of",
]

Options = tuple[tuple[str, str | int | float | bool], ...]
"""Storage options as sorted pairs: hashable, comparable and cheap to pickle."""

_SECRET = re.compile(
    r"key|secret|token|passw|passphrase|pwd|credential|conn(ection)?_?str"
    r"|bearer|jwt|(?<!skip_)signature|hmac|private"
    r"|(^|_)(sas|sig|otp|login|pass|pw|auth|authorization|cookies?|cert_pem)($|_)"
)
# In a value: "Password=…" and the like of connection strings, a signature in a query, user:pw@.
_SECRET_VALUE = re.compile(
    r"(accountkey|sharedaccess\w*|sig|signature|token|passw(or)?d|pwd)\s*=|^[^\s/@]*:[^\s@]*@", re.I
)
_CHAINED_URL = re.compile(
    r"^[A-Za-z][\w+.-]*::|^(zip|tar|libarchive)://.*::|::[A-Za-z][\w+.-]*://", re.DOTALL
)
_HOST = re.compile(r"([^\s:@?#\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")
_CONTAINER = re.compile(r"[A-Za-z0-9$-]+")
_ALIASES = {"s3a": "s3", "gcs": "gs", **dict.fromkeys(("azure", "adl", "abfs", "abfss"), "az")}
_NOT_SECRET = frozenset(
    {
        "bucket_key_enabled",
        "container_authorization_token_file",  # a path
        "sse_bucket_key_enabled",
        "sse_kms_key_id",  # an ARN
        "web_identity_token_file",  # a path
    }
)
_REMEDY = (
    "Credentials do not go into options or URLs, which travel to workers and into files: give "
    "every worker its own through environment variables (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY) or the role "
    "of its machine; for public data say skip_signature=true."
)


def check_options(options: Mapping[str, Any] | None) -> Options:
    """Return storage options as sorted pairs, refusing those that look like credentials.

    Parameters
    ----------
    options : mapping of str to str, int, float or bool, optional
        For example ``{"endpoint": "http://localhost:9000", "skip_signature": True}``.

    Raises
    ------
    InputError
        For a name that looks secret, a value that is not a plain scalar, or one that carries a
        credential (as in ``http://user:password@proxy``). The message never repeats a value.
    """
    if options is None:
        return ()
    for name, value in options.items():
        if not isinstance(name, str):
            raise InputError(f"A storage option's name must be a string, got {name!r}.")
        if is_secret_name(name):
            raise InputError(f"Storage option {name!r} looks like a credential. {_REMEDY}")
        if isinstance(value, str) and is_secret_value(name, value):
            raise InputError(f"The value of storage option {name!r} has a credential. {_REMEDY}")
        if not isinstance(value, str | int | float | bool):
            raise InputError(
                f"Storage option {name!r} must be a string, a number or a boolean, not "
                f"{type(value).__name__}: give nested settings flat, for example "
                f"endpoint='http://localhost:9000'."
            )
    return tuple(sorted(options.items()))


def is_secret_name(name: str) -> bool:
    """Whether an option of this name would carry a credential."""
    lowered = name.lower().replace("-", "_")
    lowered = lowered.removeprefix("aws_").removeprefix("google_").removeprefix("azure_")
    return lowered not in _NOT_SECRET and _SECRET.search(lowered) is not None


def is_secret_value(name: str, value: str) -> bool:
    """Whether an option's value carries a credential, as in ``http://user:password@proxy``."""
    # A user agent is a sentence, which may well hold a link and the address of a person.
    userinfo = r"://[^\s/]*@" if name == "user_agent" else r"://.*@"
    return re.search(userinfo, value) is not None or _SECRET_VALUE.search(value) is not None


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case; "file" for a plain path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.\-]+)://", url)
    return match[1].lower() if match else "file"


def crosses_network(url: str) -> bool:
    """Whether what lies at a URL comes from elsewhere: not from a disk, nor from this memory."""
    return scheme_of(url) not in {"file", "memory"}


def normalize_url(url: str | os.PathLike[str]) -> str:
    """Return an absolute local path, or a URL without a trailing slash; gcs:// is gs://.

    Raises
    ------
    InputError
        For an empty path, or a URL that carries a user name, a password or a query (such as a
        signed URL's). The message never repeats them.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"Expected a path or URL, got {text!r}.")
    if _CHAINED_URL.search(text):
        raise InputError(
            "A URL that chains protocols (a::b://…) is not taken as such: open it and pass the "
            "array, for example "
            "`zarr.open_array(zarr.storage.FsspecStore.from_url(X, read_only=True), mode='r')`."
        )
    scheme = scheme_of(text)
    if scheme in {"file", "local"}:
        return _local_path(text)
    authority, _, path = text.partition("://")[2].partition("/")
    user, at, host = authority.rpartition("@")
    shown = (
        f"{scheme}://{host}/{_without_query(path)}" if _HOST.fullmatch(host) else f"{scheme}://…"
    )
    container = scheme in {"abfs", "abfss", "az"} and "." in host and _CONTAINER.fullmatch(user)
    if at and not container:
        raise InputError(f"The URL {shown} has a user name or password before an '@'. {_REMEDY}")
    if "?" in text or "#" in text:
        raise InputError(
            f"The URL {shown} has a query or a fragment, so the keys of chunks cannot follow it. "
            f"{_REMEDY}"
        )
    if not host:
        raise InputError(f"The URL {text!r} names no bucket or host: expected {scheme}://NAME/….")
    if not _HOST.fullmatch(host):
        # Such as https://user:pass/word@host, which says nothing before the slash but a secret.
        raise InputError(
            f"The {scheme}:// URL has no valid host or bucket before its first '/'. {_REMEDY}"
        )
    spelled = "gs" if scheme == "gcs" else scheme  # fsspec knows both, obstore the one
    return f"{spelled}://{user}{at}{host}/{path}".rstrip("/")


def _local_path(text: str) -> str:
    if re.match(r"(file|local)://", text, re.I):
        text = unquote(urlsplit(text).path)
    elif "://" in text:
        raise InputError(
            f"{text.partition('://')[0]!r}… starts a URL of no known form: expected a path or "
            f"PROTOCOL://NAME/…."
        )
    return str(Path(text).expanduser().absolute())


def _without_query(path: str) -> str:
    """Cut a path before its query: signatures live there."""
    return re.split(r"[?#]", path)[0]


def redacted(text: str) -> str:
    """Return a message of somebody else's without what the URLs in it may give away."""
    text = re.sub(r"([A-Za-z][A-Za-z0-9+.\-]*://)[^\s'\"<>?#]*@", r"\1…@", text)
    return re.sub(r"([A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>?#]*)[?#][^\s'\"<>)]*", r"\1?…", text)


def same_place(one: str, other: str) -> bool:
    """Whether two normal paths or URLs lead to the same array, or one inside the other.

    Local paths are followed through links; of URLs the spelling is compared, not the server
    behind it, so one bucket under two endpoints counts as one place.
    """
    if scheme_of(one) != "file" or scheme_of(other) != "file":
        first, second = _canonical(one), _canonical(other)
        return first == second or first.startswith(f"{second}/") or second.startswith(f"{first}/")
    a, b = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if a.is_relative_to(b) or b.is_relative_to(a):
        return True
    return a.exists() and b.exists() and a.samefile(b)


def _canonical(url: str) -> str:
    scheme = scheme_of(url)
    if scheme == "file":
        return f"file://{os.path.realpath(url)}"
    scheme = _ALIASES.get(scheme, scheme)
    authority, _, path = url.partition("://")[2].partition("/")
    if scheme == "az":
        authority = authority.partition("@")[0]
    return f"{scheme}://{authority}{posixpath.normpath('/' + unquote(path).lstrip('/'))}".rstrip(
        "/"
    )


def join_url(url: str, *parts: str) -> str:
    """Append path components; empty ones are left out."""
    return "/".join([url.rstrip("/") or "/", *(p.strip("/") for p in parts if p.strip("/"))])
