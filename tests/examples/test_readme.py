"""README: one screen for each reader, two commands, and what it shows. It runs in `test_pages`."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.examples import pages
from tests.examples.pages import README, ROOT

TEXT = README.read_text(encoding="utf-8")
MOST_LINES = 200
SCREEN = 60
"""Lines of a reader's section."""


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/dask-gmm demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
    ],
)
def test_the_two_commands_stand_alone(command: str) -> None:
    assert f"```bash\n{command}\n```" in TEXT


def test_the_version_of_python_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in TEXT


def test_a_screen_for_each_reader() -> None:
    assert len(TEXT.splitlines()) <= MOST_LINES
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
    for reader, page in {
        "On a laptop": "examples/getting-started.md",
        "On a cluster": "examples/cluster.md",
        "In the cloud": "examples/cloud.md",
    }.items():
        assert len(sections[reader].splitlines()) <= SCREEN
        assert page in sections[reader]
        assert "```python" in sections[reader]


def test_figures_are_those_of_the_performance_page() -> None:
    """The table here is some of the rows and columns there."""
    there = (pages.EXAMPLES / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:\d+, \d+, \d|pixels, K = \d+)) \| (.+) \|$", TEXT, re.M)
    assert len(rows) == 6
    for name, cells in rows:
        assert f"| {name} | {cells} |" in there
    for claim in ("136 to 268 reads", ".0006 to .0255", "5.8×", "151×"):
        assert claim in there


def test_every_promise_names_its_test() -> None:
    table = TEXT.partition("## What it promises")[2].partition("\n\n[")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 6
    for row in rows:
        assert re.search(r"\(tests/[\w/]+\.py\) \|$", row), row
