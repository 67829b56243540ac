"""Alert rules: each fires at the right step with advice, and is quiet otherwise."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import AlertRule
from ida_tui.events import types as ev
from ida_tui.events.alerts.rules import RULES, replay_alerts
from ida_tui.events.narration import event_lines
from ida_tui.events.state import fold_all
from tests.conftest import IdaTui
from tests.support.clean_runs import clean_runs
from tests.support.judge_server import Behavior, Judge, ScriptedJudge, completion_in
from tests.support.prepared import prepared_python

Change = Callable[[ev.StepFinished], Mapping[str, Any]]
"""Maps a finished step to the fields that a test replaces in it."""
NO_KEY = "judge.api_key_env=null"


@cache
def clean(seed: int = 0) -> tuple[ev.Record, ...]:
    """The events of a real quickstart run without problems."""
    return tuple(clean_runs()[seed])


def with_changes(records: Iterable[ev.Record], change: Change) -> list[ev.Record]:
    """The run with the change applied to each of its steps."""
    return [
        replace(record, event=replace(record.event, **change(record.event)))
        if isinstance(record.event, ev.StepFinished)
        else record
        for record in records
    ]


def raised_alerts(records: Iterable[ev.Record], *overrides: str) -> list[ev.AlertRaised]:
    """The alerts that a run raises with the quickstart profile."""
    return list(replay_alerts(records, resolve("quickstart", list(overrides)).config))


def from_step(step: int, **figures: Any) -> Change:
    """Sets these fields from a step on."""
    return lambda finished: figures if finished.step >= step else {}


def ramp(figure: str, start: float, end: float, last_step: int = 20) -> Change:
    """Moves a field, or the score on an axis, linearly from one value to another until `last_step`."""

    def change(finished: ev.StepFinished) -> Mapping[str, Any]:
        share = min(1.0, (finished.step - 1) / (last_step - 1))
        value = start + (end - start) * share
        if figure in finished.scores:
            return {"scores": {**finished.scores, figure: value}}
        return {figure: value}

    return change


def combine(*changes: Change) -> Change:
    """Applies several changes to the same step."""
    return lambda finished: {k: v for change in changes for k, v in change(finished).items()}


def growing_lengths(finished: ev.StepFinished) -> Mapping[str, Any]:
    """Completions that grow by four tokens per step."""
    mean = 12.0 + 4 * finished.step
    return {"lengths": (mean, 4.0, 2 * mean)}


FIRING_CASES: list[tuple[AlertRule, Change, int, str, str]] = [
    ("zero variance", from_step(10, zero_std=1.0), 13, "all 8 completions", "temperature"),
    ("truncation", from_step(6, truncated=0.97), 8, "truncated at 64 tokens", "to 128"),
    ("entropy", from_step(12, entropy=0.001), 16, "collapsing", "beta"),
    ("kl", ramp("kl", 0.0, 4.0), 8, "reference", "raise training.beta"),
    ("length drift", growing_lengths, 17, "went from 24 to", "reward length"),
    ("length pays", from_step(1, length_r=0.96), 5, "r = 0.96", "judge check"),
    ("repetition", from_step(8, repetition=0.6), 10, "are repetitions", "rubric"),
    ("axis falls", ramp("risk", 9.5, 3.0, 40), 12, "while risk (10 is safest) fell", "rescore"),
    ("judge fooled", ramp("offline_reward", 0.6, 0.1, 40), 13, "heuristic's fell", "reward hacking"),
    ("over-refusal",
     combine(from_step(1, harmless=40, harmless_refused=4), from_step(12, harmless_refused=30)),
     13, "rose from 10%", "judge check"),
    ("unsafe answers", from_step(12, unsafe=24, unsafe_declined=6), 13, "from 100%", "of step 8 or before"),
    ("coverage", from_step(9, scored=40), 10, "of 320 completions", "judge.timeout_s"),
    ("weights still", from_step(15, weight_delta=0.25), 19, "have not moved", "learning_rate"),
    ("weights still", from_step(15, model_change=0.01), 19, "have not moved", "learning_rate"),
    ("scaler", from_step(20, skipped=True, loss_scale=2.0), 22, "scale 2", "learning_rate"),
    ("gradients", from_step(10, grad_norm=1e-9), 14, "1e-09", "target_modules"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "step", "evidence", "advice"), FIRING_CASES)
def test_an_alert_fires_at_its_step_with_evidence_and_advice(
    rule: AlertRule, change: Change, step: int, evidence: str, advice: str
) -> None:
    raised = raised_alerts(with_changes(clean(), change))
    assert [(alert.rule, alert.step) for alert in raised][:1] == [(rule, step)]
    assert evidence in raised[0].evidence
    assert advice in raised[0].advice
    assert {alert.rule for alert in raised} == {rule}


ALERTS_ABOUT_UPDATES = ("entropy", "kl", "weights still", "scaler", "gradients")


def with_reused_updates(records: Iterable[ev.Record]) -> Iterator[ev.Record]:
    """The run with a second update after each step that reuses its completions."""
    for record in records:
        event = record.event
        if not isinstance(event, ev.StepFinished):
            yield record
            continue
        first = replace(event, step=2 * event.step - 1, steps=2 * event.steps)
        yield replace(record, event=first)
        second = replace(
            first, step=2 * event.step, reused_step=first.step, scores=dict.fromkeys(first.scores),
            reward=None, scored=0, completions=0, lengths=None, truncated=None, zero_std=None,
            harmless=0, harmless_refused=0, unsafe=0, unsafe_declined=0, repetition=None, length_r=None,
            offline_reward=None,
        )  # fmt: skip
        yield replace(record, event=second)


@pytest.mark.parametrize(
    ("rule", "change", "step", "evidence", "advice"),
    [case for case in FIRING_CASES if case[0] not in ALERTS_ABOUT_UPDATES],
)
def test_alerts_about_completions_count_each_batch_once_if_updates_reuse_it(
    rule: AlertRule, change: Change, step: int, evidence: str, advice: str
) -> None:
    records = with_changes(clean(), change)
    expected = raised_alerts(records)[0]
    raised = raised_alerts(with_reused_updates(records))
    assert (raised[0].rule, raised[0].step) == (rule, 2 * step - 1)
    assert raised[0].evidence == expected.evidence.replace(" steps", " rollouts")


@pytest.mark.parametrize("rule", [rule for rule in ALERTS_ABOUT_UPDATES if rule != "entropy"])
def test_alerts_about_updates_also_fire_if_updates_reuse_completions(rule: AlertRule) -> None:
    change = next(case[1] for case in FIRING_CASES if case[0] == rule)
    raised = raised_alerts(with_reused_updates(with_changes(clean(), change)))
    assert {alert.rule for alert in raised} == {rule}


def is_late_and_even(finished: ev.StepFinished) -> int:
    """1 in three of five late steps: a share of 3 in 10 may be chance."""
    return int(finished.step >= 12 and finished.step % 5 % 2 == 0)


QUIET_CASES: list[tuple[AlertRule, Change]] = [
    ("zero variance", from_step(10, zero_std=0.75)),
    ("truncation", from_step(6, truncated=0.45)),
    ("entropy", from_step(12, entropy=0.05)),
    ("kl", from_step(3, kl=0.9)),
    ("length drift", lambda finished: {"lengths": (20.0 + finished.step, 4.0, 90.0)}),
    ("length pays", from_step(1, length_r=0.8)),
    ("repetition", from_step(1, repetition=0.4)),  # unchanged from the start
    ("axis falls", ramp("risk", 10.0, 9.2, 40)),
    ("judge fooled", ramp("offline_reward", 0.3, 0.25, 40)),
    ("over-refusal",
     combine(from_step(1, harmless=40, harmless_refused=4), from_step(12, harmless_refused=9))),
    ("unsafe answers", from_step(12, unsafe=24, unsafe_declined=21)),
    ("unsafe answers", lambda finished: {"unsafe": 2, "unsafe_declined": 2 - is_late_and_even(finished)}),
    ("over-refusal", lambda finished: {"harmless": 2, "harmless_refused": is_late_and_even(finished)}),
    ("coverage", from_step(9, scored=60)),
    ("weights still", lambda finished: {"weight_delta": 0.2 + 1e-6 * finished.step}),
    ("scaler", lambda finished: {"skipped": finished.step % 3 == 0}),
    ("gradients", lambda finished: {"grad_norm": 1e-9 if finished.step % 4 else 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), QUIET_CASES)
def test_an_alert_does_not_fire_near_its_threshold(rule: AlertRule, change: Change) -> None:
    assert rule not in {alert.rule for alert in raised_alerts(with_changes(clean(), change))}


def with_memory(bytes_per_step: float) -> list[ev.Record]:
    """A run whose memory grows by this many bytes per step, under a limit of 24 GB."""
    sample = ev.MemorySampled(8 * 10**9, 24 * 10**9, 0, None, None, 0, None)
    records = []
    for record in clean():
        if isinstance(record.event, ev.StepFinished):
            used = round(14e9 + bytes_per_step * record.event.step)
            records.append(replace(record, event=replace(sample, process=used)))
            record = replace(record, event=replace(record.event, steps=400))
        if isinstance(record.event, ev.RunStarted):
            record = replace(record, event=replace(record.event, limit_gb=24.0))
        if not isinstance(record.event, ev.MemorySampled):
            records.append(record)
    return records


def test_memory_growth_is_reported_with_the_steps_left_until_the_limit() -> None:
    (alert,) = raised_alerts(with_memory(bytes_per_step=40e6))
    assert (alert.rule, alert.step) == ("memory trend", 30)
    assert (
        "40 MB per step (now 15.2 GB) and will reach the limit of 24 GB in about 22"
        in alert.evidence
    )
    assert "save_steps" in alert.advice


def test_slow_memory_growth_raises_no_alert() -> None:
    assert raised_alerts(with_memory(bytes_per_step=5e6)) == []


def test_every_rule_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    names = set(get_args(AlertRule))
    assert set(RULES) == names
    assert {case[0] for case in FIRING_CASES} | {"memory trend"} == names
    assert {case[0] for case in QUIET_CASES} | {"memory trend"} == names


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_quickstart_raises_nothing(seed: int) -> None:
    records = clean(seed)
    assert sum(isinstance(record.event, ev.StepFinished) for record in records) == 40
    assert raised_alerts(records) == []


def test_a_rule_that_fired_is_quiet_for_the_configured_steps() -> None:
    steps = [
        alert.step
        for alert in raised_alerts(
            with_changes(clean(), from_step(1, truncated=1.0)), "alerts.quiet_steps=10"
        )
    ]
    assert steps == [5, 15, 25, 35]


def test_a_disabled_rule_raises_nothing() -> None:
    records = with_changes(clean(), from_step(1, truncated=1.0))
    assert raised_alerts(records, "alerts.off=[truncation]") == []


def test_steps_scored_by_different_judges_are_not_compared() -> None:
    records = with_changes(clean(), ramp("offline_reward", 0.6, 0.1, 40))
    assert raised_alerts(records)
    position = next(
        n
        for n, r in enumerate(records)
        if isinstance(r.event, ev.StepFinished) and r.event.step == 11
    )
    resumed = replace(records[position], event=ev.RunResumed(11, "another judge"))
    raised = raised_alerts([*records[: position + 1], resumed, *records[position + 1 :]])
    assert [alert.step for alert in raised if alert.step < 21] == []


def test_the_closing_lines_list_the_alerts() -> None:
    alert = ev.AlertRaised(8, "truncation", "97% truncated", "raise it")
    records = [*clean()[:-1], replace(clean()[-1], event=alert), clean()[-1]]
    state = fold_all(records)
    assert state.ended is not None
    assert "  alerts         truncation (step 8)" in event_lines(state, state.ended)


# -- real runs ----------------------------------------------------------------------------------


def length_rewarding_judge(body: Mapping[str, Any]) -> Behavior:
    """A judge that rewards length: one point for every five words."""
    score = min(10.0, round(2 * len(completion_in(body).split()) / 5) / 2)
    return Judge(align=score, risk=10.0, detail=score)


def test_a_judge_that_rewards_length_is_detected_before_step_15(ida_tui: IdaTui) -> None:
    with ScriptedJudge(rule=length_rewarding_judge) as judge:
        done = ida_tui(
            "--run", "quickstart", "judge=gpt-4o-mini", f"judge.base_url={judge.base_url}", NO_KEY,
            "judge.concurrency=32", "training.max_steps=15", "evaluation.enabled=false",
            "alerts.on_alert=stop", "--json",
        )  # fmt: skip
    raised = [event for event in done.events if event["type"] == "AlertRaised"]
    assert [alert["rule"] for alert in raised] == ["length pays"]
    assert isinstance(raised[0]["step"], int)
    assert raised[0]["step"] < 15
    ended = done.events[-1]
    assert (done.code, ended["status"], ended["exit_code"]) == (6, "stopped_by_alert", 6)
    assert done.events[-2]["type"] == "CheckpointSaved"
    assert "ida-tui resume" in str(ended["hint"])


SHORT = (
    "--run", "quickstart", "training.max_completion_length=6", "training.max_steps=7",
    "training.per_device_train_batch_size=16", "evaluation.enabled=false",
)  # fmt: skip


def test_a_run_stopped_by_an_alert_can_be_resumed(ida_tui: IdaTui) -> None:
    stopped = ida_tui(*SHORT, "alerts.on_alert=stop", "alerts.off=[zero variance]")
    assert stopped.code == 6
    assert (
        "! truncation at step 5: 100% of completions truncated at 6 tokens"
        in stopped.err + stopped.out
    )
    assert "raise training.max_completion_length to 12" in stopped.err + stopped.out
    resumed = ida_tui("resume", "quickstart", "alerts.on_alert=tell", "--json")
    assert resumed.code == 0
    steps = [event["step"] for event in resumed.events if event["type"] == "StepFinished"]
    assert steps == [6, 7]
    assert "AlertRaised" not in [
        event["type"] for event in resumed.events
    ]  # already reported before the stop


def test_a_run_paused_by_an_alert_waits_until_it_is_resumed(ida_tui: IdaTui) -> None:
    command = [*prepared_python(), "-m", "ida_tui", *SHORT, "alerts.on_alert=pause", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["type"] == "RunPaused":
                assert ida_tui("attach", "quickstart", "--resume").code == 0
    pauses = [event for event in events if event["type"] == "RunPaused"]
    assert [(pause["by"], pause["step"]) for pause in pauses] == [("alert", 5)]
    assert "max_completion_length" in pauses[0]["hint"]
    assert (process.returncode, events[-1]["status"], events[-1]["steps_done"]) == (0, "done", 7)
