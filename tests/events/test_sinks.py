"""Metric sinks: what their own readers return matches ``events.jsonl``.

The tests use the real readers of each package, without a network.
"""

from __future__ import annotations

import csv
import json
import queue
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo, Sink, SinkEvent, event_metrics, step_metrics
from ida_tui.events.sinks.csv import CsvSink
from ida_tui.events.sinks.dispatcher import SinkDispatcher
from ida_tui.events.sinks.registry import create_sinks, sink_settings
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import EventLog
from tests.conftest import IdaTui
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import EIGHT_AXES, step_events

STEPS = 6
KEY = "sk-secret-0123456789"
ALERT = ev.AlertRaised(4, "entropy", "it fell", "raise beta")
BEFORE = ev.EvaluationFinished("before", 0, 30, 80, 3, 2, 75, 40, 40, ev.OFFLINE_JUDGE, 1.0)


@pytest.fixture(autouse=True)
def home_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory without keys, so that nothing leaves this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def send_steps(
    directory: Path,
    sinks: Sequence[Sink],
    first: int = 1,
    last: int = STEPS,
    resumed_from: int | None = None,
    **limits: float,
) -> list[ev.Noticed]:
    """Sends some steps through a real log into the sinks and returns the notices."""
    run = RunDirectory(directory)
    run.logs.mkdir(parents=True, exist_ok=True)
    notices: list[ev.Noticed] = []
    run_info = RunInfo(
        directory,
        "quickstart",
        directory.name,
        sink_settings(resolve("quickstart").config, lambda text: text),
        IDA_AXIS_NAMES,
        resumed_from=resumed_from,
    )
    dispatcher = SinkDispatcher(
        sinks, run_info, notices.append, call_timeout_s=limits.get("hangs_s", PATIENCE_S)
    )
    with EventLog(run) as log:
        log.subscribe(dispatcher)
        log.emit(run_started(directory, STEPS))
        if first == 1:
            log.emit(BEFORE)
        for step in range(first, last + 1):
            for event in step_events(step, STEPS, rows=2):
                log.emit(event)
            if step == ALERT.step:
                log.emit(ALERT)
        dispatcher.disable_hung_sinks()
        dispatcher.end(run_ended("done", "Training complete"), limits.get("limit_s", PATIENCE_S))
    return notices


def expected_metrics(directory: Path) -> dict[int, dict[str, float]]:
    """The metrics of each step from ``events.jsonl``; a repeated step has its last values."""
    records = read_events(directory / "events.jsonl")
    steps = [r.event for r in records if isinstance(r.event, ev.StepFinished)]
    return {step.step: step_metrics(step) for step in steps}


