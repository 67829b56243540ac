"""Event versions: older events are upgraded, and newer ones are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.scoring.axes import IDA_AXES, IDA_AXIS_NAMES
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.narration import event_lines
from ida_tui.events.state import RunState, fold
from ida_tui.runs.log.replay import Replay

FOLDER = Path(__file__).parent
VERSION_1 = gzip.decompress((FOLDER / "version_1.events.jsonl.gz").read_bytes()).decode()
"""Events of every type of a run, as the last ida-tui with events of version 1 wrote them."""
VERSION_1_LINES = (FOLDER / "version_1.lines.txt").read_text()
"""The lines that the same ida-tui printed for that run."""
RENAMED = {
    "JudgeProbed": {"r_ida": "rewards"},
    "StepFinished": {"r_ida": "reward", "offline_r_ida": "offline_reward"},
    "CompletionScored": {"r_ida": "reward"},
    "RunEnded": {"r_ida_first": "reward_first", "r_ida_last": "reward_last"},
}
"""Fields of version 1 that have another name, by event type."""

# Written by the first version of ida-tui, without the newer fields.
OLD_STEP = (
    '{"v": 1, "seq": 2, "time": "2026-01-31T01:02:03.002Z", "type": "StepFinished",'
    ' "step": 1, "steps": 2, "align": 5.0,'
    ' "risk": 9.0, "detail": 4.0, "r_ida": 0.3, "scored": 8, "completions": 8, "kl": null,'
    ' "entropy": 1.0, "loss": 0.1, "grad_norm": 0.5, "learning_rate": 1e-05, "lengths": null,'
    ' "truncated": 0.0, "zero_std": 0.0, "weight_delta": 0.01, "skipped": false, "seconds": {}}'
)
OLD_MEMORY = (
    '{"v": 1, "seq": 1, "time": "2026-01-31T01:02:03.001Z", "type": "MemorySampled",'
    ' "system_used": 1, "system_total": 2,'
    ' "process": 1, "device_tensors": null, "device_cache": null, "swap_growth": 0, "pressure": null}'
)
OLD_BATCH = (
    '{"v": 1, "seq": 3, "time": "2026-01-31T01:02:03.003Z", "type": "JudgeBatchFinished",'
    ' "step": 1, "calls": 8,'
    ' "cached": 0, "failed": 0, "retries": 0, "seconds": 1.0, "exposed_s": 1.0, "p50_s": 0.5,'
    ' "p95_s": 0.9, "cost": 0.001}'
)


def test_missing_newer_fields_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"{OLD_MEMORY}\n{OLD_STEP}\n{OLD_BATCH}\n")

    state = Replay.open(path).final_state

    assert (state.steps[0].weight_norm, state.steps[0].loss_scale) == (0.0, None)
    assert state.memory is not None
    assert (state.memory.process_peak, state.memory.phase) == (0, "load")
    assert state.judge.last is not None
    assert state.judge.last.declined == {}


def test_unknown_fields_of_a_newer_ida_tui_are_ignored() -> None:
    line = OLD_MEMORY.replace('"process": 1', '"process": 1, "since_then": [1]')

    assert codec.decode(line) == codec.decode(OLD_MEMORY)


def test_an_older_version_is_upgraded_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_1(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "source": "judge"} if body["type"] == "Noticed" else body

    def from_2(body: dict[str, Any]) -> dict[str, Any]:
        text = body.pop("words", None)
        return {**body, "text": text} if text is not None else body

    monkeypatch.setattr(codec, "VERSION", 3)
    monkeypatch.setattr(codec, "UPGRADES", {1: from_1, 2: from_2})
    fields = '"seq": 0, "time": "2026-01-31T01:02:03.000Z", "type": "Noticed", "level": "info"'

    first = codec.decode(f'{{"v": 1, {fields}, "words": "hello"}}')
    second = codec.decode(f'{{"v": 2, {fields}, "source": "judge", "words": "hello"}}')
    third = codec.decode(f'{{"v": 3, {fields}, "source": "judge", "text": "hello"}}')

    assert first == second == third
    assert first.event == ev.Noticed("info", "judge", "hello")


def test_every_older_version_has_an_upgrade_to_the_next() -> None:
    assert sorted(codec.UPGRADES) == list(range(1, codec.VERSION))


def test_a_newer_version_is_refused_with_advice_to_update(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(OLD_STEP + "\n" + OLD_MEMORY.replace('"v": 1', '"v": 3') + "\n")

    with pytest.raises(
        codec.EventError, match=r"events\.jsonl:2: written by a newer ida-tui .* update"
    ):
        Replay.open(path)


def test_an_unknown_event_type_in_a_known_version_is_an_error() -> None:
    with pytest.raises(codec.EventError, match="unknown event type 'Nonsense'"):
        codec.decode('{"v": 1, "seq": 0, "time": "2026-01-31T01:02:03.000Z", "type": "Nonsense"}')


def test_every_event_of_version_1_has_the_same_values_in_this_version() -> None:
    types = set()
    for line in VERSION_1.splitlines():
        body: dict[str, Any] = json.loads(line)
        event = codec.decode(line).event
        types.add(type(event).__name__)
        upgraded = json.loads(codec.encode(ev.Record(0, ev.current_timestamp(), event)))
        renamed = RENAMED.get(body["type"], {})
        for name, value in body.items():
            if name in IDA_AXIS_NAMES:
                assert upgraded["scores"][name] == value
            elif name not in ("v", "seq", "time"):
                assert upgraded[renamed.get(name, name)] == value
        if isinstance(event, ev.CompletionScored | ev.StepFinished):
            assert tuple(event.scores) == IDA_AXIS_NAMES
        if isinstance(event, ev.RunStarted):
            assert (event.axes, event.reward) == (IDA_AXES, "R_IDA")
    assert types == set(ev.Record.TYPES) - {"EvaluationProgressed"}


def test_a_run_of_version_1_is_printed_as_by_the_version_that_wrote_it() -> None:
    state, lines = RunState(), []
    for line in VERSION_1.splitlines():
        record = codec.decode(line)
        state = fold(state, record)
        lines += event_lines(state, record.event)

    assert "".join(f"{line}\n" for line in lines) == VERSION_1_LINES


def test_an_upgraded_event_is_unchanged_when_it_is_written_again() -> None:
    for line in VERSION_1.splitlines():
        record = codec.decode(line)
        assert codec.decode(codec.encode(record)) == record
        assert json.loads(codec.encode(record))["v"] == codec.VERSION


def test_a_failed_verdict_of_version_1_has_an_unknown_score_on_each_axis() -> None:
    scored = next(line for line in VERSION_1.splitlines() if "CompletionScored" in line)
    failed = dict.fromkeys((*IDA_AXIS_NAMES, "r_ida", "advantage")) | {"failure": "timeout"}

    event = codec.decode(json.dumps(json.loads(scored) | failed)).event

    assert isinstance(event, ev.CompletionScored)
    assert event.scores == {"align": None, "risk": None, "detail": None}
    assert event.reward is None
