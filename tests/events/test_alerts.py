"""Alerts: each fires where it must, at the step it must, says what to change, and is quiet otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
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

Change = Callable[[ev.StepFinished], Mapping[str, Any]]
"""The figures of a step that are to be others."""
NOBODY = "judge.api_key_env=null"


@cache
def clean(seed: int = 0) -> tuple[ev.Record, ...]:
    """A real quickstart that nothing was wrong with."""
    return tuple(clean_runs()[seed])


def changed(records: Iterable[ev.Record], change: Change) -> list[ev.Record]:
    """The run with other figures in its steps."""
    return [
        replace(record, event=replace(record.event, **change(record.event)))
        if isinstance(record.event, ev.StepFinished)
        else record
        for record in records
    ]


def alerts(records: Iterable[ev.Record], *overrides: str) -> list[ev.AlertRaised]:
    """What a run raises under the quickstart's profile."""
    return list(replay_alerts(records, resolve("quickstart", list(overrides)).config))


def since(step: int, **figures: Any) -> Change:
    """These figures from a step on."""
    return lambda finished: figures if finished.step >= step else {}


def growing(figure: str, from_: float, to: float, until: int = 20) -> Change:
    """A figure that goes from one value to another, evenly until a step."""

    def change(finished: ev.StepFinished) -> Mapping[str, Any]:
        share = min(1.0, (finished.step - 1) / (until - 1))
        return {figure: from_ + (to - from_) * share}

    return change


def both(*changes: Change) -> Change:
    """Several changes of the same step."""
    return lambda finished: {k: v for change in changes for k, v in change(finished).items()}


def longer(finished: ev.StepFinished) -> Mapping[str, Any]:
    """Completions that grow by four tokens a step."""
    mean = 12.0 + 4 * finished.step
    return {"lengths": (mean, 4.0, 2 * mean)}


MUST_FIRE: list[tuple[AlertRule, Change, int, str, str]] = [
    ("zero variance", since(10, zero_std=1.0), 13, "all 8 completions", "temperature"),
    ("truncation", since(6, truncated=0.97), 8, "truncated at 64 tokens", "to 128"),
    ("entropy", since(12, entropy=0.001), 16, "collapsing", "beta"),
    ("kl", growing("kl", 0.0, 4.0), 8, "reference", "raise training.beta"),
    ("length drift", longer, 17, "went from 24 to", "reward length"),
    ("length pays", since(1, length_r=0.96), 5, "r = 0.96", "judge check"),
    ("repetition", since(8, repetition=0.6), 10, "are repetitions", "rubric"),
    ("axis falls", growing("risk", 9.5, 3.0, 40), 12, "while risk (10 is safest) fell", "rescore"),
    ("judge fooled", growing("offline_r_ida", 0.6, 0.1, 40), 13, "heuristic's fell", "reward hacking"),
    ("over-refusal", both(since(1, harmless=40, harmless_refused=4), since(12, harmless_refused=30)), 13,
     "rose from 10%", "judge check"),
    ("unsafe answers", since(12, unsafe=24, unsafe_declined=6), 13, "fell from 100%", "best checkpoint"),
    ("coverage", since(9, scored=40), 10, "of 320 completions", "judge.timeout_s"),
    ("weights still", since(15, weight_delta=0.25), 19, "have not moved", "learning_rate"),
    ("scaler", since(20, skipped=True, loss_scale=2.0), 22, "scale 2", "learning_rate"),
    ("gradients", since(10, grad_norm=1e-9), 14, "1e-09", "target_modules"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "step", "evidence", "advice"), MUST_FIRE)
def test_an_alert_fires_at_its_step_and_says_what_was_seen_and_what_to_change(
    rule: AlertRule, change: Change, step: int, evidence: str, advice: str
) -> None:
    raised = alerts(changed(clean(), change))
    assert [(alert.rule, alert.step) for alert in raised][:1] == [(rule, step)]
    assert evidence in raised[0].evidence
    assert advice in raised[0].advice
    assert {alert.rule for alert in raised} == {rule}


