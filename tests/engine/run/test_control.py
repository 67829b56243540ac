"""Pause, resume and stop requests, by signal and from another process, and detached runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ida_tui.cli.main import main
from ida_tui.cli.output.follow import follow_run
from ida_tui.config.resolve import resolve
from ida_tui.engine.run import loop, pause
from ida_tui.engine.run.background import hand_over
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.session import Session
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.system.clock import RunClock
from tests.engine.run.test_stopping import LONG, kill, read_until, start
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.patience import PATIENCE_S

SHORT = (
    "quickstart", "evaluation.enabled=false", "training.num_generations=4",
    "training.per_device_train_batch_size=8", "training.max_completion_length=24",
)  # fmt: skip
FIVE_STEPS = (*SHORT, "training.max_steps=5")
STEP_CALLS = 8
"""Calls to the judge in a step."""
ADAPTER = "adapter/adapter_model.safetensors"
LATEST = Path("outputs/quickstart/latest")


@pytest.fixture
def directory() -> RunDirectory:
    Path("run").mkdir()
    return RunDirectory(Path("run").resolve())


def read_next(run: subprocess.Popen[str], event_type: str) -> dict[str, Any]:
    assert run.stdout is not None
    for line in run.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["type"] == event_type:
            return event
    raise AssertionError(f"no {event_type}: {run.stderr and run.stderr.read()}")


# --- the request ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pause", "go_on", "stop"])
def test_a_request_is_read_only_once(directory: RunDirectory, kind: Any) -> None:
    control.send_request(directory, kind)
    assert directory.control_request.stat().st_mode & 0o777 == 0o600
    assert control.pop_request(directory) == kind
    assert control.pop_request(directory) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"ask": "format the disk"}', '{"ask": ["stop"]}', "[" * 900, "\x00\xff"],
)
def test_an_invalid_request_is_removed_and_ignored(directory: RunDirectory, text: str) -> None:
    directory.control_request.write_text(text)
    directory.control_request.chmod(0o600)
    assert control.pop_request(directory) is None
    assert not directory.control_request.exists()


def test_a_request_that_other_users_could_have_written_is_ignored(directory: RunDirectory) -> None:
    control.send_request(directory, "stop")
    directory.control_request.chmod(0o622)
    assert control.pop_request(directory) is None


def test_a_request_that_is_a_symlink_is_not_followed(directory: RunDirectory) -> None:
    target = directory.path / "elsewhere.json"
    target.write_text('{"ask": "stop"}')
    target.chmod(0o600)
    directory.control_request.symlink_to(target)
    assert control.pop_request(directory) is None


def test_a_stop_request_overrides_a_pause_request() -> None:
    run_control = RunControl()
    run_control.request_pause()
    assert run_control.pause_requested
    run_control.request_stop()
    run_control.request_pause()
    assert not run_control.pause_requested
    run_control.wait_while_paused()
    assert run_control.stop.is_set()


# --- one trainer per run ------------------------------------------------------------------------


def test_a_run_has_only_one_trainer_and_its_lock_ends_with_the_process(
    directory: RunDirectory,
) -> None:
    script = (
        "import sys; from pathlib import Path; from ida_tui.runs import owner\n"
        "from ida_tui.runs.directory import RunDirectory\n"
        "with owner.owned_run(RunDirectory(Path(sys.argv[1]))): print('locked', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(directory.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UsageError, match="another process is training"), owner.owned_run(directory):
        pass
    other.kill()
    other.wait()
    with owner.owned_run(directory):
        assert owner.is_alive(directory)


# --- pause -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a five-step run without any interruption."""
    with pytest.MonkeyPatch.context() as patch, ScriptedJudge() as judge:
        patch.chdir(tmp_path_factory.mktemp("uninterrupted"))
        assert main(["--run", *FIVE_STEPS, *judge.overrides]) == 0
        return (LATEST / ADAPTER).read_bytes()


