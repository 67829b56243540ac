"""The app on a real terminal: no stray output, and the terminal is restored at the end."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from ida_tui.cli.output.follow import follow_run
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.types import RunEnded, StepFinished
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from tests.support.patience import PATIENCE_S
from tests.support.terminal import Terminal, terminal

APP = (sys.executable, "-m", "ida_tui")
TINY = """\
extends: quickstart
evaluation: {enabled: false}
training:
  max_steps: 5000
  num_generations: 4
  per_device_train_batch_size: 8
  max_completion_length: 16
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Environment variables that redirect the app's logs and cache to the test's folder."""
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg-cache"),
    }


def start_proposed_profile(screen: Terminal) -> None:
    """Starts the run that the launch screen proposes and waits for its first steps."""
    screen.wait_for("Launch")
    screen.wait_for("quickstart")
    screen.send("\r")
    screen.wait_until(lambda: len(newest_run_state().steps) >= 2)


def newest_run_state() -> RunState:
    logs = sorted(Path("outputs").glob("*/*/events.jsonl"))
    return fold_all(read_events(logs[-1])) if logs else RunState()


def test_the_app_fills_the_terminal() -> None:
    code = (
        "import shutil; from pathlib import Path;"
        "from ida_tui.tui.terminal import redirect_output\n"
        "with redirect_output(Path('stray.log')): size = shutil.get_terminal_size()\n"
        "print(*size)"
    )
    with terminal(sys.executable, "-c", code, size=(133, 41)) as screen:
        assert screen.wait_for_exit() == 0
        assert screen.output == b"133 41\r\n"


def test_quitting_with_a_key_restores_the_terminal(home: dict[str, str]) -> None:
    with terminal(*APP, **home) as screen:
        screen.wait_for("Launch")
        screen.send("q")

        assert screen.wait_for_exit() == 0
        assert screen.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_quitting_by_signal_restores_the_terminal(
    home: dict[str, str], number: signal.Signals
) -> None:
    with terminal(*APP, **home) as screen:
        screen.wait_for("Launch")
        screen.process.send_signal(number)

        assert screen.wait_for_exit() == 130
        assert screen.is_restored
        assert b"Traceback" not in screen.output


def test_a_signal_during_a_run_saves_a_checkpoint_and_restores_the_terminal(
    home: dict[str, str], tmp_path: Path
) -> None:
    profiles = tmp_path / "user-profiles" / "experiments"
    profiles.mkdir(parents=True)
    # Overrides the shipped quickstart, which the launch screen proposes.
    (profiles / "tiny.yaml").write_text(TINY)
    (profiles / "quickstart.yaml").write_text(
        TINY.replace("extends: quickstart", f"extends: {SHIPPED}")
    )
    with terminal(*APP, **home) as screen:
        start_proposed_profile(screen)
        screen.process.send_signal(signal.SIGTERM)

        assert screen.wait_for_exit() == 130
        assert screen.is_restored
        final_output = screen.output.rpartition(b"\x1b[?1049l")[2]
        lines = re.sub(rb"\x1b\[[^a-zA-Z]*[a-zA-Z]", b"", final_output).decode().split("\r\n")
        assert len(lines) == 2, lines
        assert re.fullmatch(r"Stopped after step \d+ of 5000 · outputs/quickstart/[\d-]+", lines[0])
    ended = newest_run_state().ended
    assert ended is not None
    assert ended.status == "interrupted"
    assert "checkpoint" in ended.hint


def test_a_terminal_that_disappears_without_a_signal_stops_the_run_with_a_checkpoint(
    home: dict[str, str], tmp_path: Path
) -> None:
    profiles = tmp_path / "user-profiles" / "experiments"
    profiles.mkdir(parents=True)
    (profiles / "quickstart.yaml").write_text(
        TINY.replace("extends: quickstart", f"extends: {SHIPPED}")
    )
    with terminal(*APP, **home) as screen:
        start_proposed_profile(screen)
        screen.hang_up()
        screen.process.wait(timeout=PATIENCE_S)
    ended = newest_run_state().ended
    assert ended is not None
    assert ended.status == "interrupted"
    assert "checkpoint" in ended.hint


def test_a_detached_run_continues_after_the_terminal_has_closed(
    home: dict[str, str], tmp_path: Path
) -> None:
    profiles = tmp_path / "user-profiles" / "experiments"
    profiles.mkdir(parents=True)
    (profiles / "quickstart.yaml").write_text(
        TINY.replace("extends: quickstart", f"extends: {SHIPPED}")
    )
    with terminal(*APP, **home) as screen:
        start_proposed_profile(screen)
        screen.send("q")
        screen.wait_for("Detach and quit")
        screen.send("d")

        assert screen.wait_for_exit() == 0
        assert screen.is_restored
        final_output = screen.output.rpartition(b"\x1b[?1049l")[2].decode()
        assert "✓ Training in the background (pid " in final_output
        assert "ida-tui attach outputs/quickstart/" in final_output
        directory = RunDirectory(next(Path("outputs/quickstart").glob("2*")).resolve())
        assert owner.is_alive(directory)
        assert owner.owner_pid(directory) != screen.process.pid
        steps_before = len(newest_run_state().steps)
        screen.wait_until(lambda: len(newest_run_state().steps) > steps_before)
    control.send_request(directory, "stop")
    assert follow_run(directory, as_json=True) == 130
    events = [r.event for r in read_events(directory.events)]
    end_messages = [e.message for e in events if isinstance(e, RunEnded)]
    steps = [e.step for e in events if isinstance(e, StepFinished)]
    assert end_messages == [f"Stopped after step {steps[-1]} of 5000"]
    assert steps == list(range(1, len(steps) + 1))


SHIPPED = Path(__file__).parents[2] / "profiles" / "experiments" / "quickstart.yaml"

STRAY = """
import os, subprocess, sys
from pathlib import Path
from ida_tui.tui.terminal import redirect_output
with redirect_output(Path("stray.log")):
    os.write(2, b"from a C library\\n")
    print("from print")
    subprocess.run(["sh", "-c", "echo from a child; echo and its errors >&2"])
    sys.__stderr__.write("drawn by the app\\n")
