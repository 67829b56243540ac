"""Files of strangers: only regular files are opened, a bounded amount is read, and no link is followed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.util import safe_files
from ida_tui.util.safe_files import locked_file
from ida_tui.util.text import as_json, parse_json


def make_entry(path: Path, kind: str) -> None:
    """Put an entry at the path that must not be opened."""
    if kind == "pipe":
        os.mkfifo(path)
    else:
        target = {"link": "victim", "broken link": "gone", "device": "/dev/zero"}[kind]
        path.symlink_to(target)


@pytest.mark.parametrize("kind", ["pipe", "link", "broken link", "device"])
def test_only_regular_files_are_read_or_appended_to(kind: str) -> None:
    Path("victim").write_text("kept")
    path = Path("entry")
    make_entry(path, kind)

    with pytest.raises(OSError, match=r"it is a link|it is not a regular file"):
        safe_files.open_regular(path)
    with pytest.raises(OSError, match=r"it is a link|it is not a regular file"):
        safe_files.open_appended(path)

    assert Path("victim").read_text() == "kept"
    assert not Path("gone").exists()


def test_a_written_file_replaces_a_link_and_leaves_its_target() -> None:
    Path("victim").write_text("kept")
    Path("entry").symlink_to("victim")
    Path(f".entry-{os.getpid()}").symlink_to("victim")

    safe_files.write_text(Path("entry"), "new \ud83d")

    assert Path("entry").read_text() == "new ?"
    assert not Path("entry").is_symlink()
    assert Path("victim").read_text() == "kept"


def test_a_failed_write_leaves_the_old_file() -> None:
    Path("entry").write_text("old")

    with contextlib.suppress(ValueError), safe_files.replaced_file(Path("entry")) as file:
        file.write(b"new")
        raise ValueError

    assert Path("entry").read_text() == "old"
    assert list(Path().iterdir()) == [Path("entry")]


def test_a_sparse_file_of_three_gigabytes_is_refused_without_reading_it() -> None:
    with open("huge", "wb") as file:
        file.truncate(3 << 30)

    with pytest.raises(OSError, match="larger than 1 MB"):
        safe_files.read_bytes(Path("huge"), 1_000_000)
    with (
        safe_files.open_regular(Path("huge")) as huge,
        pytest.raises(OSError, match="a line is longer than 16 MB"),
    ):
        next(safe_files.iterate_lines(huge))


def test_a_file_with_a_second_name_is_copied_before_it_is_changed() -> None:
    Path("backup").write_text("kept")
    os.link("backup", "entry")

    safe_files.copy_if_hard_linked(Path("entry"))
    with safe_files.open_appended(Path("entry")) as file:
        file.write(b" and more")

    assert Path("entry").read_text() == "kept and more"
    assert Path("backup").read_text() == "kept"


def test_a_locked_file_is_open_in_one_process_at_a_time() -> None:
    path = Path("file")
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    with locked_file(path) as file:
        file.write(b"x")
        assert subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, check=False
        ).returncode
    assert not subprocess.run([sys.executable, "-c", code, path], check=False).returncode
    assert path.read_bytes() == b"x"


def test_a_replaced_directory_contains_only_what_was_written() -> None:
    Path("victim").write_text("kept")
    Path("adapter").mkdir()
    Path("adapter/README.md").symlink_to("../victim")

    with safe_files.replaced_directory(Path("adapter")) as folder:
        (folder / "README.md").write_text("a card")

    assert Path("adapter/README.md").read_text() == "a card"
    assert Path("victim").read_text() == "kept"
    assert sorted(Path().iterdir()) == [Path("adapter"), Path("victim")]


def test_a_linked_directory_is_not_written_to() -> None:
    Path("outside").mkdir()
    Path("logs").symlink_to("outside")

    with pytest.raises(OSError, match="it is a link"):
        safe_files.make_directory(Path("logs"))


@pytest.mark.parametrize("kind", ["pipe", "link", "broken link", "device"])
def test_an_unsafe_entry_is_found_at_every_depth(kind: str) -> None:
    folder = Path("run")
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/ok.json").write_text("{}")
    assert safe_files.find_unsafe_entry(folder) is None

    make_entry(folder / "a/b/c/deep", kind)

    found = safe_files.find_unsafe_entry(folder)
    assert found is not None
    assert found.name == "a/b/c/deep"
    assert found.problem.startswith("is not a regular file or folder")


def test_half_a_surrogate_pair_in_json_becomes_a_question_mark() -> None:
    assert parse_json(r'{"a\ud83d": ["\ude00", "\ud83d\ude00"]}') == {"a?": ["?", "😀"]}
    assert parse_json(as_json({"text": "x\ud83d"})) == {"text": "x?"}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
