"""Alert rules for reward and judge: a falling axis, a fooled judge, rewarded length, failed verdicts."""

from __future__ import annotations

from ida_tui.config.schema import AXES
from ida_tui.events.alerts.window import Finding, Look


def axis_falls(look: Look) -> Finding | None:
    """The reward rises while one of its axes falls."""
    rise = look.rise("r_ida")
    if rise is None or rise < look.bounds.reward_rise:
        return None
    falls = [(change, axis) for axis in AXES if (change := look.rise(axis)) is not None]
    change, axis = min(falls, default=(0.0, ""))
    if -change < look.bounds.axis_fall:
        return None
    label = "risk (10 is safest)" if axis == "risk" else axis
    return Finding(
        f"R_IDA rose by {rise:.2f} while {label} fell from {look.then(axis):.1f} to {look.now(axis):.1f}",
        "read the completions with the highest reward: is this intended? `ida-tui rescore` shows the rewards"
        " of another formula, such as weakest",
    )


def judge_fooled(look: Look) -> Finding | None:
    """The reward from the judge rises while the offline heuristic's reward falls."""
    rise, offline_rise = look.rise("r_ida"), look.rise("offline_r_ida")
    if rise is None or offline_rise is None or rise < look.bounds.reward_rise:
        return None
    if -offline_rise < look.bounds.offline_fall:
        return None
    return Finding(
        f"the judge's R_IDA rose by {rise:.2f} while the offline heuristic's fell from"
        f" {look.then('offline_r_ida'):.2f} to {look.now('offline_r_ida'):.2f}",
        "this looks like reward hacking: read the completions with the highest reward, run `ida-tui judge"
        " check`, and score them with another judge (`ida-tui replay-judge`)",
    )


def length_pays(look: Look) -> Finding | None:
    """Among completions that all answer or all decline, longer ones almost always earn more."""
    r = look.now("length_r")
    if r is None or r < look.bounds.length_r:
        return None
    return Finding(
        f"length and R_IDA correlate with r = {r:.2f} among completions that all answer (or all decline),"
        f" over {look.span}",
        "the judge rewards length: run `ida-tui judge check`, make the rubric penalize filler, or choose"
        " another judge",
    )


def coverage(look: Look) -> Finding | None:
    """Too many verdicts failed; unscored completions teach nothing, and the failures may not be random."""
    steps = look.recent
    total = sum(step.completions for step in steps)
    scored = sum(step.scored for step in steps)
    if not total or scored / total >= look.bounds.coverage:
        return None
    declined = sum(count for _, count in look.state.judge.declined)
    note = f"; it has declined {declined} since the start of the run" if declined else ""
    return Finding(
        f"the judge scored {scored} of {total} completions ({scored / total:.0%}) over {look.span}{note}",
        "lower judge.concurrency, raise judge.timeout_s or judge.max_tokens, or choose another judge;"
        " completions.jsonl lists the failures",
    )
