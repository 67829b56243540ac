"""Rewards recomputed with another formula, as printed lines and as JSON values. Pure functions."""

from __future__ import annotations

from typing import Any

from ida_tui.analysis.rescore import RescoredCompletion, RescoreResult
from ida_tui.config.scoring.axes import Scores
from ida_tui.util.format import format_count, format_general, format_number, format_signed
from ida_tui.util.sparkline import sparkline

EXCERPT_LENGTH = 84
"""Maximum number of characters of a completion in an example."""


def rescore_lines(name: str, rescoring: RescoreResult, run_formula: str = "r_ida") -> list[str]:
    """Both reward curves, what changes, and examples of the completions that change most.

    Args:
        name: name of the run.
        rescoring: the recomputed rewards.
        run_formula: label of the reward of the run.
    """
    formula, total = rescoring.formula, rescoring.completions
    out = [
        f"{name} rescored with {_formula_label(rescoring)} (no judge calls)",
        f"  {format_count(total, 'completion')} with scores in"
        f" {format_count(len(rescoring.steps), 'step')}; {_scale_note(rescoring)}",
    ]
    if rescoring.unscored:
        out.append(f"! {format_count(rescoring.unscored, 'completion')} without scores skipped")
    if rescoring.undefined:
        out.append(
            f"! {format_count(rescoring.undefined, 'completion')} skipped: the formula has no value for them"
        )
    bounded = all(0 <= step.old <= 1 for step in rescoring.steps if step.old is not None)
    if bounded and not 0 <= rescoring.lowest_new_reward <= rescoring.highest_new_reward <= 1:
        out.append(
            f"! the new rewards range from {rescoring.lowest_new_reward:.3g} to"
            f" {rescoring.highest_new_reward:.3g}, not from 0 to 1"
        )
    low, high = min(0.0, rescoring.lowest_new_reward), max(1.0, rescoring.highest_new_reward)
    out += ["", f"Reward per step (scale {low:.3g} to {high:.3g})"]
    label = formula.name if len(formula.name) <= 12 else "formula"
    width = max(len(run_formula), len(label))
    for row_label, new in ((run_formula, False), (label, True)):
        values = [step.new if new else step.old for step in rescoring.steps]
        first, last = rescoring.mean_first_and_last(new=new)
        drawing = sparkline(values, low=low, high=high)
        out.append(
            f"  {row_label:<{width}}  {drawing}  {format_number(first)} → {format_number(last)}"
        )
    correlation = "–" if rescoring.correlation is None else f"r = {rescoring.correlation:.3f}"
    out += [
        "",
        f"  rank in group changes         {_count_with_percent(rescoring.rank_changes, total)}",
        f"  sign of advantage changes     {_count_with_percent(rescoring.sign_changes, total)}",
        f"  advantages, old against new   {correlation}",
    ]
    if rescoring.examples:
        out += [
            "  Only the rewards are recomputed: training with this formula might have gone differently."
        ]
        out += ["", "Largest changes"]
    for example in rescoring.examples:
        out += _example_lines(example)
    return out


def _formula_label(rescoring: RescoreResult) -> str:
    formula = rescoring.formula
    return (
        formula.name
        if formula.name == formula.description
        else f"{formula.name} = {formula.description}"
    )


def _scale_note(rescoring: RescoreResult) -> str:
    if rescoring.new_scale == rescoring.old_scale:
        return f"advantages with scale_rewards={rescoring.new_scale}"
    return f"advantages with scale_rewards={rescoring.new_scale} instead of the run's {rescoring.old_scale}"


def _count_with_percent(part: int, total: int) -> str:
    return f"{part:,} of {total:,} ({100 * part / total:.1f}%)"


def _example_lines(example: RescoredCompletion) -> list[str]:
    finished, scored = example.completion.finished, example.completion.scored
    assert scored is not None  # only completions with scores are rescored
    text = " ".join(finished.text.split())
    short = text if len(text) <= EXCERPT_LENGTH else f"{text[: EXCERPT_LENGTH - 1]}…"
    return [
        f"  step {finished.step}, completion {finished.group}·{finished.index} ({finished.prompt_id}):"
        f" {_scores_text(scored.scores)}",
        f"    reward {format_number(example.old_reward)} → {format_number(example.new_reward)},"
        f" rank {example.old_rank:g} → {example.new_rank:g},"
        f" advantage {format_signed(example.old_advantage, 2)} → {format_signed(example.new_advantage, 2)}",
        f"    “{short}”",
    ]


def _scores_text(scores: Scores) -> str:
    return ", ".join(
        f"{axis} –" if score is None else f"{axis} {format_general(score)}"
        for axis, score in scores.items()
    )


def as_json(name: str, rescoring: RescoreResult) -> dict[str, Any]:
    """The result as JSON values."""
    old_first, old_last = rescoring.mean_first_and_last(new=False)
    first, last = rescoring.mean_first_and_last(new=True)
    return {
        "run": name,
        "formula": rescoring.formula.name,
        "words": rescoring.formula.description,
        "scale_rewards": rescoring.new_scale,
        "scale_rewards_of_the_run": rescoring.old_scale,
        "completions": rescoring.completions,
        "unscored": rescoring.unscored,
        "undefined": rescoring.undefined,
        "first": {"old": old_first, "new": first},
        "last": {"old": old_last, "new": last},
        "lowest": rescoring.lowest_new_reward,
        "highest": rescoring.highest_new_reward,
        "rank_changed": rescoring.rank_changes,
        "sign_changed": rescoring.sign_changes,
        "advantages_correlation": rescoring.correlation,
        "steps": [step._asdict() for step in rescoring.steps],
        "examples": [_example_as_json(example) for example in rescoring.examples],
    }


def _example_as_json(example: RescoredCompletion) -> dict[str, Any]:
    finished, scored = example.completion.finished, example.completion.scored
    assert scored is not None
    return {
        "step": finished.step,
        "group": finished.group,
        "index": finished.index,
        "prompt_id": finished.prompt_id,
        "text": finished.text,
        "scores": dict(scored.scores),
        "reward": {"old": example.old_reward, "new": example.new_reward},
        "rank": {"old": example.old_rank, "new": example.new_rank},
        "advantage": {"old": example.old_advantage, "new": example.new_advantage},
    }
