"""The pages of documentation: each is run as it says, and leads only to what is there."""

from __future__ import annotations

import re
import textwrap
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click
import numpy as np
import pytest
from PIL import Image

from dask_gmm.cli.main import main
from tests.deploy import manifests
from tests.examples import pages
from tests.examples.pages import EXAMPLES, GUIDE, PAGES, ROOT, Session
from tests.object_store import free_port, object_store  # noqa: F401
from tests.servers import azure, google

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from tests.object_store import ObjectStoreServer

SCHEDULER = "tcp://127.0.0.1:8786"
ENDPOINT = "http://localhost:9000"
"""What pages call their cluster and their object store; the tests put their own in place."""

OTHERWISE = {"README.md", "cloud.md", "cluster.md", "looking.md", "api.md"}
"""Pages that need a server or a cluster, have pictures, or are docstrings: each has its test."""
PROGRAMS = {"cytometry.md", "ocean-profiles.md", "photographs.md", "satellite-scene.md"}
"""Pages about the programs beside them, which take their time."""
SLOW = PROGRAMS | {"command-line.md", "choosing-k.md", "many-features.md"}

LINKED = [*PAGES, GUIDE]

MATH = """
Big Lambda Longrightarrow Sigma big ell frac ge in lambda
langle log mathrm mathsf mid mu partial pi qquad quad
rangle rho sum text theta
"""
"""Commands of formulas on the pages; one that is misspelt is not among them."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def parameters(chosen: list[Path]) -> list[Any]:
    return [
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in SLOW else ())
        for page in chosen
    ]


def read(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, only: str = "", **put: str
) -> Session:
    instead = {"examples/": f"{EXAMPLES}/"} if page.name in PROGRAMS else {}
    session = Session(page, folder, monkeypatch, instead | put)
    session.read(only)
    return session


# -- they run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", parameters([p for p in PAGES if p.name not in OTHERWISE]))
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_looking_runs_and_its_pictures_are_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a page that was changed are in `tmp_path`; they belong into examples/figures."""
    read(EXAMPLES / "looking.md", tmp_path, monkeypatch)
    for path in (EXAMPLES / "figures").glob("*.png"):
        with Image.open(path) as committed, Image.open(tmp_path / path.name) as drawn:
            assert abs(committed.width - drawn.width) <= 20
            assert path.stat().st_size < 150_000
            small = (committed.width // 4, committed.height // 4)
            one, other = (
                np.asarray(image.convert("RGB").resize(small), dtype=float)
                for image in (committed, drawn)
            )
            # Versions of matplotlib place things a little differently; others are farther away than
            # an empty page.
            assert np.abs(one - other).mean() < 0.5 * np.abs(255 - one).mean(), path.name


@pytest.mark.slow
def test_the_cloud_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    object_store: ObjectStoreServer,  # noqa: F811
) -> None:
    client = object_store.client()
    client.create_bucket(Bucket="bucket")
    read(EXAMPLES / "cloud.md", tmp_path, monkeypatch, **{ENDPOINT: object_store.endpoint})
    keys = [found["Key"] for found in client.list_objects_v2(Bucket="bucket")["Contents"]]
    assert {key.split("/")[0] for key in keys} >= {"points.zarr", "labels.zarr", "model.zarr"}
    for key in keys:
        client.delete_object(Bucket="bucket", Key=key)
    client.delete_bucket(Bucket="bucket")


@pytest.mark.slow
def test_google_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with google.serve_google(tmp_path) as server:
        server.make_bucket("bucket")
        monkeypatch.setenv("GOOGLE_BASE_URL", server.endpoint)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", google.TOKEN)
        read(EXAMPLES / "cloud.md", tmp_path, monkeypatch, only="google")


@pytest.mark.slow
def test_azure_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with azure.serve_azure(tmp_path) as server:
        server.make_container("bucket")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure.ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure.KEY)
        read(EXAMPLES / "cloud.md", tmp_path, monkeypatch, only="azure")


