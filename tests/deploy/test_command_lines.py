"""Every command line that is printed for people or run in a container is a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from distributed.comm.addressing import parse_address

from . import manifests
from .manifests import CommandLine

if TYPE_CHECKING:
    from pathlib import Path

GUIDES = [manifests.ROOT / "README.md", manifests.DEPLOY / "README.md"]


def shell_lines(program: str) -> list[CommandLine]:
    return [
        line
        for path in GUIDES
        if path.exists()
        for line in manifests.markdown_command_lines(path, program)
    ]


def lines_of(program: str) -> list[CommandLine]:
    lines = [line for line in manifests.manifest_command_lines() if line.words[0] == program]
    return lines + shell_lines(program)


def our_group() -> click.Group:
    from dask_gmm.cli.main import main

    assert isinstance(main, click.Group)
    return main


def test_every_container_runs_a_known_program() -> None:
    lines = manifests.manifest_command_lines()
    assert {line.words[:2] for line in lines} == {
        ("dask", "scheduler"),
        ("dask", "worker"),
        ("dask-gmm", "fit"),
        ("dask-gmm", "simulate"),
    }


@pytest.mark.parametrize("line", lines_of("dask"), ids=lambda line: " ".join(line.words))
def test_dask_command(line: CommandLine) -> None:
    parameters = manifests.parse_dask(line)
    if line.words[1] == "worker" and parameters["scheduler"]:
        scheme, address = parse_address(parameters["scheduler"])
        assert scheme in {"tcp", "tls"}
        assert address.rpartition(":")[2].isdigit()


@pytest.mark.parametrize("line", lines_of("dask-gmm"), ids=lambda line: " ".join(line.words))
def test_dask_gmm_command(line: CommandLine) -> None:
    try:
        manifests.parse_click(our_group(), line.words)
    except click.UsageError as error:
        pytest.fail(f"{line.where}: {' '.join(line.words)}: {error.format_message()}")
    except click.exceptions.Exit:
        pass  # --help and --version end while they are parsed


def test_the_guides_were_read() -> None:
    """The lines above come from the guides too; a guide without any would test nothing."""
    assert {line.where for line in shell_lines("dask-gmm")} == {str(path) for path in GUIDES}
    assert any(line.words[1] == "demo" for line in shell_lines("dask-gmm"))


# The checks themselves.


@pytest.mark.parametrize(
    "words", ["dask worker --memory-limits 4GB", "dask scheduler tcp://h:1", "dask worker a b"]
)
def test_a_wrong_dask_line_is_found(words: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        manifests.parse_dask(CommandLine("here", tuple(words.split())))


def test_a_wrong_line_of_ours_is_found() -> None:
    @click.group()
    def main() -> None:
        """Stand in for the group of the package."""

    @main.command()
    @click.argument("data")
    @click.option("-k", type=int)
    def fit(data: str, k: int) -> None:
        """Stand in for the command."""

    manifests.parse_click(main, ("dask-gmm", "fit", "a.zarr", "-k", "3"))
    for words in ("fit", "fit a.zarr -k x", "fit a.zarr --kk 3", "fits a.zarr"):
        with pytest.raises(click.UsageError):
            manifests.parse_click(main, ("dask-gmm", *words.split()))


def test_markdown_lines_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `dask-gmm plan x`.\n"
        "```bash\n"
        "$ python3 -m venv .venv && .venv/bin/dask-gmm demo  # yes\n"
        "docker run image dask-gmm fit 's3://b/x?a=1&b' \\\n  -k 3 >log 2>&1 &\n"
        "cp settings.yaml ~/dask-gmm\n"
        "```\n"
        "```python\ndask-gmm = 1\n```\n"
    )
    assert [line.words for line in manifests.markdown_command_lines(page, "dask-gmm")] == [
        ("dask-gmm", "demo"),
        ("dask-gmm", "fit", "s3://b/x?a=1&b", "-k", "3"),
    ]
