"""A sequence that only grows, and whose earlier lengths stay valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class Series(Sequence[T], Generic[T]):
    """An immutable sequence with a cheap `plus`.

    A run of ten thousand steps is folded step by step, and every state holds all the steps before it: as
    tuples, fifty million copies. Here all of them share one list, and each knows how much of it is its own.

    Args:
        items: what it holds at first.
    """

    __slots__ = ("_items", "_length")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = list(items)
        self._length = len(self._items)

    def plus(self, item: T) -> Series[T]:
        """This sequence with one more item at its end; this one stays as it is."""
        longer: Series[T] = Series.__new__(Series)
        # Whoever is the longest may append in place; a shorter one that branches off gets its own list.
        longer._items = (
            self._items if len(self._items) == self._length else self._items[: self._length]
        )
        longer._items.append(item)
        longer._length = self._length + 1
        return longer

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._items[i] for i in range(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._items[index % self._length]

    def __iter__(self) -> Iterator[T]:
        for index in range(self._length):
            yield self._items[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Series | tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Series({self[:]!r})"
