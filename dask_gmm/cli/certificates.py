"""`dask-gmm certificates`: a private authority, and certificates for a cluster that it signs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_gmm.cli.options import Command, option, output_options
from dask_gmm.cli.session import DONE

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session

__all__ = ["certificates"]


@click.command(
    cls=Command,
    short_help="Make the certificates of an encrypted cluster.",
    examples=[
        ("certificates, and Dask's settings that name them", "dask-gmm certificates tls"),
        (
            "for containers that find them in /etc/dask/tls, with names for who checks names",
            """dask-gmm certificates tls --installed-at /etc/dask/tls \\
    --host gmm-scheduler --host 10.0.0.1""",
        ),
        (
            "a year later: new ones, which the old ones trust",
            "dask-gmm certificates tls-2 --authority tls-authority --installed-at $PWD/tls",
        ),
    ],
)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@option(
    "--host",
    multiple=True,
    metavar="NAME|IP",
    help="A name or an address to write into the certificates; repeatable. Dask trusts whoever has "
    "a certificate of this authority, whatever its name: this is for other programs.",
)
@option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    metavar="N",
    help="How long the certificates are good for. 'dask-gmm doctor' warns two weeks before.",
)
@option(
    "--authority",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Where the authority's private key lies, or is to lie: one that is there signs, and none "
    "is made. Default: DIRECTORY-authority, beside DIRECTORY.",
)
@option(
    "--installed-at",
    metavar="PATH",
    help="Where DIRECTORY will lie on the machines of the cluster, for Dask's settings, which need "
    "absolute paths. Default: where it is made.",
)
@output_options
@click.pass_obj
def certificates(
    session: Session,
    /,
    directory: Path,
    host: tuple[str, ...],
    days: int,
    authority: Path | None,
    installed_at: str | None,
) -> int:
    """Make a private authority, and certificates for scheduler, workers and clients.

    With them all of Dask's connections are encrypted, and who has none is refused: a scheduler's
    port else lets anyone run code. DIRECTORY gets a certificate and a key for each role, the
    authority's certificate, and tls.yaml, which tells Dask of them and to refuse anything else:
    name DIRECTORY in DASK_CONFIG. Keys can be read by you alone. Nothing is ever overwritten.

    DIRECTORY belongs on all machines of the cluster, and of its users, at the same path:

    \b
    export DASK_CONFIG=$PWD/tls          # before each of these
    dask scheduler                       # listens at tls://
    dask worker tls://10.0.0.1:8786
    dask-gmm doctor --scheduler tls://10.0.0.1:8786

    The authority's key does not, and no running cluster needs it: whoever has it can make
    certificates that yours trusts. Keep it offline, to sign more later by --authority, or delete
    it. Dashboards are not encrypted: keep their ports inside, or say --no-dashboard. Needs the
    package cryptography: pip install 'dask-gmm[tls]'.
    """  # noqa: D301 - a backspace, which keeps click from wrapping
    from dask_gmm.cli.authority import make_certificates

    if authority is None:
        whole = directory.absolute()
        authority = whole.with_name(f"{whole.name}-authority")
    made = make_certificates(directory, authority, host, days, installed_at)
    if session.json:
        session.emit({"command": "certificates", **made.as_json()})
        return DONE
    signer = "made" if made.new_authority else "used, as it was there"
    facts = [
        ("certificates", f"{made.directory}, until {made.expires:%Y-%m-%d}"),
        ("settings", f"export DASK_CONFIG={made.installed_at}"),
        ("authority's key", f"{made.authority_key} ({signer}): keep it offline, or delete it"),
    ]
    from dask_gmm.cli.outcome import print_result
    from dask_gmm.cli.tables import key_values

    print_result(session, key_values(facts))
    return DONE
