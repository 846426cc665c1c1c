"""What messages advise: code between backticks, with the input as `X`. Here it is run."""

from __future__ import annotations

import ast
import re
from typing import Any

import dask
import dask.array
import numpy as np
import pandas as pd
import xarray
import zarr

__all__ = ["advised", "is_setting", "run_remedy"]


def advised(message: str) -> list[str]:
    """Return the pieces of code in a message."""
    return re.findall(r"`([^`]+)`", message)


def is_setting(code: str) -> bool:
    """Whether a piece of code is a parameter of an estimator or a method, as ``name=value``."""
    return re.match(r"\w+=", code) is not None


def run_remedy(code: str, X: object, **inputs: object) -> Any:
    """Run statements and return the value of the last, an expression."""
    modules = {"dask": dask, "numpy": np, "pandas": pd, "xarray": xarray, "zarr": zarr}
    names = {"X": X, **modules, **inputs}
    *statements, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), code
    exec(compile(ast.Module(statements, []), code, "exec"), names)
    return eval(compile(ast.Expression(last.value), code, "eval"), names)
