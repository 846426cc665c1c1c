"""What the larger benchmarks leave behind: a record as JSON, a table in Markdown."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def benchmark_parser(about: str, full: str, quick: str) -> argparse.ArgumentParser:
    """A command line with a choice of sizes, and options for where results go.

    Parameters
    ----------
    about : str
        The benchmark's docstring.
    full, quick : str
        What these sizes are.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_true", help=full)
    sizes.add_argument("--quick", action="store_true", help=quick)
    sizes.add_argument("--tiny", action="store_true", help="sizes of a test; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table there")
    return parser


def write(arguments: argparse.Namespace, record: Mapping[str, Any], table: str) -> None:
    """Write the record and the table to where they were asked for."""
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
    if arguments.markdown:
        arguments.markdown.write_text(table)


def markdown_table(headings: list[str], words: int, rows: list[list[str]]) -> str:
    """A table whose first columns hold words, the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(headings) - words)
    lines = ["| " + " | ".join(headings) + " |", "|" + "|".join(rule) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
