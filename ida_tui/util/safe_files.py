"""Files in folders that strangers may have made: opened without following links, replaced by renaming.

A downloaded folder may contain links to other files, pipes that block their reader, devices without an end
and sparse files of any size. Every function accepts regular files only, and reads a bounded amount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAX_LINE_BYTES = 16 << 20
"""Maximum length of a line; this program writes no longer one."""
BLOCK_BYTES = 256 << 10
"""Size of a block of lines; larger ones are no faster."""
MAX_TEXT_BYTES = 200 << 20
"""Maximum size of a JSON or text file that a library reads as a whole, such as `tokenizer.json`."""
TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".md", ".yaml", ".model", ".py")
_OWNER_ONLY = 0o600
_COPY_BYTES = 1 << 20


def open_descriptor(path: Path, flags: int, mode: int = _OWNER_ONLY) -> int:
    """Open a regular file; never follows a link at the path itself, and never blocks on a pipe or a device.

    Args:
        path: the file.
        flags: flags of `os.open`, such as `os.O_RDONLY`.
        mode: permissions of a file that is created.

    Raises:
        OSError: the file cannot be opened, is a link, or is not a regular file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, "it is a link", str(path)) from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe without a reader
            raise OSError(errno.EINVAL, "it is not a regular file", str(path)) from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; see `open_descriptor`.

    Raises:
        OSError: the file cannot be opened, is a link, or is not a regular file.
    """
    return os.fdopen(open_descriptor(path, os.O_RDONLY), "rb")


def open_appended(path: Path) -> BinaryIO:
    """Open a regular file for appending, created if it is missing; see `open_descriptor`.

    Raises:
        OSError: the file cannot be opened, is a link, or is not a regular file.
    """
    return os.fdopen(open_descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab")


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, once no other process has it open so; created if it is missing.

    Some network file systems have no locks; there, nothing waits.

    Raises:
        OSError: the file cannot be opened, is a link, or is not a regular file.
    """
    descriptor = open_descriptor(path, os.O_RDWR | os.O_CREAT)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def read_bytes(path: Path, limit: int) -> bytes:
    """The contents of a regular file.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `limit` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 1e6:g} MB", str(path))
    return data


def iterate_lines(file: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines from the current position, each with its newline; the last one may lack it.

    Raises:
        OSError: the file cannot be read, or a line is longer than `limit` bytes.
    """
    while line := file.readline(limit + 1):
        if len(line) > limit:
            raise _too_long(limit)
        yield line


def iterate_blocks(
    file: BinaryIO, size: int = BLOCK_BYTES, limit: int = MAX_LINE_BYTES
) -> Iterator[bytes]:
    """The bytes from the current position in blocks that end with a newline; the last one may lack it.

    Args:
        file: the file.
        size: bytes of a block, without the rest of its last line.
        limit: maximum length of a line.

    Raises:
        OSError: the file cannot be read, or a line is longer than `limit` bytes.
    """
    while block := file.read(size):
        if not block.endswith(b"\n"):
            start = block.rfind(b"\n") + 1
            block += file.readline(limit + 1)
            if len(block) - start > limit:
                raise _too_long(limit)
        yield block


def _too_long(limit: int) -> OSError:
    return OSError(errno.EFBIG, f"a line is longer than {limit >> 20} MB")


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside the path that replaces it if the block succeeds, and is removed otherwise.

    A link at the path is replaced, not followed.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = open_descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text; see `replaced_file`. A character that UTF-8 lacks becomes `?`.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    with replaced_file(path) as file:
        file.write(text.encode("utf-8", "replace"))


def make_directory(path: Path) -> None:
    """Create a directory if it is missing; its parent must exist.

    Raises:
        OSError: it cannot be created, or the path is a link or a file.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link", str(path))
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


@contextlib.contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Yield a new, empty directory that replaces the one at the path if the block succeeds.

    Raises:
        OSError: the directory cannot be created or moved into place.
    """
    temporary = path.with_name(f".{path.name}-writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if os.path.lexists(path):
            replaced = path.with_name(f".{path.name}-replaced-{os.getpid()}")
            path.replace(replaced)
            temporary.replace(path)
            remove_tree(replaced)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Remove a directory and what it contains, or only the link if it is a link; errors are ignored."""
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def copy_if_hard_linked(path: Path) -> None:
    """Replace a file that has further names, such as one in a backup, by a copy of its own.

    Raises:
        OSError: the file is missing or cannot be copied.
    """
    with open_regular(path) as old:
        if os.fstat(old.fileno()).st_nlink > 1:
            with replaced_file(path) as new:
                shutil.copyfileobj(old, new, _COPY_BYTES)


class UnsafeEntry(NamedTuple):
    """An entry of a folder that must not be read or written."""

    name: str
    """Its path, relative to the folder."""
    problem: str
    """A predicate, such as `is not a regular file or folder`."""


def find_unsafe_entry(
    folder: Path, may_link: Callable[[Path], bool] = lambda path: False
) -> UnsafeEntry | None:
    """The first entry below a folder that a reader or writer must not touch; None if there is none.

    Links, pipes, devices and sockets are unsafe at every depth, and so is a text file of more than
    `MAX_TEXT_BYTES`. A folder that cannot be read is skipped.

    Args:
        folder: the folder; it may be a link itself.
        may_link: whether the link at a path is allowed.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if problem := unsafe_entry_problem(path, may_link):
                return UnsafeEntry(str(path.relative_to(folder)), problem)
    return None


def unsafe_entry_problem(
    path: Path, may_link: Callable[[Path], bool] = lambda path: False
) -> str | None:
    """Why a path must not be read or written, as a predicate; None if it may be, or is missing."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if not may_link(path):
                return "is not a regular file or folder, but a link"
            status = path.stat()
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file or folder"
    if path.suffix in TEXT_SUFFIXES and status.st_size > MAX_TEXT_BYTES:
        return f"is larger than {MAX_TEXT_BYTES >> 20} MB"
    return None
