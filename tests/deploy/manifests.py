"""What the tests of `deploy/` share: the files, their command lines, and sizes in their units."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import dask
import yaml
from distributed.cli import dask_scheduler, dask_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

DASK_COMMANDS: dict[str, click.Command] = {
    "scheduler": dask_scheduler.main,
    "worker": dask_worker.main,
}


LAUNCHERS = frozenset({"docker", "kubectl", "env", "nohup", "timeout"})


class CommandLine(NamedTuple):
    """A command line and the place it was found at."""

    where: str
    words: tuple[str, ...]


def load_all(path: Path) -> list[dict[str, Any]]:
    """Return every document of a YAML file."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return documents


def interpolate(text: str) -> str:
    """Replace Compose's ``${NAME:-default}`` by its default, as when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def compose() -> dict[str, Any]:
    """Return compose.yaml with its defaults filled in."""
    content: dict[str, Any] = yaml.safe_load(
        interpolate((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    )
    return content


@cache
def project() -> dict[str, Any]:
    """Return the ``[project]`` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def image() -> str:
    """Return the image's name at this version of the package."""
    return f"{project()['name']}:{project()['version']}"


def kubernetes_documents() -> list[tuple[str, dict[str, Any]]]:
    """Return every Kubernetes document, each with its file and kind for the messages."""
    return [
        (f"{path.name}:{document['kind']}", document)
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in load_all(path)
    ]


def cluster_specs() -> list[tuple[str, str, dict[str, Any]]]:
    """Return every Dask cluster of the Kubernetes documents: where, its name, its specification."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for where, document in kubernetes_documents():
        name = document["metadata"].get("name", "")
        if document["kind"] == "DaskCluster":
            found.append((where, name, document["spec"]))
        elif document["kind"] == "DaskJob":  # the operator names the cluster after the job
            found.append((where, name, document["spec"]["cluster"]["spec"]))
    return found


def pod_specs() -> list[tuple[str, dict[str, Any]]]:
    """Return every pod specification in the Kubernetes documents."""
    found: list[tuple[str, dict[str, Any]]] = []
    for where, _, cluster in cluster_specs():
        found += [(f"{where}.{role}", cluster[role]["spec"]) for role in ("scheduler", "worker")]
    for where, document in kubernetes_documents():
        if document["kind"] == "DaskJob":
            found.append((where, document["spec"]["job"]["spec"]))
        elif document["kind"] == "Job":
            found.append((where, document["spec"]["template"]["spec"]))
    return found


def called(words: list[str]) -> tuple[str, ...]:
    """Return the command line of a container; of one that a shell tries again, that one."""
    if words[:2] == ["sh", "-c"]:
        assert 'dask-gmm fit "$@"' in words[2]
        return ("dask-gmm", *words[3:])
    return tuple(words)


def manifest_command_lines() -> list[CommandLine]:
    """Return the commands of compose.yaml and of the Kubernetes pods."""
    lines = [
        CommandLine(f"compose.yaml:{name}", tuple(service["command"]))
        for name, service in compose()["services"].items()
        if service["image"] == image()
    ]
    for where, pod in pod_specs():
        lines += [CommandLine(where, called(c["args"])) for c in pod["containers"]]
    return lines


def markdown_command_lines(path: Path, program: str) -> list[CommandLine]:
    """Return the commands of fenced shell blocks that call `program`, wrapped lines joined.

    A program may be called by its path, or through one of LAUNCHERS with its name as a word.
    """
    found = []
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for words in _commands(line.removeprefix("$ ")):
                if Path(words[0]).name == program:
                    found.append(CommandLine(str(path), (program, *words[1:])))
                elif words[0] in LAUNCHERS and program in words:
                    found.append(CommandLine(str(path), words[words.index(program) :]))
    return found


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    """Split a shell line at ``&&``, ``|``, ``;``, ``&`` and redirections, which are dropped."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            if words:
                yield tuple(words)
            words = []
        else:
            words.append(word)


def parse_dask(line: CommandLine) -> dict[str, Any]:
    """Parse ``dask scheduler|worker ...`` with Dask's own command and return its parameters.

    Dask passes options it does not know on to preload modules instead of refusing them; here they
    are refused.
    """
    program, role, *arguments = line.words
    assert program == "dask", f"{line.where}: {program}"
    assert role in DASK_COMMANDS, f"{line.where}: dask {role}"
    with DASK_COMMANDS[role].make_context(role, arguments) as context:
        unknown = context.params["preload_argv"]
        assert not unknown, f"{line.where}: `dask {role}` has no {unknown}"
        return context.params


def parse_click(group: click.Command, words: tuple[str, ...]) -> None:
    """Parse a command line down to its last subcommand, without running it."""
    name, *arguments = words
    with group.make_context(name, list(arguments)) as context:
        rest = [*context._protected_args, *context.args]
        if not isinstance(group, click.Group) or not rest:
            return
        _, command, arguments = group.resolve_command(context, rest)
        assert command is not None
        parse_click(command, (rest[0], *arguments))


def bytes_of(size: str) -> int:
    """Return the bytes of a size as Compose, Kubernetes or Dask write it.

    Compose's ``4g`` and Kubernetes' ``4Gi`` are both powers of two; ``4GiB`` is Dask's.
    """
    match = re.fullmatch(r"(\d+)([kmg]|[KMG]i|[KMG]iB)", size)
    assert match, f"size {size!r} has no binary unit"
    factor: int = 1024 ** (1 + "kmg".index(match[2][0].lower()))
    return int(match[1]) * factor


def settings_environment(**more: str) -> dict[str, str]:
    """Return this process's environment, with deploy/dask.yaml as Dask's only settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    return kept | {"DASK_CONFIG": str(DEPLOY / "dask.yaml")} | more


def default_settings() -> dict[str, Any]:
    """Return the settings that the installed Dask and distributed define, without any file."""
    merged: dict[str, Any] = dask.config.merge(*dask.config.defaults)
    return merged
