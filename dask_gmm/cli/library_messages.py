"""Keeps the warnings and logs of libraries from spilling over the terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.explain import by_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.cli.session import Session

__all__ = ["one_line_warnings", "redirect_logs"]

_ROOTS = ("distributed", "tornado", "bokeh", "asyncio")
LOG_FORMAT = "%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"


@contextmanager
def one_line_warnings(session: Session) -> Iterator[None]:
    """Show each warning once, as one line."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        text = by_options(str(message))
        # The result says how a fit ended; scikit-learn's warning would say it again. Not worth its
        # import: who warned has imported it.
        known = sys.modules.get("sklearn.exceptions")
        repeats_result = known is not None and issubclass(category, known.ConvergenceWarning)
        if repeats_result or session.leaving or text in seen:
            return
        seen.add(text)
        session.complain("warning", text)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


class _OneLine(logging.Handler):
    """Shows errors of the cluster's own machinery as one line each, until the run ends."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.ERROR)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio and tornado complain about connections that a failing or ending cluster cut.
        if self._session.leaving or not record.name.startswith("distributed"):
            return
        self._session.complain("dask", record.getMessage().splitlines()[0])


@contextmanager
def redirect_logs(session: Session) -> Iterator[None]:
    """Send the cluster's log to the log file, or show its errors only; put all back at the end.

    To be entered after `distributed` was imported, which sets up handlers of its own.
    """
    handler: logging.Handler
    if session.log_file is not None:
        handler = logging.FileHandler(session.log_file)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        level = logging.INFO
    else:
        handler, level = _OneLine(session), logging.ERROR
    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] in _ROOTS]
    loggers = [logging.getLogger(name) for name in {*_ROOTS, *names}]
    before = [(log, log.handlers[:], log.propagate, log.level) for log in loggers]
    for log in loggers:
        log.handlers = [handler] if log.name in _ROOTS else []
        log.propagate = log.name not in _ROOTS
        log.setLevel(level if log.name in _ROOTS else logging.NOTSET)
    try:
        yield
    finally:
        for log, handlers, propagate, old_level in before:
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(old_level)
        handler.close()
