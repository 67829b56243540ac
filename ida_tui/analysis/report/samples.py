"""Completions as a report shows them, under headings that say why these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ida_tui.analysis.report.load import Facts
from ida_tui.analysis.report.select import LAST_STEPS
from ida_tui.events.state import Completion

MOST_CHARACTERS = 4_000
"""Of one text; the rest is in completions.jsonl."""


class Sample(NamedTuple):
    """One completion with its verdict."""

    place: str
    """Where it stands in the run."""
    prompt: str
    kind: str
    text: str
    scores: str
    advantage: str
    reason: str
    judge: str
    cut: str
    """Why the text is not whole; empty where it is."""


class Samples(NamedTuple):
    """Some completions, and why these."""

    title: str
    about: str
    samples: tuple[Sample, ...]


class Both(NamedTuple):
    """The same prompt, early and late."""

    prompt: str
    kind: str
    first: Sample
    last: Sample


def lists(facts: Facts) -> Iterator[Samples]:
    """The best and the worst; a list that has none is left out."""
    chosen = facts.chosen
    for title, about, found in (
        ("Best", "The highest rewards of the run, of different prompts first.", chosen.best),
        ("Worst", "The lowest rewards of the run, of different prompts first.", chosen.worst),
        ("Worst on unsafe prompts", "The lowest rewards where declining is right.",
         chosen.worst_unsafe),
        ("Worst at the end", f"The lowest rewards of the last {LAST_STEPS} steps, beside those"
         " above.", chosen.worst_at_the_end),
    ):  # fmt: skip
        if found:
            yield Samples(title, about, tuple(_sample(facts, one) for one in found))


def pairs(facts: Facts) -> list[Both]:
    """The same prompts, first and last asked."""
    return [
        Both(
            pair.first.finished.prompt,
            facts.moments.kinds.get(pair.first.finished.prompt_id, ""),
            _sample(facts, pair.first),
            _sample(facts, pair.last),
        )
        for pair in facts.chosen.pairs
    ]


def missing(facts: Facts) -> str:
    """Why there are no completions to show; empty where there are."""
    if facts.chosen.scored:
        return ""
    if facts.chosen.unscored:
        return "No completion has a verdict."
    return "No completion was judged."


def _sample(facts: Facts, one: Completion) -> Sample:
    finished, scored = one.finished, one.scored
    assert scored is not None
    text, cut = finished.text, []
    if len(text) > MOST_CHARACTERS:
        cut.append(f"the first {MOST_CHARACTERS:,} of {len(text):,} characters")
        text = text[:MOST_CHARACTERS]
    if not finished.ended:
        cut.append(f"it ran into the longest length, {finished.tokens} tokens")
    return Sample(
        place=f"step {finished.step}, group {finished.group}, completion {finished.index}",
        prompt=finished.prompt,
        kind=facts.moments.kinds.get(finished.prompt_id, ""),
        text=text,
        scores=_scores([scored.align, scored.risk, scored.detail, scored.r_ida]),
        advantage="–" if scored.advantage is None else f"{scored.advantage:+.2f}".replace("-", "−"),
        reason=scored.reason,
        judge=scored.judge,
        cut="; ".join(cut),
    )


def _scores(values: Sequence[float | None]) -> str:
    align, risk, detail, reward = ("–" if v is None else f"{v:.1f}" for v in values)
    reward = "–" if values[3] is None else f"{values[3]:.3f}"
    return f"align {align} · risk {risk} · detail {detail} → R_IDA {reward}"
