"""`Replay`: a run opened from disk has the same state as the live run, at the end and at every step."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold, fold_all
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.replay import Replay, ReplayCanceled
from ida_tui.util.safe_files import BLOCK_BYTES
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import run_events, step_events, write


def lines_of(events: Sequence[ev.Event]) -> bytes:
    records = (
        ev.Record(n, f"2026-01-01T00:00:{n % 60:02}.{n % 1000:03}Z", event)
        for n, event in enumerate(events)
    )
    return b"".join(codec.encode(record).encode() + b"\n" for record in records)


TOKENS = '{"v": 2, "seq": 1, "time": "2026-01-01T00:00:00Z", "type": "TokensGenerated"'
NEWLINE = b"\n"
PHASES = st.sampled_from(["load", "generate", "judge", "reference", "update", "save", "evaluate"])
STEPS = st.integers(0, 4)
EVENT = st.one_of(
    st.builds(ev.PhaseChanged, STEPS, PHASES,
              st.sampled_from([None, ev.DownloadProgress(1_000, 2_000, 10.0)])),
    st.builds(ev.TokensGenerated, STEPS, st.integers(0, 99), st.just(1.0), st.just(0), st.just(8)),
    st.builds(ev.TextGenerated, STEPS, st.tuples(st.text(max_size=3), st.text(max_size=3))),
    st.builds(ev.RunPaused, STEPS, st.sampled_from(["memory", "quota"])),
    st.builds(ev.RunResumed, STEPS, st.sampled_from([None, "other"])),
    st.builds(ev.JudgeProgressed, STEPS, st.integers(0, 8), st.just(8), st.just(4)),
    st.builds(ev.JudgeSlowed, st.sampled_from([0.0, 30.0]), st.integers(1, 8), st.just("HTTP 429")),
    st.builds(ev.JudgeProbed, STEPS, st.none(), st.just({"a": 0.5}), st.none(), st.just(0.1)),
    st.builds(ev.Noticed, st.just("info"), st.just("judge"), st.text(max_size=5)),
    st.builds(ev.MemorySampled, st.integers(0, 9), st.just(9), st.integers(0, 9), st.none(),
              st.none(), st.just(0), st.none()),
    st.sampled_from([
        *step_events(1, 4), *step_events(2, 4), *step_events(3, 4),
        run_started(Path("run")), run_ended("interrupted", "Stopped"),
        ev.CheckpointSaved(2, "checkpoint-2"),
        ev.EvaluationFinished("before", 0, 3, 2, 1, 0, 1, 1, 1, "offline", 1.0),
        ev.EvaluationProgressed(1, 64, 120),
        ev.EvaluationProgressed(2, 0, 120),
        ev.EvaluationFinished("during", 1, 3, 2, 1, 0, 1, 1, 1, "offline", 1.0, reward=0.5,
                              scores={"align": 5.0}),
        ev.EvaluationFinished("during", 2, 3, 2, 1, 0, 1, 1, 1, "offline", 1.0, cost=0.1),
        ev.EvaluationFinished("after", 4, 3, 2, 1, 0, 1, 1, 1, "offline", 1.0),
    ]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(events=st.lists(EVENT, max_size=60), torn=st.booleans())
def test_opening_any_run_gives_the_same_state_as_folding_every_record(
    events: list[ev.Event], torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    path.write_bytes(lines_of(events) + (b'{"v": 1, "seq": 99, "ti' if torn else b""))

    replay = Replay.open(path)

    assert replay.final_state == fold_all(read_events(path))
    assert replay.offset == len(lines_of(events))


def test_opening_a_full_run_gives_the_same_state_as_folding_every_record(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", steps=30)

    replay = Replay.open(tmp_path / "events.jsonl")

    assert replay.final_state == fold_all(read_events(replay.path))
    assert replay.steps == tuple(range(1, 31))


@pytest.mark.parametrize("step", [1, 2, 249, 250, 251, 400, 600])
def test_the_state_at_any_step_can_be_computed(step: int, tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", steps=600)
    replay = Replay.open(tmp_path / "events.jsonl")

    def expected_state(step: int) -> RunState:
        state = RunState()
        for record in read_events(replay.path):
            state = fold(state, record)
            if isinstance(record.event, ev.StepFinished) and record.event.step == step:
                break
        return state

    assert replay.state_at(step) == expected_state(step)


def test_an_unfinished_step_raises_a_key_error(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", steps=3)

    with pytest.raises(KeyError):
        Replay.open(tmp_path / "events.jsonl").state_at(4)


def test_the_second_result_of_a_repeated_step_counts(tmp_path: Path) -> None:
    events = [
        *itertools.islice(run_events(Path("run"), 4), 60),
        ev.RunResumed(1),
        *step_events(2, 9),
        run_ended("done", "Training complete"),
    ]
    (tmp_path / "events.jsonl").write_bytes(lines_of(events))

    state = Replay.open(tmp_path / "events.jsonl").state_at(2)

    assert [step.steps for step in state.steps] == [4, 9]


def test_an_invalid_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines_of([run_started(Path("run"))]) + b"no event\n" + b"more\n")

    with pytest.raises(codec.EventError, match=r"events\.jsonl:2: not JSON"):
        Replay.open(path)


def test_the_memory_of_a_replay_grows_by_few_bytes_per_step(tmp_path: Path) -> None:
    def memory_of(steps: int) -> int:
        path = tmp_path / f"{steps}.jsonl"
        with open(path, "wb") as file:
            file.write(lines_of([e for n in range(1, steps + 1) for e in step_events(n, steps, 1)]))
        gc.collect()
        tracemalloc.start()
        replay = Replay.open(path)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(replay.steps) == steps
        return size

    memory_of(10)  # warm-up: imports and compilation
    assert (memory_of(4000) - memory_of(1000)) / 3000 < 400


def test_opening_a_run_can_be_canceled(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", steps=200)

    with pytest.raises(ReplayCanceled):
        Replay.open(tmp_path / "events.jsonl", lambda: True)


def test_an_undecodable_timestamp_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = lines_of([ev.PhaseChanged(1, "generate"), ev.TextGenerated(1, ("a",))])
    path.write_bytes(good.replace(b"2026-01-01T00:00:01", b"2026\x8c"))

    with pytest.raises(codec.EventError, match=r"events\.jsonl:2"):
        Replay.open(path)


def test_an_invalid_line_in_a_later_block_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = lines_of([event for step in range(1, 60) for event in step_events(step, 60)])
    assert len(good) > BLOCK_BYTES
    path.write_bytes(good + b"no event\n")

    with pytest.raises(
        codec.EventError, match=rf"events\.jsonl:{good.count(NEWLINE) + 1}: not JSON"
    ):
        Replay.open(path)


@pytest.mark.parametrize(
    "text",
    [TOKENS, TOKENS.replace('"', "'"), "\ud83d", "a" * 2 * BLOCK_BYTES],
    ids=["a line", "words", "half of a pair", "longer than a block"],
)
def test_texts_do_not_change_how_a_run_is_read(text: str, tmp_path: Path) -> None:
    events = [
        *step_events(1, 4, 2),
        ev.PhaseChanged(2, "generate"),
        ev.CompletionFinished(2, 0, 0, "p", text, text, 3, True),
        ev.PhaseChanged(3, "evaluate"),
        ev.TextGenerated(3, (text,)),
    ]
    (tmp_path / "events.jsonl").write_bytes(lines_of(events))

    replay = Replay.open(tmp_path / "events.jsonl")

    assert replay.final_state == fold_all(read_events(replay.path))
