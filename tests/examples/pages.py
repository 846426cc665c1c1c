"""Pages of documentation as programs: what they show is run in order, and what it prints compared.

A page's fenced blocks are one session in a directory of its own: Python blocks share their names,
shell blocks their environment. A block of `text` is what the block before it prints, line by line;
`...` there stands for anything. A comment of HTML on the line above a fence says what else it is:

``<!-- not run: WHY -->``
    What this machine has not: a cloud, Spark, a notebook. Commands are still parsed.
``<!-- with NAME -->``
    Run where a server of that name is there, in a test that starts one.
``<!-- in shells of their own -->``
    Programs that go on in the background until the page ends.
``<!-- of NAME.py -->``
    A part of that example, letter for letter. The example has tests of its own.
``<!-- some lines -->``
    Lines that are among those printed, in this order.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from markdown_it import MarkdownIt

from dask_gmm.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
GUIDE = ROOT / "deploy" / "README.md"
PAGES = [README, *sorted(EXAMPLES.glob("*.md"))]
API = EXAMPLES / "api.md"
"""Written by `tests.examples.api_page`; its examples are doctests."""

LANGUAGES = {"bash", "python", "text", "math", "pycon"}
NOT_RUN, PART, SERVER = "not run: ", "of ", "with "
SOME, SHELLS = "some lines", "in shells of their own"
_MARK = re.compile(r"<!-- (.*?) -->\n?\Z")
_OPERATORS = re.compile(r"[|&;<>`]|\$\(")
_SECONDS = 180


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    language, text : str
    line : int
        Of the page, the first of the block's content; from 1.
    mark : str
        What the comment above says; "" without one.
    """

    language: str
    text: str
    line: int
    mark: str

    @property
    def runs(self) -> bool:
        """Whether it is a program that is run somewhere."""
        return self.language in ("bash", "python") and not self.mark.startswith((NOT_RUN, PART))

    @property
    def server(self) -> str:
        """What has to be there for it; "" for nothing."""
        return self.mark.removeprefix(SERVER) if self.mark.startswith(SERVER) else ""


def tokens(path: Path) -> list[Token]:
    """Return a page as GitHub's Markdown has it, as far as CommonMark and tables go."""
    return _parsed(path.read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for token in tokens(path):
        if token.type == "fence":
            assert token.map is not None
            first = token.map[0]
            mark = _MARK.search(lines[first - 1]) if first else None
            said = mark[1] if mark else ""
            found.append(Block(token.info.strip(), token.content, first + 2, said))
    return found


def inline(path: Path) -> Iterator[Token]:
    """Return what stands in a page's running text, token by token."""
    for token in tokens(path):
        yield from token.children or ()


def anchors(path: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    found: set[str] = set()
    parts = tokens(path)
    for opening, content in pairwise(parts):
        if opening.type == "heading_open":
            words = "".join(c.content for c in content.children or () if not c.type.endswith("_"))
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            number, unique = 0, name
            while unique in found:
                number += 1
                unique = f"{name}-{number}"
            found.add(unique)
    return found


def commands(block: Block) -> list[str]:
    """Return the lines of a shell block, wrapped ones joined, comments left out."""
    joined = re.sub(r"\s*\\\n\s*", " ", block.text)
    lines = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def same(quoted: str, printed: str, *, some: bool) -> bool:
    """Whether a page's output is what came out; trailing spaces, which editors strip, are none."""
    want, got = (
        [line.rstrip() for line in text.rstrip().splitlines()] for text in (quoted, printed)
    )
    if some:
        rest = iter(got)
        return all(any(_alike(line, other) for other in rest) for line in want)
    return _alike("\n".join(want), "\n".join(got))


def _alike(want: str, got: str) -> bool:
    return doctest.OutputChecker().check_output(f"{want}\n", f"{got}\n", doctest.ELLIPSIS)


@dataclass
class Session:
    """A page that is being read, by someone who types what it shows.

    Attributes
    ----------
    page, folder : Path
        What is read, and where; the directory of the process is `folder`.
    monkeypatch : MonkeyPatch
        Takes back what the page exports.
    instead : dict of str to str
        Addresses that the page writes, and what is there in a test.
    """

    page: Path
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    instead: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def read(self, only: str = "") -> None:
        """Run all blocks in order, and compare what they print with what the page says.

        With `only` those alone that are for a server of that name; else those for none.
        """
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setenv("MPLBACKEND", "Agg")
        with self.running:
            self._read([b for b in blocks(self.page) if b.server == only])

    def _read(self, chosen: Sequence[Block]) -> None:
        printed: str | None = None
        for block in chosen:
            if block.mark == SHELLS:
                for line in commands(block):
                    self.running.enter_context(self._started(self._replaced(line)))
            elif block.runs:
                printed = self.run(block)
            elif block.language != "text":
                printed = None
            elif printed is not None:
                wanted = self._replaced(block.text)
                assert same(wanted, printed, some=block.mark == SOME), (
                    f"{self.page.name}:{block.line} says\n{wanted}\nand this came out:\n{printed}"
                )

    def run(self, block: Block) -> str:
        """Run a block and return what it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if block.language == "python":
                # Padded, so that a traceback names the page's own line.
                source = "\n" * (block.line - 1) + self._replaced(block.text)
                exec(compile(source, str(self.page), "exec"), self.names)
            else:
                for line in commands(block):
                    self._type(self._replaced(line), f"{self.page.name}:{block.line}")
        return out.getvalue()

    def _type(self, line: str, where: str) -> None:
        """Run a line of a shell: `dask-gmm` in this process, as it starts in no time there."""
        if found := re.fullmatch(r"export (\w+)=(\S*)", line):
            self.monkeypatch.setenv(found[1], os.path.expandvars(found[2]))
            return
        if line.startswith("dask-gmm ") and not _OPERATORS.search(re.sub(r"'[^']*'", "", line)):
            errors = io.StringIO()
            with pytest.raises(SystemExit) as end, contextlib.redirect_stderr(errors):
                main.main(shlex.split(os.path.expandvars(line))[1:], "dask-gmm")
            assert end.value.code == 0, f"{where}: {line}\n{errors.getvalue()}"
            return
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            env=os.environ | {"PATH": programs},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{where}: {line}\n{done.stderr}"
        print(done.stdout, end="")

    @contextlib.contextmanager
    def _started(self, line: str) -> Iterator[None]:
        """Run a program beside the page, and end it as Ctrl-C in its shell would."""
        with (self.folder / "shells.log").open("ab") as log:
            program = [sys.executable, "-m", *shlex.split(line)]
            process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _replaced(self, text: str) -> str:
        for written, put in self.instead.items():
            text = text.replace(written, put)
        return text
