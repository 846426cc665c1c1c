"""A private authority in a folder of its own, and the certificates of a cluster that it signs."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dask_gmm.errors import InputError, OutputExistsError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as missing:
    raise InputError(
        "Certificates are made by the package cryptography, which is not installed here: "
        "pip install 'dask-gmm[tls]'. Nothing but this command needs it."
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Made", "make_certificates"]

ROLES = ("scheduler", "worker", "client")
_AUTHORITY_DAYS = 3650
_CLOCKS = timedelta(hours=1)  # by which a machine's may be behind

_SETTINGS = """\
# Dask's settings for an encrypted cluster, made by dask-gmm certificates: name this folder in
# DASK_CONFIG, on every machine. Other settings may lie beside it, in files that end in .yaml.
distributed:
  comm:
    # Neither listen nor connect without encryption: tcp:// is an error, not a way around.
    require-encryption: true
    tls:
      # Whoever has a certificate of this authority is let in, and nobody else.
      ca-file: {ca}
"""

_ROLE_SETTINGS = """\
      {role}:
        cert: {certificate}
        key: {key}
"""


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes
    ----------
    directory : Path
        Certificates, their keys and Dask's settings.
    installed_at : str
        Where the settings expect them.
    authority_key : Path
    new_authority : bool
        Made too, and not found.
    expires : datetime
    hosts : tuple of str
    """

    directory: Path
    installed_at: str
    authority_key: Path
    new_authority: bool
    expires: datetime
    hosts: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "directory": str(self.directory),
            "installed_at": self.installed_at,
            "authority_key": str(self.authority_key),
            "new_authority": self.new_authority,
            "expires": self.expires.isoformat(timespec="seconds"),
            "hosts": list(self.hosts),
        }


class _Authority(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_certificates(
    directory: Path,
    authority: Path,
    hosts: Sequence[str] = (),
    days: int = 365,
    installed_at: str | None = None,
) -> Made:
    """Make a certificate and a key for each role, and the authority if there is none.

    Parameters
    ----------
    directory : Path
        Where certificates, keys and settings go; made if it is not there.
    authority : Path
        Where the authority's key and certificate lie, or are to lie.
    hosts : sequence of str
        Names and addresses for the certificates.
    days : int
        How long they are good for; no longer than the authority's own.
    installed_at : str, optional
        Where the directory will be on the cluster's machines.

    Raises
    ------
    OutputExistsError
        A file of these is there already; nothing was written.
    InputError
        A host is no name, or what lies at the authority's place is none.
    """
    where = installed_at or str(directory.absolute())
    if not Path(where).is_absolute():
        raise InputError(
            f"{where} is no absolute path: Dask would look for it below whatever directory each "
            f"process starts in. Say where the certificates will lie, from the root on."
        )
    names = [_general_name(host) for host in hosts]
    if authority.resolve() == directory.resolve():
        raise InputError(
            f"{directory} would hold the authority's key too, and travel with it to every machine "
            f"of the cluster. Keep it in a folder of its own (--authority)."
        )
    known = _read_authority(authority)
    signer = known or _new_authority()
    now = datetime.now(UTC)
    expires = min(now + timedelta(days=days), signer.certificate.not_valid_after_utc)
    if expires <= now:
        raise InputError(
            f"The authority in {authority} expired on {expires:%Y-%m-%d}: make a new one, in "
            f"another directory, and certificates for all machines."
        )
    files = {directory / "tls.yaml": _settings(where).encode()}
    files[directory / "ca.pem"] = _pem(signer.certificate)
    for role in ROLES:
        files |= dict(_signed(directory, role, names, signer, expires))
    if known is None:
        files[authority / "ca-key.pem"] = _key_pem(signer.key)
        files[authority / "ca.pem"] = _pem(signer.certificate)
    _write_all(files)
    return Made(directory, where, authority / "ca-key.pem", known is None, expires, tuple(hosts))


def _settings(where: str) -> str:
    def file(name: str) -> str:
        return json.dumps(str(Path(where) / name))  # a string of YAML too, whatever is in it

    text = _SETTINGS.format(ca=file("ca.pem"))
    for role in ROLES:
        text += _ROLE_SETTINGS.format(
            role=role, certificate=file(f"{role}.pem"), key=file(f"{role}-key.pem")
        )
    return text


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if not all(label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise InputError(
            f"{host!r} is no host name or address: give it without a port or a scheme, as in "
            f"--host scheduler.example.org --host 10.0.0.1."
        )
    return x509.DNSName(host)


def _read_authority(folder: Path) -> _Authority | None:
    """Return the authority of a folder; None if there is none.

    Raises
    ------
    InputError
        Half of one, or something else.
    """
    key_file, certificate_file = folder / "ca-key.pem", folder / "ca.pem"
    found = [file.is_file() for file in (key_file, certificate_file)]
    if not any(found):
        return None
    if not all(found):
        absent = (key_file, certificate_file)[found.index(False)]
        raise InputError(
            f"There is no {absent}, which the authority in {folder} needs to sign. Put it back, or "
            f"name another directory with --authority for a new authority."
        )
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    except (ValueError, TypeError) as error:
        reason = str(error).split(".")[0]
        raise InputError(f"What lies in {folder} cannot be read as an authority ({reason}).") from (
            error
        )
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key().public_numbers() != _public_numbers(certificate)
    ):
        raise InputError(f"{key_file} is not the key of {certificate_file}.")
    return _Authority(key, certificate)


def _public_numbers(certificate: x509.Certificate) -> object:
    public = certificate.public_key()
    return public.public_numbers() if isinstance(public, ec.EllipticCurvePublicKey) else None


def _new_authority() -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # Its name is its own: an old and a new authority would else be taken for one.
    serial = x509.random_serial_number()
    name = _named(f"dask-gmm authority {serial:040x}"[:64])
    now = datetime.now(UTC)
    unsigned = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Authority(key, unsigned.sign(key, hashes.SHA256()))


def _signed(
    directory: Path,
    role: str,
    names: list[x509.GeneralName],
    signer: _Authority,
    expires: datetime,
) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of a role: its certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Schedulers and workers listen and connect. A client only connects: nobody takes its
    # certificate for a scheduler's or a worker's.
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role != "client":
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    own = [x509.DNSName(f"dask-gmm-{role}"), *(names if role != "client" else ())]
    issuer = signer.key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_named(f"dask-gmm-{role}"))
        .issuer_name(signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _CLOCKS)
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName(own), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    yield directory / f"{role}.pem", _pem(certificate)
    yield directory / f"{role}-key.pem", _key_pem(key)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_all(files: dict[Path, bytes]) -> None:
    """Write all files or none, keys for their owner's eyes only; replace nothing."""
    for path in files:
        if os.path.lexists(path):
            raise OutputExistsError(
                f"{path} is there already, and certificates and keys are never overwritten: name "
                f"another directory, or move that one away once no process uses it."
            )
    written: list[Path] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = 0o600 if path.name.endswith("-key.pem") else 0o644
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                if hasattr(os, "fchmod"):  # not on Windows
                    os.fchmod(descriptor, mode)  # whatever the umask says
                file.write(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
