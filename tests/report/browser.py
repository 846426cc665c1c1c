"""A headless browser that opens files of this machine, and says what they do."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.process import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DESK", "PHONE", "Opened", "browsing", "chromium"]

PHONE, DESK = (360, 740), (1280, 900)


@dataclass
class Opened:
    """A page that a browser has opened, and what came of it.

    Attributes
    ----------
    page : playwright's Page
    requests : list of str
        All URLs that were asked for, the page's own first.
    complaints : list of str
        What was written to the console, and errors.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def chromium() -> str:
    """Return the path of the browser; without one the test is skipped, in CI it fails."""
    return program("chromium", "apt-get install chromium")


@contextmanager
def browsing() -> Iterator[Any]:
    """Run a browser; without one the test is skipped, in CI it fails."""
    path = chromium()
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        # Whoever is root, in a container, has no sandbox; the file is one of ours.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, file: Path, size: tuple[int, int] = DESK, scheme: str = "light"
) -> Iterator[Opened]:
    """Open a file in a window of some size and colour scheme."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == PHONE
    )
    try:
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto(file.as_uri())
        yield found
    finally:
        context.close()
