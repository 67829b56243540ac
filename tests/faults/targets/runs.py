"""Hostile files of a run: events, completions and the small JSON files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from ida_tui.cli.main import main
from ida_tui.cli.output.follow import follow_run
from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter
from ida_tui.config.scoring.axes import IDA_AXES
from ida_tui.errors import IdaError, UsageError
from ida_tui.events import codec, narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold
from ida_tui.runs import control, owner, postmortem, resume
from ida_tui.runs.catalog.index import list_runs
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store import checkpoints, manifest
from ida_tui.runs.store.completions import CompletionStore, remove_completions_after
from tests.faults import hostile, sample_events
from tests.faults.targets.output import Defect, check_printable, checked_output

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def event(rng: Random) -> bool:
    """Decode, fold, print and re-encode one event line."""
    line = hostile.event_line(rng)
    try:
        record = codec.decode(line.decode("utf-8"))
    except (codec.EventError, UnicodeDecodeError) as error:
        str(error)
        return False
    check_printable(codec.encode(record))
    if codec.decode(codec.encode(record)) != record:
        raise Defect("the event changes when it is written and read back")
    state = fold(_state_in_mid_run(), record)
    _print_everything(state, record)
    return True


def _state_in_mid_run() -> RunState:
    """The state in the middle of a real run."""
    if not _STATE:
        state = RunState()
        for raw in hostile.events()[:300]:
            state = fold(state, codec.decode(raw.decode()))
        _STATE.append(state)
    return _STATE[0]


_STATE: list[RunState] = []


def _print_everything(state: RunState, record: ev.Record) -> None:
    """Produce every text about a state, from both printers and the screens."""
    with checked_output():
        human, json_printer = HumanPrinter(), JsonPrinter()
        human.print_record(state, record)
        json_printer.print_record(state, record)
        human.print_message(postmortem.likely_cause(state))
        human.close()
    narration.progress_line(state, NOW)
    narration.summary_lines(state, state.ended) if state.ended else None
    plan = state.run.memory_plan if state.run else ()
    narration.memory_table(plan, None, narration.measured_memory(state))


def run_of_lines(rng: Random) -> bool:
    """List, replay, follow and attach to a run with a hostile ``events.jsonl``."""
    run = Path("outputs/quickstart/20260101-000000")
    shutil.rmtree("outputs", ignore_errors=True)
    run.mkdir(parents=True)
    lines = list(hostile.events())
    start = rng.randrange(max(1, len(lines) - 60))
    chosen = lines[:2] + lines[start : start + rng.randint(1, 60)]
    for _ in range(rng.randint(0, 3)):
        chosen.insert(rng.randrange(len(chosen) + 1), _valid_line(rng))
    if rng.random() < 0.3:
        chosen.insert(rng.randrange(len(chosen) + 1), hostile.event_line(rng))
    data = b"\n".join(chosen) + b"\n"
    if rng.random() < 0.2:
        data = hostile.mutate_bytes(data, rng)
    (run / "events.jsonl").write_bytes(data)
    accepted = True
    try:
        replay = Replay.open(run / "events.jsonl")
        for step in replay.steps[:3]:
            replay.state_at(step)
        resume.find_resume_point(RunDirectory(run))
    except (codec.EventError, UsageError):
        accepted = False
    for summary in list_runs(Path("outputs")):
        str(summary)
    with checked_output():
        main(["runs"])
        main(["runs", "--json"])
    with checked_output(), contextlib.suppress(IdaError):
        follow_run(RunDirectory(run), as_json=rng.random() < 0.5)
    follower = Follower(run / "events.jsonl")
    with contextlib.suppress(codec.EventError):
        while follower.read(7):
            pass
    return accepted


def _valid_line(rng: Random) -> bytes:
    """A mutated line that is still a valid event."""
    for _ in range(40):
        line = hostile.event_line(rng).replace(b"\n", b"")
        with contextlib.suppress(codec.EventError, UnicodeDecodeError):
            codec.decode(line.decode())
            return line
    return hostile.events()[0]


def completions(rng: Random) -> bool:
    """Index, load, search and truncate a hostile ``completions.jsonl``."""
    path = Path("completions.jsonl")
    body = {k: v for e in hostile.sample_events_as_json() for k, v in e.items()
            if e["type"] in ("CompletionFinished", "CompletionScored")}  # fmt: skip
    for name in ("v", "seq", "time", "type"):
        del body[name]
    body = {"step": 1, **body}
    lines = []
    for number in range(rng.randint(1, 4)):
        row: Any = body | {"index": number}
        if rng.random() < 0.7:
            field = rng.choice(list(row))
            row = row | {field: hostile.similar_value(row[field], rng)}
        line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        lines.append(hostile.mutate_bytes(line, rng) if rng.random() < 0.3 else line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    store = CompletionStore(path)
    store.refresh()
    count = 0
    run = replace(sample_events.RUN, axes=rng.choice((IDA_AXES, IDA_AXES[:1], ())))
    from ida_tui.tui.screens.completions.rows import finished_step_rows, sort_rows, verdict_lines

    for step in store.steps:
        samples = finished_step_rows(store.load(step), rng.choice((None, run)))
        count += len(samples)
        for order in ("group", "reward", "advantage"):
            sort_rows(samples, order, reverse=False)  # type: ignore[arg-type]
        for sample in samples:
            verdict_lines(sample)
    store.search(["kill"], 0, 1)
    remove_completions_after(path, 1)
    return count > 0


_SMALL: dict[str, Any] = {
    "owner.json": {"pid": 1, "started": 1.0, "host": "here"},
    "control.json": {"ask": "pause", "pid": 1},
    "manifest.json": {"run_id": "x", "resumed": []},
    "checkpoints/checkpoint-2/checkpoint.json": {
        "version": 1, "step": 2, "reward": 0.5, "run_id": "x",
        "files": {name: {"bytes": 1, "sha256": "x"} for name in
                  (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors")},
    },
}  # fmt: skip


def small_file(rng: Random) -> bool:
    """Read a hostile owner.json, control.json, manifest.json or checkpoint.json, or a path without a file."""
    directory = RunDirectory(Path("run"))
    shutil.rmtree("run", ignore_errors=True)
    name = rng.choice(list(_SMALL))
    path = Path("run") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("checkpoint.json"):
        for needed in _SMALL[name]["files"]:
            (path.parent / needed).write_bytes(b"x")
    choice = rng.random()
    if choice < 0.03:
        os.mkfifo(path)
    elif choice < 0.06:
        path.mkdir()
    elif choice < 0.09:
        path.symlink_to(
            rng.choice(("/dev/zero", "nowhere", name.rpartition("/")[2], "/etc/passwd"))
        )
    else:
        tree = hostile.mutate_tree(_SMALL[name], rng)
        data = b"[" * 100_000 if choice < 0.1 else b"{}"
        with contextlib.suppress(RecursionError, ValueError):
            data = json.dumps(tree).encode() if choice >= 0.1 else data
        path.write_bytes(hostile.mutate_bytes(data, rng) if choice > 0.7 else data)
    if name == "owner.json":
        owner.owner_pid(directory)
        return owner.is_alive(directory)
    if name == "control.json":
        return control.pop_request(directory) is not None
    if name == "manifest.json":
        with contextlib.suppress(OSError):
            manifest.record_resume(path, resumed_at="now", argv=[], threads=1)
        return True
    checkpoint = checkpoints.verify_checkpoint(path.parent)
    if isinstance(checkpoint, checkpoints.BrokenCheckpoint):
        str(checkpoint.reason)
    newest, _ = resume.newest_valid_checkpoint(directory, ("x",))
    checkpoints._rotate(directory.checkpoints, 1)
    return newest is not None