def unique_steps(rows: Iterator[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """The rows of a reader by step; no step may occur twice."""
    pairs = list(rows)
    assert len({step for step, _ in pairs}) == len(pairs)
    return dict(pairs)


# -- readers of the sinks -----------------------------------------------------------------------


def read_csv(directory: Path) -> dict[int, dict[str, float]]:
    with open(directory / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return unique_steps((int(r["step"]), {k: float(v) for k, v in r.items() if v}) for r in rows)


def read_tensorboard(directory: Path) -> dict[int, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    metrics: dict[int, dict[str, float]] = {}
    for tag in reader.Tags()["scalars"]:
        if tag.startswith(("before/", "alert/")):
            continue
        for event in reader.Scalars(tag):
            assert tag not in metrics.setdefault(event.step, {})
            metrics[event.step][tag] = event.value
    return metrics


def read_trackio(directory: Path) -> dict[int, dict[str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("quickstart", directory.name)
    return unique_steps(
        (row["step"], {k: v for k, v in row.items() if k != "timestamp"})
        for row in logs
        if "reward" in row
    )


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format in blocks of 32 KiB, after a 7-byte header."""
    data, record = path.read_bytes(), b""
    assert data.startswith(b":W&B")
    offset = 7
    while offset < len(data):
        remaining = 32_768 - offset % 32_768
        if remaining < 7:
            offset += remaining
            continue
        _, length, kind = struct.unpack_from(
            "<IHB", data, offset
        )  # 1 full, 2 first, 3 middle, 4 last
        record += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(directory: Path) -> dict[int, dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    metrics: dict[int, dict[str, float]] = {}
    ids = set()
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        for raw in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            history = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in history}
            if "reward" in row:
                metrics[int(row["step"])] = {k: v for k, v in row.items() if not k.startswith("_")}
    assert len(ids) == 1, "a resumed run must be the same W&B run"
    return metrics


READERS = {
    "csv": read_csv,
    "tensorboard": read_tensorboard,
    "trackio": read_trackio,
    "wandb": read_wandb,
}


def as_float32(metrics: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """The metrics rounded to 32 bits, as TensorBoard stores them."""
    return {
        step: {k: struct.unpack("f", struct.pack("f", v))[0] for k, v in row.items()}
        for step, row in metrics.items()
    }


@pytest.fixture(params=READERS)
def sink_name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Each sink."""
    name = str(request.param)
    if name == "trackio":
        from trackio import sqlite_storage

        monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    return name


def assert_sink_has_all_metrics(name: str, directory: Path) -> None:
    """The sink's reader returns exactly the metrics of every step."""
    expected = expected_metrics(directory)
    assert sorted(expected) == list(range(1, STEPS + 1))
    expected = as_float32(expected) if name == "tensorboard" else expected
    assert READERS[name](directory) == expected


def test_a_sink_has_the_metrics_of_the_events(sink_name: str, tmp_path: Path) -> None:
    directory = tmp_path / "run-1"

    notices = send_steps(directory, create_sinks([sink_name]))

    assert [note.text for note in notices if note.level == "warning"] == []
    assert notices[-1].source == sink_name  # says where to view the metrics
    assert_sink_has_all_metrics(sink_name, directory)


def test_a_resumed_run_continues_in_the_same_sink_run(sink_name: str, tmp_path: Path) -> None:
    directory = tmp_path / "run-1"

    send_steps(directory, create_sinks([sink_name]), last=4)
    send_steps(directory, create_sinks([sink_name]), first=3, resumed_from=2)

    assert_sink_has_all_metrics(sink_name, directory)


def test_no_secrets_and_no_prompts_are_sent() -> None:
    config = resolve("quickstart", [f"name=run-{KEY}"]).config

    settings = sink_settings(config, lambda text: text.replace(KEY, "[key]"))

    assert settings["name"] == "run-[key]"
    assert settings["training.learning_rate"] == config.training.learning_rate
    texts = [prompt.text for prompt in config.prompts.prompts]
    assert texts
    assert not any(text in str(value) for text in texts for value in settings.values())


def test_wandb_without_a_key_runs_offline_without_asking(tmp_path: Path) -> None:
    notices = send_steps(tmp_path / "run-1", create_sinks(["wandb"]))

    assert "W&B runs offline" in notices[0].text
    assert "wandb sync" in notices[-1].text
    assert Path(notices[-1].text.rpartition(" ")[2]).is_dir()


def test_wandb_is_off_when_its_environment_variable_disables_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")

    notices = send_steps(tmp_path / "run-1", create_sinks(["wandb"]))

    assert notices == []
    assert not (tmp_path / "run-1" / "wandb").exists()


def test_a_table_has_a_column_for_each_axis_and_none_for_refusals_without_kinds(
    tmp_path: Path,
) -> None:
    steps = [
        event
        for event in step_events(1, 2, axes=EIGHT_AXES, kind="", reward_range=(-5.0, 120.0))
        if isinstance(event, ev.StepFinished)
    ]
    names = tuple(axis.name for axis in EIGHT_AXES)
    sink = CsvSink()

    sink.start(RunInfo(tmp_path, "quickstart", "run-1", {}, names, has_kinds=False))
    sink.step(steps[0])

    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert [name for name in header if name.startswith("scores/")] == [f"scores/{n}" for n in names]
    assert not any(word in name for name in header for word in ("harmless", "unsafe", "r_ida"))
    assert read_csv(tmp_path) == {1: step_metrics(steps[0])}
    assert not any("harmless" in name for name in step_metrics(steps[0]))


def test_a_resumed_table_of_an_older_version_keeps_its_rows_under_the_new_names(
    tmp_path: Path,
) -> None:
    old = "step,align,risk,detail,r_ida,offline_r_ida\n1,5.0,9.0,4.0,0.3,0.2\n2,6,9,4,0.4,0.2\n"
    (tmp_path / "metrics.csv").write_text(old)

    CsvSink().start(RunInfo(tmp_path, "quickstart", "run-1", {}, IDA_AXIS_NAMES, resumed_from=1))

    assert read_csv(tmp_path) == {
        1: {
            "step": 1, "scores/align": 5, "scores/risk": 9, "scores/detail": 4, "reward": 0.3,
            "offline_reward": 0.2,
        }
    }  # fmt: skip


# -- sinks that misbehave -------------------------------------------------------------------------


class CollectingSink:
    """Records its calls."""

    name = "csv"

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, run_info: RunInfo) -> str:
        self.calls.append(run_info)
        return ""

    def step(self, step: ev.StepFinished) -> None:
        self.calls.append(step.step)

    def note(self, note: SinkEvent) -> None:
        self.calls.append(note)

    def end(self, ended: ev.RunEnded) -> str:
        self.calls.append(ended.status)
        return "saved"


class FailingSink(CollectingSink):
    """Raises an error in step 3."""

    def step(self, step: ev.StepFinished) -> None:
        super().step(step)
        if step.step == 3:
            raise ConnectionError("the server\nis gone")


class HangingSink(CollectingSink):
    """Hangs in step 2."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.release = threading.Event(), threading.Event()

    def step(self, step: ev.StepFinished) -> None:
        super().step(step)
        if step.step == 2:
            self.hangs.set()
            self.release.wait()


def test_a_sink_is_called_in_order(tmp_path: Path) -> None:
    sink = CollectingSink()

    notices = send_steps(tmp_path / "run-1", [sink])

    assert sink.calls[1:] == [BEFORE, 1, 2, 3, 4, ALERT, 5, 6, "done"]
    assert [note.text for note in notices] == ["saved"]


def test_a_failing_sink_causes_one_warning_and_does_not_affect_others(tmp_path: Path) -> None:
    failing, other = FailingSink(), CollectingSink()

    notices = send_steps(tmp_path / "run-1", [failing, other])

    warnings = [note.text for note in notices if note.level == "warning"]
    assert warnings == [
        "csv is disabled: ConnectionError: the server is gone; the run continues without it"
    ]
    assert failing.calls[-1] == 3
    assert other.calls[-1] == "done"
    assert len(expected_metrics(tmp_path / "run-1")) == STEPS


def test_a_hanging_sink_does_not_delay_the_end_of_the_run(tmp_path: Path) -> None:
    hanging = HangingSink()

    notices = send_steps(tmp_path / "run-1", [hanging], limit_s=0.2)

    assert [note.text for note in notices] == [
        "csv is disabled: it did not finish within 0 s after the end of the run; the run continues without it"
    ]
    assert len(expected_metrics(tmp_path / "run-1")) == STEPS
    hanging.release.set()


def test_a_hanging_sink_is_disabled_while_the_run_continues(tmp_path: Path) -> None:
    hanging, notices = HangingSink(), queue.SimpleQueue[ev.Noticed]()
    run_info = RunInfo(tmp_path, "quickstart", "run-1", {}, IDA_AXIS_NAMES)
    dispatcher = SinkDispatcher([hanging], run_info, notices.put, call_timeout_s=0.0, max_queued=2)
    steps = [e for n in range(1, 9) for e in step_events(n, 8, 1) if isinstance(e, ev.StepFinished)]

    for number, event in enumerate([run_started(tmp_path), *steps[:2]]):
        dispatcher.put(ev.Record(number, ev.current_timestamp(), event))
    assert hanging.hangs.wait(PATIENCE_S)
    dispatcher.disable_hung_sinks()
    dispatcher.disable_hung_sinks()

    assert notices.get_nowait().text.startswith("csv is disabled: no response for 0 s")
    assert notices.empty()
    hanging.release.set()


# -- a real run -----------------------------------------------------------------------------------


def test_a_real_run_sends_its_metrics_and_says_where(
    ida_tui_here: IdaTui,
) -> None:
    done = ida_tui_here(
        "--run", "quickstart", "training.max_steps=2", "evaluation.enabled=false",
        "training.gradient_accumulation_steps=1", "training.per_device_train_batch_size=8",
        "report_to=[csv]", "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    directory = Path("outputs/quickstart/latest")
    assert read_csv(directory) == expected_metrics(directory)
    texts = [str(e["text"]) for e in done.events if e["type"] == "Noticed" and e["source"] == "csv"]
    assert len(texts) == 1
    assert Path(texts[0].removeprefix("metrics of every step: ")).samefile(
        directory / "metrics.csv"
    )
    assert done.events[-1]["type"] == "RunEnded"


def test_an_evaluation_between_two_steps_has_metrics_without_refusals_where_prompts_have_no_kinds() -> (
    None
):
    made = ev.EvaluationFinished(
        "during", 5, 9, 0, 0, 0, 0, 0, 0, ev.OFFLINE_JUDGE, 1.0, reward=0.5,
        scores={"brief": 0.5, "polite": None}, unlabeled=36,
    )  # fmt: skip

    metrics = event_metrics(made)

    assert (metrics["during/reward"], metrics["during/scores/brief"]) == (0.5, 0.5)
    assert metrics["during/unlabeled"] == 36
    assert not [name for name in metrics if "harmless" in name or "unsafe" in name]
