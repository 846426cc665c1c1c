"""The image, read line by line: there is no container engine where these tests run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from fnmatch import fnmatch
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple

import pytest

from . import manifests

if TYPE_CHECKING:
    from pathlib import Path

# fmt: off
INSTRUCTIONS = frozenset({
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
})
# fmt: on


class Instruction(NamedTuple):
    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, comments dropped and wrapped lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", kept)
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        assert name in INSTRUCTIONS, f"no such instruction: {line}"
        found.append(Instruction(name, rest.strip()))
    return found


@pytest.fixture(scope="module")
def image() -> list[Instruction]:
    return instructions((manifests.DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def all_of(image: list[Instruction], name: str) -> list[str]:
    return [instruction.text for instruction in image if instruction.name == name]


def test_the_base_is_a_python_the_package_supports(image: list[Instruction]) -> None:
    assert image[0].name == "FROM"
    match = re.fullmatch(r"python:3\.(\d+)-slim", all_of(image, "FROM")[0])
    assert match
    required = manifests.project()["requires-python"]
    assert int(match[1]) >= int(required.removeprefix(">=3."))


def test_every_copied_file_exists_and_passes_the_ignore_file(image: list[Instruction]) -> None:
    ignore = (manifests.DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    patterns = [line for line in ignore if line and not line.startswith("#")]
    assert patterns[0] == "*", "everything that is not named stays out"
    admitted = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = set()
    for text in all_of(image, "COPY"):
        *sources, _ = text.split()
        for source in sources:
            assert (manifests.ROOT / source).exists(), f"COPY {source}: not in the tree"
            copied.add(source)
    assert copied == admitted
    for name in (".git", "deploy/credentials.env", "tests"):
        assert not any(fnmatch(name, pattern) for pattern in admitted)


def test_what_the_build_needs_is_copied(image: list[Instruction]) -> None:
    """hatchling reads the readme and the license that pyproject.toml names."""
    copied = {source for text in all_of(image, "COPY") for source in text.split()[:-1]}
    table = manifests.project()
    assert {"pyproject.toml", "dask_gmm", table["readme"], *table["license-files"]} <= copied


def test_the_package_is_installed_with_extras_that_exist(image: list[Instruction]) -> None:
    runs = " ".join(all_of(image, "RUN"))
    install = re.search(r'pip install --no-cache-dir "\.\[([\w,-]+)\]"', runs)
    assert install, "one cacheless install of the package"
    assert set(install[1].split(",")) <= set(manifests.project()["optional-dependencies"])


def test_the_user_is_a_number_and_not_root(image: list[Instruction]) -> None:
    assert all_of(image, "USER") == ["1000:1000"]
    created = re.search(r"useradd --uid (\d+)", " ".join(all_of(image, "RUN")))
    assert created
    assert created[1] == "1000"
    # nothing is installed or copied with fewer rights than it needs, nor run with more
    order = [instruction.name for instruction in image]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in {"RUN", "COPY"})


def test_the_command_is_one_of_the_packages_scripts(image: list[Instruction]) -> None:
    assert not all_of(image, "ENTRYPOINT"), "the manifests name whole commands"
    (command,) = all_of(image, "CMD")
    words = json.loads(command)  # exec form: a JSON list
    assert words[0] in manifests.project()["scripts"]


def test_the_helm_charts_names_are_dasks_commands(image: list[Instruction], tmp_path: Path) -> None:
    """The line is run, and what it made."""
    (line,) = [text for text in all_of(image, "RUN") if "dask-$role" in text]
    subprocess.run(
        ["sh", "-euc", line.replace("/usr/local/bin", str(tmp_path))], check=True, timeout=30
    )
    (tmp_path / "dask").write_text('#!/bin/sh\necho "$# $@"\n')
    (tmp_path / "dask").chmod(0o755)
    for role in ("scheduler", "worker"):
        done = subprocess.run(
            [tmp_path / f"dask-{role}", "a b", "--c"],
            env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout == f"3 {role} a b --c\n"


def test_dask_is_a_program_of_what_is_installed() -> None:
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    assert "dask" in scripts
    roles = {entry.name for entry in entry_points(group="dask_cli")}
    assert {"scheduler", "worker"} <= roles


def test_one_blas_thread(image: list[Instruction]) -> None:
    values = dict(pair.split("=") for text in all_of(image, "ENV") for pair in text.split())
    for library in ("OMP", "OPENBLAS", "MKL"):
        assert values[f"{library}_NUM_THREADS"] == "1"


def test_the_settings_lie_where_dask_looks(image: list[Instruction]) -> None:
    assert "deploy/dask.yaml /etc/dask/dask.yaml" in all_of(image, "COPY")


@pytest.mark.parametrize("text", ["FORM python:3.12", "RUN a\nrun b"])
def test_a_misspelt_instruction_is_found(text: str) -> None:
    with pytest.raises(AssertionError, match="no such instruction"):
        instructions(text)
