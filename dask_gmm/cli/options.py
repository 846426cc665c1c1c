"""The options that commands share, their help, and the sections in which help shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dask_gmm.cli.session import Session
from dask_gmm.cli.values import AXIS, BYTES, MISSING_CHUNKS, NAMES, STORAGE_OPTION

__all__ = [
    "Command",
    "Option",
    "array_option",
    "compute_options",
    "data_options",
    "missing_option",
    "model_option",
    "model_output_options",
    "n_effective_option",
    "option",
    "optional_data_options",
    "output_options",
    "overwrite_option",
    "stack",
    "storage_options",
    "weights_option",
    "where_option",
]

SECTIONS = ("Data", "Mixture", "Model", "Compute", "Prices", "Checkpoint", "Output")
"""Headings of the options, in this order."""

F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option that knows under which heading help shows it."""

    def __init__(self, *args: Any, section: str = "Output", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help has headings and examples.

    Parameters
    ----------
    examples : sequence of (str, str)
        What an example does, and its command line.
    """

    def __init__(self, *args: Any, examples: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in SECTIONS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[getattr(parameter, "section", "Output")].append(record)
        for heading, records in sections.items():
            if not records:
                continue
            with formatter.section(heading):
                formatter.write_dl(records, col_max=28)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, unwrapped so that they can be copied."""
        with formatter.section("Examples"):
            margin = " " * formatter.current_indent
            for purpose, lines in self.examples:
                formatter.write(f"{margin}# {purpose}\n")
                formatter.write("".join(f"{margin}{line}\n" for line in lines.splitlines()))


def option(*names: str, section: str = "Output", **settings: Any) -> Callable[[F], F]:
    """Declare an option under a heading of the help."""
    settings.setdefault("show_default", settings.get("default") is not None)
    return click.option(*names, cls=Option, section=section, **settings)


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Declare several options at once, in the order given."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# -- where the data are ------------------------------------------------------------------------


def _check_storage(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    names = [key for key, _ in value]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise click.BadParameter(f"{repeated[0]!r} is given twice.", ctx, param)
    return value


storage_options = option(
    "--storage-option",
    type=STORAGE_OPTION,
    multiple=True,
    callback=_check_storage,
    metavar="KEY=VALUE",
    section="Data",
    help="How to reach the object stores of this command's URLs: endpoint=http://localhost:9000, "
    "region=eu-west-1, skip_signature=true (public data). Repeatable. Never credentials: each "
    "process takes those from its own environment or role.",
)

array_option = option(
    "--array",
    metavar="NAME",
    section="Data",
    help="Name of the array, when the path or URL is a Zarr group that holds several.",
)

_reading_options = stack(
    array_option,
    option(
        "--arrays",
        type=NAMES,
        metavar="NAME,PATTERN",
        section="Data",
        help="Many arrays of the group, or stores or tables in the folder, taken as one: their "
        "names, or patterns such as '*' and 'plate1/*'. DATA may be a pattern of paths too: "
        "'plate1/*.zarr'.",
    ),
    option(
        "--features",
        type=NAMES,
        metavar="NAME,NAME",
        section="Data",
        help="Names of several arrays of the group, which together are the features: each is one, "
        "or as many as there are places along the dimension that --feature-axis names. All others "
        "of their dimensions are samples, the same in each array and in any order.",
    ),
    option(
        "--columns",
        type=NAMES,
        metavar="A,B,C",
        section="Data",
        help="The columns of a Parquet table that are features, in this order; by default all of "
        "them, or those that the model was fitted to. No others are read.",
    ),
    option(
        "--feature-axis",
        type=AXIS,
        default=-1,
        metavar="INT|NAME",
        section="Data",
        help="Axis of the array that holds the features (bands, levels); all others are samples. "
        "-1 is the last; use 0 for an image stored as band, y, x, or the dimension's name where "
        "the store has names, as those that xarray writes.",
    ),
    option(
        "--missing-chunks",
        type=MISSING_CHUNKS,
        default="error",
        metavar="[NAME=]HOW",
        section="Data",
        help="What a chunk that is not in the store means: 'error', or 'fill' for the fill value. "
        "Zarr leaves out chunks that hold nothing else; say so only when you know that yours are "
        "such. Of the mask alone where=fill, of weights weights=fill, with a comma between "
        "several.",
    ),
    storage_options,
)

data_options = stack(click.argument("data"), _reading_options)
optional_data_options = stack(click.argument("data", required=False), _reading_options)

weights_option = stack(
    option(
        "--weights",
        metavar="NAME|PATH|URL",
        section="Data",
        help="Weights of the rows, of the samples' shape: the name of an array in the group that "
        "holds DATA, or of a column of the table, or else the path or URL of a Zarr array; of "
        "many arrays the name beside each. A row of weight 2 counts as two copies of it, one of "
        "weight 0 is left out, and may hold anything. Their chunks need not be those of the rows, "
        "and of named dimensions they may lack some.",
    ),
    option(
        "--equal-per-array",
        is_flag=True,
        section="Data",
        help="Let each of many arrays count alike, however many rows it has; those that --missing "
        "drop leaves out are among them.",
    ),
)


where_option = option(
    "--where",
    metavar="NAME|PATH|URL",
    section="Data",
    help="A mask of the samples' shape, found as --weights are: true (1) for rows that take part, "
    "false (0) for others, which may hold anything. Of a mask of which Zarr has left out the "
    "chunks that are false throughout say so by --missing-chunks where=fill.",
)


def missing_option(default: str | None) -> Callable[[F], F]:
    """Declare --missing; without a default it is the model's own."""
    return option(
        "--missing",
        type=click.Choice(["error", "drop", "marginalize"]),
        default=default,
        section="Data",
        help="What becomes of rows that hold NaN. 'drop' leaves them out; 'marginalize' takes each "
        "with the values that it has, which is exact where values are missing at random."
        + ("" if default else " Default: as the model was fitted."),
    )


n_effective_option = option(
    "--n-effective",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    section="Data",
    help="Independent observations that the weights stand for, the N of BIC; the weights are "
    "scaled to add up to it. Default: the sum of the weights, which is right where they count "
    "copies of rows, and not where they are in a unit of their own.",
)


checkpoint_options = stack(
    option(
        "--checkpoint",
        metavar="PATH|URL",
        section="Checkpoint",
        help="Write down there what is known after each pass, so that the same command goes on "
        "from there if this one dies: a folder, or a prefix in an object store, of its own. "
        "'dask-gmm show' prints it.",
    ),
    option(
        "--resume/--no-resume",
        default=None,
        section="Checkpoint",
        help="--resume refuses to begin where --checkpoint holds nothing to go on from, "
        "--no-resume begins anew in its place. Default: go on if there is something.",
    ),
)


def model_option(purpose: str) -> Callable[[F], F]:
    """Declare --model."""
    return option("--model", "-m", required=True, metavar="MODEL", section="Model", help=purpose)


# -- where it computes ---------------------------------------------------------------------------


def compute_options(
    *, workers: int | None = None, memory_limit: str | None = None, cluster: bool = True
) -> Callable[[F], F]:
    """Declare where the work runs, with defaults of the command's own."""
    choices = [
        option(
            "--workers",
            type=click.IntRange(1),
            default=workers,
            metavar="N",
            section="Compute",
            help="Start N local worker processes and compute there. Processes read compressed "
            "Zarr faster than threads do. Without it this process's threads work.",
        ),
        option(
            "--threads-per-worker",
            type=click.IntRange(1),
            metavar="N",
            section="Compute",
            help="Threads of each worker, or of this process. Default: 1 a worker, one a core "
            "here. Each thread holds two blocks: fewer threads, less memory.",
        ),
        option(
            "--memory-limit",
            type=BYTES,
            default=memory_limit,
            metavar="SIZE",
            section="Compute",
            help="Memory of each local worker (2GB, 400MiB); a worker above it is restarted. "
            "Default: the machine's memory shared out. A fit that cannot fit is refused first.",
        ),
    ]
    if cluster:
        choices.insert(
            0,
            option(
                "--scheduler",
                metavar="ADDRESS",
                section="Compute",
                help="Compute on the Dask cluster whose scheduler answers there, for example "
                "tcp://10.0.0.1:8786. Its workers must reach DATA and have dask-gmm installed.",
            ),
        )
        choices.append(
            option(
                "--timeout",
                type=click.FloatRange(0, min_open=True),
                default=30.0,
                metavar="SECONDS",
                section="Compute",
                help="How long to wait for the scheduler, and then for its first worker. Raise "
                "it where workers are still being started.",
            )
        )
    return stack(*choices)


# -- what it says ----------------------------------------------------------------------------------


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        session = ctx.find_object(Session)
        if session is not None:
            setattr(session, name, value)

    return callback


output_options = stack(
    option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_store("json"),
        section="Output",
        help="Print the result as one JSON object on stdout; progress stays on stderr.",
    ),
    option(
        "--progress",
        type=click.Choice(["auto", "bar", "lines", "json", "none"]),
        default="auto",
        expose_value=False,
        callback=_store("progress"),
        section="Output",
        help="How progress is shown on stderr: a bar on a terminal, else a line per pass; 'json' "
        "writes one JSON object per event, with its time and run, for logs and other programs: "
        "'python -m pydoc dask_gmm.progress.json_lines' lists them.",
    ),
    option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=_store("silent"),
        section="Output",
        help="No progress: the result, warnings and errors only.",
    ),
    option(
        "--log-file",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_store("log_file"),
        section="Output",
        help="Append the log of Dask's scheduler and workers there; without it only its errors "
        "are shown.",
    ),
    option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_store("debug"),
        section="Output",
        help="Show the traceback of an error.",
    ),
)


def overwrite_option(what: str) -> Callable[[F], F]:
    """Declare --overwrite."""
    return option(
        "--overwrite",
        is_flag=True,
        section="Output",
        help=f"Replace {what} that is already there; never anything else.",
    )


report_option = option(
    "--report",
    metavar="FILE.html",
    section="Output",
    help="Also write a page of the fit to this path or URL: what to worry about, figures, "
    "parameters, record. One file that stands alone; it takes one more read of DATA, and "
    "matplotlib.",
)


def model_output_options(which: str) -> Callable[[F], F]:
    """Declare --output for a model that others read later, and --overwrite."""
    return stack(
        option(
            "--output",
            "-o",
            metavar="MODEL",
            section="Output",
            help=f"Path or URL of {which}, for predict, score and show. Without it the result is "
            "only printed.",
        ),
        report_option,
        overwrite_option("a model, or a report,"),
    )
