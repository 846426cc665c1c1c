"""The reference page, examples/api.md, made of docstrings and of the command line's own help.

Write it anew after a docstring, a parameter or an option has changed:

    python -m tests.examples.api_page
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

import click

import dask_gmm
from dask_gmm import errors
from dask_gmm.cli.main import main as command_line
from dask_gmm.cli.options import SECTIONS
from dask_gmm.fitting import events
from tests.examples.pages import API

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADINGS = (
    *("Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns", "Examples"),
    *("Notes", "References"),
)
PLOTTING = "dask_gmm.plotting"
VERBATIM = "\b\n"
"""click's mark of lines that are not to be wrapped."""
INHERITED = {
    "get_params": '>>> GaussianMixture(8).get_params()["n_components"]\n8',
    "set_params": ">>> GaussianMixture(8).set_params(tol=1e-5).tol\n1e-05",
}
"""What scikit-learn's base classes bring, with an example of ours."""


def public_names() -> dict[str, Any]:
    """Return the classes and functions that a user imports: of the package, and the figures."""
    found = {name: getattr(dask_gmm, name) for name in dask_gmm.__all__}
    if importlib.util.find_spec(PLOTTING) is not None:
        plotting = importlib.import_module(PLOTTING)
        found |= {f"plotting.{name}": getattr(plotting, name) for name in plotting.__all__}
    return {name: thing for name, thing in found.items() if callable(thing)}


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    """Return the public methods that the package gives to one of its classes, in order."""
    found: dict[str, Callable[..., Any]] = {}
    for base in kind.__mro__:
        if not base.__module__.startswith("dask_gmm"):
            continue
        for name, value in vars(base).items():
            function = getattr(value, "__func__", value)
            if not name.startswith("_") and inspect.isfunction(function):
                found.setdefault(name, function)
    return found


def docstring(thing: Any) -> str:
    """Return the docstring of a thing itself, without its indentation."""
    return inspect.cleandoc(vars(thing).get("__doc__") or getattr(thing, "__doc__", None) or "")


def split(text: str) -> dict[str, str]:
    """Return the sections of a docstring; "" is what comes before the first."""
    parts = re.split(rf"^({'|'.join(HEADINGS)})\n-+\n", f"{text}\n", flags=re.M)
    contents = [content.rstrip() for content in parts[2::2]]
    return {"": parts[0].strip(), **dict(zip(parts[1::2], contents, strict=True))}


def markdown(text: str) -> str:
    """Return running text of a docstring as Markdown: code stays, stars and bars are letters."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.S)
    for i, part in enumerate(parts):
        parts[i] = f"`{part.strip('`')}`" if i % 2 else re.sub(r"([*_<>|\[\]#])", r"\\\1", part)
    return "".join(parts)


def paragraphs(text: str) -> str:
    """Return paragraphs, and examples between them, as Markdown."""
    found = []
    for part in re.split(r"\n\s*\n", text):
        indented = all(line.startswith("    ") for line in part.splitlines())
        if part.startswith(">>> "):
            found.append(f"```pycon\n{part}\n```")
        elif part.strip() and (indented or part.startswith(VERBATIM)):
            found.append(f"```text\n{textwrap.dedent(part.removeprefix(VERBATIM))}\n```")
        elif part.strip():
            found.append(markdown(re.sub(r"\s*\n\s*", " ", part.strip())))
    return "\n\n".join(found)


def entries(text: str) -> str:
    """Return the entries of a section, a name and what is said of it, as a list."""
    found = []
    for entry in re.split(r"\n(?=\S)", text.strip("\n")):
        name, _, said = entry.partition("\n")
        words = markdown(re.sub(r"\s*\n\s*", " ", textwrap.dedent(said).strip()))
        found.append(f"- **{markdown(name)}**" + (f" — {words}" if words else ""))
    return "\n".join(found)


def body(text: str) -> Iterator[str]:
    """Yield the sections of a docstring as Markdown."""
    for heading, content in split(text).items():
        if heading in ("", "Notes", "References", "Examples"):
            yield paragraphs(content)
        else:
            yield f"**{heading}**\n\n{entries(content)}"


def signature(name: str, function: Callable[..., Any]) -> str:
    """Return how a function is called, without types, which its docstring has."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    call = f"{name}{inspect.Signature(parameters)}"
    return "```text\n" + "\n".join(textwrap.wrap(call, 100, subsequent_indent="    ")) + "\n```"


