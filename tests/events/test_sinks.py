"""Where figures are sent to: each place's own reader gives back what ``events.jsonl`` says.

The readers are the real ones; a machine without them installs them with
`uv run --extra wandb --extra trackio --extra tensorboard pytest tests/events/test_sinks.py`.
"""

from __future__ import annotations

import csv
import json
import queue
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo, Sink, SinkEvent, step_metrics
from ida_tui.events.sinks.dispatcher import SinkDispatcher
from ida_tui.events.sinks.registry import create_sinks, sink_settings
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import EventLog
from tests.conftest import IdaTui
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import step_events

STEPS = 6
KEY = "sk-secret-0123456789"
EXTRA = "uv run --extra wandb --extra trackio --extra tensorboard pytest tests/events/test_sinks.py"
ALERT = ev.AlertRaised(4, "entropy", "it fell", "raise beta")
BEFORE = ev.EvaluationFinished("before", 0, 30, 80, 3, 2, 75, 40, 40, ev.OFFLINE_JUDGE, 1.0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without keys, so that nothing is sent off this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def sent(
    directory: Path,
    to: Sequence[Sink],
    first: int = 1,
    last: int = STEPS,
    resumed_from: int | None = None,
    **limits: float,
) -> list[ev.Noticed]:
    """Play some steps through a real log into sinks; returns what a person was told."""
    run = RunDirectory(directory)
    run.logs.mkdir(parents=True, exist_ok=True)
    told: list[ev.Noticed] = []
    place = RunInfo(
        directory,
        "quickstart",
        directory.name,
        sink_settings(resolve("quickstart").config, lambda text: text),
        resumed_from,
    )
    feed = SinkDispatcher(to, place, told.append, call_timeout_s=limits.get("hangs_s", 60))
    with EventLog(run) as log:
        log.subscribe(feed)
        log.emit(run_started(directory, STEPS))
        if first == 1:
            log.emit(BEFORE)
        for step in range(first, last + 1):
            for event in step_events(step, STEPS, rows=2):
                log.emit(event)
            if step == ALERT.step:
                log.emit(ALERT)
        feed.disable_hung_sinks()
        feed.end(run_ended("done", "Training complete"), limits.get("limit_s", 60))
    return told


def expected(directory: Path) -> dict[int, dict[str, float]]:
    """The figures of each step, from ``events.jsonl``; of a step that was done twice, the last."""
    records = read_events(directory / "events.jsonl")
    steps = [r.event for r in records if isinstance(r.event, ev.StepFinished)]
    return {step.step: step_metrics(step) for step in steps}


def once(rows: Iterator[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """What a reader gives back, by step; no step may be there twice."""
    found = list(rows)
    assert len({step for step, _ in found}) == len(found)
    return dict(found)


# -- what each place's own reader says ------------------------------------------------------------


def of_csv(directory: Path) -> dict[int, dict[str, float]]:
    with open(directory / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return once((int(r["step"]), {k: float(v) for k, v in r.items() if v}) for r in rows)


def of_tensorboard(directory: Path) -> dict[int, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in read.Tags()["scalars"]:
        if tag.startswith(("before/", "alert/")):
            continue
        for event in read.Scalars(tag):
            assert tag not in found.setdefault(event.step, {})
            found[event.step][tag] = event.value
    return found


def of_trackio(directory: Path) -> dict[int, dict[str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("quickstart", directory.name)
    return once(
        (row["step"], {k: v for k, v in row.items() if k != "timestamp"})
        for row in logs
        if "r_ida" in row
    )


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format, in blocks of 32 KiB, after a head of 7 bytes."""
    data, record = path.read_bytes(), b""
    assert data.startswith(b":W&B")
    at = 7
    while at < len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)  # whole, first, middle, last
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def of_wandb(directory: Path) -> dict[int, dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    found: dict[int, dict[str, float]] = {}
    ids = set()
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        for raw in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            if "r_ida" in row:
                found[int(row["step"])] = {k: v for k, v in row.items() if not k.startswith("_")}
    assert len(ids) == 1, "a run that goes on is the same run"
    return found


READERS = {
    "csv": of_csv,
    "tensorboard": of_tensorboard,
    "trackio": of_trackio,
    "wandb": of_wandb,
}


def rounded(found: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """As 32-bit numbers, which is how TensorBoard keeps them."""
    return {
        step: {k: struct.unpack("f", struct.pack("f", v))[0] for k, v in row.items()}
        for step, row in found.items()
    }


@pytest.fixture(params=READERS)
def kept_at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each place, where its package is installed."""
    name = str(request.param)
    if name != "csv":
        pytest.importorskip(name, reason=f"not installed; {EXTRA}")
    if name == "trackio":
        from trackio import sqlite_storage

        monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    return name


def same(name: str, directory: Path) -> None:
    """A place's reader gives back every figure of every step, and no other."""
    truth = expected(directory)
    assert sorted(truth) == list(range(1, STEPS + 1))
    truth = rounded(truth) if name == "tensorboard" else truth
    assert READERS[name](directory) == truth


def test_a_reader_gives_back_the_numbers_of_the_events(kept_at: str, tmp_path: Path) -> None:
    directory = tmp_path / "run-1"

    told = sent(directory, create_sinks([kept_at]))

    assert [note.text for note in told if note.level == "warning"] == []
    assert told[-1].source == kept_at  # where it can be seen
    same(kept_at, directory)


def test_a_run_that_goes_on_goes_on_in_the_same_place(kept_at: str, tmp_path: Path) -> None:
    directory = tmp_path / "run-1"

    sent(directory, create_sinks([kept_at]), last=4)
    sent(directory, create_sinks([kept_at]), first=3, resumed_from=2)

    same(kept_at, directory)


def test_no_secret_and_no_text_of_a_run_is_sent() -> None:
    config = resolve("quickstart", [f"name=run-{KEY}"]).config

    told = sink_settings(config, lambda text: text.replace(KEY, "[key]"))

    assert told["name"] == "run-[key]"
    assert told["training.learning_rate"] == config.training.learning_rate
    texts = [prompt.text for prompt in config.prompts.prompts]
    assert texts
    assert not any(text in str(value) for text in texts for value in told.values())


def test_wandb_without_a_key_runs_offline_and_asks_nothing(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason=f"not installed; {EXTRA}")

    told = sent(tmp_path / "run-1", create_sinks(["wandb"]))

    assert "W&B runs offline" in told[0].text
    assert "wandb sync" in told[-1].text
    assert Path(told[-1].text.rpartition(" ")[2]).is_dir()


def test_wandb_is_off_where_its_own_variable_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason=f"not installed; {EXTRA}")
    monkeypatch.setenv("WANDB_MODE", "disabled")

    told = sent(tmp_path / "run-1", create_sinks(["wandb"]))

    assert told == []
    assert not (tmp_path / "run-1" / "wandb").exists()


# -- sinks that misbehave -------------------------------------------------------------------------


class Collecting:
    """Keeps what it is given."""

    name = "csv"

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, place: RunInfo) -> str:
        self.calls.append(place)
        return ""

    def step(self, step: ev.StepFinished) -> None:
        self.calls.append(step.step)

    def note(self, note: SinkEvent) -> None:
        self.calls.append(note)

    def end(self, ended: ev.RunEnded) -> str:
        self.calls.append(ended.status)
        return "kept"


class Failing(Collecting):
    """Fails at its third step."""

    def step(self, step: ev.StepFinished) -> None:
        super().step(step)
        if step.step == 3:
            raise ConnectionError("the server\nis gone")


class Hanging(Collecting):
    """Never comes back from its second step."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.never = threading.Event(), threading.Event()

    def step(self, step: ev.StepFinished) -> None:
        super().step(step)
        if step.step == 2:
            self.hangs.set()
            self.never.wait()


def test_a_sink_is_called_in_order(tmp_path: Path) -> None:
    sink = Collecting()

    told = sent(tmp_path / "run-1", [sink])

    assert sink.calls[1:] == [BEFORE, 1, 2, 3, 4, ALERT, 5, 6, "done"]
    assert [note.text for note in told] == ["kept"]


def test_a_sink_that_fails_is_warned_about_once_and_harms_no_other(tmp_path: Path) -> None:
    failing, other = Failing(), Collecting()

    told = sent(tmp_path / "run-1", [failing, other])

    warnings = [note.text for note in told if note.level == "warning"]
    assert warnings == [
        "csv is disabled: ConnectionError: the server is gone; the run continues without it"
    ]
    assert failing.calls[-1] == 3
    assert other.calls[-1] == "done"
    assert len(expected(tmp_path / "run-1")) == STEPS


def test_a_sink_that_hangs_is_left_behind_when_the_run_ends(tmp_path: Path) -> None:
    hanging = Hanging()
    began = time.monotonic()

    told = sent(tmp_path / "run-1", [hanging], limit_s=0.2)

    assert time.monotonic() - began < 10
    assert [note.text for note in told] == [
        "csv is disabled: it did not finish within 0 s after the end of the run; the run continues without it"
    ]
    assert len(expected(tmp_path / "run-1")) == STEPS
    hanging.never.set()


def test_a_sink_that_hangs_is_switched_off_while_the_run_goes_on(tmp_path: Path) -> None:
    hanging, told = Hanging(), queue.SimpleQueue[ev.Noticed]()
    place = RunInfo(tmp_path, "quickstart", "run-1", {})
    feed = SinkDispatcher([hanging], place, told.put, call_timeout_s=0.0, max_queued=2)
    steps = [e for n in range(1, 9) for e in step_events(n, 8, 1) if isinstance(e, ev.StepFinished)]

    for number, event in enumerate([run_started(tmp_path), *steps[:2]]):
        feed.put(ev.Record(number, ev.current_timestamp(), event))
    assert hanging.hangs.wait(20)
    feed.disable_hung_sinks()
    feed.disable_hung_sinks()

    assert told.get_nowait().text.startswith("csv is disabled: no response for 0 s")
    assert told.empty()
    hanging.never.set()


# -- a real run -----------------------------------------------------------------------------------


def test_a_real_run_sends_its_figures_on_and_says_where(
    ida_tui_here: IdaTui,
) -> None:
    done = ida_tui_here(
        "--run", "quickstart", "training.max_steps=2", "evaluation.enabled=false",
        "training.gradient_accumulation_steps=1", "training.per_device_train_batch_size=8",
        "report_to=[csv]", "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    directory = Path("outputs/quickstart/latest")
    assert of_csv(directory) == expected(directory)
    words = [str(e["text"]) for e in done.events if e["type"] == "Noticed" and e["source"] == "csv"]
    assert len(words) == 1
    assert Path(words[0].removeprefix("metrics of every step: ")).samefile(
        directory / "metrics.csv"
    )
    assert done.events[-1]["type"] == "RunEnded"
