"""The header of a GGUF file: its metadata and its table of tensors, read within limits and without torch.

A stranger's file can claim any count and any length, so every number is checked before it is used. The
tensors themselves are not read.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from ida_tui.util.safe_files import open_regular
from ida_tui.util.text import one_line

MAGIC = b"GGUF"
MAX_ENTRIES = 20_000
"""Most metadata entries of a file; real files have under a hundred."""
MAX_TENSORS = 100_000
MAX_NAME_BYTES = 1024
"""Longest name of a metadata entry or of a tensor."""
MAX_STRING_BYTES = 8 << 20
"""Longest string, such as a chat template."""
MAX_ITEMS = 4_000_000
"""Longest list, such as a vocabulary."""
MAX_HEADER_BYTES = 128 << 20
"""Longest header; a vocabulary of 262,144 tokens takes about 10 MB."""
KEPT_ITEMS = 4096
"""Longest list of numbers whose values are kept; of others only the length is."""
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 42

BLOCKS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Tensor type that the package `gguf` unpacks → its name, the values in a block, and the bytes of a block."""

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Type of a metadata value → its code in `struct`."""
_STRING, _LIST = 8, 9

Value = bool | int | float | str | tuple[bool | int | float, ...]


class GgufError(ValueError):
    """A file is no GGUF file that can be read; the message is a predicate, such as `is truncated`."""

    def __init__(self, problem: str) -> None:
        super().__init__(one_line(problem)[:300])  # it may contain names from the file


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]
    """Its sizes in torch's order."""
    type: int
    """Its type, a key of `BLOCKS`."""
    start: int
    """Position of its bytes in the file."""

    @property
    def values(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Number of its bytes."""
        _, block_values, block_bytes = BLOCKS[self.type]
        return self.values // block_values * block_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and table of tensors of a GGUF file."""

    metadata: Mapping[str, Value]
    """Numbers, strings, and short lists of numbers, by key."""
    lengths: Mapping[str, int]
    """Length of every list, by key."""
    tensors: tuple[Tensor, ...]
    unknown_types: tuple[int, ...]
    """Tensor types that cannot be unpacked; if there are any, `tensors` is empty."""
    size: int
    """Size of the file in bytes."""


def is_gguf(file: Path) -> bool:
    """Whether a file starts like a GGUF file. False if it cannot be read."""
    try:
        with open_regular(Path(os.path.realpath(file))) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_header(file: Path) -> GgufHeader:
    """The header of a GGUF file; links to it are followed.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
        GgufError: it is no GGUF file, is damaged, or exceeds a limit.
    """
    real = Path(os.path.realpath(file))
    status = real.stat()
    header = _read_cached(real, status.st_size, status.st_mtime_ns)
    if isinstance(header, GgufError):
        raise GgufError(str(header))
    return header


@lru_cache(maxsize=16)
def _read_cached(file: Path, _size: int, _modified: int) -> GgufHeader | GgufError:
    """The header, or why there is none: a hostile one takes seconds to read, and is asked for often."""
    try:
        with open_regular(file) as stream:
            return _Reader(stream).read()
    except GgufError as error:
        return error


class _Reader:
    """A reader of one file, which never reads past its end or past the limits."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._size = os.fstat(stream.fileno()).st_size
        self._position = 0

    def read(self) -> GgufHeader:
        if self._bytes(4) != MAGIC:
            raise GgufError("is no GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise GgufError(
                "is for big-endian machines"
                if swapped in (2, 3)
                else f"has the unknown version {version}"
            )
        tensor_count, entry_count = self._number("Q"), self._number("Q")
        if tensor_count > MAX_TENSORS or entry_count > MAX_ENTRIES:
            raise GgufError(f"claims {tensor_count:,} tensors and {entry_count:,} metadata entries")
        metadata: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(entry_count):
            key = self._string(MAX_NAME_BYTES)
            if key in metadata or key in lengths:
                raise GgufError(f"has the metadata entry {key} twice")
            kind = self._number("I")
            if kind == _LIST:
                lengths[key], values = self._list(key)
                if values is not None:
                    metadata[key] = values
            else:
                metadata[key] = self._value(kind, key)
        alignment = metadata.get("general.alignment", 32)
        if (
            isinstance(alignment, bool)
            or not isinstance(alignment, int)
            or not 1 <= alignment <= 1 << 20
        ):
            raise GgufError("has an invalid alignment")
        rows = [self._tensor_row() for _ in range(tensor_count)]
        if len({name for name, *_ in rows}) < len(rows):
            raise GgufError("has two tensors of one name")
        unknown = tuple(sorted({kind for _, _, kind, _ in rows} - BLOCKS.keys()))
        data_start = -(-self._position // alignment) * alignment
        tensors = () if unknown else tuple(self._tensor(*row, data_start) for row in rows)
        _refuse_overlaps(tensors)
        needed = max((tensor.start + tensor.size for tensor in tensors), default=data_start)
        if needed > self._size:
            raise GgufError(f"is truncated: it has {self._size:,} bytes, but must have {needed:,}")
        return GgufHeader(metadata, lengths, tensors, unknown, self._size)

    def _tensor_row(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(MAX_NAME_BYTES)
        dimensions = self._number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise GgufError(f"has the tensor {name} with {dimensions:,} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        if 0 in shape or math.prod(shape) > MAX_ELEMENTS:
            raise GgufError(f"has the tensor {name} with an impossible shape")
        return name, shape, self._number("I"), self._number("Q")

    @staticmethod
    def _tensor(
        name: str, shape: tuple[int, ...], kind: int, offset: int, data_start: int
    ) -> Tensor:
        type_name, block_values, _ = BLOCKS[kind]
        if shape[-1] % block_values:
            raise GgufError(f"has the tensor {name} whose rows are no whole blocks of {type_name}")
        return Tensor(name, shape, kind, data_start + offset)

    def _value(self, kind: int, key: str) -> bool | int | float | str:
        if kind == _STRING:
            return self._string(MAX_STRING_BYTES)
        if code := _NUMBERS.get(kind):
            value: bool | int | float = struct.unpack(f"<{code}", self._bytes(_width(code)))[0]
            return value
        raise GgufError(f"has the metadata entry {key} of the unknown type {kind}")

    def _list(self, key: str) -> tuple[int, tuple[bool | int | float, ...] | None]:
        """Length of a list, and its values if they are few numbers."""
        kind, length = self._number("I"), self._number("Q")
        if length > MAX_ITEMS:
            raise GgufError(f"has the metadata entry {key} with {length:,} items")
        if kind == _STRING:
            for _ in range(length):
                self._bytes(self._number("Q"))
            return length, None
        code = _NUMBERS.get(kind)
        if code is None:
            raise GgufError(f"has the metadata entry {key} with items of the unknown type {kind}")
        data = self._bytes(length * _width(code), MAX_HEADER_BYTES)
        return length, struct.unpack(f"<{length}{code}", data) if length <= KEPT_ITEMS else None

    def _string(self, limit: int) -> str:
        return self._bytes(self._number("Q"), limit).decode("utf-8", "replace")

    def _number(self, code: str) -> int:
        number: int = struct.unpack(f"<{code}", self._bytes(_width(code)))[0]
        return number

    def _bytes(self, count: int, limit: int = MAX_STRING_BYTES) -> bytes:
        if count > limit:
            raise GgufError("has a metadata entry that is too long")
        self._position += count
        if self._position > MAX_HEADER_BYTES:
            raise GgufError(f"has a header of more than {MAX_HEADER_BYTES >> 20} MB")
        data = self._stream.read(count) if self._position <= self._size else b""
        if len(data) < count:
            raise GgufError("is truncated: it ends inside its header")
        return data


def _width(code: str) -> int:
    return struct.calcsize(f"<{code}")


def _refuse_overlaps(tensors: tuple[Tensor, ...]) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise GgufError(f"is damaged: the tensor {tensor.name} overlaps another one")
        end = tensor.start + tensor.size