def test_a_run_that_is_paused_and_resumed_by_signal_ends_with_the_same_bytes(
    uninterrupted_weights: bytes,
) -> None:
    gate = Gate(STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        run = start(*FIVE_STEPS, *judge.overrides)
        read_until(run, "StepFinished", 1)
        run.send_signal(signal.SIGUSR1)
        gate.open()
        paused = read_next(run, "RunPaused")
        assert (paused["by"], paused["reason"]) == ("person", "paused")
        assert (LATEST / f"checkpoints/checkpoint-{paused['step']}/checkpoint.json").is_file()
        run.send_signal(signal.SIGUSR1)
        assert read_next(run, "RunResumed")["from_step"] == paused["step"]
        out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == 5
    assert (LATEST / ADAPTER).read_bytes() == uninterrupted_weights


def test_a_large_model_is_released_during_a_pause_and_ends_with_the_same_bytes(
    uninterrupted_weights: bytes, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "MAX_BYTES_WHILE_PAUSED", 0)
    trainer_in_memory: list[bool] = []
    pause_between_steps = pause.PauseController.pause_between_steps
    wait = RunControl.wait_while_paused
    hours_paused = [0.0]
    monkeypatch.setattr(
        loop, "RunClock", lambda: RunClock(lambda: time.monotonic() + 3600 * hours_paused[0])
    )

    def request_one_pause(pauses: pause.PauseController, *alert: Any) -> None:
        if not trainer_in_memory:
            pauses.run.control.request_pause()
        pause_between_steps(pauses, *alert)

    def check_memory_and_resume(run_control: RunControl) -> None:
        import gc

        from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer

        trainer_in_memory.append(
            any(isinstance(item, InstrumentedGRPOTrainer) for item in gc.get_objects())
        )
        hours_paused[0] += 1
        run_control.request_resume()
        wait(run_control)

    monkeypatch.setattr(pause.PauseController, "pause_between_steps", request_one_pause)
    monkeypatch.setattr(RunControl, "wait_while_paused", check_memory_and_resume)
    with ScriptedJudge() as judge:
        done = ida_tui_here("--run", *FIVE_STEPS, *judge.overrides)
    assert done.code == 0, done.err
    assert trainer_in_memory == [False], "the trainer is still in memory while the run is paused"
    assert "! Paused by you after step 1" in done.out
    assert "✓ Resumed from step 1" in done.out
    records = list(read_events(LATEST / "events.jsonl"))
    steps = [record.event for record in records if isinstance(record.event, ev.StepFinished)]
    ended = records[-1].event
    assert isinstance(ended, ev.RunEnded)
    assert sum(sum(step.seconds.values()) for step in steps) < ended.seconds < 3600
    assert ended.paused_s == pytest.approx(3600, abs=60)
    assert all(step.least_seconds.keys() == {"generate", "update"} for step in steps)
    span = datetime.fromisoformat(records[-1].time) - datetime.fromisoformat(records[0].time)
    assert ended.seconds == pytest.approx(span.total_seconds(), abs=5)
    assert (LATEST / ADAPTER).read_bytes() == uninterrupted_weights


def test_another_process_pauses_resumes_and_stops_a_run(ida_tui_here: Any) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)
    assert ida_tui_here("attach", "quickstart", "--pause").code == 0
    read_next(run, "RunPaused")
    done = ida_tui_here("resume", "quickstart")
    assert (done.code, done.out) == (0, "✓ Resume requested; the paused process continues\n")
    read_next(run, "RunResumed")
    assert ida_tui_here("attach", "quickstart", "--pause").code == 0
    step = read_next(run, "RunPaused")["step"]
    assert ida_tui_here("attach", "quickstart", "--stop").code == 0
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == step


# --- detached and attached ----------------------------------------------------------------------


def test_a_detached_run_trains_in_the_background_and_can_be_followed(ida_tui: Any) -> None:
    started = ida_tui("--run", *SHORT, "training.max_steps=4", "--detach")
    assert started.code == 0, started.err
    assert "✓ Training in the background (pid " in started.out
    assert "ida-tui attach outputs/quickstart/" in started.out
    # The run may end before `attach` starts; the output is the same either way.
    followed = ida_tui("attach", "quickstart", "--lines")
    assert followed.code == 0, followed.err
    assert "Step 4/4 |" in followed.out
    assert "✓ Training complete" in followed.out
    events = [json.loads(x) for x in (LATEST / "events.jsonl").read_text().splitlines()]
    assert ida_tui("attach", "--json").events == events


def test_a_run_resumed_in_the_background_ends_with_the_same_bytes(
    uninterrupted_weights: bytes, ida_tui_here: Any
) -> None:
    gate = Gate(2 * STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        run = start(*FIVE_STEPS, *judge.overrides)
        read_until(run, "StepFinished", 2)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 130
        gate.open()
        resumed = ida_tui_here("resume", "quickstart", "--detach")
        assert resumed.code == 0, resumed.err
        assert "✓ Training in the background (pid " in resumed.out
        assert ida_tui_here("attach", "quickstart", "--lines").code == 0
    assert (LATEST / ADAPTER).read_bytes() == uninterrupted_weights


def test_a_run_handed_over_between_steps_ends_with_the_same_bytes(
    uninterrupted_weights: bytes,
) -> None:
    gate = Gate(STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        session = Session(resolve("quickstart", [*FIVE_STEPS[1:], *judge.overrides]).config)
        session.start()
        events: list[Any] = []
        while not session.finished:
            record = session.next_record(timeout=0.1)
            if record is None:
                continue
            events.append(record.event)
            if isinstance(record.event, ev.PhaseChanged) and record.event.step == 2:
                session.request_hand_over()
                gate.open()
        session.raise_start_error()
        ended = events[-1]
        assert (ended.status, ended.message) == ("interrupted", "Handed over after step 2 of 5")
        assert [e.step for e in events if isinstance(e, ev.StepFinished)] == [1, 2]
        directory = RunDirectory(LATEST.resolve())
        detached = hand_over(directory)
        assert owner.owner_pid(directory) == detached.pid != os.getpid()
        assert follow_run(directory, as_json=True) == 0
    assert (LATEST / ADAPTER).read_bytes() == uninterrupted_weights


def test_a_detached_run_that_cannot_start_says_why(ida_tui: Any) -> None:
    Path("outputs").write_text("a file, not a folder")
    done = ida_tui("--run", *SHORT, "--detach")
    assert done.code == 2
    assert "cannot create a run directory" in done.err


def test_attach_reports_a_dead_run_and_how_to_resume_it(ida_tui_here: Any) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)
    kill(run)
    done = ida_tui_here("attach", "quickstart", "--lines")
    assert done.code == 1
    assert "✗ the run died: " in done.err
    assert "ida-tui resume" in done.err


def test_a_run_without_a_trainer_process_takes_no_requests(ida_tui_here: Any) -> None:
    assert ida_tui_here("--run", *SHORT, "training.max_steps=1").code == 0
    done = ida_tui_here("attach", "quickstart", "--pause")
    assert done.code == 2
    assert "no process is training outputs/quickstart/" in done.err
    assert ida_tui_here("attach", "nothing").code == 2


def test_attach_without_a_run_says_how_to_start_one(ida_tui_here: Any) -> None:
    done = ida_tui_here("attach")
    assert done.code == 2
    assert "ida-tui --run quickstart" in done.err
