"""What the README shows, done as it says and compared with what it says comes out."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import pytest

from dask_gmm.cli.main import main
from tests.deploy import manifests
from tests.object_store import object_store  # noqa: F401

if TYPE_CHECKING:
    from distributed import Client

    from tests.object_store import ObjectStoreServer

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")

SCHEDULER = "tcp://127.0.0.1:8786"
ENDPOINT = "http://localhost:9000"
"""What the README calls its cluster and its object store; the tests put their own in place."""


class Block(NamedTuple):
    """A fenced block, with the first line of its content."""

    language: str
    text: str
    line: int


def blocks() -> list[Block]:
    return [
        Block(match[1], match[2], TEXT.count("\n", 0, match.start(2)) + 1)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
    ]


def lines_of(program: str) -> list[manifests.CommandLine]:
    return manifests.markdown_command_lines(README, program)


def words_of(line: manifests.CommandLine) -> str:
    return " ".join(line.words)


def address_of(client: Client) -> str:
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in blocks()} == {"bash", "python", "text"}


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


def test_links_lead_somewhere() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT)]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_named_tests_are_run() -> None:
    """A promise is checked by a file that holds tests, in the tree that pytest collects."""
    named = re.findall(r"\]\((tests/[^)]+)\)", TEXT)
    assert len(set(named)) >= 6
    for name in named:
        assert re.search(r"^def test_", (ROOT / name).read_text(encoding="utf-8"), re.M), name


@pytest.mark.parametrize("line", lines_of("dask-gmm"), ids=words_of)
def test_our_command_lines_parse(line: manifests.CommandLine) -> None:
    try:
        manifests.parse_click(main, line.words)
    except click.UsageError as error:
        pytest.fail(f"{words_of(line)}: {error.format_message()}")


@pytest.mark.parametrize("line", lines_of("dask"), ids=words_of)
def test_dasks_command_lines_parse(line: manifests.CommandLine) -> None:
    manifests.parse_dask(line)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[\w-]+)", TEXT))))
def test_options_in_the_text_exist(option: str) -> None:
    assert option in {
        name
        for command in main.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, "--help")
    }


def test_every_command_is_shown() -> None:
    """Here, or in the guide to clusters that this page leads to."""
    guide = manifests.markdown_command_lines(manifests.DEPLOY / "README.md", "dask-gmm")
    assert {line.words[1] for line in (*lines_of("dask-gmm"), *guide)} == set(main.commands)


@pytest.mark.slow
def test_command_lines_run(
    two_processes: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the demo, one after the other; each line of output that is quoted comes out."""
    monkeypatch.chdir(tmp_path)
    printed = ""
    for line in lines_of("dask-gmm"):
        if line.words[1] == "demo":
            continue
        address = address_of(two_processes)
        words = [address if word == SCHEDULER else word for word in line.words[1:]]
        with pytest.raises(SystemExit) as end:
            main.main(words, "dask-gmm")
        output = capsys.readouterr()
        assert end.value.code == 0, f"{words_of(line)}: {output.err}"
        printed += output.out
    *_, quoted = (block for block in blocks() if block.language == "text")
    came_out = {line.rstrip() for line in printed.splitlines()}
    assert [line for line in quoted.text.splitlines() if line not in came_out] == []


@pytest.mark.slow
def test_python_runs(
    two_processes: Client,
    object_store: ObjectStoreServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks in order, as one session; the first prints what the README says it prints."""
    monkeypatch.chdir(tmp_path)
    real = {SCHEDULER: address_of(two_processes), ENDPOINT: object_store.endpoint}
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for block in (block for block in blocks() if block.language == "python"):
        if "s3://bucket/" in block.text:
            upload(object_store, tmp_path / "clouds.zarr")
        source = block.text
        for written, put in real.items():
            source = source.replace(written, put)
        # Padded, so that a traceback names the README's own line.
        code = compile("\n" * (block.line - 1) + source, str(README), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed.append(out.getvalue())
    quoted = next(block for block in blocks() if block.language == "text")
    assert printed[0] == quoted.text
    assert printed[-1] == "600,000 labels written\n"
    assert names["gm"].n_rows_ == 600_000


def upload(server: ObjectStoreServer, store: Path) -> None:
    """Put a store into the README's bucket."""
    client = server.client()
    client.create_bucket(Bucket="bucket")
    for path in store.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(store.parent))
            client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
