"""A run in a process of its own: the same run and the same requests, whatever happens to either process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ida_tui.cli.output.follow import follow_run
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.process.engine import EngineProcess
from ida_tui.engine.process.session import ProcessSession
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events import types as ev
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from tests.support.judge_server import Gate, ScriptedJudge, Status
from tests.support.patience import PATIENCE_S

TINY = (
    "evaluation.enabled=false", "training.num_generations=4", "training.max_completion_length=16",
    "training.per_device_train_batch_size=8",
)  # fmt: skip
STEP_CALLS = 8
"""Calls to the judge in a step."""
KEY = "sk-typed-into-the-app-0123456789"
LATEST = Path("outputs/quickstart/latest")

pytestmark = pytest.mark.usefixtures("prepared_engine")


def tiny(*overrides: str) -> Config:
    return resolve("quickstart", [*TINY, *overrides]).config


def train(
    session: ProcessSession, on_event: Callable[[ev.Event], object] = lambda event: None
) -> list[ev.Record]:
    """Start a session and read it to its end."""
    records = []
    session.start()
    while not session.finished:
        record = session.next_record(timeout=0.1)
        if record is not None:
            records.append(record)
            on_event(record.event)
    return records


def events_on_disk() -> list[ev.Record]:
    return list(read_events(LATEST / "events.jsonl"))


def is_end_of_step(event: ev.Event, step: int) -> bool:
    return isinstance(event, ev.StepFinished) and event.step == step


def test_the_app_gets_every_record_of_a_run_that_pauses_and_resumes() -> None:
    session = ProcessSession(tiny("training.max_steps=3"), argv=["ida-tui"])

    def on_event(event: ev.Event) -> None:
        if isinstance(event, ev.RunStarted):
            session.request_pause()
        elif isinstance(event, ev.RunPaused):
            session.request_resume()

    records = train(session, on_event)

    assert records == events_on_disk()
    types = [type(record.event) for record in records]
    assert types.index(ev.RunPaused) < types.index(ev.RunResumed)
    ended = records[-1].event
    assert isinstance(ended, ev.RunEnded)
    assert (ended.status, ended.steps_done) == ("done", 3)
    assert (LATEST / "adapter").is_dir()
    assert not owner.is_alive(RunDirectory(LATEST.resolve()))


def test_a_stop_saves_a_checkpoint() -> None:
    session = ProcessSession(tiny("training.max_steps=500"))

    records = train(session, lambda e: is_end_of_step(e, 2) and session.request_stop())

    ended = records[-1].event
    assert isinstance(ended, ev.RunEnded)
    assert ended.status == "interrupted"
    assert (LATEST / f"checkpoints/checkpoint-{ended.steps_done}/trainer_state.json").is_file()


def test_the_key_reaches_the_judge_but_no_argument_variable_or_file() -> None:
    places = []

    def look(event: ev.Event) -> None:
        if isinstance(event, ev.RolloutStarted):
            for process in psutil.Process().children(recursive=True):
                places.extend([*process.cmdline(), *process.environ().values()])

    with ScriptedJudge() as judge:
        config = tiny("training.max_steps=1", *judge.overrides)
        train(ProcessSession(config, key=KEY), look)
        assert set(judge.authorizations) == {f"Bearer {KEY}"}
    assert places
    assert not any(KEY in place for place in places)
    files = [path for path in LATEST.resolve().rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in file.read_bytes() for file in files)


def test_a_decision_on_an_unavailable_judge_reaches_the_run() -> None:
    with ScriptedJudge(rule=lambda body: Status(401)) as judge:
        session = ProcessSession(tiny("training.max_steps=1", *judge.overrides), key=KEY)
        offline = resolve("quickstart").config.judge

        def on_event(event: ev.Event) -> None:
            if isinstance(event, ev.RunPaused):
                session.resume_with(ResumeDecision(offline, None, None))

        records = train(session, on_event)

    ended = records[-1].event
    assert isinstance(ended, ev.RunEnded)
    assert ended.status == "done"
    assert session.judge == offline


def test_a_run_that_is_handed_over_goes_on_in_the_same_process() -> None:
    gate = Gate(STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        config = tiny("training.max_steps=3", *judge.overrides)
        session = ProcessSession(config, key=KEY)
        records = train(session, lambda e: is_end_of_step(e, 1) and session.request_hand_over())

        assert not any(isinstance(record.event, ev.RunEnded) for record in records)
        assert session.background_run is not None
        directory = session.background_run.directory
        assert directory.path == LATEST.resolve().relative_to(Path.cwd())
        assert owner.owner_pid(directory) == session.background_run.pid
        gate.open()
        assert follow_run(directory, as_json=True) == 0
    assert events_on_disk()[: len(records)] == records
    events = [record.event for record in events_on_disk()]
    assert [event.step for event in events if isinstance(event, ev.StepFinished)] == [1, 2, 3]


def test_a_run_in_the_background_ends_when_its_judge_is_unavailable() -> None:
    calls, handed_over = itertools.count(1), threading.Event()

    def rule(body: object) -> Status | None:
        if next(calls) <= STEP_CALLS:
            return None
        handed_over.wait(PATIENCE_S)
        return Status(401)

    with ScriptedJudge(rule=rule) as judge:
        session = ProcessSession(tiny("training.max_steps=3", *judge.overrides), key=KEY)
        train(session, lambda e: is_end_of_step(e, 1) and session.request_hand_over())
        handed_over.set()
        assert session.background_run is not None
        assert follow_run(session.background_run.directory, as_json=True) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_whose_process_is_killed_says_how_it_ended(number: signal.Signals) -> None:
    session = ProcessSession(tiny("training.max_steps=500"))

    def on_event(event: ev.Event) -> None:
        if is_end_of_step(event, 1):
            pid = owner.owner_pid(RunDirectory(LATEST.resolve()))
            assert pid is not None
            os.kill(pid, number)

    records = train(session, on_event)

    assert not any(isinstance(record.event, ev.RunEnded) for record in records)
    assert session.died == f"its process was ended by {number.name}"
    assert session.start_error is None


def test_an_error_before_the_start_is_the_same_as_in_this_process() -> None:
    session = ProcessSession(tiny("device=cuda"))

    assert train(session) == []

    with pytest.raises(IdaError, match="device cuda is not available") as raised:
        session.raise_start_error()
    assert raised.value.code is ExitCode.DEVICE_UNUSABLE
    assert "device=cpu" in raised.value.hint
    assert not Path("outputs").exists()


APP = """
import sys
from ida_tui.config.resolve import resolve
from ida_tui.engine.process import engine
from ida_tui.engine.process.session import ProcessSession
engine.PYTHON = {python!r}
session = ProcessSession(resolve("quickstart", sys.argv[1:]).config)
session.start()
while (record := session.next_record(timeout=600)) is not None:
    print(type(record.event).__name__, flush=True)
