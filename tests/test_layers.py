"""The architecture as a test: every import is read, and none may run uphill.

The rooms of the package stand on floors; a room imports only from floors below its own. The tree
is read with `ast`, so imports inside functions, under ``TYPE_CHECKING`` and through
``importlib.import_module`` count like any other: within a room they may make no circle either.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# Read, not imported: the test has something to say about a package that cannot be imported too.
PACKAGE = Path(__file__).resolve().parents[1] / "dask_gmm"

# A new room gets its floor here, or the test fails. `__init__` is the package's front door: it
# shows the public names, and only the command line enters through it.
FLOORS = {
    "errors": 0.0,
    "interrupts": 0.25,
    "quantities": 0.3,
    "shapes": 0.35,
    "glance": 0.4,
    "rows": 0.5,
    "mixture": 1.0,
    "scaling": 1.5,
    "data": 2.0,
    "execution": 2.5,
    "fitting": 3.0,
    "inspection": 3.25,
    "model_file": 3.5,
    "model_card": 3.55,
    "plotting": 3.6,
    "report": 3.8,
    "progress": 3.3,
    "estimators": 4.0,
    "__init__": 4.75,
    "cli": 5.0,
    "__main__": 6.0,
}

# The rooms that hold mathematics name every outside package they may use, module by module
# ("": the whole room).
MATHEMATICS: dict[str, dict[str, frozenset[str]]] = {
    "mixture": {
        "": frozenset({"numpy", "scipy"}),
        "mixture.kernels.compiled": frozenset({"llvmlite"}),
    },
    "fitting": {
        "": frozenset({"numpy", "scipy"}),
        "fitting.starts": frozenset({"sklearn"}),
    },
}

# Only these touch the cluster: the backend that uses one, the command line that starts one, and the
# page that its scheduler serves, which runs there.
MAY_IMPORT_DISTRIBUTED = ("execution.cluster", "cli", "progress.dashboard")

MAX_LINES = 700


@dataclass(frozen=True)
class Import:
    """One imported module: its absolute dotted name, and where it stands."""

    target: str
    line: int


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name below the package (``""`` for the package's own file)."""

    name: str
    path: Path
    is_package: bool

    @property
    def room(self) -> str:
        return self.name.partition(".")[0] or "__init__"


