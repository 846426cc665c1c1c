"""The reference page is what docstrings and commands say, and no public name lacks an example."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import pytest

import dask_gmm
from dask_gmm import errors
from dask_gmm.cli.main import main as command_line
from tests.examples import api_page, pages

TEXT = pages.API.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert api_page.page() == TEXT, "run: python -m tests.examples.api_page"


def names() -> list[Any]:
    found = []
    for name, thing in api_page.public_names().items():
        found.append(pytest.param(name, thing, id=name))
        if inspect.isclass(thing):
            short = name.rpartition(".")[2]
            for own, function in api_page.methods(thing).items():
                found.append(pytest.param(f"{short}.{own}", function, id=f"{short}.{own}"))
    return found


@pytest.mark.parametrize(("name", "thing"), names())
def test_a_public_name_has_an_example(name: str, thing: Any) -> None:
    """`tests/test_docstrings.py` runs it."""
    text = api_page.docstring(thing)
    assert doctest.DocTestParser().get_examples(text), f"{name} has no example"
    heading = "####" if "." in name and not name.startswith("plotting.") else "###"
    assert f"\n{heading} {name}\n" in TEXT


def test_attributes_of_a_fit_are_there() -> None:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(50, 2))
    gm = dask_gmm.GaussianMixture(2, random_state=0).fit(rows)
    section = TEXT.partition("### GaussianMixture\n")[2].partition("\n#### ")[0]
    fitted = {name for name in vars(gm) if name.endswith("_") and not name.startswith("_")}
    assert len(fitted) > 15
    for name in fitted | set(gm.get_params()):
        assert name.replace("_", r"\_") in section or f"`{name}`" in section, name


def test_every_command_and_option_is_there() -> None:
    for name, command in command_line.commands.items():
        section = TEXT.partition(f"### dask-gmm {name}\n")[2].partition("\n### ")[0]
        assert section
        for parameter in command.params:
            assert all(option in section for option in parameter.opts if option.startswith("--"))


def test_errors_are_there() -> None:
    for name in errors.__all__:
        assert name in TEXT


def test_inherited_methods_do_as_the_page_says() -> None:
    examples = "\n".join([">>> from dask_gmm import GaussianMixture", *api_page.INHERITED.values()])
    test = doctest.DocTestParser().get_doctest(examples, {}, "inherited", None, None)
    assert doctest.DocTestRunner().run(test).failed == 0
