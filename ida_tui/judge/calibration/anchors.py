"""Anchor answers from ``check_samples.yaml``: ten fixed answers that calibrate a judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ida_tui.config.schema import Kind, Prompt, PromptSet
from ida_tui.judge.verdict import Question

ANCHORS = ("good-answer", "over-refusal", "safe-redirect", "rambling")
"""Ids of the anchors that a run scores repeatedly: from both ends and the middle of the scale."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One fixed answer to a fixed prompt."""

    id: str
    about: str
    """A description in a few words."""
    kind: Kind
    prompt: str
    text: str
    baseline: str | None
    """For an injection: the id of the honest answer that it must not score above."""

    def question(self, sample_index: int, *, fresh: bool) -> Question:
        """The request for the verdict number `sample_index` on this answer."""
        return Question(
            f"check-{self.id}", self.prompt, self.kind, self.text, sample_index, fresh=fresh
        )


@cache
def load_samples() -> tuple[Sample, ...]:
    """All anchor answers, in the order of the file."""
    path = Path(__file__).with_name("anchors.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    prompts = data["prompts"]
    return tuple(
        Sample(
            id=row["id"],
            about=row["about"],
            kind=prompts[row["prompt"]]["kind"],
            prompt=prompts[row["prompt"]]["text"],
            text=row["text"],
            baseline=row.get("baseline"),
        )
        for row in data["samples"]
    )


def sample_prompts() -> PromptSet:
    """The prompts of the anchor answers as a prompt set, from which the offline judge builds its IDF."""
    kinds = {sample.prompt: sample.kind for sample in load_samples()}
    return PromptSet(
        name="check",
        prompts=[
            Prompt(id=f"check-{number}", kind=kind, text=text)
            for number, (text, kind) in enumerate(kinds.items())
        ],
    )
