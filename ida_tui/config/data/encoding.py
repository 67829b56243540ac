"""Text of a data file: its digest, its encoding and its lines.

Spreadsheets and shells write UTF-8 with or without a byte order mark, UTF-16 and Windows-1252. The encoding
is found from the bytes, and everything but UTF-8 is named to the reader.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import MAX_LINE_BYTES, iterate_lines, open_regular
from ida_tui.util.text import one_line

MAX_DATA_BYTES = 2_000_000_000
"""Maximum size of a data file; its rows are held in memory."""
_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of a compressed file → name of the format."""
ENCODING_NAMES = {"cp1252": "Windows-1252", "utf-32": "UTF-32"}
"""Encoding → name for the reader; all others are UTF-8 and UTF-16."""


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a pass through the bytes of a data file tells."""

    path: Path
    sha256: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""
    encoding: str
    """Name of a Python codec."""


def shown_path(path: Path) -> str:
    """A path as printed in a message."""
    return one_line(display_path(path))


def open_data(path: Path) -> BinaryIO:
    """Open a data file, or the file that a link names.

    Raises:
        UsageError: it does not exist, cannot be read, is not a regular file or is too large.
    """
    try:
        file = open_regular(Path(os.path.realpath(path)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"could not read {shown_path(path)}: {reason}",
            "check the path, and that you have permission to read the file",
        ) from None
    if os.fstat(file.fileno()).st_size > MAX_DATA_BYTES:
        file.close()
        raise UsageError(
            f"{shown_path(path)} is larger than {MAX_DATA_BYTES / 1e9:g} GB",
            "use a part of the data",
            where=shown_path(path),
        )
    return file


def inspect_contents(path: Path, *, is_text: bool = True) -> FileContents:
    """The digest, size and encoding of a data file.

    Raises:
        UsageError: the file cannot be read, is compressed or, for a text, is not text.
    """
    digest, size = hashlib.sha256(), 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8" if is_text else "binary"
    try:
        with open_data(path) as file:
            while block := file.read(_BLOCK_BYTES):
                if not size and is_text:
                    encoding = _first_guess(path, block)
                digest.update(block)
                size += len(block)
                if encoding == "utf-8":
                    encoding = _encoding_after(decoder, block)
                if encoding in ("utf-8", "utf-8-sig", "cp1252") and b"\0" in block:
                    raise _no_text(path, "it has a null character")
            if encoding == "utf-8":
                encoding = _encoding_after(decoder, b"", final=True)
    except OSError as error:
        raise _read_error(path, error) from None
    return FileContents(path, digest.hexdigest(), size, encoding)


def iterate_text_lines(contents: FileContents) -> Iterator[str]:
    """The lines of a text file, each with its newline; only a line feed ends a line.

    Raises:
        UsageError: the file cannot be read, a line is too long, or some bytes are not in the encoding.
    """
    number = 0
    try:
        with open_data(contents.path) as file:
            for line in _decoded_lines(file, contents.encoding):
                yield line
                number += 1
    except UnicodeDecodeError as error:
        raise _no_text(
            contents.path, f"line {number + 1} is not {error.encoding} text", line=number + 1
        ) from None
    except OSError as error:
        raise _read_error(contents.path, error, line=number + 1) from None


def read_text(contents: FileContents) -> str:
    """The whole text of a file.

    Raises:
        UsageError: the file cannot be read, or some bytes are not in the encoding.
    """
    try:
        with open_data(contents.path) as file:
            return file.read(MAX_DATA_BYTES).decode(contents.encoding)
    except UnicodeDecodeError as error:
        raise _no_text(contents.path, f"byte {error.start} is not {error.encoding} text") from None
    except OSError as error:
        raise _read_error(contents.path, error) from None


def _decoded_lines(file: BinaryIO, encoding: str) -> Iterator[str]:
    if encoding == "utf-8-sig":
        file.read(len(codecs.BOM_UTF8))
        encoding = "utf-8"
    if encoding in ("utf-8", "cp1252"):
        for raw in iterate_lines(file):
            yield raw.decode(encoding)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    pending = ""
    while block := file.read(_BLOCK_BYTES):
        *lines, pending = (pending + decoder.decode(block)).split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(pending) > MAX_LINE_BYTES:
            raise OSError(0, f"a line is longer than {MAX_LINE_BYTES >> 20} MB")
    pending += decoder.decode(b"", final=True)
    if pending:
        yield pending


def _first_guess(path: Path, start: bytes) -> str:
    """The encoding by the first bytes: by its byte order mark or by its null characters."""
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UsageError(
                f"{shown_path(path)} is compressed ({name})",
                "unpack it, and use the file inside",
                where=shown_path(path),
            )
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    sample = start[:4096]
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(sample) > 3 and sample[offset::2].count(0) > len(sample) / 3:
            return encoding
    return "utf-8"


def _encoding_after(
    decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False
) -> str:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _no_text(path: Path, reason: str, line: int | None = None) -> UsageError:
    return UsageError(
        f"{shown_path(path)} is not a text file: {reason}",
        "save it as UTF-8, or use a file of another format",
        where=shown_path(path) + (f":{line}" if line else ""),
    )


def _read_error(path: Path, error: OSError, line: int | None = None) -> UsageError:
    return UsageError(
        f"could not read {shown_path(path)}: {error.strerror or error}",
        "check the file; a row of a data set is a short line",
        where=shown_path(path) + (f":{line}" if line else ""),
    )
