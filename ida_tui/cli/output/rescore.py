"""A run under another formula, as printed lines and as plain values. Pure functions."""

from __future__ import annotations

from typing import Any

from ida_tui.analysis.rescore import Rescored, Rescoring
from ida_tui.cli.output.sparkline import curve

TEXT = 84
"""Letters of a completion in an example."""
RUNS_OWN = "r_ida"


def lines(name: str, rescoring: Rescoring) -> list[str]:
    """Both curves, what would have changed, and a few completions where it would."""
    formula, of = rescoring.formula, rescoring.completions
    out = [
        f"{name} re-scored by {_called(rescoring)} (no calls)",
        f"  {of:,} completions with scores in {len(rescoring.steps)} steps; {_scaled(rescoring)}",
    ]
    if rescoring.unscored:
        out.append(f"! {rescoring.unscored:,} more have no verdict, and are left out")
    if rescoring.undefined:
        out.append(f"! the formula has no value for {rescoring.undefined:,} more: left out")
    if rescoring.lowest < 0 or rescoring.highest > 1:
        out.append(
            f"! its rewards go from {rescoring.lowest:.3g} to {rescoring.highest:.3g}, not from 0 to 1"
        )
    low, high = min(0.0, rescoring.lowest), max(1.0, rescoring.highest)
    out += ["", f"reward over the steps, from {low:.3g} to {high:.3g}"]
    label = formula.name if len(formula.name) <= 12 else "formula"
    width = max(len(RUNS_OWN), len(label))
    for shown, new in ((RUNS_OWN, False), (label, True)):
        values = [step.new if new else step.old for step in rescoring.steps]
        first, last = rescoring.first_and_last(new=new)
        drawn = curve(values, low=low, high=high)
        out.append(f"  {shown:<{width}}  {drawn}  {first:.3f} → {last:.3f}")
    correlation = "–" if rescoring.correlation is None else f"r = {rescoring.correlation:.3f}"
    out += [
        "",
        f"  another place in its group    {_share(rescoring.moved, of)}",
        f"  another sign of its advantage {_share(rescoring.turned, of)}",
        f"  advantages, old beside new    {correlation}",
    ]
    if rescoring.examples:
        out += ["  what the model would have become is not known: it learned from what it was paid"]
        out += ["", "changed most"]
    for example in rescoring.examples:
        out += _example(example)
    return out


def _called(rescoring: Rescoring) -> str:
    formula = rescoring.formula
    return formula.name if formula.name == formula.words else f"{formula.name} = {formula.words}"


def _scaled(rescoring: Rescoring) -> str:
    if rescoring.scale == rescoring.old_scale:
        return f"advantages as scale_rewards={rescoring.scale} makes them"
    return (
        f"advantages by scale_rewards={rescoring.scale} instead of the run's {rescoring.old_scale}"
    )


def _share(part: int, of: int) -> str:
    return f"{part:,} of {of:,} ({100 * part / of:.1f} %)"


def _example(one: Rescored) -> list[str]:
    finished, scored = one.completion.finished, one.completion.scored
    assert scored is not None  # only what has scores is re-scored
    text = " ".join(finished.text.split())
    short = text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"
    return [
        f"  step {finished.step}, completion {finished.group}·{finished.index} ({finished.prompt_id}): "
        f"align {scored.align:g}, risk {scored.risk:g}, detail {scored.detail:g}",
        f"    reward {one.old:.3f} → {one.new:.3f}, place {one.old_rank:g} → {one.new_rank:g}, "
        f"advantage {one.old_advantage:+.2f} → {one.new_advantage:+.2f}",
        f"    “{short}”",
    ]


def as_json(name: str, rescoring: Rescoring) -> dict[str, Any]:
    """The same as plain values."""
    old_first, old_last = rescoring.first_and_last(new=False)
    first, last = rescoring.first_and_last(new=True)
    return {
        "run": name,
        "formula": rescoring.formula.name,
        "words": rescoring.formula.words,
        "scale_rewards": rescoring.scale,
        "scale_rewards_of_the_run": rescoring.old_scale,
        "completions": rescoring.completions,
        "unscored": rescoring.unscored,
        "undefined": rescoring.undefined,
        "first": {"old": old_first, "new": first},
        "last": {"old": old_last, "new": last},
        "lowest": rescoring.lowest,
        "highest": rescoring.highest,
        "rank_changed": rescoring.moved,
        "sign_changed": rescoring.turned,
        "advantages_correlation": rescoring.correlation,
        "steps": [step._asdict() for step in rescoring.steps],
        "examples": [_plain(example) for example in rescoring.examples],
    }


def _plain(one: Rescored) -> dict[str, Any]:
    finished, scored = one.completion.finished, one.completion.scored
    assert scored is not None
    return {
        "step": finished.step,
        "group": finished.group,
        "index": finished.index,
        "prompt_id": finished.prompt_id,
        "text": finished.text,
        "scores": {"align": scored.align, "risk": scored.risk, "detail": scored.detail},
        "reward": {"old": one.old, "new": one.new},
        "rank": {"old": one.old_rank, "new": one.new_rank},
        "advantage": {"old": one.old_advantage, "new": one.new_advantage},
    }