def described(name: str, thing: Any) -> Iterator[str]:
    """Yield the section of a class or a function."""
    yield f"### {name}"
    yield signature(name, thing)
    yield from body(docstring(thing))
    if not inspect.isclass(thing):
        return
    short = name.rpartition(".")[2]
    for own, function in methods(thing).items():
        yield f"#### {short}.{own}"
        yield signature(own, function)
        yield from body(docstring(function))


def first_sentence(thing: Any) -> str:
    """Return the first line of a docstring."""
    return markdown(docstring(thing).partition("\n")[0])


def table(kinds: list[type]) -> str:
    """Return classes, each with its first sentence."""
    rows = [f"| `{kind.__name__}` | {first_sentence(kind)} |" for kind in kinds]
    return "\n".join(["| | |", "|---|---|", *rows])


def option_text(option: click.Option) -> str:
    """Return an option as an entry of a list."""
    names = ", ".join(option.opts)
    if option.secondary_opts:
        names += f" / {', '.join(option.secondary_opts)}"
    kind = "" if option.is_flag else option.metavar or kind_of(option)
    default = ""
    if option.show_default and option.default is not None and not option.is_flag:
        default = f" Default: `{option.default}`."
    said = re.sub(r"\s+", " ", option.help or "")
    return f"- **`{f'{names} {kind}'.strip()}`** — {markdown(said)}{default}"


def kind_of(option: click.Option) -> str:
    """Return what an option takes, where no metavar says it."""
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return str(getattr(option.type, "name", "VALUE")).upper().replace(" RANGE", "")


def command_text(name: str, command: click.Command) -> Iterator[str]:
    """Yield the section of a command: what it does, its options, its examples."""
    yield f"### dask-gmm {name}"
    yield paragraphs(inspect.cleandoc(command.help or ""))
    options = [p for p in command.params if isinstance(p, click.Option)]
    for heading in SECTIONS:
        chosen = [option_text(o) for o in options if getattr(o, "section", "Output") == heading]
        if chosen:
            yield f"**{heading}**\n\n" + "\n".join(chosen)
    lines = [f"# {purpose}\n{line}" for purpose, line in getattr(command, "examples", ())]
    yield "```bash\n" + "\n".join(lines) + "\n```"


PREFACE = """\
Made of the docstrings and of the help of each command by `python -m tests.examples.api_page`; a
test holds it against them, and runs every example."""
PYTHON = """\
`dask_gmm` has these names. Estimators are scikit-learn's: `get_params`, `set_params`, `clone`,
pipelines and searches work."""
ERRORS = "Of `dask_gmm.errors`. A message says what happened, where, and what to do."
EVENTS = """\
Of `dask_gmm.fitting.events`: what `callbacks` are called with, one event at a time."""
CODES = """\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped without converging, 130 interrupted,
143 terminated."""


def contents(names: dict[str, Any]) -> Iterator[str]:
    """Yield links to what the page has."""
    python = [f"[{name}](#{name.lower().replace('.', '')})" for name in names]
    python += ["[errors](#errors-and-warnings)", "[events](#events)"]
    shell = [f"[{name}](#dask-gmm-{name})" for name in command_line.commands]
    yield f"Python: {' · '.join(python)}"
    yield f"Shell: {' · '.join(shell)}, all under [the command line](#the-command-line)"


def classes(module: Any) -> list[type]:
    """Return the public classes of a module."""
    return [kind for name in module.__all__ if inspect.isclass(kind := getattr(module, name))]


def page() -> str:
    """Return the whole page."""
    names = public_names()
    inherited = "\n".join([">>> from dask_gmm import GaussianMixture", *INHERITED.values()])
    parts = ["# Reference", PREFACE, *contents(names)]
    parts += ["## Python", PYTHON, f"```pycon\n{inherited}\n```"]
    for name, thing in names.items():
        parts += described(name, thing)
    parts += ["## Errors and warnings", ERRORS, table(classes(errors))]
    parts += ["## Events", EVENTS, table(classes(events))]
    parts += ["## The command line", paragraphs(inspect.cleandoc(command_line.help or "")), CODES]
    for name, command in command_line.commands.items():
        parts += command_text(name, command)
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    API.write_text(page(), encoding="utf-8")
