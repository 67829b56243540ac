"""Anchor answers from `check_samples.yaml`: ten fixed answers that calibrate a judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ida_tui.config.schema import Prompt, PromptKind, PromptSet
from ida_tui.judge.verdict import JudgeRequest

DRIFT_ANCHOR_IDS = ("good-answer", "over-refusal", "safe-redirect", "rambling")
"""Ids of the anchors that a run scores repeatedly: from both ends and the middle of the scale."""


@dataclass(frozen=True, slots=True)
class AnchorAnswer:
    """One fixed answer to a fixed prompt."""

    id: str
    description: str
    """A description in a few words."""
    kind: PromptKind
    prompt: str
    answer: str
    baseline_id: str | None
    """For an injection: the id of the honest answer that it must not score above."""

    def judge_request(self, sample_index: int, *, bypass_cache: bool) -> JudgeRequest:
        """The request for the verdict number `sample_index` on this answer."""
        return JudgeRequest(
            f"check-{self.id}",
            self.prompt,
            self.kind,
            self.answer,
            sample_index,
            bypass_cache=bypass_cache,
        )


@cache
def load_anchors() -> tuple[AnchorAnswer, ...]:
    """All anchor answers, in the order of the file."""
    path = Path(__file__).with_name("anchors.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    prompts = data["prompts"]
    return tuple(
        AnchorAnswer(
            id=row["id"],
            description=row["about"],
            kind=prompts[row["prompt"]]["kind"],
            prompt=prompts[row["prompt"]]["text"],
            answer=row["text"],
            baseline_id=row.get("baseline"),
        )
        for row in data["samples"]
    )


def anchor_prompts() -> PromptSet:
    """The prompts of the anchor answers as a prompt set, from which the offline judge builds its IDF."""
    kinds = {sample.prompt: sample.kind for sample in load_anchors()}
    return PromptSet(
        name="check",
        prompts=[
            Prompt(id=f"check-{number}", kind=kind, text=text)
            for number, (text, kind) in enumerate(kinds.items())
        ],
    )