print("after")
print("after, in error", file=sys.stderr)
"""


def test_stray_output_does_not_reach_the_terminal_while_the_app_runs() -> None:
    with terminal(sys.executable, "-c", STRAY) as screen:
        assert screen.wait_for_exit() == 0

        lines = screen.output.decode().split("\r\n")
        assert lines == ["drawn by the app", "after", "after, in error", ""]
    log_lines = Path("stray.log").read_text().splitlines()
    assert sorted(log_lines) == [
        "and its errors",
        "from a C library",
        "from a child",
        "from print",
    ]


CRASH = """
import sys
from ida_tui.tui import app as module
from ida_tui.cli.main import main
def broken(self):
    raise ZeroDivisionError("a defect [b]of the app[/]")
module.IdaApp.action_help = broken
sys.argv = ["ida-tui"]
sys.exit(main([]))
"""


def test_a_crash_of_the_app_prints_one_error_and_saves_the_traceback(
    home: dict[str, str], tmp_path: Path
) -> None:
    with terminal(sys.executable, "-c", CRASH, **home) as screen:
        screen.wait_for("Launch")
        screen.send("?")

        assert screen.wait_for_exit() == 1
        assert screen.is_restored
        assert b"Traceback" not in screen.output
        assert b"error: the app crashed: ZeroDivisionError" in screen.output
    crash_log = next(tmp_path.rglob("crash.txt"))
    assert "ZeroDivisionError: a defect" in crash_log.read_text()


def test_without_a_terminal_the_app_suggests_the_headless_command(ida_tui: object) -> None:
    done = ida_tui()  # type: ignore[operator]

    assert done.code == 2
    assert "ida-tui --run" in done.err


def test_a_terminal_without_cursor_positioning_is_refused(home: dict[str, str]) -> None:
    with terminal(*APP, **(home | {"TERM": "dumb"})) as screen:
        assert screen.wait_for_exit() == 2
        assert b"TERM=dumb" in screen.output
