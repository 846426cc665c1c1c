"""What storage options mean to each kind of object store: one name for one thing in every cloud.

Files that options name are read by each process anew, so that what travels is their path.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from dask_gmm.data.urls import scheme_of
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CLOUD_OPTIONS", "OBJECT_SCHEMES", "ObjectSettings", "object_settings"]

_CLOUDS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    "gs": "gs",
    **dict.fromkeys(("az", "adl", "azure", "abfs", "abfss"), "az"),
    **dict.fromkeys(("http", "https"), "http"),
}
OBJECT_SCHEMES = frozenset(_CLOUDS)
"""Schemes of URLs that obstore opens."""

_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_excludes",
        "proxy_url",
        "randomize_addresses",
        "read_timeout",
        "timeout",
        "user_agent",
    }
)
RETRY_OPTIONS = frozenset({"max_retries", "retry_timeout"})
"""Options that say how often and how long to ask again, in any cloud."""

CLOUD_OPTIONS = RETRY_OPTIONS | {
    "ca_file",
    "proxy_ca_file",
    "proxy_excludes",
    "proxy_url",
    "requester_pays",
    "skip_signature",
    "user_project",
}
"""Options that mean something to object stores alone, and that other filesystems would overlook."""

_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where obstore finds an endpoint that no option names."""

_ALIASES = {"anon": "skip_signature", "endpoint_url": "endpoint"}  # what fsspec calls them


class ObjectSettings(NamedTuple):
    """What obstore is told.

    Attributes
    ----------
    client : dict
        About connections.
    config : dict
        About the cloud.
    """

    client: dict[str, Any]
    config: dict[str, Any]


def object_settings(url: str, options: Mapping[str, Any]) -> ObjectSettings:
    """Translate the storage options of an object store.

    Parameters
    ----------
    url : str
        Its URL, of one of `OBJECT_SCHEMES`.
    options : mapping
        Checked storage options. Beside obstore's own, each cloud knows: ``endpoint``;
        ``skip_signature`` (or ``anon``), for public data; ``proxy_url`` and ``proxy_excludes``;
        ``ca_file`` and ``proxy_ca_file``, the paths of PEM files with the certificates of private
        authorities, trusted beside the usual ones. S3 knows ``requester_pays``, Google
        ``user_project``, whom to charge for what is read.

    Raises
    ------
    InputError
        An option means nothing to this cloud; a file cannot be read here, or holds no certificate.
    """
    cloud = _CLOUDS[scheme_of(url)]
    client: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for given, value in options.items():
        name = _ALIASES.get(given, given)
        if name in RETRY_OPTIONS or (name == "skip_signature" and cloud == "http"):
            continue  # the store's affair; and nothing is signed on the web
        if name == "ca_file":
            client["root_certificate"] = _certificates(name, value)
        elif name == "proxy_ca_file":
            _need_proxy(options)
            client["proxy_ca_certificate"] = _certificates(name, value).decode()
        elif name in {"requester_pays", "user_project"}:
            _charge(url, cloud, name, value, client, config)
        elif name in _CLIENT_OPTIONS:
            client[name] = value
        elif name == "endpoint" and cloud == "gs":
            config["base_url"] = value
        else:
            config[name] = value
    if _endpoint_scheme(url, cloud, config) == "http":
        # Plain HTTP was asked for by name; obstore otherwise refuses it with "builder error".
        client.setdefault("allow_http", True)
    return ObjectSettings(client, config)


def _charge(
    url: str, cloud: str, name: str, value: Any, client: dict[str, Any], config: dict[str, Any]
) -> None:
    """Say who pays for requests."""
    if (cloud, name) == ("s3", "requester_pays"):
        if str(value).lower() not in {"false", "0", ""}:
            config["request_payer"] = True
    elif (cloud, name) == ("gs", "user_project"):
        client["default_headers"] = {"x-goog-user-project": str(value)}
    else:
        remedy = {
            "gs": "Google asks for the project to charge: user_project=PROJECT",
            "s3": "S3 charges whose credentials they are: requester_pays=true",
        }.get(cloud, "here nobody pays for what others read")
        raise InputError(f"Storage option {name!r} has no meaning for {url}: {remedy}.")


def _need_proxy(options: Mapping[str, Any]) -> None:
    if "proxy_url" not in options:
        raise InputError(
            "Storage option 'proxy_ca_file' says whom to trust as the proxy of proxy_url: give "
            "that too. The certificates of the store itself are those of ca_file."
        )


def _certificates(name: str, path: Any) -> bytes:
    """Read a file of certificates."""
    here = f"on this machine ({socket.gethostname()})"
    try:
        content = Path(str(path)).expanduser().read_bytes()
    except OSError as error:
        raise InputError(
            f"The file of storage option {name!r}, {path}, cannot be read {here}: "
            f"{error.strerror}. Every worker reads it under the same path: put it there."
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise InputError(
            f"The file of storage option {name!r}, {path}, holds no certificate {here}: it must be "
            f"PEM, with the lines BEGIN CERTIFICATE and END CERTIFICATE."
        )
    return content


def _endpoint_scheme(url: str, cloud: str, config: Mapping[str, Any]) -> str:
    if cloud == "http":
        return scheme_of(url)
    names = ("endpoint", "endpoint_url", "base_url")
    endpoint = next((str(v) for k, v in config.items() if k.lower().endswith(names)), None)
    if endpoint is None:
        found = (os.environ.get(name) for name in _ENDPOINT_VARIABLES[cloud])
        endpoint = next(filter(None, found), None)
    return urlsplit(endpoint).scheme.lower() if endpoint else "https"
