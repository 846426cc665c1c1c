"""Values as people type them: sizes, counts, KEY=VALUE pairs; and as people read them."""

from __future__ import annotations

import csv
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic from click 8.2 on
    _ParamType = click.ParamType

__all__ = [
    "AXIS",
    "BYTES",
    "CACHE",
    "CHUNK",
    "CLUSTERS",
    "COMPONENTS",
    "COUNT",
    "COUNTS",
    "DEGREES",
    "FREEZE",
    "MISSING_CHUNKS",
    "NAMES",
    "ORDER",
    "SEARCH",
    "STORAGE_OPTION",
    "TRANSFORM",
]

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_NUMBER = re.compile(r"([0-9][0-9_,]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


def _split(text: str) -> tuple[float, str] | None:
    """Split ``1.5 GiB`` into 1.5 and ``gib``; None for what starts with no number."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    return float(match[1].replace(",", "").replace("_", "")), match[2].lower()


def parse_bytes(text: str) -> int | None:
    """Return the bytes of ``500MB``, ``64 MiB``, ``2G`` or ``1048576``; None if it is no size."""
    parts = _split(text)
    if parts is None:
        return None
    number, unit = parts
    prefix = unit.removesuffix("b")
    factor = _BINARY.get(prefix[:-1]) if prefix.endswith("i") else _DECIMAL.get(prefix)
    if factor is None or (prefix == "i"):
        return None
    return round(number * factor)


def parse_count(text: str) -> int | None:
    """Return the whole number of ``1e6``, ``10M`` or ``250_000``; None if it is none."""
    parts = _split(text)
    if parts is None:
        return None
    number, unit = parts
    factor = _DECIMAL.get(unit)
    if factor is None:
        return None
    value = number * factor
    return int(value) if value == int(value) else None


class _Bytes(_ParamType):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        size = parse_bytes(value)
        if size is None or size <= 0:
            self.fail(f"{value!r} is no size: write 500MB, 64MiB or 2GB.", param, ctx)
        return size


class _Cache(_ParamType):
    """Bytes, none at all, or as many as seem right."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int):
            return value
        size = "auto" if value == "auto" else parse_bytes(value)
        if size is None:
            self.fail(f"{value!r} is no size: write 'auto', 2GB, 500MiB, or 0.", param, ctx)
        return size


class _Search(_ParamType):
    """How much to search: a word, or a number of moves."""

    name = "search"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int) or value in ("auto", "off", "thorough"):
            return value  # type: ignore[no-any-return]
        moves = parse_count(value)
        if moves is None or moves < 0:
            self.fail(
                f"{value!r} is no search: write 'auto', 'off', 'thorough', or the most moves to "
                f"try, such as 100.",
                param,
                ctx,
            )
        return moves


class _Degrees(_ParamType):
    """Degrees of freedom: how they are estimated, or a number."""

    name = "degrees of freedom"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if isinstance(value, float) or value in ("each", "shared"):
            return value  # type: ignore[no-any-return]
        try:
            degrees = float(value)
        except ValueError:
            degrees = 0.0
        if not 0.0 < degrees < float("inf"):
            words = "write 'each', 'shared' or a positive number."
            self.fail(f"{value!r} are no degrees of freedom: {words}", param, ctx)
        return degrees


class _Clusters(_ParamType):
    """How many clusters: a number, or by which curve."""

    name = "clusters"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int) or value in ("elbow", "elbow-rows"):
            return value  # type: ignore[no-any-return]
        count = parse_count(value)
        if count is None or count < 1:
            self.fail(
                f"{value!r} is no number of clusters: write one, such as 5, or 'elbow' or "
                f"'elbow-rows'.",
                param,
                ctx,
            )
        return count


class _Order(_ParamType):
    """An order of components: a word, or a feature by its name or number."""

    name = "order"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        return value  # type: ignore[no-any-return]


class _Count(_ParamType):
    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        count = parse_count(value)
        if count is None or count <= 0:
            self.fail(
                f"{value!r} is no positive whole number: write 250000, 250k, 10M or 1e6.",
                param,
                ctx,
            )
        return count


