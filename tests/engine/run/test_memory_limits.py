"""Hard memory limits of a control group or the shell: the run ends with a checkpoint and is not killed."""

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
from tests.engine.run.test_stopping import kill, read_until
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

GROUPS = Path("/sys/fs/cgroup")
LONG = (
    "--run", "quickstart", "evaluation.enabled=false", "training.max_steps=500",
    "training.num_generations=4", "training.per_device_train_batch_size=8",
    "over_limit=try", "--json",
)  # fmt: skip


@pytest.fixture
def memory_limit_file() -> Iterator[Path]:
    """The limit file of a new kernel control group with the memory controller."""
    for controller, limit in ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")):
        folder = controller / f"ida-tui-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit).exists():
            yield folder / limit
            remove_group(folder)
            return
        folder.rmdir()
    pytest.skip("needs to create a control group: root, on Linux with the memory controller")


def remove_group(folder: Path) -> None:
    """Removes a group; the kernel may take a moment to notice that its last process has ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"a process is still in {folder}")


def inside_group(limit: Path, *command: str) -> list[str]:
    """The command, run inside the group."""
    return ["sh", "-c", f'echo $$ > {limit.parent}/cgroup.procs && exec "$@"', "sh", *command]


def start_process(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


IDA_TUI = (sys.executable, "-m", "ida_tui")


def test_a_run_is_saved_when_another_process_uses_up_the_groups_memory(
    memory_limit_file: Path,
) -> None:
    memory_limit_file.write_text(str(3_000_000_000))
    run = start_process(inside_group(memory_limit_file, *IDA_TUI, *LONG))
    read_until(run, "StepFinished", 2)
    # Grows like a leak until 97% of the group's memory is in use, then stays there.
    memory_user_script = (
        "import sys, time\nblocks = []\n"
        "while True:\n"
        "  stat = dict(line.split() for line in open(sys.argv[1] + '/memory.stat'))\n"
        "  used = int(stat.get('total_rss', stat.get('anon', 0)))\n"
        "  if used < 0.97 * 3e9: blocks.append(b'x' * 10_000_000)\n"
        "  time.sleep(0.02)\n"
    )
    memory_user = subprocess.Popen(
        inside_group(
            memory_limit_file,
            sys.executable,
            "-c",
            memory_user_script,
            str(memory_limit_file.parent),
        )
    )
    try:
        out, err = run.communicate(timeout=PATIENCE_S)
    finally:
        memory_user.kill()
        memory_user.wait()
    assert_saved_with_exit_4(run.returncode, out, err)


WIDE = (
    "training.per_device_train_batch_size=720",
    "training.max_completion_length=320",
)
"""Long answers of 720 rows in one pass: far more memory than the first two steps needed."""


def start_and_stop_a_run() -> None:
    """Runs two steps and stops."""
    groups = ("training.num_generations=12", "training.per_device_train_batch_size=24")
    run = start_process([*prepared_python(), "-m", "ida_tui", *LONG, *groups])
    read_until(run, "StepFinished", 2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130


def resume_command() -> list[str]:
    return [*IDA_TUI, "resume", "quickstart", *WIDE, "training.max_steps=8", "--json"]


def test_a_step_over_the_groups_limit_ends_with_4_and_loses_nothing(
    memory_limit_file: Path,
) -> None:
    start_and_stop_a_run()
    memory_limit_file.write_text(str(1_200_000_000))
    run = start_process(inside_group(memory_limit_file, *resume_command()))
    out, err = run.communicate(timeout=PATIENCE_S)
    assert_nothing_lost(run.returncode, out, err)


def test_a_step_over_the_shells_limit_loses_nothing() -> None:
    start_and_stop_a_run()
    # As `ulimit -d` sets it.
    run = start_process(["prlimit", "--data=1500000000", *resume_command()])
    out, err = run.communicate(timeout=PATIENCE_S)
    assert_nothing_lost(run.returncode, out, err)


def test_a_run_that_is_tried_over_its_limit_saves_every_step() -> None:
    # The plan assumes answers of maximum length; the model's answers are short.
    large_steps = (
        "training.max_completion_length=700",
        "training.num_generations=8",
        "training.per_device_train_batch_size=480",
    )
    run = start_process([*IDA_TUI, *LONG, *large_steps, "limit_gb=16"])
    events = read_until(run, "CheckpointSaved", 1)
    kill(run)
    warning = next(e["text"] for e in events if e["type"] == "Noticed" and e["source"] == "memory")
    assert "the limit is 16.0 GB; a checkpoint is saved after every step" in str(warning)
    assert find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve())).step == 1


def assert_nothing_lost(code: int, out: str, err: str) -> None:
    """The run ended with 4 or a native library crashed; it can be resumed after step 2 or later."""
    assert code in (4, -signal.SIGSEGV), (code, out[-800:], err[-2000:])
    if code == 4:
        assert json.loads(out.splitlines()[-1])["status"] == "out_of_memory"
    assert find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve())).step >= 2


def assert_saved_with_exit_4(code: int, out: str, err: str) -> None:
    """The run said why it ended and can be resumed after its last step."""
    assert code == 4, (code, out[-800:], err[-2000:])
    ended = json.loads(out.splitlines()[-1])
    assert (ended["type"], ended["status"]) == ("RunEnded", "out_of_memory")
    assert "ida-tui resume" in ended["hint"]
    resume_point = find_resume_point(RunDirectory(Path("outputs/quickstart/latest").resolve()))
    assert resume_point.step == ended["steps_done"] > 0
