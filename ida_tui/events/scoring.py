"""Periods of a run in which its completions are scored in the same way.

A run that is resumed with another judge, rubric, reward formula or other prompts starts a new period. Scores
of two periods are not comparable, so no figure combines them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ida_tui.config.scoring.axes import Axis

PART_NAMES: Mapping[str, str] = {
    "judge": "the judge",
    "endpoint": "the judge's address",
    "rubric": "the rubric",
    "formula": "the reward formula",
    "functions": "the reward functions",
    "settings": "the judge's settings",
    "prompting": "the wording of the judge's instructions",
    "prompts": "the prompts",
    "corpus": "the texts that the offline heuristic compares with",
    "heuristic": "the version of the offline heuristic",
}
"""What a score depends on, in words; `judge.cache.key.scoring_parts` fills the values."""
PROMPT_PARTS = ("prompts", "corpus")
"""Parts that name the prompts, not how a completion is scored."""
SHOWN_PARTS = ("judge", "formula")
"""Parts whose values are readable."""


@dataclass(frozen=True, slots=True)
class ScoringPeriod:
    """Steps whose completions are scored in the same way."""

    after_step: int
    """The last step of the previous period; 0 for the first."""
    judge: str
    """The judge's label."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What a score depends on; empty in old runs, where only the judge's label is known."""

    def same_scoring(self, other: ScoringPeriod) -> bool:
        """Whether scores of both periods are comparable."""
        if self.parts and other.parts:
            return self.parts == other.parts
        return self.judge == other.judge


def scored_by(judge: str, axes: Iterable[Axis]) -> str:
    """Who scores the completions of a run: its judge, its reward functions, or both.

    Args:
        judge: the judge's label; empty without a judge.
        axes: the axes of the run.
    """
    functions = "reward functions" if any(axis.kind == "computed" for axis in axes) else ""
    return " and ".join(name for name in (judge, functions) if name)


def continue_scoring(
    periods: tuple[ScoringPeriod, ...], latest: ScoringPeriod
) -> tuple[ScoringPeriod, ...]:
    """The periods of a run whose next step follows `latest.after_step` and is scored as in `latest`."""
    kept = tuple(period for period in periods if period.after_step < latest.after_step)
    if kept and kept[-1].same_scoring(latest):
        # A run that an older version started learns its parts when it is resumed.
        known = replace(kept[-1], parts=kept[-1].parts or latest.parts)
        return (*kept[:-1], known)
    after_step = latest.after_step if kept else 0
    return (*kept, ScoringPeriod(after_step, latest.judge, latest.parts))


def describe_change(before: ScoringPeriod, after: ScoringPeriod) -> str:
    """What changed between two periods, such as `the judge (gpt-4o-mini → offline heuristic)`."""
    if not (before.parts and after.parts):
        return f"the judge ({before.judge} → {after.judge})"
    changes = []
    # An old run does not name the heuristic's version.
    same_judge = before.parts.get("judge") == after.parts.get("judge")
    for name, words in PART_NAMES.items():
        old, new = before.parts.get(name), after.parts.get(name)
        always = name == "judge" or (name == "heuristic" and same_judge)
        if old == new or (not always and None in (old, new)):
            continue  # a part that only one kind of judge has
        changes.append(f"{words} ({old} → {new})" if name in SHOWN_PARTS else words)
    return " and ".join(changes)


def change_warning(before: ScoringPeriod, after: ScoringPeriod) -> str:
    """The warning for the log when a run continues with another scoring."""
    changed = describe_change(before, after)
    return f"{changed} changed: scores before and after this point are not comparable"


def change_sentences(periods: Sequence[ScoringPeriod]) -> list[str]:
    """One sentence for each change of the scoring of a run."""
    return [
        f"After step {after.after_step} {describe_change(before, after)} changed, so scores before and"
        " after it are not comparable."
        for before, after in pairwise(periods)
    ]
