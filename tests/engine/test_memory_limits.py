"""Under a hard cap, a control group's or the shell's, a run ends with its checkpoint and is never killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.resume import find_resume_point
from tests.engine.test_stopping import read_until

GROUPS = Path("/sys/fs/cgroup")
LONG = (
    "--run", "quickstart", "evaluation.enabled=false", "training.max_steps=500",
    "training.num_generations=4", "training.per_device_train_batch_size=8",
    "over_limit=try", "--json",
)  # fmt: skip


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the kernel's own, with the memory controller, for this test alone."""
    for place, limit in ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")):
        folder = place / f"ida-tui-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit).exists():
            yield folder / limit
            removed(folder)
            return
        folder.rmdir()
    pytest.skip("needs to make a control group: root, on Linux with the memory controller")


def removed(folder: Path) -> None:
    """Remove a group; it can take the kernel a moment to see that its last process is gone."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"somebody is still in {folder}")


def joined(limit: Path, *command: str) -> list[str]:
    """The command, run inside of the group."""
    return ["sh", "-c", f'echo $$ > {limit.parent}/cgroup.procs && exec "$@"', "sh", *command]


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


IDA_TUI = (sys.executable, "-m", "ida_tui")


def test_a_run_that_something_else_pushes_to_the_groups_limit_is_saved(group: Path) -> None:
    group.write_text(str(3_000_000_000))
    run = started(joined(group, *IDA_TUI, *LONG))
    read_until(run, "StepFinished", 2)
    # Grows as a leak does, until 97 % of the group are in use; there it stays.
    grow = (
        "import sys, time\nkept = []\n"
        "while True:\n"
        "  stat = dict(line.split() for line in open(sys.argv[1] + '/memory.stat'))\n"
        "  used = int(stat.get('total_rss', stat.get('anon', 0)))\n"
        "  if used < 0.97 * 3e9: kept.append(b'x' * 10_000_000)\n"
        "  time.sleep(0.02)\n"
    )
    hog = subprocess.Popen(joined(group, sys.executable, "-c", grow, str(group.parent)))
    try:
        out, err = run.communicate(timeout=120)
    finally:
        hog.kill()
        hog.wait()
    saved_with_4(run.returncode, out, err)


WIDE = ("training.per_device_train_batch_size=240", "training.max_completion_length=320")
"""Sixty groups of long answers in one pass: far more than two steps before it needed."""


def begun() -> None:
    """A run of two steps, stopped half way."""
    run = started([*IDA_TUI, *LONG])
    read_until(run, "StepFinished", 2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130


def going_on() -> list[str]:
    return [*IDA_TUI, "resume", "quickstart", *WIDE, "training.max_steps=8", "--json"]


def test_a_step_that_needs_more_than_the_group_has_ends_with_4_and_nothing_is_lost(
    group: Path,
) -> None:
    begun()
    group.write_text(str(1_200_000_000))
    run = started(joined(group, *going_on()))
    out, err = run.communicate(timeout=240)
    nothing_lost(run.returncode, out, err)


def test_a_step_that_needs_more_than_the_shell_allows_loses_nothing() -> None:
    begun()
    # As `ulimit -d` sets it.
    run = started(["prlimit", "--data=1500000000", *going_on()])
    out, err = run.communicate(timeout=240)
    nothing_lost(run.returncode, out, err)


def test_a_run_over_its_plan_that_is_tried_all_the_same_has_every_finished_step_on_disk() -> None:
    # Planned with answers as long as they may be; the model's own are short.
    most = ("training.max_completion_length=400", "training.per_device_train_batch_size=240")
    run = started([*IDA_TUI, *LONG, *most, "limit_gb=9"])
    events = read_until(run, "CheckpointSaved", 1)
    run.kill()
    run.communicate()
    warned = next(e["text"] for e in events if e["type"] == "Noticed" and e["source"] == "memory")
    assert "the limit is 9.0 GB: every step is saved" in str(warned)
    assert find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve())).step == 1


def nothing_lost(code: int, out: str, err: str) -> None:
    """The run ended with 4, or a native library crashed; what it had done can be gone on with."""
    assert code in (4, -signal.SIGSEGV), (code, out[-800:], err[-2000:])
    if code == 4:
        assert json.loads(out.splitlines()[-1])["status"] == "out_of_memory"
    assert find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve())).step >= 2


def saved_with_4(code: int, out: str, err: str) -> None:
    """The run said why it ended, and what it had done can be gone on with."""
    assert code == 4, (code, out[-800:], err[-2000:])
    ended = json.loads(out.splitlines()[-1])
    assert (ended["type"], ended["status"]) == ("RunEnded", "out_of_memory")
    assert "ida-tui resume" in ended["hint"]
    found = find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve()))
    assert found.step == ended["steps_done"] > 0
