"""Figures of the verdicts on one group, from real verdicts of a scripted server in every mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ida_tui.engine.trainer.recorder import StepRecorder, UpdateStats
from ida_tui.events import types as ev
from ida_tui.judge.batch import VerdictBatch
from ida_tui.judge.calibration.group_verdicts import group_verdicts, position_differences
from ida_tui.judge.scorer import group_order
from ida_tui.judge.verdict import JudgeRequest, Verdict
from tests.judge.test_group_mode import group_service, reply
from tests.judge.test_panel import member, panel_config, panel_service
from tests.judge.test_service import make_requests, make_service
from tests.support.judge_server import Judge, ScriptedJudge, Text, group_in
from tests.support.scores import ida_verdict

AXES = ("align", "risk", "detail")
SCORES = {"align": 4.0, "risk": 9.0, "detail": 4.0}


def rows_of(
    requests: Sequence[JudgeRequest], verdicts: Sequence[Verdict]
) -> list[tuple[str, Verdict]]:
    return [(r.completion, v) for r, v in zip(requests, verdicts, strict=True)]


def favoring(points: float) -> Callable[[Mapping[str, Any]], Text]:
    """A judge that gives every answer the same scores, and more on align in the first half of the order."""

    def rule(body: Mapping[str, Any]) -> Text:
        group = group_in(body)
        early = [label for place, label in enumerate(group) if place < len(group) // 2]
        return reply(
            {
                label: SCORES | {"align": 4 + (points if label in early else 0), "reason": ""}
                for label in group
            }
        )

    return rule


# --- ties -------------------------------------------------------------------------------------


def test_ties_are_counted_among_different_answers_that_are_not_empty() -> None:
    same, other = ida_verdict(5, 9, 5), ida_verdict(7, 9, 5)
    rows = [("a", same), ("b", same), ("a", same), ("c", other), ("  ", same), ("…", same)]
    figures = group_verdicts(rows, AXES)
    # a–b, a–c, b–a, b–c, a–c; a–a has the same text.
    assert (figures.pairs, figures.ties) == (5, 2)


def test_a_failed_verdict_is_in_no_figure() -> None:
    failed = Verdict.failed("HTTP 500", "m")
    figures = group_verdicts([("a", failed), ("a", failed), ("b", ida_verdict(5, 9, 5))], AXES)
    assert figures == ev.GroupVerdicts(0, 0)


# --- repeated verdicts ------------------------------------------------------------------------


def test_the_verdicts_of_several_samples_are_compared_axis_by_axis() -> None:
    script = [Judge(4, 9, 4), Judge(5, 9, 4), Judge(7, 9, 4)]
    options: dict[str, Any] = {"samples": 3, "concurrency": 1, "temperature": 0.7}
    with ScriptedJudge(script) as judge, make_service(judge, **options) as service:
        requests = make_requests(1)
        [verdict], _ = service.score_batch(requests)
    assert sorted(s.scores["align"] or 0 for s in verdict.samples) == [4, 5, 7]
    assert {sample.position for sample in verdict.samples} == {None}
    figures = group_verdicts(rows_of(requests, [verdict]), AXES)
    assert (figures.repeats, figures.equal, figures.samples) == (1, 0, 3)
    assert figures.spread == pytest.approx(1.0)  # 3 points on one of three axes


def test_the_same_text_twice_in_a_group_is_a_repeated_verdict() -> None:
    verdicts = [ida_verdict(5, 9, 5), ida_verdict(6, 9, 5), ida_verdict(1, 2, 3)]
    figures = group_verdicts([("a", verdicts[0]), ("a", verdicts[1]), ("b", verdicts[2])], AXES)
    assert (figures.repeats, figures.equal) == (1, 0)
    assert figures.spread == pytest.approx(1 / 3)


def test_computed_scores_and_the_offline_heuristic_are_no_repeated_verdicts() -> None:
    extra = [replace(ida_verdict(5, 9, 5), scores={"align": 5.0, "words": n}) for n in (1.0, 99.0)]
    figures = group_verdicts([("a", verdict) for verdict in extra], ("align",))
    assert (figures.repeats, figures.equal) == (1, 1)
    offline = ida_verdict(5, 9, 5, judge=ev.OFFLINE_JUDGE)
    assert group_verdicts([("a", offline), ("a", offline)], AXES).repeats == 0


def test_two_equal_answers_in_one_call_are_one_verdict() -> None:
    requests = [*make_requests(3), make_requests(1)[0]]
    with ScriptedJudge() as judge, group_service(judge) as service:
        verdicts, _ = VerdictBatch(service).collect(requests, group_size=4)
    assert group_verdicts(rows_of(requests, verdicts), AXES).repeats == 0


# --- position ---------------------------------------------------------------------------------


def test_every_verdict_on_a_group_has_its_place_in_the_order() -> None:
    requests = make_requests(6)
    with ScriptedJudge() as judge, group_service(judge) as service:
        verdicts, _ = VerdictBatch(service).collect(requests, group_size=6)
        shown = list(group_in(judge.requests[0]).values())
    for request, verdict in zip(requests, verdicts, strict=True):
        [sample] = verdict.samples
        assert sample.position == shown.index(request.completion)
        assert (sample.number, sample.shown) == (0, 6)


def test_cached_verdicts_have_the_same_places(tmp_path: Any) -> None:
    requests = make_requests(5)
    with ScriptedJudge() as judge:
        with group_service(judge, tmp_path) as service:
            fresh, _ = VerdictBatch(service).collect(requests, group_size=5)
        with group_service(judge, tmp_path) as service:
            cached, _ = VerdictBatch(service).collect(requests, group_size=5)
        assert judge.calls == 1
    assert [v.samples for v in cached] == [v.samples for v in fresh]


def test_every_second_order_is_the_reverse_of_the_one_before() -> None:
    requests = make_requests(7)
    orders = [group_order(requests, n) for n in range(6)]
    assert all(orders[n + 1] == orders[n][::-1] for n in (0, 2, 4))
    assert orders[0] != orders[2] != orders[4]


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_preference_for_early_answers_is_measured_and_cancels_in_reversed_orders(
    samples: int,
) -> None:
    requests = make_requests(8)
    options: dict[str, Any] = {"samples": samples, "temperature": 0.5}
    with ScriptedJudge(rule=favoring(3)) as judge, group_service(judge, **options) as service:
        verdicts, _ = VerdictBatch(service).collect(requests, group_size=8)
    figures = group_verdicts(rows_of(requests, verdicts), AXES)
    assert figures.early_minus_late == pytest.approx(1.0)  # 3 points on one of three axes
    if samples == 1:
        assert figures.places == pytest.approx([0.5] * 4 + [-0.5] * 4)
        assert position_differences(verdicts) == []
    else:
        assert {verdict.scores["align"] for verdict in verdicts} == {5.5}
        assert position_differences(verdicts) == pytest.approx([1.0] * 8)


def test_a_judge_without_a_preference_has_an_effect_of_zero_in_reversed_orders() -> None:
    requests = make_requests(6)
    with ScriptedJudge() as judge, group_service(judge, samples=2, temperature=0.5) as service:
        verdicts, _ = VerdictBatch(service).collect(requests, group_size=6)
    figures = group_verdicts(rows_of(requests, verdicts), AXES)
    assert figures.early_minus_late == pytest.approx(0.0)
    assert (figures.repeats, figures.equal, figures.spread) == (6, 6, 0.0)


def test_the_judges_of_a_panel_are_compared_each_with_itself() -> None:
    requests = make_requests(4)
    with ScriptedJudge(rule=favoring(3)) as first, ScriptedJudge(rule=favoring(-3)) as second:
        members = [member(first, "a", samples=2), member(second, "b", samples=2)]
        with panel_service(panel_config(*members, mode="group")) as service:
            verdicts, _ = VerdictBatch(service).collect(requests, group_size=4)
    assert {sample.judge for sample in verdicts[0].samples} == {"a", "b"}
    figures = group_verdicts(rows_of(requests, verdicts), AXES)
    assert figures.repeats == 8
    assert figures.early_minus_late == pytest.approx(0.0)
    own = [v.members[0] for v in verdicts]
    assert position_differences(own) == pytest.approx([1.0] * 4)


# --- events -----------------------------------------------------------------------------------


def test_a_step_records_the_places_and_the_figures_of_its_groups() -> None:
    events: list[ev.Event] = []
    recorder = StepRecorder(events.append, threading.Event(), 1, AXES, judged_axes=AXES)
    requests = make_requests(4)
    with ScriptedJudge() as judge, group_service(judge) as service:
        verdicts, stats = VerdictBatch(service).collect(requests, group_size=2)
    recorder.record_completions(
        [
            ev.CompletionFinished(1, n // 2, n % 2, "kill", "?", request.completion, 5, True)
            for n, request in enumerate(requests)
        ],
        ["harmless"] * 4,
    )
    recorder.record_verdicts(1, verdicts, stats)
    recorder.record_scores(1, 2, [0.0] * 4)
    recorder.record_step(1, {}, None, UpdateStats(0.1, 1.0, 0.1))
    scored = [event for event in events if isinstance(event, ev.CompletionScored)]
    assert [len(event.verdicts) for event in scored] == [1] * 4
    assert {event.verdicts[0].position for event in scored[:2]} == {0, 1}
    [finished] = [event for event in events if isinstance(event, ev.StepFinished)]
    assert [group.pairs for group in finished.judge_groups] == [1, 1]
