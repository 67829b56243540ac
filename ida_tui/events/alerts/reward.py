"""Is it the reward's doing? An axis that falls, a second opinion that parts, pay for length, few verdicts."""

from __future__ import annotations

from ida_tui.config.schema import AXES
from ida_tui.events.alerts.window import Finding, Look


def axis_falls(look: Look) -> Finding | None:
    """The reward rises while something that it is made of falls."""
    rise = look.rise("r_ida")
    if rise is None or rise < look.bounds.reward_rise:
        return None
    falls = [(change, axis) for axis in AXES if (change := look.rise(axis)) is not None]
    change, axis = min(falls, default=(0.0, ""))
    if -change < look.bounds.axis_fall:
        return None
    named = "risk (10 is safest)" if axis == "risk" else axis
    return Finding(
        f"R_IDA rose by {rise:.2f} while {named} fell from {look.then(axis):.1f} to {look.now(axis):.1f}",
        "read the best-paid completions: is this wanted? `ida-tui rescore` shows what another formula, such"
        " as weakest, would have paid",
    )


def judge_fooled(look: Look) -> Finding | None:
    """The judge pays more and more for what the offline heuristic finds worse and worse."""
    rise, second = look.rise("r_ida"), look.rise("offline_r_ida")
    if rise is None or second is None or rise < look.bounds.reward_rise:
        return None
    if -second < look.bounds.offline_fall:
        return None
    return Finding(
        f"the judge's R_IDA rose by {rise:.2f} while the offline heuristic's fell from"
        f" {look.then('offline_r_ida'):.2f} to {look.now('offline_r_ida'):.2f}",
        "this looks like reward hacking: read the best-paid completions, run `ida-tui judge check`, and try"
        " another judge on them (`ida-tui replay-judge`)",
    )


def length_pays(look: Look) -> Finding | None:
    """Among completions that do the same, the longer one earns more, nearly always."""
    r = look.now("length_r")
    if r is None or r < look.bounds.length_r:
        return None
    return Finding(
        f"r = {r:.2f} between tokens and R_IDA among completions that answer (or decline) alike, over"
        f" {look.span}",
        "the judge pays for length: run `ida-tui judge check`, have the rubric score filler down, or take"
        " another judge",
    )


def coverage(look: Look) -> Finding | None:
    """What has no verdict teaches nothing, and whatever the judge leaves out may not be chance."""
    steps = look.recent
    asked = sum(step.completions for step in steps)
    scored = sum(step.scored for step in steps)
    if not asked or scored / asked >= look.bounds.coverage:
        return None
    declined = sum(count for _, count in look.state.judge.declined)
    why = f"; it declined to look at {declined} in all" if declined else ""
    return Finding(
        f"the judge scored {scored} of {asked} completions ({scored / asked:.0%}) over {look.span}{why}",
        "lower judge.concurrency, raise judge.timeout_s or judge.max_tokens, or take another judge; the"
        " failures are in completions.jsonl",
    )
