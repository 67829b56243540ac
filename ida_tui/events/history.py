"""Append-only history of a run: an immutable sequence that shares storage and compresses old items."""

from __future__ import annotations

import pickle
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from math import inf, isnan, nan
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
MAX_SCORE_COLUMNS = 64
"""Largest number of differently named scores in one history."""
BLOCK_SIZE = 256
"""Number of items that are compressed together, after as many newer ones were appended."""


class Column(Sequence[float | None]):
    """One figure of each item of a `PackedHistory`, as a sequence of floats: eight bytes per item.

    Args:
        values: the figures; NaN stands for None.
        length: number of valid values; further ones belong to a longer history with the same storage.
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
            start, stop, step = index.indices(self._length)
            values = self._values[start : stop if stop >= 0 else None : step]
            return [None if isnan(value) else value for value in values]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        value = self._values[index % self._length]
        return None if isnan(value) else value

    def __iter__(self) -> Iterator[float | None]:
        for value in islice(self._values, self._length):
            yield None if isnan(value) else value

    def since(self, start: int) -> Column:
        """The figures from a position on."""
        return Column(self._values[start : self._length], max(0, self._length - start))

    def sum(self) -> float:
        """The sum of the known values."""
        total = sum(islice(self._values, self._length))
        return total if not isnan(total) else sum(value for value in self if value is not None)

    def mean(self, start: int, stop: int) -> float | None:
        """The mean of the known values in [start, stop); None if there are none."""
        part = self._values[start : min(stop, self._length)]
        total = sum(part)
        if isnan(total):
            known = [value for value in part if not isnan(value)]
            return sum(known) / len(known) if known else None
        return total / len(part) if part else None


class _HistoryStore(Generic[T]):
    """Storage shared by several histories: compressed blocks, the newest items, and all figures."""

    __slots__ = ("blocks", "columns", "newest", "score_columns", "scores_of", "unpacked")

    def __init__(self, columns: Iterable[str], scores_of: str) -> None:
        self.scores_of = scores_of
        self.score_columns: dict[str, array[float]] = {}
        self.blocks: list[bytes] = []
        self.newest: list[T] = []
        """The items after the compressed blocks."""
        self.columns: dict[str, array[float]] = {name: array("d") for name in columns}
        self.unpacked: tuple[int, list[T]] = (-1, [])
        """Number and items of the block that was unpacked most recently."""

    def __len__(self) -> int:
        return len(self.blocks) * BLOCK_SIZE + len(self.newest)

    def append(self, item: T) -> None:
        self.newest.append(item)
        for name, values in self.columns.items():
            values.append(_to_float(getattr(item, name)))
        if self.scores_of:
            self._append_scores(getattr(item, self.scores_of))
        if len(self.newest) == 2 * BLOCK_SIZE:
            self.blocks.append(_pack(self.newest[:BLOCK_SIZE]))
            del self.newest[:BLOCK_SIZE]

    def _append_scores(self, scores: Mapping[str, float | None]) -> None:
        for name in scores:
            if name not in self.score_columns and len(self.score_columns) < MAX_SCORE_COLUMNS:
                self.score_columns[name] = array("d", [nan]) * (len(self) - 1)
        for name, values in self.score_columns.items():
            values.append(_to_float(scores.get(name)))

    def copy_prefix(self, length: int) -> _HistoryStore[T]:
        """A separate store with the first `length` items of this one."""
        store: _HistoryStore[T] = _HistoryStore((), self.scores_of)
        full_blocks = min(length // BLOCK_SIZE, len(self.blocks))
        store.blocks = self.blocks[:full_blocks]
        store.newest = list(
            islice(self.items(full_blocks * BLOCK_SIZE), length - full_blocks * BLOCK_SIZE)
        )
        store.columns = {name: values[:length] for name, values in self.columns.items()}
        store.score_columns = {name: values[:length] for name, values in self.score_columns.items()}
        return store

    def block(self, number: int) -> list[T]:
        """The items of one block."""
        unpacked_number, items = self.unpacked
        if unpacked_number != number:
            items = _unpack(self.blocks[number])
            self.unpacked = (number, items)
        return items

    def item(self, index: int) -> T:
        number, offset = divmod(index, BLOCK_SIZE)
        if number < len(self.blocks):
            return self.block(number)[offset]
        return self.newest[index - len(self.blocks) * BLOCK_SIZE]

    def items(self, start: int) -> Iterator[T]:
        for index in range(start, len(self)):
            yield self.item(index)


class PackedHistory(Sequence[T], Generic[T]):
    """An immutable sequence to which one item can be appended cheaply.

    A run is folded step by step, and every state contains all earlier steps. For 100,000 steps, tuples would
    need five billion references. Here all histories share one store, and each knows its own length. All
    but the newest items are compressed in blocks; reading an old item unpacks its block.

    Args:
        items: the initial items; they must be picklable and compare equal to their copies.
        columns: numeric attributes (or None) of the items that `column` returns without unpacking.
        scores_of: attribute with the scores by name that `score_column` returns without unpacking.
    """

    __slots__ = ("_length", "_store")

    def __init__(
        self, items: Iterable[T] = (), columns: Iterable[str] = (), scores_of: str = ""
    ) -> None:
        self._store: _HistoryStore[T] = _HistoryStore(columns, scores_of)
        for item in items:
            self._store.append(item)
        self._length = len(self._store)

    def with_items(self, items: Sequence[T]) -> PackedHistory[T]:
        """A new history with more items at the end; this history does not change."""
        if not items:
            return self
        # The longest history appends in place; a shorter one that branches off gets a separate store.
        is_longest = len(self._store) == self._length
        store = self._store if is_longest else self._store.copy_prefix(self._length)
        for item in items:
            store.append(item)
        return self._from_store(store, self._length + len(items))

    def prefix(self, count: int) -> PackedHistory[T]:
        """The first `count` items, as a history."""
        return self._from_store(self._store, max(0, min(count, self._length)))

    def column(self, name: str) -> Column:
        """One figure of every item.

        Raises:
            KeyError: the history was created without this column.
        """
        return Column(self._store.columns[name], self._length)

    def score_column(self, name: str) -> Column:
        """The score with that name of every item; unknown where an item has no such score."""
        values = self._store.score_columns.get(name)
        if values is None:
            return Column(array("d", [nan]) * self._length, self._length)
        return Column(values, self._length)

    @staticmethod
    def _from_store(store: _HistoryStore[T], length: int) -> PackedHistory[T]:
        view: PackedHistory[T] = PackedHistory.__new__(PackedHistory)
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
        if isinstance(other, PackedHistory | tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedHistory({self[:]!r})"


def _pack(items: list[Any]) -> bytes:
    """A block of items, compressed; dataclasses of one type as their values, which takes half the time."""
    kind = type(items[0])
    if is_dataclass(kind) and len(fields(kind)) > 1 and all(type(item) is kind for item in items):
        values_of = attrgetter(*(field.name for field in fields(kind)))
        return zlib.compress(pickle.dumps((kind, [values_of(item) for item in items])), 1)
    return zlib.compress(pickle.dumps((None, items)), 1)


def _unpack(block: bytes) -> list[Any]:
    """The items of a block."""
    # Safe to unpickle: the block was packed by this process and never left its memory.
    kind, items = pickle.loads(zlib.decompress(block))
    return items if kind is None else [kind(*values) for values in items]


def _to_float(value: float | None) -> float:
    try:
        return nan if value is None else float(value)
    except OverflowError:
        return inf
