"""Outputs of one read that belong together: an array for each kind of value, in one group.

Each is an `Output` of its own, with its own recipe and claim, and appears at its place when it is
complete. They are written block by block together, so a block is computed again where any of them
lacks it: that writes the same bytes to the others. Who dies between the end of the first and that
of the last has left some of them complete, which the next run of the same recipe finds so.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_gmm.data.output_begin import begin_output
from dask_gmm.errors import OutputExistsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.provenance import Recipe
    from dask_gmm.data.sink import BlockWriter, OpenBlockWriter, Output
    from dask_gmm.data.source import Source

__all__ = ["FieldLayout", "FieldsOutput", "FieldsWriter", "begin_fields"]


@dataclass(frozen=True)
class FieldLayout:
    """Where one kind of value goes.

    Attributes
    ----------
    url : str
        Of its array.
    shape, chunks : tuple of int
    dtype : dtype
    recipe : Recipe
    tail : tuple of str
        Names of the axes behind those of the samples.
    """

    url: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: DTypeLike
    recipe: Recipe
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class FieldsWriter:
    """How to write blocks of values of several kinds; small, picklable.

    Attributes
    ----------
    writers : tuple of BlockWriter
    apart : callable
        Takes all values of some rows, returns those of each kind.
    """

    writers: tuple[BlockWriter, ...]
    apart: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]

    @property
    def url(self) -> str:
        """Of the first, by which those who watch know all of them."""
        return self.writers[0].url

    def open(self) -> OpenFieldsWriter:
        """Open the outputs for one thread."""
        return OpenFieldsWriter(self, tuple(writer.open() for writer in self.writers))


@dataclass(frozen=True, eq=False)
class OpenFieldsWriter:
    """Writes blocks of values of several kinds; one thread's at a time."""

    writer: FieldsWriter
    opened: tuple[OpenBlockWriter, ...]

    def write(self, block: BlockRef, values: NDArray[Any]) -> None:
        """Write the values of one block, (n, all of them); see `OpenBlockWriter.write`."""
        for each, own in zip(self.opened, self.writer.apart(values), strict=True):
            each.write(block, own)


class FieldsOutput:
    """Outputs that this process is responsible for; as an `Output`. Use `begin_fields`.

    Attributes
    ----------
    writer : FieldsWriter
    recipe : Recipe
        Of the first: the data are the same.
    blocks : tuple of int or None
        Those that are to be computed; None for all.
    n_finished : int
        Blocks that all of them have already.
    complete : bool
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        apart: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]],
    ) -> None:
        self._outputs = tuple(outputs)
        self.writer = FieldsWriter(tuple(output.writer for output in outputs), apart)
        self.recipe = outputs[0].recipe
        open_ones = [output for output in outputs if not output.complete]
        self.complete = not open_ones
        self.n_finished = min((output.n_finished for output in open_ones), default=0)
        wanted = [output.blocks for output in open_ones]
        self.blocks: tuple[int, ...] | None = None
        if not any(blocks is None for blocks in wanted):
            self.blocks = tuple(sorted({i for blocks in wanted for i in blocks or ()}))
        if len(open_ones) < len(outputs):  # those that are complete are not written again
            left = tuple(output.writer for output in open_ones)
            wanted_ones = tuple(not output.complete for output in outputs)
            self.writer = FieldsWriter(left or self.writer.writers, _Some(apart, wanted_ones))

    def finish(self) -> None:
        """Call each of them complete and put it in its place; see `Output.finish`."""
        for output in self._outputs:
            if not output.complete:
                output.finish()
        self.complete = True


@dataclass(frozen=True)
class _Some:
    """Some of what is taken apart."""

    apart: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]
    wanted: tuple[bool, ...]

    def __call__(self, values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        parts = zip(self.apart(values), self.wanted, strict=True)
        return tuple(part for part, wanted in parts if wanted)


@contextmanager
def begin_fields(
    layouts: Sequence[FieldLayout],
    apart: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]],
    options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
    resume: str,
    source: Source,
) -> Iterator[FieldsOutput]:
    """Begin outputs that belong together, or go on with them; parameters as of `begin_output`.

    Raises
    ------
    OutputExistsError, InputError, StoreError
        As by `begin_output`.
    """
    with ExitStack() as stack:

        def begin(layout: FieldLayout, how: str) -> Output:
            return stack.enter_context(
                begin_output(
                    layout.url,
                    layout.shape,
                    layout.chunks,
                    layout.dtype,
                    options,
                    recipe=layout.recipe,
                    overwrite=overwrite,
                    resume=how,
                    source=source,
                    tail=layout.tail,
                )
            )

        # The last to be completed goes first: where it was begun before, others may be complete.
        begun: list[Output] = []
        for layout in reversed(layouts):
            try:
                output = begin(layout, resume)
            except OutputExistsError:
                if resume != "auto" or not begun or begun[0].blocks is None:
                    raise
                output = begin(layout, "must")
            begun.append(output)
        yield FieldsOutput(begun[::-1], apart)
