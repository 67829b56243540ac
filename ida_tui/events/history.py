"""A sequence that only grows, whose earlier lengths stay valid, and that packs what is far behind."""

from __future__ import annotations

import pickle
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf, isnan, nan
from typing import Generic, TypeVar, overload

T = TypeVar("T")
BLOCK = 256
"""Items that are packed together, once as many newer ones have come."""


class Figures(Sequence[float | None]):
    """One figure of each item of a `Series`, as numbers in a row: eight bytes an item.

    Args:
        values: NaN stands for None.
        length: how many of them count.
    """

    __slots__ = ("_length", "_values")

    def __init__(self, values: array[float], length: int) -> None:
        self._values = values
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> float | None: ...

    @overload
    def __getitem__(self, index: slice) -> list[float | None]: ...

    def __getitem__(self, index: int | slice) -> float | list[float | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        value = self._values[index % self._length]
        return None if isnan(value) else value

    def __iter__(self) -> Iterator[float | None]:
        for value in islice(self._values, self._length):
            yield None if isnan(value) else value

    def total(self) -> float:
        """The sum of those that are known."""
        total = sum(islice(self._values, self._length))
        return total if not isnan(total) else sum(v for v in self if v is not None)

    def mean(self, start: int, stop: int) -> float | None:
        """The mean of those that are known from `start` to before `stop`; None where none is."""
        part = self._values[start : min(stop, self._length)]
        total = sum(part)
        if isnan(total):
            known = [value for value in part if not isnan(value)]
            return sum(known) / len(known) if known else None
        return total / len(part) if part else None


class _Store(Generic[T]):
    """What several series share: packed blocks, the newest items, and figures of all of them."""

    __slots__ = ("blocks", "figures", "newest", "opened")

    def __init__(self, figures: Iterable[str]) -> None:
        self.blocks: list[bytes] = []
        self.newest: list[T] = []
        """Those after the blocks."""
        self.figures: dict[str, array[float]] = {name: array("d") for name in figures}
        self.opened: tuple[int, list[T]] = (-1, [])
        """The block that was unpacked last, and its number."""

    def __len__(self) -> int:
        return len(self.blocks) * BLOCK + len(self.newest)

    def append(self, item: T) -> None:
        self.newest.append(item)
        for name, values in self.figures.items():
            values.append(_figure(getattr(item, name)))
        if len(self.newest) == 2 * BLOCK:
            self.blocks.append(zlib.compress(pickle.dumps(self.newest[:BLOCK]), 1))
            del self.newest[:BLOCK]

    def until(self, length: int) -> _Store[T]:
        """A store of its own with the first items of this one."""
        store: _Store[T] = _Store(())
        whole = min(length // BLOCK, len(self.blocks))
        store.blocks = self.blocks[:whole]
        store.newest = list(islice(self.items(whole * BLOCK), length - whole * BLOCK))
        store.figures = {name: values[:length] for name, values in self.figures.items()}
        return store

    def block(self, number: int) -> list[T]:
        """The items of one block."""
        opened, items = self.opened
        if opened != number:
            # Packed here and never stored: nobody else can have written it.
            items = pickle.loads(zlib.decompress(self.blocks[number]))
            self.opened = (number, items)
        return items

    def item(self, index: int) -> T:
        number, place = divmod(index, BLOCK)
        if number < len(self.blocks):
            return self.block(number)[place]
        return self.newest[index - len(self.blocks) * BLOCK]

    def items(self, start: int) -> Iterator[T]:
        for index in range(start, len(self)):
            yield self.item(index)


class Series(Sequence[T], Generic[T]):
    """An immutable sequence with a cheap `plus`.

    A run of a hundred thousand steps is folded step by step, and every state holds all the steps before it:
    as tuples, five billion references. Here all of them share one store, and each knows how much of it is its
    own. All but the newest items are packed; an item that is looked at is unpacked with those around it.

    Args:
        items: what it holds at first; they can be pickled, and are equal to their copies.
        figures: attributes of the items, numbers or None, that `figures` gives without unpacking.
    """

    __slots__ = ("_length", "_store")

    def __init__(self, items: Iterable[T] = (), figures: Iterable[str] = ()) -> None:
        self._store: _Store[T] = _Store(figures)
        for item in items:
            self._store.append(item)
        self._length = len(self._store)

    def plus(self, item: T) -> Series[T]:
        """This sequence with one more item at its end; this one stays as it is."""
        # Whoever is the longest may append in place; a shorter one that branches off gets its own store.
        alone = len(self._store) == self._length
        store = self._store if alone else self._store.until(self._length)
        store.append(item)
        return self._view(store, self._length + 1)

    def first(self, count: int) -> Series[T]:
        """The first so many items, as a series."""
        return self._view(self._store, max(0, min(count, self._length)))

    def figures(self, name: str) -> Figures:
        """One figure of every item.

        Raises:
            KeyError: it is not among those that the series was made with.
        """
        return Figures(self._store.figures[name], self._length)

    @staticmethod
    def _view(store: _Store[T], length: int) -> Series[T]:
        view: Series[T] = Series.__new__(Series)
        view._store = store
        view._length = length
        return view

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._store.item(i) for i in range(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._store.item(index % self._length)

    def __iter__(self) -> Iterator[T]:
        for index in range(self._length):
            yield self._store.item(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Series | tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Series({self[:]!r})"


def _figure(value: float | None) -> float:
    try:
        return nan if value is None else float(value)
    except OverflowError:
        return inf
