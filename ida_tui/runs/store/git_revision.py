"""The git commit of the working directory, read from its files.

No git process is started: the configuration of a repository can make one run any program.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_BRANCH = re.compile(r"refs/[\w./+@#-]+")
_MAX_BYTES = 4_000_000


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out in a folder; None outside of git, or before the first commit."""
    try:
        repository = _find_repository(folder.absolute())
        if repository is None:
            return None
        head = _read(repository / "HEAD").strip()
        branch = head.removeprefix("ref:").strip() if head.startswith("ref:") else ""
        if not branch:
            return head if _COMMIT.fullmatch(head) else None
        if not _BRANCH.fullmatch(branch) or ".." in branch:
            return None
        return _branch_commit(repository, branch)
    except (OSError, ValueError):
        return None


def _find_repository(folder: Path) -> Path | None:
    """The folder with HEAD: `.git`, or where a worktree's `.git` file points to."""
    for parent in (folder, *folder.parents):
        entry = parent / ".git"
        if entry.is_dir():
            return entry
        if entry.is_file():
            target = _read(entry).removeprefix("gitdir:").strip()
            return parent / target
    return None


def _branch_commit(repository: Path, branch: str) -> str | None:
    folders = [repository]
    if (repository / "commondir").is_file():  # a worktree shares the branches of its repository
        folders.append(repository / _read(repository / "commondir").strip())
    for folder in folders:
        if (folder / branch).is_file():
            commit = _read(folder / branch).strip()
            return commit if _COMMIT.fullmatch(commit) else None
        if (folder / "packed-refs").is_file():
            for line in _read(folder / "packed-refs").splitlines():
                commit, _, name = line.partition(" ")
                if name == branch and _COMMIT.fullmatch(commit):
                    return commit
    return None


def _read(file: Path) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{file} is not a regular file")
        return stream.read(_MAX_BYTES).decode("utf-8", "replace")
