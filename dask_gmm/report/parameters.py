"""The parameters of a mixture: as tables to read, and as files to take along."""

from __future__ import annotations

import base64
import csv
import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.quantities import plural
from dask_gmm.report.html import Markup, join, table, tag
from dask_gmm.report.words import SURE, capital, number, share, surely
from dask_gmm.scaling.original_units import means_and_widths
from dask_gmm.shapes import StudentShape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.report.evidence import Evidence

    Floats = NDArray[np.float64]

__all__ = ["parameters_section"]

_OPEN = 240
"""Numbers of a table that a reader may be shown unasked."""
_MOST_NUMBERS = 40_000
"""Of covariances, some 20 bytes each, that the report carries along."""


class _Shown(NamedTuple):
    """Means and widths, (K, D), what widths and features are called, and what units there are."""

    names: Sequence[str]
    means: Floats
    widths: Floats
    width: str
    units: str


def parameters_section(evidence: Evidence) -> Markup:
    """Return weights, means and widths as tables, and links to files of all parameters."""
    shown = _shown(evidence)
    order = np.argsort(-evidence.parameters.weights, kind="stable")
    parts = [
        tag("p", f"Components are numbered as labels are, and listed by weight. {shown.units}"),
        _weights(evidence, order),
        *_vectors(shown, order),
        tag("p", *_downloads(evidence, shown)),
    ]
    return join(*parts)


def _shown(evidence: Evidence) -> _Shown:
    """Means and widths in the data's units, where they have some there."""
    scaling, parameters, shape = evidence.scaling, evidence.parameters, evidence.shape
    they = f"Means and {shape.width}s are"
    if scaling is not None and not scaling.linear:
        text = (
            f"{they} those of the scaled rows, for which the components are {shape.name}s; in the "
            f"data's units they are none."
        )
        widths = np.sqrt(evidence.variances)
        return _Shown(evidence.names, parameters.means, widths, shape.width, text)
    means, widths = means_and_widths(parameters, scaling)
    where = "features' own units" if scaling is None else "data's units, as before the scaling"
    return _Shown(evidence.data_names, means, widths, shape.width, f"{they} in the {where}.")


def _weights(evidence: Evidence, order: NDArray[np.intp]) -> Markup:
    """Return what each component accounts for."""
    inspection, rows = evidence.inspection, evidence.rows_of
    heads = ["component", "weight", "rows"]
    tails = evidence.shape if isinstance(evidence.shape, StudentShape) else None
    if tails is not None:
        heads.append("degrees of freedom")
    if inspection is not None:
        heads += ["labelled so", f"of these sure (≥ {SURE:g})"]
        above = surely(inspection)

    def cells(k: int) -> Iterator[str]:
        yield str(k)
        yield share(float(evidence.parameters.weights[k]))
        yield "unknown" if np.isnan(rows[k]) else f"{rows[k]:,.0f}"
        if tails is not None:
            yield number(float(tails.degrees[k]), 3)
        if inspection is not None:
            labelled = float(inspection.labelled[k])
            yield share(labelled / inspection.weight)
            yield share(float(above[k]) / labelled) if labelled else "–"

    return table("Weights", heads, [list(cells(int(k))) for k in order])


def _vectors(shown: _Shown, order: NDArray[np.intp]) -> Iterator[Markup]:
    """Return tables of means and widths, folded up where they are large."""
    decimals = _decimals(shown)
    heads = ["component", *shown.names]
    for title, values in (("Means", shown.means), (f"{capital(shown.width)}s", shown.widths)):
        rows = [
            [str(int(k)), *(_number(v, n) for v, n in zip(values[k], decimals, strict=True))]
            for k in order
        ]
        whole = table(title, heads, rows)
        if values.size <= _OPEN:
            yield whole
        else:
            k, d = values.shape
            text = f"{title} of {plural(k, 'component')} along {plural(d, 'feature')}"
            yield tag("details", tag("summary", text), whole)


def _decimals(shown: _Shown) -> list[int | None]:
    """Digits behind the point that show a mean to a hundredth of its width; None: by powers."""
    found: list[int | None] = []
    for means, widths in zip(shown.means.T, shown.widths.T, strict=True):
        least, most = float(widths.min()), float(np.abs(means).max())
        if not 1e-4 < least < 1e9 or most > 1e12:
            found.append(None)
        else:
            found.append(max(0, 2 - int(np.floor(np.log10(least)))))
    return found


def _number(value: float, decimals: int | None) -> str:
    text = f"{value:z.4g}" if decimals is None else f"{value:z,.{decimals}f}"
    return text.replace("-", "−")


def _downloads(evidence: Evidence, shown: _Shown) -> Iterator[Markup | str]:
    yield "Take them along: "
    yield _link("parameters.csv", "text/csv", _csv(evidence, shown), "weights, means and widths")
    yield " (CSV), "
    whole, text = _json(evidence)
    yield _link("parameters.json", "application/json", text, "all parameters")
    yield " (JSON)" if whole else " (JSON) but the covariances, which save() writes too"
    if evidence.card is not None:
        card = json.dumps(evidence.card, indent=2)
        yield ", "
        yield _link("card.json", "application/json", card, "the model card")
        yield " (JSON): where it comes from and what it is for"
    yield "."


def _link(name: str, kind: str, content: str, text: str) -> Markup:
    packed = base64.b64encode(content.encode()).decode()
    return tag("a", text, href=f"data:{kind};charset=utf-8;base64,{packed}", download=name)


def _csv(evidence: Evidence, shown: _Shown) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    means = [f"mean {name}" for name in shown.names]
    writer.writerow(
        ["component", "weight", *means, *(f"{shown.width} {name}" for name in shown.names)]
    )
    for k, weight in enumerate(evidence.parameters.weights.tolist()):
        numbers = [weight, *shown.means[k].tolist(), *shown.widths[k].tolist()]
        writer.writerow([k, *(repr(v) for v in numbers)])
    return file.getvalue()


def _json(evidence: Evidence) -> tuple[bool, str]:
    """The mixture's own parameters, of scaled rows if rows are scaled; whether that is all."""
    parameters = evidence.parameters
    whole = parameters.covariances.size <= _MOST_NUMBERS
    document: dict[str, Any] = {
        "covariance_type": evidence.family,
        "features": list(evidence.names),
        "scaled": evidence.scaling is not None,
        "weights": parameters.weights.tolist(),
        "means": parameters.means.tolist(),
        **({"covariances": parameters.covariances.tolist()} if whole else {}),
        **{name: array.tolist() for name, array in parameters.more.items()},
    }
    return whole, json.dumps(document)
