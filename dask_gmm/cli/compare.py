"""`dask-gmm compare`: how alike two models are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import Command, option, output_options, storage_options
from dask_gmm.cli.settings import check_storage_options, options_for

if TYPE_CHECKING:
    from rich.table import Table

    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import Divergence, MixtureComparison

__all__ = ["compare"]

_PAIRS_SHOWN = 40


@click.command(
    cls=Command,
    short_help="Print how alike two models are, component by component.",
    examples=[
        ("did another year give another mixture?", "dask-gmm compare 2024.zarr 2025.zarr"),
        (
            "did the fit find the truth of simulated data?",
            "dask-gmm compare points.truth.zarr model.zarr",
        ),
        (
            "one number for a script: 0 is the same, 1 nothing in common",
            "dask-gmm compare a.zarr b.zarr --json | jq .hellinger.estimate",
        ),
    ],
)
@click.argument("first")
@click.argument("second")
@storage_options
@option(
    "--samples",
    type=click.IntRange(0),
    default=20_000,
    metavar="N",
    section="Model",
    help="Rows drawn from each model for the estimates; 0 for bounds alone. More of them make the "
    "errors smaller, by the root of their number.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="INT",
    section="Model",
    help="Of the rows: the same ones again.",
)
@output_options
@click.pass_obj
def compare(
    session: Session, /, first: str, second: str, samples: int, seed: int, storage_option: Any
) -> None:
    """Match the components of two models and print how far apart they are.

    Components are matched by what they have in common, the heavy ones first of all. For each pair
    and for the models as a whole: the Kullback-Leibler divergence (symmetric; 0 is the same) in
    nats and Hellinger's distance (0 is the same, 1 nothing in common). Of whole models neither has
    a closed form: bounds hold for certain, and estimates come from rows drawn from the models. No
    data are read. Models of scaled rows are compared in the data's units where they have some.
    """
    from dask_gmm.estimators import compare as held_against
    from dask_gmm.estimators import load_mixture

    options = dict(storage_option)
    check_storage_options(options, first, second)
    if samples == 1:
        raise click.UsageError("--samples 1 has no error: draw 2 or more, or 0 for bounds alone.")
    one, other = (
        load_mixture(url, storage_options=options_for(url, options) or None)
        for url in (first, second)
    )
    found = held_against(one, other, n_samples=samples, random_state=seed)
    if session.json:
        session.emit({"command": "compare", **comparison_json(first, second, found)})
        return
    from dask_gmm.cli.tables import key_values

    session.out.print(_whole_table(found))
    session.out.print()
    session.out.print(_pairs_table(found))
    session.out.print()
    facts = [("first", first), ("second", second), ("lengths", f"in {found.units}")]
    for which, alone in (("first", found.only_first), ("second", found.only_second)):
        if alone:
            facts.append((f"only {which}", ", ".join(map(str, alone))))
    session.out.print(key_values(facts))


def comparison_json(first: str, second: str, found: MixtureComparison) -> dict[str, Any]:
    """Return every number of a comparison."""
    return {
        "first": first,
        "second": second,
        "kl_first_second": asdict(found.forward),
        "kl_second_first": asdict(found.backward),
        "symmetric_kl": asdict(found.symmetric_kl),
        "hellinger": asdict(found.hellinger),
        "matches": [asdict(match) for match in found.matches],
        "only_first": list(found.only_first),
        "only_second": list(found.only_second),
        "order": found.order,
        "units": found.units,
        "n_samples": found.n_samples,
    }


def _whole_table(found: MixtureComparison) -> Table:
    """Return the divergences of the models."""
    from dask_gmm.cli.tables import bare_table

    table = bare_table()
    table.add_column("", no_wrap=True)
    for name in ("at least", "at most", "estimate", "± error"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, Divergence]] = [
        ("KL(first‖second)", found.forward),
        ("KL(second‖first)", found.backward),
        ("symmetric KL", found.symmetric_kl),
        ("Hellinger", found.hellinger),
    ]
    for name, one in rows:
        drawn = [
            "" if v is None else f"{v:.{n}g}"
            for v, n in ((one.estimate, 4), (one.standard_error, 2))
        ]
        table.add_row(name, f"{one.lower:.4g}", f"{one.upper:.4g}", *drawn)
    return table


def _pairs_table(found: MixtureComparison) -> Table:
    """Return a line for each pair of components."""
    from dask_gmm.cli.tables import bare_table

    table = bare_table()
    names = ("first", "second", "weight", "its weight", "symmetric KL", "Hellinger", "Wasserstein")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for match in found.matches[:_PAIRS_SHOWN]:
        table.add_row(
            str(match.first),
            str(match.second),
            f"{match.first_weight:.4f}",
            f"{match.second_weight:.4f}",
            f"{match.symmetric_kl:.4g}",
            f"{match.hellinger:.4f}",
            f"{match.wasserstein:.4g}",
        )
    if len(found.matches) > _PAIRS_SHOWN:
        table.add_row("…", f"{len(found.matches) - _PAIRS_SHOWN} more", *[""] * 5)
    return table
