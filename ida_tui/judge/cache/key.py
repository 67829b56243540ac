"""The key of a kept verdict: a hash over everything that the verdict depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ida_tui.config.schema import JudgeConfig, RubricConfig
from ida_tui.judge.api_key import OPENAI_BASE_URL
from ida_tui.judge.backends.openai import prompt as prompting
from ida_tui.judge.verdict import Question


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Makes the key of a question: sha256 over everything that its verdict depends on."""

    prefix: str
    told_kind: bool = False
    """Whether the judge is told if a prompt is harmless or unsafe."""

    @classmethod
    def of_plugin(cls, config: JudgeConfig, rubric: RubricConfig, version: str) -> CacheKeys:
        """The same for a judge of another package: its name, version and options, and the rubric."""
        shared = {
            "plugin": config.model,
            "version": version,
            "options": config.options,
            "rubric": rubric.model_dump(exclude={"name", "description"}),
        }
        return cls(json.dumps(shared, sort_keys=True), told_kind=True)

    @classmethod
    def of(cls, config: JudgeConfig, rubric: RubricConfig) -> CacheKeys:
        """The part of the key that a run shares: endpoint, model, rubric, wording and sampling."""
        shared = {
            "base_url": (config.base_url or OPENAI_BASE_URL).rstrip("/"),
            "model": config.model,
            "rubric": rubric.model_dump(exclude={"name", "description"}),
            "schema": prompting.verdict_schema(rubric),
            "prompting": prompting.VERSION,
            "sampling": {
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
                "reasoning_effort": config.reasoning_effort,
                "max_judged_chars": config.max_judged_chars,
            },
        }
        return cls(json.dumps(shared, sort_keys=True))

    def key(self, question: Question) -> str:
        """64 hexadecimal digits."""
        own = [self.prefix, question.prompt, question.completion, question.sample_index]
        if self.told_kind:
            own.append(question.kind)
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()
