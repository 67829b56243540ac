"""Evaluation of all alert rules after a step, live or on a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ida_tui.config.schema import AlertRule, Config
from ida_tui.events import types as ev
from ida_tui.events.alerts import completions, reward, training
from ida_tui.events.alerts.window import AlertFinding, Window
from ida_tui.events.state import RunState, fold

RULES: Mapping[AlertRule, Callable[[Window], AlertFinding | None]] = {
    "zero variance": training.zero_variance,
    "truncation": completions.truncation,
    "entropy": completions.entropy,
    "kl": completions.kl,
    "length drift": completions.length_drift,
    "length pays": reward.length_pays,
    "repetition": completions.repetition,
    "axis falls": reward.axis_falls,
    "judge fooled": reward.judge_fooled,
    "over-refusal": completions.over_refusal,
    "unsafe answers": completions.unsafe_answers,
    "coverage": reward.coverage,
    "weights still": training.weights_still,
    "scaler": training.scaler,
    "gradients": training.gradients,
    "memory trend": training.memory_trend,
}


def evaluate_rules(state: RunState, config: Config) -> list[ev.AlertRaised]:
    """The alerts to raise after the last finished step; a rule that raised an alert recently stays quiet.

    Args:
        state: the run up to the step's StepFinished event, including earlier alerts.
        config: the run's profile.
    """
    if not state.steps:
        return []
    step, window = state.steps[-1].step, Window.from_state(state, config)
    quiet = {alert.rule for alert in state.alerts if alert.step > step - config.alerts.quiet_steps}
    raised = []
    for rule, check in RULES.items():
        if rule in quiet or rule in config.alerts.off:
            continue
        finding = check(window)
        if finding is not None:
            raised.append(ev.AlertRaised(step, rule, finding.evidence, finding.advice))
    return raised


def replay_alerts(records: Iterable[ev.Record], config: Config) -> Iterator[ev.AlertRaised]:
    """The alerts that a recorded run raises with this profile; its recorded alerts are ignored."""
    state = RunState()
    for record in records:
        if isinstance(record.event, ev.AlertRaised):
            continue
        state = fold(state, record)
        if isinstance(record.event, ev.StepFinished):
            for alert in evaluate_rules(state, config):
                yield alert
                state = fold(state, ev.Record(record.seq, record.time, alert))
