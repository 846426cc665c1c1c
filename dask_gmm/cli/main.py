"""`dask-gmm`: the group of commands, and the boundary where exceptions become sentences.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the fit stopped without converging, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dask_gmm.cli.certificates import certificates
from dask_gmm.cli.compare import compare
from dask_gmm.cli.demo import demo
from dask_gmm.cli.doctor import doctor
from dask_gmm.cli.explain import explain
from dask_gmm.cli.fit import fit
from dask_gmm.cli.impute import impute
from dask_gmm.cli.manifest import manifest
from dask_gmm.cli.merge import merge
from dask_gmm.cli.plan import plan
from dask_gmm.cli.predict import predict, score
from dask_gmm.cli.regress import regress
from dask_gmm.cli.report import report
from dask_gmm.cli.select import select
from dask_gmm.cli.session import DONE, FAILED, Session
from dask_gmm.cli.show import show
from dask_gmm.cli.signals import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    ending_at_second_signal,
    farewell,
    signals_as_exceptions,
)
from dask_gmm.cli.simulate import simulate
from dask_gmm.cli.update import update

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


class _InterruptedError(Exception):
    """Carries an interruption past click, which would print *Aborted!* and lose the signal."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _ErrorBoundary(click.Group):
    """A group that ends every run with an exit code and at most one sentence of complaint."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run as a program: from a shell, and for nothing else in this process."""
        try:
            self.main(*args, **kwargs, program=True)
        except SystemExit as end:
            if end.code in (INTERRUPTED, TERMINATED):
                # Threads that wait for a store or are deep in BLAS cannot be stopped, and an
                # ordinary exit would wait for them. Everything has been cleaned up by now.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code))
            raise
        raise AssertionError("unreachable")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which a newcomer needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and let an interruption through unharmed."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError(
                TERMINATED if isinstance(error, Terminated) else INTERRUPTED
            ) from error

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run and exit; `standalone_mode` is ignored, for this group always stands alone."""
        extra.pop("standalone_mode", None)
        session = Session(words=tuple(sys.argv[1:] if args is None else args))
        program = extra.pop("program", False)
        at_once = ending_at_second_signal(session) if program else nullcontext()
        with at_once, signals_as_exceptions():
            code = self._run_explained(session, args, prog_name or "dask-gmm", extra)
        sys.exit(code)

    def _run_explained(
        self, session: Session, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]
    ) -> int:
        try:
            code = super().main(args, prog_name, standalone_mode=False, obj=session, **extra)
        except _InterruptedError as end:
            return _leave(session, end, farewell(session, end.exit_code), end.exit_code)
        except click.exceptions.NoArgsIsHelpError as usage:
            click.echo(usage.ctx.get_help() if usage.ctx else "")
            return usage.exit_code
        except click.UsageError as usage:
            hint = f" Try '{usage.ctx.command_path} --help'." if usage.ctx else ""
            return _leave(session, usage, f"{usage.format_message()}{hint}", usage.exit_code)
        except click.ClickException as error:
            return _leave(session, error, error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
            return _leave(session, error, farewell(session, code), code)
        except BrokenPipeError:
            # `dask-gmm show MODEL | head`: the reader has had enough. Python flushes stdout once
            # more when it exits, so give it somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except Exception as error:  # noqa: BLE001 - this is the boundary
            return _leave(session, error, explain(error), FAILED)
        return code if isinstance(code, int) else DONE


def _leave(session: Session, error: BaseException, sentence: str, code: int) -> int:
    if code >= INTERRUPTED:
        session.last_word.acquire()  # not got where a second signal is ending the process
    if session.debug:
        traceback.print_exception(error)
    if code == INTERRUPTED and session.err.is_terminal:
        session.err.print()  # below the ^C that the terminal has written
    session.complain("error" if code < INTERRUPTED else "stopped", sentence)
    return code


@click.group(
    name="dask-gmm",
    cls=_ErrorBoundary,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "\b\nStart here:\n"
        "  dask-gmm demo                     a mixture larger than memory, in two minutes\n"
        "  dask-gmm plan DATA -k 8           what a fit would cost, before it starts\n"
        "  dask-gmm fit DATA -k 8 -o MODEL   the fit itself\n"
        "  dask-gmm select DATA -k 2:12      how many components?\n"
        "  dask-gmm report MODEL DATA -o F   a page: what to worry about, figures, parameters\n"
        "  dask-gmm doctor DATA              what would go wrong or slowly, and what to do\n"
        "\n\b\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped without converging,\n"
        "130 interrupted, 143 terminated."
    ),
)
@click.version_option(package_name="dask-gmm", prog_name="dask-gmm")
def main() -> None:
    """Gaussian mixtures of data that does not fit in memory.

    DATA is the path or URL (s3://, gs://, az://, https://) of a Zarr array, of several, or of a
    Parquet table: every pass of a fit reads each of its blocks once, on the cores of this process,
    on local workers (--workers), or on a Dask cluster (--scheduler). Packed values (scale_factor,
    add_offset, _FillValue, ...) are decoded as they are read, as xarray does.
    """


for _command in (
    *(demo, plan, fit, select, update, show, compare, report, predict, merge, impute, regress),
    *(score, simulate),
    *(manifest, doctor, certificates),
):
    main.add_command(_command)
