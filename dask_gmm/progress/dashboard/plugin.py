"""What runs in a scheduler: it hears what drivers post, and answers browsers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from functools import cache
from importlib.resources import files
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.web import RequestHandler

from dask_gmm.progress.dashboard.board import Board
from dask_gmm.progress.run import TOPIC

__all__ = ["FitsPage", "routes"]

# `distributed` and tornado are annotated in places only, and differently from release to release.
Scheduler = Any


class FitsPage(SchedulerPlugin):
    """Keeps the states that drivers post, and adds the page that shows them."""

    name = "dask-gmm-fits"
    idempotent = True

    def __init__(self) -> None:
        self.board = Board()

    def __reduce__(self) -> tuple[Any, ...]:
        return FitsPage, ()

    async def start(self, scheduler: Scheduler) -> None:
        """Begin; `distributed` calls this when a driver has brought the plugin."""
        self.begin(scheduler)

    def begin(self, scheduler: Scheduler) -> None:
        """Take in what was posted before, and add the page if the configuration has not."""
        for when, message in scheduler.get_events(TOPIC):
            self.board.take(when, message)
        patterns = list(_patterns(scheduler.http_application))
        if not any(pattern.endswith("/dask-gmm/fits.json") for pattern in patterns):
            prefix, mine = _prefix(patterns), {"dask_server": scheduler}
            handlers = [(prefix + path, handler, mine) for path, handler, _ in routes]
            scheduler.http_application.add_handlers(r".*$", handlers)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take in a message; `distributed` calls this for every event."""
        if topic == TOPIC:
            self.board.take(time.time(), msg)

    @classmethod
    def of(cls, scheduler: Scheduler) -> FitsPage:
        """Return the one that a scheduler has; give it one if no driver has yet."""
        found = scheduler.plugins.get(cls.name)
        if isinstance(found, cls):
            return found
        made = cls()
        made.begin(scheduler)
        scheduler.add_plugin(made, name=cls.name)
        return made


def _patterns(application: Any) -> Any:
    """The paths of an application's routes, as regular expressions."""
    for router in (application.default_router, application.wildcard_router):
        for rule in router.rules:
            for inner in getattr(rule.target, "rules", [rule]):
                regex = getattr(inner.matcher, "regex", None)
                if regex is not None:
                    yield regex.pattern.rstrip("$")


def _prefix(patterns: list[str]) -> str:
    """Where the scheduler's pages begin (``--dashboard-prefix``), by the one that all have."""
    for pattern in patterns:
        if pattern.endswith("/health"):
            return pattern.removesuffix("health")
    return "/"


class _Answer(RequestHandler):
    """What both addresses have in common; nothing is kept by a browser or taken from elsewhere."""

    def initialize(self, dask_server: Scheduler = None, extra: Any = None) -> None:
        self._scheduler = dask_server

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")


class FitsHandler(_Answer):
    """``/dask-gmm/fits.json``: the fits, and the cluster that they run on."""

    def get(self) -> None:
        """Write the states of all fits."""
        scheduler = self._scheduler
        now = time.time()
        answer = {
            "now": now,
            "cluster": {
                "workers": len(scheduler.workers),
                "threads": int(scheduler.total_nthreads),
            },
            "fits": FitsPage.of(scheduler).board.fits(now),
        }
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(json.dumps(answer, allow_nan=False))


class PageHandler(_Answer):
    """``/dask-gmm``: the page, which asks for the other."""

    def get(self) -> None:
        """Write the page."""
        text, policy = _page()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", policy)
        self.write(text)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets its own script and style run and nothing else."""
    text = files("dask_gmm.progress.dashboard").joinpath("page.html").read_text(encoding="utf-8")

    def digest(tag: str) -> str:
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    return text, (
        f"default-src 'none'; connect-src 'self'; img-src data:; "
        f"script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'"
    )


routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [
    (r"dask-gmm", PageHandler, {}),
    (r"dask-gmm/fits.json", FitsHandler, {}),
]