class _ImportReader(ast.NodeVisitor):
    """Collects the imports of one module, with relative names made absolute."""

    def __init__(self, package: str, module: Module, known: frozenset[str]) -> None:
        parts = [package, *filter(None, module.name.split("."))]
        self._parent = parts if module.is_package else parts[:-1]
        self._known = known
        self.imports: list[Import] = []
        self.computed: list[int] = []

    def _add(self, target: str, line: int) -> None:
        self.imports.append(Import(target, line))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parent = self._parent[: len(self._parent) - node.level + 1]
            base = ".".join([*parent, base] if base else parent)
        for alias in node.names:
            # `from room import module` imports the module; `from module import name` does not.
            full = f"{base}.{alias.name}"
            submodule = full in self._known or full == "dask.distributed"
            self._add(full if submodule else base, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        name = function.id if isinstance(function, ast.Name) else name
        if name in {"import_module", "__import__"}:
            match node.args:
                case [ast.Constant(value=str(target)), *_]:
                    self._add(target, node.lineno)
                case _:
                    self.computed.append(node.lineno)
        self.generic_visit(node)


def modules_of(package: Path) -> list[Module]:
    """Return every Python file of a package tree, in the order of their paths."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found.append(Module(".".join(parts[:-1] if is_package else parts), path, is_package))
    return found


def problems_in(package: Path) -> list[str]:
    """Return one line ``file:line: what is wrong`` for each broken rule of a package tree."""
    modules = modules_of(package)
    names = [".".join(filter(None, (package.name, module.name))) for module in modules]
    known = frozenset(names)
    problems: list[str] = []
    graph: dict[str, set[str]] = {}
    for name, module in zip(names, modules, strict=True):
        where = module.path.relative_to(package.parent)
        text = module.path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MAX_LINES:
            problems.append(f"{where}:{lines}: {lines} lines; split the file below {MAX_LINES}")
        if module.room not in FLOORS:
            problems.append(f"{where}:1: room {module.room!r} has no floor; give it one in FLOORS")
            continue
        reader = _ImportReader(package.name, module, known)
        reader.visit(ast.parse(text, filename=str(where)))
        problems += [
            f"{where}:{line}: an import whose name is computed cannot be checked; name the module"
            for line in reader.computed
        ]
        for item in reader.imports:
            complaint = _complaint(package.name, module, item.target)
            if complaint:
                problems.append(f"{where}:{item.line}: {complaint}")
        # Edges to the package's own file and between rooms are judged by their floors.
        graph[name] = {
            item.target
            for item in reader.imports
            if item.target in known and _room_of(package.name, item.target) == module.room
        }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append(f"circular import: {' -> '.join(reversed(error.args[1]))}")
    return problems


def _room_of(package: str, target: str) -> str:
    """Return the room an absolute name inside the package belongs to."""
    return Module(target.removeprefix(package).lstrip("."), Path(), is_package=False).room


def _complaint(package: str, module: Module, target: str) -> str | None:
    """Say what is wrong with one import, or return None."""
    top = target.partition(".")[0]
    if top == package:
        return _uphill(package, module.room, target)
    is_distributed = top == "distributed" or _inside(target, "dask.distributed")
    if is_distributed and not any(_inside(module.name, owner) for owner in MAY_IMPORT_DISTRIBUTED):
        return f"{target} is imported outside {' and '.join(MAY_IMPORT_DISTRIBUTED)}"
    rules = MATHEMATICS.get(module.room)
    if rules is None or top in sys.stdlib_module_names:
        return None
    allowed = frozenset().union(
        *(packages for owner, packages in rules.items() if not owner or _inside(module.name, owner))
    )
    if top not in allowed:
        return f"{module.room} holds mathematics: {target} is not among {sorted(allowed)}"
    return None


def _inside(name: str, owner: str) -> bool:
    return name == owner or name.startswith(f"{owner}.")


def _uphill(package: str, room: str, target: str) -> str | None:
    target_room = _room_of(package, target)
    if target_room not in FLOORS:
        return f"{target} lies in room {target_room!r}, which has no floor"
    if target_room == room or FLOORS[target_room] < FLOORS[room]:
        return None
    return (
        f"{room} (floor {FLOORS[room]:g}) imports {target} "
        f"(floor {FLOORS[target_room]:g}): an import may only run downhill"
    )


def test_the_package_keeps_its_floors() -> None:
    problems = problems_in(PACKAGE)
    assert not problems, "\n" + "\n".join(problems)


def test_the_rooms_were_read() -> None:
    """An empty tree has no problems either: make sure it was the real one."""
    rooms = {module.room for module in modules_of(PACKAGE)}
    assert {"__init__", "errors", "mixture", "data", "execution", "fitting"} <= rooms


@pytest.mark.parametrize(
    ("imports", "heavy"),
    [
        # A user of one process pays for no cluster, no command line and no plots.
        ("dask_gmm.estimators", {"distributed", "matplotlib", "dask_gmm.cli"}),
        # Whoever asks for --help pays for no fit.
        ("dask_gmm.cli.main", {"numpy", "zarr", "dask", "sklearn", "dask_gmm.fitting"}),
    ],
)
def test_imports_stay_light(imports: str, heavy: set[str]) -> None:
    code = f"import sys, {imports}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# The checker itself, on small trees that break one rule each.


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write a package of those files, with the missing ``__init__`` files, and return its path."""
    package = root / "dask_gmm"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in {package, *(path.parent for path in package.rglob("*.py"))}:
        (folder / "__init__.py").touch()
    return package


BROKEN = {
    "uphill": (
        {"mixture/a.py": "x = 1\nimport dask_gmm.data.source\n", "data/source.py": ""},
        "mixture/a.py:2: mixture (floor 1) imports dask_gmm.data.source",
    ),
    "uphill, relative": (
        {"mixture/kernels/a.py": "from ...fitting import loop\n", "fitting/loop.py": ""},
        "mixture/kernels/a.py:1: mixture (floor 1) imports dask_gmm.fitting.loop",
    ),
    "uphill, from the package": (
        {"data/a.py": "from dask_gmm import execution\n", "execution/b.py": ""},
        "data/a.py:1: data (floor 2) imports dask_gmm.execution",
    ),
    "uphill, inside a function": (
        {"data/a.py": "def f():\n    from ..execution.plan import Plan\n", "execution/plan.py": ""},
        "data/a.py:2: data (floor 2) imports dask_gmm.execution.plan",
    ),
    "uphill, for types only": (
        {
            "fitting/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from dask_gmm.estimators import GaussianMixture\n",
            "estimators.py": "",
        },
        "fitting/a.py:3: fitting (floor 3) imports dask_gmm.estimators",
    ),
    "uphill, by name": (
        {"errors.py": "import importlib\nimportlib.import_module('dask_gmm.cli')\n"},
        "errors.py:2: errors (floor 0) imports dask_gmm.cli",
    ),
    "through the front door": (
        {"estimators.py": "from dask_gmm import __version__\n"},
        "estimators.py:1: estimators (floor 4) imports dask_gmm (floor 4.75)",
    ),
    "the front door opens on the command line": (
        {"__init__.py": "from dask_gmm.cli import main\n", "cli/main.py": ""},
        "__init__.py:1: __init__ (floor 4.75) imports dask_gmm.cli.main",
    ),
    "a name computed at run time": (
        {"data/a.py": "from importlib import import_module\nimport_module('da' + 'sk')\n"},
        "data/a.py:2: an import whose name is computed",
    ),
    "Dask among the mathematics": (
        {"fitting/passes.py": "import dask.array as da\n"},
        "fitting/passes.py:1: fitting holds mathematics: dask.array",
    ),
    "Zarr among the mathematics, inside a function": (
        {"mixture/a.py": "def f():\n    import zarr\n"},
        "mixture/a.py:2: mixture holds mathematics: zarr",
    ),
    "scikit-learn outside the starts": (
        {"fitting/loop.py": "from sklearn.cluster import KMeans\n"},
        "fitting/loop.py:1: fitting holds mathematics: sklearn.cluster",
    ),
    "distributed outside its room": (
        {"execution/local.py": "from distributed import Client\n"},
        "execution/local.py:1: distributed is imported outside",
    ),
    "distributed by its other name": (
        {"estimators.py": "from dask import distributed\n"},
        "estimators.py:1: dask.distributed is imported outside",
    ),
    "a room nobody knows": ({"attic.py": ""}, "attic.py:1: room 'attic' has no floor"),
    "a circle": (
        {
            "data/a.py": "from .b import f\n",
            "data/b.py": "from dask_gmm.data import c\n",
            "data/c.py": "import dask_gmm.data.a\n",
        },
        "circular import: dask_gmm.data.",
    ),
    "a circle of types": (
        {
            "data/a.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from dask_gmm.data.b import B\n",
            "data/b.py": "def f():\n    import dask_gmm.data.a\n",
        },
        "circular import: dask_gmm.data.",
    ),
    "a circle through the room's own door": (
        {"data/__init__.py": "from .a import f\n", "data/a.py": "from dask_gmm.data import g\n"},
        "circular import: dask_gmm.data",
    ),
    "a long file": ({"data/a.py": "x = 1\n" * 701}, "data/a.py:701: 701 lines"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_checker_finds(case: str, tmp_path: Path) -> None:
    files, expected = BROKEN[case]
    problems = problems_in(tree(tmp_path, files))
    assert len(problems) == 1, problems
    assert expected in problems[0]


def test_the_checker_accepts_a_sound_tree(tmp_path: Path) -> None:
    package = tree(
        tmp_path,
        {
            "__init__.py": "from dask_gmm.estimators import GaussianMixture\n",
            "errors.py": "",
            "mixture/kernels/blas.py": "import math\nimport scipy.linalg\nfrom . import base\n",
            "mixture/kernels/base.py": "import numpy as np\nfrom ... import errors\n",
            "data/source.py": "import zarr\nfrom dask_gmm.errors import InputError\n",
            "execution/backend.py": "from ..data import source\n",
            "execution/cluster.py": "import distributed\nfrom . import backend\n",
            "fitting/starts.py": "import sklearn.cluster\nimport dask_gmm.execution.backend\n",
            "estimators.py": "from dask_gmm.fitting import starts\n",
            "cli/main.py": "from distributed import LocalCluster\nfrom dask_gmm import x\n",
            "__main__.py": "from dask_gmm.cli.main import main\n",
        },
    )
    assert problems_in(package) == []
