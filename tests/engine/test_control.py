"""Pause, go on and stop, by signal and from another process; one trainer a run; detached and attached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ida_tui.cli.output.follow import follow_run
from ida_tui.config.resolve import resolve
from ida_tui.engine.run import pause
from ida_tui.engine.run.background import hand_over
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.session import Session
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from tests.engine.test_stopping import LONG, read_until, start

SHORT = (
    "quickstart", "evaluation.enabled=false", "training.num_generations=4",
    "training.per_device_train_batch_size=8", "training.max_completion_length=24",
)  # fmt: skip
ADAPTER = "adapter/adapter_model.safetensors"
LATEST = Path("outputs/quickstart/latest")


@pytest.fixture
def directory() -> RunDirectory:
    Path("run").mkdir()
    return RunDirectory(Path("run").resolve())


def next_of(run: subprocess.Popen[str], event_type: str) -> dict[str, Any]:
    assert run.stdout is not None
    for line in run.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["type"] == event_type:
            return event
    raise AssertionError(f"no {event_type}: {run.stderr and run.stderr.read()}")


# --- the request ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pause", "go_on", "stop"])
def test_a_request_is_taken_once(directory: RunDirectory, what: Any) -> None:
    control.send_request(directory, what)
    assert directory.control_request.stat().st_mode & 0o777 == 0o600
    assert control.pop_request(directory) == what
    assert control.pop_request(directory) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"ask": "format the disk"}', '{"ask": ["stop"]}', "[" * 900, "\x00\xff"],
)
def test_what_is_no_request_is_removed_and_not_obeyed(directory: RunDirectory, text: str) -> None:
    directory.control_request.write_text(text)
    directory.control_request.chmod(0o600)
    assert control.pop_request(directory) is None
    assert not directory.control_request.exists()


def test_a_request_that_others_could_have_written_is_not_obeyed(directory: RunDirectory) -> None:
    control.send_request(directory, "stop")
    directory.control_request.chmod(0o622)
    assert control.pop_request(directory) is None


def test_a_request_that_is_a_link_is_not_followed(directory: RunDirectory) -> None:
    elsewhere = directory.path / "elsewhere.json"
    elsewhere.write_text('{"ask": "stop"}')
    elsewhere.chmod(0o600)
    directory.control_request.symlink_to(elsewhere)
    assert control.pop_request(directory) is None


def test_a_request_to_stop_outlasts_one_to_pause() -> None:
    asked = RunControl()
    asked.request_pause()
    assert asked.pause_requested
    asked.request_stop()
    asked.request_pause()
    assert not asked.pause_requested
    asked.wait_while_paused()
    assert asked.stop.is_set()


# --- one trainer a run ------------------------------------------------------------------------


def test_a_second_trainer_of_a_run_is_refused_and_the_lock_goes_with_its_process(
    directory: RunDirectory,
) -> None:
    hold = (
        "import sys; from pathlib import Path; from ida_tui.runs import owner\n"
        "from ida_tui.runs.directory import RunDirectory\n"
        "with owner.owned(RunDirectory(Path(sys.argv[1]))): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(directory.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="another process is training"), owner.owned_run(directory):
        pass
    other.kill()
    other.wait()
    with owner.owned_run(directory):
        assert owner.is_alive(directory)


# --- pause -----------------------------------------------------------------------------------


@pytest.fixture
def never_paused(ida_tui_here: Any) -> bytes:
    """Weights of a run of five steps that nobody disturbed."""
    assert ida_tui_here("--run", *SHORT, "training.max_steps=5").code == 0
    return (LATEST / ADAPTER).read_bytes()


def test_a_run_that_is_paused_and_goes_on_by_signal_ends_with_the_same_bytes(
    never_paused: bytes,
) -> None:
    run = start(*SHORT, "training.max_steps=5")
    read_until(run, "StepFinished", 1)
    run.send_signal(signal.SIGUSR1)
    paused = next_of(run, "RunPaused")
    assert (paused["by"], paused["reason"]) == ("person", "paused")
    assert (LATEST / f"checkpoints/checkpoint-{paused['step']}/checkpoint.json").is_file()
    run.send_signal(signal.SIGUSR1)
    assert next_of(run, "RunResumed")["from_step"] == paused["step"]
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == 5
    assert (LATEST / ADAPTER).read_bytes() == never_paused


def test_a_large_model_is_given_back_while_it_is_paused_and_ends_with_the_same_bytes(
    never_paused: bytes, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "MAX_BYTES_WHILE_PAUSED", 0)
    held: list[bool] = []
    between = pause.PauseController.pause_between_steps
    wait = RunControl.wait_while_paused

    def ask_once(pauses: pause.PauseController, *alert: Any) -> None:
        if not held:
            pauses.run.control.request_pause()
        between(pauses, *alert)

    def look_and_go_on(asked: RunControl) -> None:
        import gc

        from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer

        held.append(any(isinstance(thing, InstrumentedGRPOTrainer) for thing in gc.get_objects()))
        asked.request_resume()
        wait(asked)

    monkeypatch.setattr(pause.PauseController, "pause_between_steps", ask_once)
    monkeypatch.setattr(RunControl, "wait_while_paused", look_and_go_on)
    done = ida_tui_here("--run", *SHORT, "training.max_steps=5")
    assert done.code == 0, done.err
    assert held == [False], "the trainer is gone while the run is paused"
    assert "! Paused by you after step 1" in done.out
    assert "✓ Resumed from step 1" in done.out
    assert (LATEST / ADAPTER).read_bytes() == never_paused


def test_a_paused_run_can_be_stopped(ida_tui_here: Any) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)
    assert ida_tui_here("attach", "quickstart", "--pause").code == 0
    step = next_of(run, "RunPaused")["step"]
    assert ida_tui_here("attach", "quickstart", "--stop").code == 0
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == step


def test_resume_lets_a_run_go_on_that_another_process_has_paused(ida_tui_here: Any) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)
    ida_tui_here("attach", "quickstart", "--pause")
    next_of(run, "RunPaused")
    done = ida_tui_here("resume", "quickstart")
    assert (done.code, done.out) == (0, "✓ Resume requested; the paused process continues\n")
    next_of(run, "RunResumed")
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=30)
    assert run.returncode == 130


def test_a_closed_terminal_saves_a_checkpoint() -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 2)
    run.send_signal(signal.SIGHUP)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    done = json.loads(out.splitlines()[-1])["steps_done"]
    assert (LATEST / f"checkpoints/checkpoint-{done}/checkpoint.json").is_file()


# --- detached and attached ----------------------------------------------------------------------


def test_a_detached_run_goes_on_alone_and_is_followed_from_its_directory(ida_tui: Any) -> None:
    started = ida_tui("--run", *SHORT, "training.max_steps=4", "--detach")
    assert started.code == 0, started.err
    assert "✓ Training in the background (pid " in started.out
    assert "ida-tui attach outputs/quickstart/" in started.out
    # By the time that it is attached to it may have ended: what is printed is the same.
    followed = ida_tui("attach", "quickstart", "--lines")
    assert followed.code == 0, followed.err
    assert "Step 4/4 |" in followed.out
    assert "✓ Training complete" in followed.out
    events = [json.loads(x) for x in (LATEST / "events.jsonl").read_text().splitlines()]
    assert ida_tui("attach", "--json").events == events


def test_a_run_goes_on_in_a_process_of_its_own_and_ends_with_the_same_bytes(
    never_paused: bytes, ida_tui_here: Any
) -> None:
    run = start(*SHORT, "training.max_steps=5")
    read_until(run, "StepFinished", 2)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=30)
    resumed = ida_tui_here("resume", "quickstart", "--detach")
    assert resumed.code == 0, resumed.err
    assert "✓ Training in the background (pid " in resumed.out
    assert ida_tui_here("attach", "quickstart", "--lines").code == 0
    assert (LATEST / ADAPTER).read_bytes() == never_paused


def test_a_run_that_is_handed_over_ends_after_a_whole_step_and_another_process_ends_it_the_same(
    never_paused: bytes,
) -> None:
    session = Session(resolve("quickstart", [*SHORT[1:], "training.max_steps=5"]).config)
    session.start()
    events: list[Any] = []
    while not session.finished:
        record = session.next_record(timeout=0.1)
        if record is None:
            continue
        events.append(record.event)
        if isinstance(record.event, ev.PhaseChanged) and record.event.step == 2:
            session.request_hand_over()
    session.raise_start_error()
    ended = events[-1]
    assert (ended.status, ended.message) == ("interrupted", "Handed over after step 2 of 5")
    assert [e.step for e in events if isinstance(e, ev.StepFinished)] == [1, 2]
    directory = RunDirectory(LATEST.resolve())
    detached = hand_over(directory)
    assert owner.owner_pid(directory) == detached.pid != os.getpid()
    assert follow_run(directory, as_json=True) == 0
    assert (LATEST / ADAPTER).read_bytes() == never_paused


def test_a_detached_run_that_cannot_begin_says_why(ida_tui: Any) -> None:
    Path("outputs").write_text("a file, not a folder")
    done = ida_tui("--run", *SHORT, "--detach")
    assert done.code == 2
    assert "cannot create a run directory" in done.err


def test_attach_says_when_a_run_died_and_how_to_go_on(ida_tui_here: Any) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)
    run.kill()
    run.communicate()
    done = ida_tui_here("attach", "quickstart", "--lines")
    assert done.code == 1
    assert "✗ the run died: " in done.err
    assert "ida-tui resume" in done.err


def test_a_run_that_nobody_trains_cannot_be_asked(ida_tui_here: Any) -> None:
    assert ida_tui_here("--run", *SHORT, "training.max_steps=1").code == 0
    done = ida_tui_here("attach", "quickstart", "--pause")
    assert done.code == 2
    assert "no process is training outputs/quickstart/" in done.err
    assert ida_tui_here("attach", "nothing").code == 2


def test_attach_without_a_run_says_how_to_start_one(ida_tui_here: Any) -> None:
    done = ida_tui_here("attach")
    assert done.code == 2
    assert "ida-tui --run quickstart" in done.err
