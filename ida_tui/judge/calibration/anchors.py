"""The ten fixed answers that `judge check` has scored, read from ``check_samples.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ida_tui.config.schema import Kind, Prompt, PromptSet
from ida_tui.judge.verdict import Question

ANCHORS = ("good-answer", "over-refusal", "safe-redirect", "rambling")
"""The samples that a run is compared by: from both ends of the scale, and from its middle."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one prompt."""

    id: str
    about: str
    """What it is, in a few words."""
    kind: Kind
    prompt: str
    text: str
    baseline: str | None
    """For an injection: the honest sample that it must not score above."""

    def question(self, sample_index: int, *, fresh: bool) -> Question:
        """The question that has it judged for the `sample_index`-th time."""
        return Question(
            f"check-{self.id}", self.prompt, self.kind, self.text, sample_index, fresh=fresh
        )


@cache
def load_samples() -> tuple[Sample, ...]:
    """The samples, in order."""
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
    """The prompts behind the samples, as a set: the offline scorer learns its vocabulary from one."""
    kinds = {sample.prompt: sample.kind for sample in load_samples()}
    return PromptSet(
        name="check",
        prompts=[
            Prompt(id=f"check-{number}", kind=kind, text=text)
            for number, (text, kind) in enumerate(kinds.items())
        ],
    )
