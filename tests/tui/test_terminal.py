"""The app on a real terminal: nothing else writes to it, and it is left as it was found."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from ida_tui.cli.output.follow import follow_run
from ida_tui.events.state import RunState, fold_all
from ida_tui.events.types import RunEnded, StepFinished
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from tests.support.terminal import Terminal, terminal

APP = (sys.executable, "-m", "ida_tui")
TINY = """\
extends: quickstart
evaluation: {enabled: false}
training:
  max_steps: 200
  num_generations: 4
  per_device_train_batch_size: 8
  max_completion_length: 16
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which the app's logs and profiles are the test's own."""
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg-cache"),
    }


def start_the_only_profile(screen: Terminal) -> None:
    """Start the run that the launch screen proposes, and wait for its first steps."""
    screen.wait_for("Launch")
    screen.wait_for("quickstart")
    screen.send("\r")
    screen.wait_until(lambda: len(state_of_the_run().steps) >= 2)


def state_of_the_run() -> RunState:
    found = sorted(Path("outputs").glob("*/*/events.jsonl"))
    return fold_all(read_events(found[-1])) if found else RunState()


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


def test_leaving_by_key_leaves_the_terminal_clean(home: dict[str, str]) -> None:
    with terminal(*APP, **home) as screen:
        screen.wait_for("Launch")
        screen.send("q")

        assert screen.wait_for_exit() == 0
        assert screen.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_leaving_by_signal_leaves_the_terminal_clean(
    home: dict[str, str], number: signal.Signals
) -> None:
    with terminal(*APP, **home) as screen:
        screen.wait_for("Launch")
        screen.process.send_signal(number)

        assert screen.wait_for_exit() == 130
        assert screen.is_restored
        assert b"Traceback" not in screen.output


def test_a_signal_while_a_run_is_live_saves_a_checkpoint_and_leaves_the_terminal_clean(
    home: dict[str, str], tmp_path: Path
) -> None:
    own = tmp_path / "user-profiles" / "experiments"
    own.mkdir(parents=True)
    # It hides the shipped quickstart, which the launch screen proposes.
    (own / "tiny.yaml").write_text(TINY)
    (own / "quickstart.yaml").write_text(TINY.replace("extends: quickstart", f"extends: {SHIPPED}"))
    with terminal(*APP, **home) as screen:
        start_the_only_profile(screen)
        screen.process.send_signal(signal.SIGTERM)

        assert screen.wait_for_exit() == 130
        assert screen.is_restored
        after = screen.output.rpartition(b"\x1b[?1049l")[2]
        said = re.sub(rb"\x1b\[[^a-zA-Z]*[a-zA-Z]", b"", after).decode().split("\r\n")
        assert len(said) == 2, said
        assert re.fullmatch(r"Stopped after step \d+ of 200 · outputs/quickstart/[\d-]+", said[0])
    ended = state_of_the_run().ended
    assert ended is not None
    assert ended.status == "interrupted"
    assert "checkpoint" in ended.hint


def test_a_terminal_that_vanishes_without_a_signal_stops_the_run_with_a_checkpoint(
    home: dict[str, str], tmp_path: Path
) -> None:
    own = tmp_path / "user-profiles" / "experiments"
    own.mkdir(parents=True)
    (own / "quickstart.yaml").write_text(TINY.replace("extends: quickstart", f"extends: {SHIPPED}"))
    with terminal(*APP, **home) as screen:
        start_the_only_profile(screen)
        screen.hang_up()
        screen.process.wait(timeout=60)
    ended = state_of_the_run().ended
    assert ended is not None
    assert ended.status == "interrupted"
    assert "checkpoint" in ended.hint


def test_a_run_that_is_left_to_itself_goes_on_after_the_terminal_is_gone(
    home: dict[str, str], tmp_path: Path
) -> None:
    own = tmp_path / "user-profiles" / "experiments"
    own.mkdir(parents=True)
    short = TINY.replace("max_steps: 200", "max_steps: 40")
    (own / "quickstart.yaml").write_text(
        short.replace("extends: quickstart", f"extends: {SHIPPED}")
    )
    with terminal(*APP, **home) as screen:
        start_the_only_profile(screen)
        screen.send("q")
        screen.wait_for("Detach and quit")
        screen.send("d")

        assert screen.wait_for_exit() == 0
        assert screen.is_restored
        after = screen.output.rpartition(b"\x1b[?1049l")[2].decode()
        assert "✓ Training in the background (pid " in after
        assert "ida-tui attach outputs/quickstart/" in after
    directory = RunDirectory(next(Path("outputs/quickstart").glob("2*")).resolve())
    assert owner.is_alive(directory)
    assert owner.owner_pid(directory) != screen.process.pid
    assert follow_run(directory, as_json=True) == 0
    seen = [r.event for r in read_events(directory.events)]
    ends = [e.message for e in seen if isinstance(e, RunEnded)]
    assert re.fullmatch(r"Handed over after step \d+ of 40", ends[0])
    assert ends[1:] == ["Training complete"]
    assert [e.step for e in seen if isinstance(e, StepFinished)] == list(range(1, 41))


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


def test_while_the_app_runs_nothing_else_reaches_the_terminal() -> None:
    with terminal(sys.executable, "-c", STRAY) as screen:
        assert screen.wait_for_exit() == 0

        shown = screen.output.decode().split("\r\n")
        assert shown == ["drawn by the app", "after", "after, in error", ""]
    kept = Path("stray.log").read_text().splitlines()
    assert sorted(kept) == [
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


def test_a_defect_of_the_app_is_one_error_and_its_traceback_is_in_a_file(
    home: dict[str, str], tmp_path: Path
) -> None:
    with terminal(sys.executable, "-c", CRASH, **home) as screen:
        screen.wait_for("Launch")
        screen.send("?")

        assert screen.wait_for_exit() == 1
        assert screen.is_restored
        assert b"Traceback" not in screen.output
        assert b"error: the app crashed: ZeroDivisionError" in screen.output
    written = next(tmp_path.rglob("crash.txt"))
    assert "ZeroDivisionError: a defect" in written.read_text()


def test_without_a_terminal_the_app_says_what_to_type_instead(ida_tui: object) -> None:
    done = ida_tui()  # type: ignore[operator]

    assert done.code == 2
    assert "ida-tui --run" in done.err


def test_a_terminal_that_cannot_place_its_cursor_is_refused(home: dict[str, str]) -> None:
    with terminal(*APP, **(home | {"TERM": "dumb"})) as screen:
        assert screen.wait_for_exit() == 2
        assert b"TERM is dumb" in screen.output