class _Counts(_ParamType):
    """Several numbers: ``2:12`` (both ends), ``4:32:4``, ``2,3,5``, and mixtures of these."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found: set[int] = set()
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)(?::(\d+)(?::(\d+))?)?\s*", part)
            first, last, step = (
                (int(n) if n else None for n in match.groups()) if match else [0] * 3
            )
            numbers = range(first or 0, (last or first or 0) + 1, step or 1) if step != 0 else ()
            if not match or not numbers or numbers[0] < 1 or len(numbers) > 1000:
                self.fail(
                    f"{value!r} is no range of numbers from 1 on: write 2:12, 4:32:4 or 2,3,5.",
                    param,
                    ctx,
                )
            found.update(numbers)
        return tuple(sorted(found))


class _Transform(_ParamType):
    """``log1p``, ``arcsinh``, ``arcsinh:150``, and for one feature ``NAME=arcsinh:150``."""

    name = "transform"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | int | None, Any]:
        if isinstance(value, tuple):
            return value
        feature, equals, what = value.rpartition("=")
        kind, colon, number = what.partition(":")
        known = kind == "arcsinh" or (kind == "log1p" and not colon)
        try:
            cofactor = float(number) if colon else None
        except ValueError:
            known, cofactor = False, None
        if not known or (equals and not feature):
            self.fail(
                f"{value!r} is no transform: write log1p, arcsinh, arcsinh:150, or for one feature "
                f"its name or number as CD4=arcsinh:150.",
                param,
                ctx,
            )
        asked: Any = kind if cofactor is None else (kind, cofactor)
        if not equals:
            return None, asked
        return (int(feature) if feature.lstrip("-").isdigit() else feature), asked


class _Freeze(_ParamType):
    """A part (``means``), a component (``3``), or a part of some components (``means=0,3``)."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, tuple[int, ...] | None]:
        if isinstance(value, tuple):
            return value
        part, equals, numbers = value.strip().partition("=")
        if not equals and part[:1].isdigit():
            part, numbers = "", part
        found = [number.strip() for number in numbers.split(",")] if numbers else []
        sound = part in ("", "weights", "means", "covariances") and (bool(found) or not equals)
        if not sound or not all(number.isdecimal() for number in found) or not (part or found):
            self.fail(
                f"{value!r} is no part of a mixture: write weights, means or covariances, the "
                f"number of a component, or means=0,3 for those of some components.",
                param,
                ctx,
            )
        return part or None, tuple(map(int, found)) or None


class _Components(_ParamType):
    """A whole number of principal components, or a part of the variance."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        if isinstance(value, int | float):
            return value
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if number >= 1.0 and number.is_integer() and "." not in value:
            return int(number)
        if not 0.0 < number < 1.0:
            self.fail(f"{value!r} is neither a number of components nor a part: 5, 0.95.")
        return number


class _Chunk(_ParamType):
    """A chunk's size: bytes with a B (``16MB``), rows without (``100k``)."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        text = value.strip().lower()
        is_bytes = text.endswith("b")
        size = parse_bytes(text) if is_bytes else parse_count(text.removesuffix("rows").strip())
        if size is None or size <= 0:
            self.fail(f"{value!r} is no chunk: write bytes as 16MB, or rows as 100k.", param, ctx)
        return ("bytes" if is_bytes else "rows", size)


class _Axis(_ParamType):
    """An axis by its number, or by its name."""

    name = "axis"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        text = str(value).strip()
        if not text:
            self.fail("expected an axis: its number, or its name.", param, ctx)
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


class _Names(_ParamType):
    """Names between commas; one that has a comma stands in double quotes."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(map(str.strip, next(csv.reader([value], skipinitialspace=True), [])))
        if not names or not all(names):
            self.fail(f"{value!r} is no list of names: write a,b,c.", param, ctx)
        return names


class _MissingChunks(_ParamType):
    """What absent chunks mean: ``fill``, or of what lies beside the rows alone, ``where=fill``."""

    name = "policy"
    _OF = MappingProxyType({"data": "X", "where": "where", "weights": "sample_weight"})

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | dict[str, str]:
        if isinstance(value, dict):
            return value
        if value in ("error", "fill"):
            return str(value)
        found = {}
        for part in value.split(","):
            name, _, how = (word.strip() for word in part.partition("="))
            if name not in self._OF or how not in ("error", "fill"):
                self.fail(
                    f"{value!r} is no policy: write error or fill, or of some what theirs is, by "
                    f"data, where and weights: where=fill,weights=fill.",
                    param,
                    ctx,
                )
            found[self._OF[name]] = how
        return found


class _StorageOption(_ParamType):
    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | bool]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            # What was typed may be a secret; do not repeat it.
            self.fail(
                "expected KEY=VALUE, for example endpoint=http://localhost:9000 or "
                "skip_signature=true.",
                param,
                ctx,
            )
        lowered = text.strip().lower()
        if lowered in {"true", "false"}:
            return key.strip(), lowered == "true"
        return key.strip(), text


AXIS = _Axis()
BYTES = _Bytes()
CACHE = _Cache()
DEGREES = _Degrees()
CLUSTERS = _Clusters()
ORDER = _Order()
SEARCH = _Search()
COUNT = _Count()
COUNTS = _Counts()
CHUNK = _Chunk()
FREEZE = _Freeze()
COMPONENTS = _Components()
MISSING_CHUNKS = _MissingChunks()
NAMES = _Names()
STORAGE_OPTION = _StorageOption()
TRANSFORM = _Transform()
