"""What threads open for their work, and who holds it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Opened"]

T = TypeVar("T")


class Opened(Generic[T]):
    """Something that is opened as often as threads use it at the same time, and not more.

    What a thread is done with serves the next one that asks. All of it goes with this object,
    whose owner (a pass, the run of a graph) so says how long it lives; a pickle takes none along.

    Parameters
    ----------
    make : callable
        Opens one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._idle: list[T] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._make,)

    @contextmanager
    def one(self) -> Iterator[T]:
        """Lend one to the calling thread; after an error nobody else gets it."""
        try:
            mine = self._idle.pop()  # in one step: no other thread gets it too
        except IndexError:
            mine = self._make()
        yield mine
        self._idle.append(mine)
