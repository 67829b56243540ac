"""The event codec: encoding, decoding and errors for invalid lines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ida_tui.config.scoring.axes import MAX_AXES, Axis
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.log.reader import read_events
from tests.faults import sample_events
from tests.support.scripted_session import run_started
from tests.support.synthetic_run import step_events


@pytest.mark.parametrize("cls", list(ev.Record.TYPES.values()), ids=lambda cls: cls.__name__)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_every_event_is_unchanged_by_encoding_and_decoding(
    cls: type[ev.Event], data: st.DataObject
) -> None:
    record = ev.Record(seq=3, time=ev.current_timestamp(), event=data.draw(_valid_events(cls)))

    assert codec.decode(codec.encode(record)) == record


def test_a_record_has_its_version_sequence_number_time_and_type() -> None:
    line = codec.encode(ev.Record(17, "2026-01-31T01:02:03.004Z", ev.PhaseChanged(2, "judge")))

    assert json.loads(line) == {
        "v": 2,
        "seq": 17,
        "time": "2026-01-31T01:02:03.004Z",
        "type": "PhaseChanged",
        "step": 2,
        "phase": "judge",
        "download": None,
    }


def test_non_finite_numbers_are_written_as_null() -> None:
    event = ev.CompletionScored(
        step=1,
        group=0,
        index=0,
        scores={"align": math.nan, "risk": math.inf, "detail": None},
        reward=None,
        advantage=None,
        reason="",
        judge="j",
        latency_s=0.0,
        cost=None,
        cached=False,
        failure="timeout",
    )

    line = codec.encode(ev.Record(0, ev.current_timestamp(), event))

    assert "NaN" not in line
    assert "Infinity" not in line
    assert json.loads(line)["scores"] == {"align": None, "risk": None, "detail": None}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '{"v": 1}',
        '{"v": 3, "seq": 0, "time": "t", "type": "PhaseChanged", "step": 1, "phase": "load"}',
        '{"v": 2, "seq": 0, "time": "t", "type": "Nonsense"}',
        '{"v": 2, "seq": 0, "time": "t", "type": "PhaseChanged", "step": "x", "phase": "load"}',
        "[" * 100_000,
    ],
)
def test_an_invalid_line_raises_an_event_error(line: str) -> None:
    with pytest.raises(codec.EventError):
        codec.decode(line)


def test_control_characters_and_line_separators_are_escaped() -> None:
    text = "\x1b[2J \x9b2J \u2028 \ud800 \n é"
    without_surrogate = text.replace("\ud800", "?")

    line = codec.encode(ev.Record(0, ev.current_timestamp(), ev.Noticed("info", "model", text)))

    assert codec.decode(line).event == ev.Noticed("info", "model", without_surrogate)
    assert line.isprintable()
    assert "é" in line


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    lines = [
        codec.encode(ev.Record(n, ev.current_timestamp(), ev.PhaseChanged(n, "judge")))
        for n in range(3)
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines)[:-5])

    assert [record.seq for record in read_events(path)] == [0, 1]


def test_a_broken_line_in_the_middle_is_reported_with_its_line_number(tmp_path: Path) -> None:
    good = codec.encode(ev.Record(0, ev.current_timestamp(), ev.PhaseChanged(1, "judge")))
    path = tmp_path / "events.jsonl"
    path.write_text(f"{good}\nnot an event\n{good}\n")

    with pytest.raises(codec.EventError, match=r"events\.jsonl:2: not JSON"):
        list(read_events(path))


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (ev.PhaseChanged(1, "judge"), {"step": 10**400}),
        (ev.PhaseChanged(1, "judge"), {"time": "yesterday"}),
        (ev.PhaseChanged(1, "judge"), {"time": "2026-01-31T01:02:03"}),
        (ev.TokensGenerated(1, 2, 3.0, 4, 5), {"tokens_per_s": math.inf}),
        (ev.RolloutStarted(1, 8, ("a",), ("harmless",), ("Hi",)), {"generations": 10**12}),
        (ev.RolloutStarted(1, 8, ("a",), ("harmless",), ("Hi",)), {"generations": 0}),
        (ev.RolloutStarted(1, 8, ("a",), ("harmless",), ("Hi",)), {"kinds": []}),
        (sample_events.STEP, {"scores": {"align": None, "risk": None, "detail": None}}),
        (sample_events.STEP, {"scores": {}}),
        (sample_events.STEP, {"scores": {f"axis{n}": 1.0 for n in range(9)}}),
        (sample_events.STEP, {"scores": {"align": 1e300}}),
        (sample_events.ALL[-2], {"shares": {"exact": [0, 0, 0.0, 0.0]}}),
        (sample_events.ALL[-2], {"shares": {"exact": [5, 3, 0.0, 1.0]}}),
        (sample_events.ALL[-2], {"everyday": [5, *[1e300] * 6]}),
        (run_started(Path("run")), {"axes": []}),
        (run_started(Path("run")), {"axes": [["brief", "computed", 0, 1]] * 2}),
        (run_started(Path("run")), {"axes": [["brief", "guessed", 0, 1]]}),
        (run_started(Path("run")), {"axes": [[f"a{n}", "judged", 0, 10] for n in range(9)]}),
    ],
)
def test_an_event_with_impossible_values_is_refused(
    event: ev.Event, changes: dict[str, object]
) -> None:
    body = json.loads(codec.encode(ev.Record(0, ev.current_timestamp(), event)))

    with pytest.raises(codec.EventError):
        codec.decode(json.dumps(body | changes))


def _valid_events(cls: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    """Events of a type, with numbers inside the valid range."""
    count = st.integers(-ev.MAX_NUMBER, ev.MAX_NUMBER)
    hints = get_type_hints(cls)
    figure = st.floats(-ev.MAX_NUMBER, ev.MAX_NUMBER)
    fields: dict[str, st.SearchStrategy[object]] = {}
    for name, kind in hints.items():
        if kind is int:
            fields[name] = count
        elif kind is float:
            fields[name] = figure
        elif name == "scores":
            fields[name] = st.dictionaries(st.text(), st.none() | figure, max_size=MAX_AXES)
        elif name == "axes":
            axis = st.builds(Axis, st.text(), low=st.none() | figure, high=st.none() | figure)
            fields[name] = st.lists(
                axis, min_size=1, max_size=MAX_AXES, unique_by=lambda axis: axis.name
            ).map(tuple)
        elif kind == float | None:
            fields[name] = st.none() | figure
    if cls is ev.RolloutStarted:
        rows = st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=3)
        return st.builds(
            lambda step, generations, rows: ev.RolloutStarted(
                step, generations, *(tuple(row[n] for row in rows) for n in range(3))
            ),
            count,
            st.integers(1, 100),
            rows,
        )
    return st.builds(cls, **fields).filter(
        lambda event: _is_finite(event) and _has_valid_size(event) and _has_complete_scores(event)
    )


def _has_valid_size(event: ev.Event) -> bool:
    values = (getattr(event, f.name) for f in dataclasses.fields(event))
    leaves = [leaf for value in values for leaf in _leaves(value)]
    parts = [part for leaf in leaves for part in (leaf if isinstance(leaf, tuple) else (leaf,))]
    return all(abs(n) <= ev.MAX_NUMBER for n in parts if isinstance(n, int | float))


def _has_complete_scores(event: ev.Event) -> bool:
    scores = getattr(event, "scores", {})
    known = any(score is not None for score in scores.values())
    return known or getattr(event, "reward", None) is None or isinstance(event, ev.RunStarted)


def _is_finite(event: ev.Event) -> bool:
    """Whether every number of the event can be written as JSON."""
    return not any(
        isinstance(number, float) and not math.isfinite(number)
        for value in (getattr(event, f.name) for f in dataclasses.fields(event))
        for number in _leaves(value)
    )


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reward": float("nan")},
        {"reward": 1e300},
        {"step": 2**60},
        {"step": True},
        {"step": "4"},
        {"step": 4.0},
        {"loss": -0.1e-7},
        {"kl": 0.1234567890123456789},
        {"scores": {"align": 5, "\ud83d": 2.5}},
        {"seconds": {"update": "1e3"}},
        {"lengths": [1, 2]},
        {"unknown": [[[]]]},
        {"time": "2026-13-01T00:00:00Z"},
        {"seq": 2**60},
        {"type": "Nonsense"},
    ],
)
def test_a_line_is_the_same_record_as_bytes_and_as_text(changes: dict[str, Any]) -> None:
    (event,) = (e for e in step_events(1, 4, 1) if isinstance(e, ev.StepFinished))
    body = json.loads(codec.encode(ev.Record(17, ev.current_timestamp(), event))) | changes
    line = json.dumps(body)

    def outcome(decode: Callable[[Any], ev.Record], text: str | bytes) -> ev.Record | str:
        try:
            return decode(text)
        except codec.EventError as error:
            return str(error)

    assert outcome(codec.decode_bytes, line.encode()) == outcome(codec.decode, line)