@pytest.mark.slow
def test_the_cluster_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own scheduler and workers, at a port that nobody else has."""
    port = free_port()
    put = {
        SCHEDULER: f"tcp://127.0.0.1:{port}",
        "dask scheduler": f"dask scheduler --host 127.0.0.1 --port {port} --no-dashboard",
        "dask worker": "dask worker --no-dashboard",
    }
    read(EXAMPLES / "cluster.md", tmp_path, monkeypatch, **put)


@pytest.mark.slow
def test_readme_runs(
    two_processes: Client,
    object_store: ObjectStoreServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks in order, as one session; the cluster is there already, the bucket too."""
    scheduler: Any = two_processes.scheduler
    put = {SCHEDULER: scheduler.address, ENDPOINT: object_store.endpoint}
    session = Session(pages.README, tmp_path, monkeypatch, put)
    monkeypatch.chdir(tmp_path)
    printed = ""
    for block in pages.blocks(pages.README):
        if "pip install" in block.text or not block.runs:
            continue
        if "s3://bucket/" in block.text:
            upload(object_store, tmp_path / "clouds.zarr")
        lines = [line for line in block.text.splitlines(True) if not re.match(r"dask \w", line)]
        printed += session.run(pages.Block(block.language, "".join(lines), block.line, ""))
    for block in pages.blocks(pages.README):
        if block.language == "text":
            assert block.text in printed
    assert printed.endswith("600,000 labels written\n")
    assert session.names["gm"].n_rows_ == 600_000


def upload(server: ObjectStoreServer, store: Path) -> None:
    """Put a store into the page's bucket."""
    client = server.client()
    client.create_bucket(Bucket="bucket")
    for path in store.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(store.parent))
            client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())


# -- what they are made of ---------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in pages.LANGUAGES, f"{page.name}:{block.line}"
        known = (pages.NOT_RUN, pages.PART, pages.SERVER)
        assert block.mark in ("", pages.SOME, pages.SHELLS) or block.mark.startswith(known)


def test_few_blocks_are_not_run() -> None:
    every = [(p, block) for p in PAGES if p != pages.API for block in pages.blocks(p)]
    programs = [(p, b) for p, b in every if b.language in ("bash", "python")]
    left_out = [f"{p.name}:{b.line}" for p, b in programs if b.mark.startswith(pages.NOT_RUN)]
    assert len(left_out) <= 8, left_out
    assert len(programs) > 60


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_excerpts_are_the_programs_own(page: Path) -> None:
    for block in pages.blocks(page):
        if block.mark.startswith(pages.PART):
            program = (EXAMPLES / block.mark.removeprefix(pages.PART)).read_text(encoding="utf-8")
            part = textwrap.dedent(block.text).strip("\n")
            assert part in textwrap.dedent(program) or block.text.rstrip("\n") in program, (
                f"{page.name}:{block.line}"
            )


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file or a folder of this repository, and to a heading of a page, as GitHub names it."""
    links = [
        str(token.attrs["href"] if token.type == "link_open" else token.attrs["src"])
        for token in pages.inline(page)
        if token.type in ("link_open", "image")
    ]
    for link in links:
        if "://" in link:
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        if anchor:
            assert anchor in pages.anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_tables_are_whole(page: Path) -> None:
    """Each row has as many cells as the heading: GitHub drops what is too much without a word."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for token in pages.tokens(page):
        if token.type == "table_open" and token.map is not None:
            rows = [line.replace("\\|", "") for line in lines[slice(*token.map)]]
            cells = [row.strip().strip("|").count("|") for row in rows]
            assert set(cells) == {cells[0]}, f"{page.name}:{token.map[0] + 1}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_formulas_are_whole(page: Path) -> None:
    """Braces and environments close, and commands are those that MathJax has for sure."""
    text = page.read_text(encoding="utf-8")
    assert "$$" not in text, "Markdown eats backslashes there: make it a block of math"
    for block in pages.blocks(page):
        if block.language == "math":
            depth = 0
            for sign in re.sub(r"\\[{}]", "", block.text):
                depth += {"{": 1, "}": -1}.get(sign, 0)
                assert depth >= 0, f"{page.name}:{block.line}"
            assert depth == 0, f"{page.name}:{block.line}"
            assert block.text.count(r"\left") == block.text.count(r"\right")
            unknown = set(re.findall(r"\\([A-Za-z]+)", block.text)) - set(MATH.split())
            assert unknown == set(), f"{page.name}:{block.line}"


def test_every_page_is_in_the_index() -> None:
    index = {
        str(token.attrs["href"]).partition("#")[0]
        for token in pages.inline(EXAMPLES / "README.md")
        if token.type == "link_open"
    }
    beside = {path.name for path in (*EXAMPLES.glob("*.md"), *EXAMPLES.glob("*.py"))}
    assert beside - {"README.md"} <= index


# -- what they name ----------------------------------------------------------------------------


