"""Why a store refused, where its answer says so, and what to do about it.

Stores of all kinds answer in words of their own, somewhere in many lines. What they have in common
is told here in a clause, with its remedy.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["EXPIRED_CODES", "Refusal", "known_refusal", "wants_new_credentials"]

EXPIRED_CODES = "ExpiredToken|TokenRefreshRequired|RequestExpired"
"""What S3 calls credentials that were good once; it says so with 400 Bad Request."""


class Refusal(NamedTuple):
    """A clause that says why, and a sentence that says what to do."""

    why: str
    remedy: str


_KNOWN: tuple[tuple[str, Refusal], ...] = (
    (
        r"InvalidCertificate\(\s*Expired|certificate has expired",
        Refusal(
            "its certificate has expired",
            "Whoever runs the server has to renew it; if it has been renewed, check the clock of "
            "this machine.",
        ),
    ),
    (
        r"InvalidCertificate\(\s*NotValidForName|Hostname mismatch",
        Refusal(
            "its certificate is for another name",
            "Check the address: it must be spelled as the certificate has it.",
        ),
    ),
    (
        r"InvalidCertificate\(|certificate verify failed",
        Refusal(
            "its certificate is signed by nobody who is trusted here",
            "If it is a private authority's, give the path of that one's certificate: "
            "ca_file=PATH (of a proxy's, proxy_ca_file=PATH).",
        ),
    ),
    (
        r"UserProjectMissing|requester pays bucket but no user project",
        Refusal(
            "who reads this bucket pays for it",
            "Say which project to charge: user_project=PROJECT.",
        ),
    ),
    (
        r"NoSuchBucket|ContainerNotFound|no bucket named|specified (bucket|container) does not",
        Refusal("there is no such bucket", "Check its name, or make it first."),
    ),
    (
        (
            rf"(?P<code>(?:{EXPIRED_CODES})\w*|TokenExpired)|token (has|is) expired"
            r"|Signature not valid in the specified"
        ),
        Refusal(
            "the credentials of this process have expired",
            "Give it new ones through its environment, or a role that renews them.",
        ),
    ),
    (
        r"(?P<code>RequestTimeTooSkewed)",
        Refusal("the clock of this machine is wrong", "Set it, for instance by NTP."),
    ),
    (
        r"407 Proxy Authentication Required",
        Refusal(
            "the proxy asks who this is",
            "Credentials for a proxy do not go into options, which travel: give every process "
            "HTTPS_PROXY in its environment.",
        ),
    ),
)


def wants_new_credentials(error: BaseException) -> bool:
    """Whether credentials were refused that may have expired: there may be others soon."""
    words = f"{EXPIRED_CODES}|AuthenticationFailed|401 Unauthorized"
    return re.search(words, str(error)) is not None


def known_refusal(error: BaseException) -> Refusal | None:
    """Return why a store refused, None where its answer is none of those that are known."""
    text = str(error)
    for pattern, refusal in _KNOWN:
        found = re.search(pattern, text)
        if found is not None:
            code = found.groupdict().get("code")
            return refusal if code is None else refusal._replace(why=f"{refusal.why} ({code})")
    return None
