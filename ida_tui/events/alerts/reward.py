"""Alert rules for reward and judge: falling axes, a judge that is fooled or rewards length, failures."""

from __future__ import annotations

from ida_tui.config.scoring.axes import axis_title, format_score
from ida_tui.events.alerts.window import AlertFinding, Window


def axis_falls(window: Window) -> AlertFinding | None:
    """The reward rises while one of its axes falls."""
    rise = window.increase("reward")
    if rise is None or rise < window.thresholds.reward_rise:
        return None
    falls = [
        (10 * change / axis.span, axis)
        for axis in window.state.axes
        if (change := window.score_increase(axis.name)) is not None
    ]
    if not falls:
        return None
    change, axis = min(falls, key=lambda fall: fall[0])
    if -change < window.thresholds.axis_fall:
        return None
    before, after = window.baseline_score(axis.name), window.recent_score(axis.name)
    return AlertFinding(
        f"{window.state.reward_name} rose by {rise:.2f} while {axis_title(axis.name)} fell from"
        f" {format_score(before, axis)} to {format_score(after, axis)}",
        "read the completions with the highest reward: is this intended? `ida-tui rescore` shows the rewards"
        " of another formula, such as weakest",
    )


def judge_fooled(window: Window) -> AlertFinding | None:
    """The reward from the judge rises while the offline heuristic's reward falls."""
    rise, offline_rise = window.increase("reward"), window.increase("offline_reward")
    if rise is None or offline_rise is None or rise < window.thresholds.reward_rise:
        return None
    if -offline_rise < window.thresholds.offline_fall:
        return None
    return AlertFinding(
        f"the judge's {window.state.reward_name} rose by {rise:.2f} while the offline heuristic's fell from"
        f" {window.baseline_mean('offline_reward'):.2f} to {window.recent_mean('offline_reward'):.2f}",
        "this looks like reward hacking: read the completions with the highest reward, run `ida-tui judge"
        " check`, and score them with another judge (`ida-tui replay-judge`)",
    )


def length_pays(window: Window) -> AlertFinding | None:
    """Among completions that all answer or all decline, longer ones almost always earn more."""
    r = window.recent_mean("length_r")
    if r is None or r < window.thresholds.length_r:
        return None
    has_kinds = any(step.harmless or step.unsafe for step in window.recent_rollouts)
    among = " even among answers alone, or refusals alone," if has_kinds else ""
    return AlertFinding(
        f"length correlates with {window.state.reward_name} (r = {r:.2f}){among} over"
        f" {window.rollout_span}",
        "the judge rewards length: run `ida-tui judge check`, make the rubric penalize filler, or choose"
        " another judge",
    )


def coverage(window: Window) -> AlertFinding | None:
    """Too many verdicts failed; unscored completions teach nothing, and the failures may not be random."""
    steps = window.recent_rollouts
    total = sum(step.completions for step in steps)
    scored = sum(step.scored for step in steps)
    if not total or scored / total >= window.thresholds.coverage:
        return None
    declined = sum(count for _, count in window.state.judge.declined)
    note = f"; the judge has declined {declined} since the start of the run" if declined else ""
    return AlertFinding(
        f"the judge scored only {scored} of {total} completions ({scored / total:.0%})"
        f" over {window.rollout_span}{note}",
        "lower judge.concurrency, raise judge.timeout_s or judge.max_tokens, or choose another judge;"
        " completions.jsonl lists the failures",
    )