def command_lines(program: str) -> list[manifests.CommandLine]:
    return [line for page in PAGES for line in manifests.markdown_command_lines(page, program)]


def words_of(line: manifests.CommandLine) -> str:
    return " ".join(line.words)


@pytest.mark.parametrize("line", command_lines("dask-gmm"), ids=words_of)
def test_our_command_lines_parse(line: manifests.CommandLine) -> None:
    """Those of blocks that are not run too."""
    try:
        manifests.parse_click(main, line.words)
    except click.UsageError as error:
        pytest.fail(f"{words_of(line)}: {error.format_message()}")


@pytest.mark.parametrize("line", command_lines("dask"), ids=words_of)
def test_dasks_command_lines_parse(line: manifests.CommandLine) -> None:
    manifests.parse_dask(line)


OPTIONS = {
    name
    for command in main.commands.values()
    for parameter in command.params
    for name in (*parameter.opts, *parameter.secondary_opts, "--help")
}


@pytest.mark.parametrize("page", [page for page in PAGES if page != pages.API], ids=name_of)
def test_options_in_the_text_exist(page: Path) -> None:
    benchmarks = {"--json", "--directory", "--output"}
    named = {
        found
        for token in pages.inline(page)
        if token.type == "code_inline" and not re.search(r"^python |\$\(aws ", token.content)
        for found in re.findall(r"(?<![\w-])--[a-z][\w-]*", token.content)
    }
    assert named - OPTIONS - benchmarks == set()


def test_every_command_is_shown() -> None:
    """On a page, or in the guide to clusters that they lead to."""
    guide = manifests.markdown_command_lines(GUIDE, "dask-gmm")
    assert {line.words[1] for line in (*command_lines("dask-gmm"), *guide)} == set(main.commands)


def test_named_tests_are_run() -> None:
    """A promise is checked by a file that holds tests, in the tree that pytest collects."""
    named = {
        (page.parent / str(token.attrs["href"])).resolve()
        for page in PAGES
        for token in pages.inline(page)
        if token.type == "link_open" and re.search(r"tests/[^#]*test_", str(token.attrs["href"]))
    }
    assert len(named) >= 20
    for path in named:
        assert re.search(r"^def test_", path.read_text(encoding="utf-8"), re.M), path


def test_every_benchmark_is_named_and_no_other() -> None:
    text = (EXAMPLES / "performance.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(bench_\w+|simulate_\w+)\b", text))
    folder = ROOT / "tests" / "benchmarks"
    there = {path.stem for path in folder.glob("*.py")}
    assert named == {name for name in there if name.startswith(("bench_", "simulate_"))}


# -- the machinery -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quoted", "printed", "some", "found"),
    [
        ("a\nb\n", "a\nb\n", False, True),
        ("a\nb\n", "a  \nb\n\n", False, True),
        ("a\n", "a\nb\n", False, False),
        ("a\n", "a\nb\n", True, True),
        ("b\na\n", "a\nb\n", True, False),
        ("x ... y\n", "x 1.5 y\n", False, True),
        ("x ... y\n", "x 1.5 z\n", True, False),
    ],
)
def test_outputs_are_compared(quoted: str, printed: str, some: bool, found: bool) -> None:
    assert pages.same(quoted, printed, some=some) is found


def test_a_page_that_lies_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:10 says"):
        Session(page, tmp_path, monkeypatch).read()
    page.write_text(
        "```bash\nexport WHERE=here\necho $WHERE | tr a-z A-Z\n```\n\n```text\nHERE\n```\n"
    )
    Session(page, tmp_path, monkeypatch).read()
    page.write_text("```bash\ndask-gmm show nothing.zarr\n```\n")
    with pytest.raises(AssertionError, match=r"show nothing\.zarr\nerror: "):
        Session(page, tmp_path, monkeypatch).read()


def test_marks_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Some *words* & `code`\n\n## Twice\n\n## Twice\n\n"
        "<!-- not run: why -->\n```bash\nls\n```\n\n<!-- with google -->\n```python\n1\n```\n"
    )
    first, second = pages.blocks(page)
    assert (first.runs, first.server, first.line) == (False, "", 9)
    assert (second.runs, second.server) == (True, "google")
    assert pages.anchors(page) == {"some-words--code", "twice", "twice-1"}


def test_processes_end_with_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tmp_path / "page.md", tmp_path, monkeypatch)
    with ExitStack() as running:
        running.enter_context(session._started(f"http.server {free_port()} --bind 127.0.0.1"))
    assert (tmp_path / "shells.log").exists()
