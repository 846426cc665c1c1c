"""The dashboard's page in a browser: it says what is posted, and runs nothing that is posted."""

from __future__ import annotations

import asyncio
import html
import json
import subprocess
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tornado.web import Application, RequestHandler

from dask_gmm.progress.dashboard import routes
from dask_gmm.progress.dashboard.plugin import FitsPage
from dask_gmm.progress.run import Ending, Run
from tests.progress.test_dashboard import posted_by
from tests.report.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME = """<!DOCTYPE html><title>frame</title><body style="margin:0">
<iframe src="/dask-gmm" style="width:{width}px;height:2000px;border:0"></iframe>
<pre id="found"></pre>
<script>
setTimeout(() => {{
  const d = document.querySelector("iframe").contentDocument;
  document.getElementById("found").textContent = JSON.stringify({{
    text: d.body.innerText, alerts: window.alerted || 0, title: d.title,
    wide: d.documentElement.scrollWidth, images: d.images.length,
    bars: d.querySelectorAll("[role=progressbar]").length,
    curves: d.querySelectorAll("svg polyline").length,
  }});
}}, 1500);
</script>"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the handlers, with a board as a scheduler has it."""
    page = FitsPage()
    page.board.take(1e12, posted_by(Run("fit", "s3://bucket/points.zarr")))
    evil = "<img src=x onerror='parent.alerted=1'>"
    page.board.take(1e12, posted_by(Run("selection", evil)))
    ended = posted_by(Run("fit", "old.zarr"), ending=Ending("failed", "SchedulerLostError", 9.0))
    page.board.take(1e12, ended)
    page.board.take(1e12, {**posted_by(Run("fit")), "stage": "<b>drawing</b> a sample"})
    bare = {"id": "bare", "state": "running", "blocks_total": 5, "rows_per_second": 3.0}
    page.board.take(1e12, bare)
    page.board.take(time.time() - 20, posted_by(Run("fit", "dead.zarr")))
    scheduler: Any = SimpleNamespace(
        workers={"a": 1, "b": 2}, total_nthreads=8, plugins={FitsPage.name: page}
    )

    class Frame(RequestHandler):
        def get(self, width: str) -> None:
            self.write(FRAME.format(width=width))

    mine = [(f"/{path}", handler, {"dask_server": scheduler}) for path, handler, _ in routes]
    ready, where = threading.Event(), {}

    async def serve() -> None:
        application = Application([*mine, (r"/frame/(\d+)", Frame)])
        server = application.listen(0, "127.0.0.1")
        where["port"] = next(iter(server._sockets.values())).getsockname()[1]
        where["loop"], where["stop"] = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await where["stop"].wait()
        server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield f"http://127.0.0.1:{where['port']}"
    where["loop"].call_soon_threadsafe(where["stop"].set)
    thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser(url: str, width: int) -> None:
    done = subprocess.run(
        [
            *(chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--virtual-time-budget=4000", "--dump-dom", f"{url}/frame/{width}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    text = done.stdout.split('<pre id="found">')[1].split("</pre>")[0]
    found = json.loads(html.unescape(text))
    assert found["title"] == "(5) Mixture fits on this cluster"
    assert found["wide"] <= width, "nothing makes the page wider than the window"
    assert (found["alerts"], found["images"]) == (0, 0)
    assert "2 workers, 8 threads" in found["text"]
    assert "pass 3 of ≤ 100" in found["text"]
    assert "fit · 3 components of 2 features · s3://bucket/points.zarr" in found["text"]
    assert "4 of 10 blocks · 3.0 s left of this pass" in found["text"]
    assert "−0.500000 nats/row" in found["text"]
    assert "<img src=x onerror='parent.alerted=1'>" in found["text"]
    assert "<b>drawing</b> a sample …" in found["text"]
    assert "failed (SchedulerLostError)" in found["text"]
    assert "0 of 5 blocks" in found["text"]
    assert "silent for" in found["text"]
    assert (found["bars"], found["curves"]) == (4, 4)
