"""The examples of all docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dask_gmm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(dask_gmm.__file__).parent


def modules_with_examples() -> list[str]:
    """Return the modules whose text has an example; only these are imported."""
    found = []
    for module in pkgutil.walk_packages(dask_gmm.__path__, "dask_gmm."):
        parts = module.name.split(".")[1:]
        path = ROOT.joinpath(*parts)
        file = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
        if ">>> " in file.read_text(encoding="utf-8"):
            found.append(module.name)
    return found


def examples() -> Iterator[Any]:
    for name in modules_with_examples():
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(examples()))
def test_examples_run(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=told.append)
    assert runner.failures == 0, "".join(told)
