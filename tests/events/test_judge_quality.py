"""Figures of a judge's verdicts over a run: what they show, when they are left out, and what they advise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui.analysis.report.tables import quality_rows
from ida_tui.events import types as ev
from ida_tui.events.codec import decode, encode
from ida_tui.events.judge_quality import JudgeQuality, group_quality, run_quality
from ida_tui.events.narration import summary_lines
from ida_tui.events.state import RunState, fold_all
from ida_tui.runs.log.replay import Replay
from tests.support import synthetic_run
from tests.support.scripted_session import run_ended

QUIET = ev.GroupVerdicts(pairs=28, ties=2)


def state_of(
    groups: Sequence[ev.GroupVerdicts], *more: ev.Event, steps: int = 12, length_r: float = 0.1
) -> RunState:
    """A run whose steps have these groups each, followed by further events."""
    events = [
        replace(event, judge_groups=tuple(groups), length_r=length_r)
        if isinstance(event, ev.StepFinished)
        else event
        for event in synthetic_run.run_events(Path("run"), steps)
        if not isinstance(event, ev.RunEnded)
    ]
    return fold_all(records([*events, *more]))


def records(events: Sequence[ev.Event]) -> list[ev.Record]:
    return [ev.Record(n, "2026-01-01T00:00:00.000Z", event) for n, event in enumerate(events)]


def problems(quality: JudgeQuality) -> dict[str, str]:
    return {figure.name: figure.remedy for figure in quality.figures() if figure.problem}


def test_the_shares_of_ties_and_of_groups_without_a_difference_are_counted_over_the_run() -> None:
    flat = ev.GroupVerdicts(pairs=6, ties=6)
    quality = run_quality(state_of([QUIET, flat], steps=4))
    assert quality.tie_share == pytest.approx(8 / 34)
    assert quality.pairs == 4 * 34
    assert quality.flat_groups is not None
    assert quality.flat_groups.value == 0.5
    assert quality.flat_groups.low < 0.25  # eight groups are few
    assert problems(quality) == {}


def test_figures_of_too_few_verdicts_are_left_out() -> None:
    few = ev.GroupVerdicts(6, 1, repeats=1, equal=1, early_minus_late=2.0, places=(1.0, -1.0))
    quality = group_quality([few] * 4, lengths=[0.9, 0.9])
    assert list(quality.figures()) == []
    assert quality.places == ()
    assert [f.name for f in group_quality([few] * 8, lengths=[0.9] * 3).figures()] == [
        "repeats",
        "position",
        "ties",
        "length",
    ]


def test_equal_verdicts_say_little_about_those_that_were_not_seen() -> None:
    same = ev.GroupVerdicts(28, 0, repeats=1, equal=1, spread=0.0, early_minus_late=0.0)
    quality = group_quality([same] * 8)
    assert quality.agreement is not None
    assert quality.agreement.low < 0.75
    assert quality.spread is not None
    assert quality.spread.high > 2
    assert quality.position is not None
    assert quality.position.low < -2 < 2 < quality.position.high


@pytest.mark.parametrize(
    ("group", "name", "remedy"),
    [
        (QUIET._replace(ties=28), "ties", "rubric.scale"),
        (QUIET._replace(repeats=8, spread=1.4), "repeats", "judge.samples=3"),
        (QUIET._replace(repeats=8, spread=1.4, samples=3), "repeats", "judge.samples=5"),
        (QUIET._replace(early_minus_late=4.0), "position", "judge.samples=2"),
        (QUIET._replace(early_minus_late=-4.0), "position", "judge.mode=absolute"),
    ],
)
def test_a_bad_figure_says_what_to_do(group: ev.GroupVerdicts, name: str, remedy: str) -> None:
    state = state_of([group])
    found = problems(run_quality(state))
    assert found.keys() == {name}
    assert remedy in found[name]
    assert any(remedy in row.value for row in quality_rows(state))
    ended = run_ended("done", "Training complete")
    judged = replace(state, run=replace(state.run, judge="m"))
    assert remedy in " ".join(" ".join(summary_lines(judged, ended)).split())


@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_the_favored_half_of_an_order_is_named_only_beyond_chance(bias: float) -> None:
    draw = random.Random(1)
    groups = [QUIET._replace(early_minus_late=draw.gauss(bias, 0.8)) for _ in range(60)]
    quality = group_quality(groups)
    [figure] = [figure for figure in quality.figures() if figure.name == "position"]
    half = {-1.0: "last", 0.0: "", 1.0: "first"}[bias]
    assert figure.problem.startswith(half)
    assert bool(figure.problem) == bool(half)


def test_length_that_pays_and_a_drift_are_problems() -> None:
    probes = [
        ev.JudgeProbed(step, "m", {"a": 1.0}, drift, 0.0) for step, drift in ((0, None), (9, 1.6))
    ]
    state = state_of([QUIET], *probes, length_r=0.9)
    assert problems(run_quality(state)).keys() == {"length", "drift"}
    assert run_quality(state).drift == 1.6


def test_steps_of_another_scoring_and_repeated_steps_do_not_count() -> None:
    resumed = ev.RunResumed(8, "other", {"judge": "other"})
    after = run_quality(state_of([QUIET], resumed))
    assert (after.pairs, after.length_steps) == (0, 0)
    repeated = run_quality(state_of([QUIET], ev.RunResumed(8)))
    assert repeated.pairs == 8 * 28


def test_the_figures_are_the_same_live_and_replayed_from_disk(tmp_path: Path) -> None:
    group = QUIET._replace(repeats=8, equal=2, spread=0.5, early_minus_late=0.5, places=(0.2, None))
    events: list[ev.Event] = []
    for event in synthetic_run.run_events(tmp_path, 9):
        if isinstance(event, ev.StepFinished):
            event = replace(event, judge_groups=(group,), length_r=0.2)
        elif isinstance(event, ev.CompletionScored):
            sample = ev.SampledVerdict("m", 1, 3, 8, {"align": 7.0})
            event = replace(event, verdicts=(sample,))
        events.append(event)
    lines = [encode(record) for record in records(events)]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines) + "\n")
    assert [decode(line).event for line in lines] == events
    live = run_quality(fold_all(records(events)))
    assert live == run_quality(Replay.open(file).final_state)
    assert live.repeats == 72


def test_a_run_without_these_figures_still_shows_what_it_has() -> None:
    quality = run_quality(state_of([]))
    assert [figure.name for figure in quality.figures()] == ["length"]
    assert quality.as_numbers().keys() == {"length_r", "length_r_low", "length_r_high"}