NEAR_MISSES: list[tuple[AlertRule, Change]] = [
    ("zero variance", since(10, zero_std=0.75)),
    ("truncation", since(6, truncated=0.45)),
    ("entropy", since(12, entropy=0.05)),
    ("kl", since(3, kl=0.9)),
    ("length drift", lambda finished: {"lengths": (20.0 + finished.step, 4.0, 90.0)}),
    ("length pays", since(1, length_r=0.8)),
    ("repetition", since(1, repetition=0.4)),  # as it was from the start
    ("axis falls", growing("risk", 10.0, 9.2, 40)),
    ("judge fooled", growing("offline_r_ida", 0.3, 0.25, 40)),
    ("over-refusal", both(since(1, harmless=40, harmless_refused=4), since(12, harmless_refused=9))),
    ("unsafe answers", since(12, unsafe=24, unsafe_declined=21)),
    ("coverage", since(9, scored=60)),
    ("weights still", lambda finished: {"weight_delta": 0.2 + 1e-6 * finished.step}),
    ("scaler", lambda finished: {"skipped": finished.step % 3 == 0}),
    ("gradients", lambda finished: {"grad_norm": 1e-9 if finished.step % 4 else 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), NEAR_MISSES)
def test_what_is_near_a_threshold_is_not_over_it(rule: AlertRule, change: Change) -> None:
    assert rule not in {alert.rule for alert in alerts(changed(clean(), change))}


def with_memory(grows: float) -> list[ev.Record]:
    """A run that holds so many bytes more at every step, of a limit of 24 GB."""
    sample = ev.MemorySampled(8 * 10**9, 24 * 10**9, 0, None, None, 0, None)
    records = []
    for record in clean():
        if isinstance(record.event, ev.StepFinished):
            held = round(14e9 + grows * record.event.step)
            records.append(replace(record, event=replace(sample, process=held)))
            record = replace(record, event=replace(record.event, steps=400))
        if isinstance(record.event, ev.RunStarted):
            record = replace(record, event=replace(record.event, limit_gb=24.0))
        if not isinstance(record.event, ev.MemorySampled):
            records.append(record)
    return records


def test_memory_that_will_reach_the_limit_is_said_with_the_steps_that_are_left() -> None:
    (alert,) = alerts(with_memory(grows=40e6))
    assert (alert.rule, alert.step) == ("memory trend", 30)
    assert (
        "40 MB per step: 15.2 GB now; it reaches the limit of 24 GB in about 22" in alert.evidence
    )
    assert "save_steps" in alert.advice


def test_memory_that_grows_too_slowly_to_matter_is_not_said() -> None:
    assert alerts(with_memory(grows=5e6)) == []


def test_every_rule_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    names = set(get_args(AlertRule))
    assert set(RULES) == names
    assert {case[0] for case in MUST_FIRE} | {"memory trend"} == names
    assert {case[0] for case in NEAR_MISSES} | {"memory trend"} == names


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_quickstart_raises_nothing(seed: int) -> None:
    records = clean(seed)
    assert sum(isinstance(record.event, ev.StepFinished) for record in records) == 40
    assert alerts(records) == []


def test_a_rule_that_spoke_is_quiet_for_a_while() -> None:
    steps = [
        alert.step
        for alert in alerts(changed(clean(), since(1, truncated=1.0)), "alerts.quiet_steps=10")
    ]
    assert steps == [5, 15, 25, 35]


def test_a_rule_that_is_off_says_nothing() -> None:
    records = changed(clean(), since(1, truncated=1.0))
    assert alerts(records, "alerts.off=[truncation]") == []


def test_steps_that_another_judge_scored_are_not_compared() -> None:
    falls = changed(clean(), growing("offline_r_ida", 0.6, 0.1, 40))
    assert alerts(falls)
    at = next(
        n
        for n, r in enumerate(falls)
        if isinstance(r.event, ev.StepFinished) and r.event.step == 11
    )
    resumed = replace(falls[at], event=ev.RunResumed(11, "another judge"))
    raised = alerts([*falls[: at + 1], resumed, *falls[at + 1 :]])
    assert [alert.step for alert in raised if alert.step < 21] == []


def test_alerts_are_named_in_the_closing_lines() -> None:
    alert = ev.AlertRaised(8, "truncation", "97% truncated", "raise it")
    records = [*clean()[:-1], replace(clean()[-1], event=alert), clean()[-1]]
    state = fold_all(records)
    assert state.ended is not None
    assert "  alerts         truncation (step 8)" in event_lines(state, state.ended)


# -- real runs ----------------------------------------------------------------------------------


def pays_for_length(body: Mapping[str, Any]) -> Behavior:
    """A judge whose rubric pays for length: a point for every five words."""
    score = min(10.0, round(2 * len(completion_in(body).split()) / 5) / 2)
    return Judge(align=score, risk=10.0, detail=score)


def test_a_judge_that_pays_for_length_is_found_out_before_step_15(ida_tui: IdaTui) -> None:
    with ScriptedJudge(rule=pays_for_length) as judge:
        done = ida_tui(
            "--run", "quickstart", "judge=gpt-4o-mini", f"judge.base_url={judge.base_url}", NOBODY,
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


def test_a_run_that_an_alert_stopped_goes_on_when_told_to(ida_tui: IdaTui) -> None:
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
    assert "AlertRaised" not in [event["type"] for event in resumed.events]  # it has been said


def test_a_run_that_an_alert_paused_waits_until_somebody_lets_it_go_on(ida_tui: IdaTui) -> None:
    command = [sys.executable, "-m", "ida_tui", *SHORT, "alerts.on_alert=pause", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
    ) as running:
        assert running.stdout is not None
        events = []
        for line in running.stdout:
            events.append(json.loads(line))
            if events[-1]["type"] == "RunPaused":
                assert ida_tui("attach", "quickstart", "--resume").code == 0
    pauses = [event for event in events if event["type"] == "RunPaused"]
    assert [(pause["by"], pause["step"]) for pause in pauses] == [("alert", 5)]
    assert "max_completion_length" in pauses[0]["hint"]
    assert (running.returncode, events[-1]["status"], events[-1]["steps_done"]) == (0, "done", 7)
