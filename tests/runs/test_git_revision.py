"""The git commit in a run's manifest, read without running anything that a repository configures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ida_tui.runs.store.git_revision import git_revision


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "gc.auto=0"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def commit() -> str:
    """The commit of a repository in the working directory."""
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    return git("rev-parse", "HEAD")


def test_the_commit_is_found_on_a_branch_packed_detached_in_a_subfolder_and_in_a_worktree(
    commit: str,
) -> None:
    subfolder = Path("sub/folder")
    subfolder.mkdir(parents=True)
    assert git_revision(Path.cwd()) == git_revision(subfolder) == commit

    git("worktree", "add", "-q", "-b", "topic/x", "tree")
    assert git_revision(Path("tree")) == commit
    git("pack-refs", "--all")
    assert git_revision(Path.cwd()) == git_revision(Path("tree")) == commit
    git("checkout", "-q", "--detach")
    assert git_revision(Path.cwd()) == commit


def test_outside_of_git_and_before_the_first_commit_there_is_none() -> None:
    assert git_revision(Path.cwd()) is None
    git("init", "-q")
    assert git_revision(Path.cwd()) is None


def test_a_repository_runs_no_program(commit: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o700)
    for key in ("core.fsmonitor", "filter.x.clean", "core.sshCommand", "core.pager"):
        git("config", key, str(program))
    Path(".gitattributes").write_text("* filter=x\n")

    assert git_revision(Path.cwd()) == commit
    assert not marker.exists()


def test_hostile_git_files_neither_block_nor_are_read_elsewhere(
    commit: str, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text(commit)
    head = Path(".git/HEAD")
    for text in (
        "ref: refs/../../../outside",
        "ref: /etc/passwd",
        "x" * 50,
        "ref: refs/heads/none",
    ):
        head.write_text(text)
        assert git_revision(Path.cwd()) is None
    head.unlink()
    os.mkfifo(head)
    assert git_revision(Path.cwd()) is None