"""


def test_a_run_whose_app_is_killed_stops_with_a_checkpoint() -> None:
    from ida_tui.engine.process import engine

    app = subprocess.Popen(
        [
            *(sys.executable, "-c", APP.format(python=engine.PYTHON)),
            *(*TINY, "training.max_steps=5000"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert app.stdout is not None
    for line in app.stdout:
        if line == "StepFinished\n":
            break
    app.kill()
    app.communicate(timeout=PATIENCE_S)

    assert follow_run(RunDirectory(LATEST.resolve()), as_json=True) == 130
    ended: Any = events_on_disk()[-1].event
    assert (LATEST / f"checkpoints/checkpoint-{ended.steps_done}/trainer_state.json").is_file()


def test_a_prepared_process_trains_the_run_that_follows() -> None:
    engine = EngineProcess()
    engine.send("prepare")
    session = ProcessSession(tiny("training.max_steps=1"), engine=engine)

    ended = train(session)[-1].event

    assert isinstance(ended, ev.RunEnded)
    assert ended.status == "done"
    assert not engine.is_alive


def test_a_process_that_is_not_needed_ends_with_its_connection() -> None:
    engine = EngineProcess()
    assert engine.is_alive
    engine.close()
    assert engine.how_it_ended() == "its process ended with exit status 0"
