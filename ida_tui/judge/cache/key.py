"""Cache keys of verdicts: a hash of everything that a verdict depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ida_tui.config.schema import JudgeConfig, RubricConfig
from ida_tui.judge.api_key import OPENAI_BASE_URL
from ida_tui.judge.backends.openai import prompt
from ida_tui.judge.verdict import JudgeRequest


@dataclass(frozen=True, slots=True)
class CacheKeyBuilder:
    """Builds the cache key of a request: SHA-256 of everything that its verdict depends on."""

    prefix: str
    """The part of the key that all requests of a run share, as JSON."""
    includes_kind: bool = False
    """Whether the judge sees if a prompt is harmless or unsafe, so that the key must include it."""

    @classmethod
    def for_plugin(cls, config: JudgeConfig, rubric: RubricConfig, version: str) -> CacheKeyBuilder:
        """Keys for a plugin judge: from its name, version and options, and the rubric."""
        shared = {
            "plugin": config.model,
            "version": version,
            "options": config.options,
            "rubric": rubric.model_dump(exclude={"name", "description"}),
        }
        return cls(json.dumps(shared, sort_keys=True), includes_kind=True)

    @classmethod
    def for_endpoint(cls, config: JudgeConfig, rubric: RubricConfig) -> CacheKeyBuilder:
        """Keys for an endpoint: from its URL, model, rubric, prompt wording and sampling options."""
        shared = {
            "base_url": (config.base_url or OPENAI_BASE_URL).rstrip("/"),
            "model": config.model,
            "rubric": rubric.model_dump(exclude={"name", "description"}),
            "schema": prompt.verdict_schema(rubric),
            "prompting": prompt.PROMPT_VERSION,
            "sampling": {
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
                "reasoning_effort": config.reasoning_effort,
                "max_judged_chars": config.max_judged_chars,
            },
        }
        return cls(json.dumps(shared, sort_keys=True))

    def build(self, request: JudgeRequest) -> str:
        """The key of one request: 64 hexadecimal digits."""
        parts = [self.prefix, request.prompt, request.completion, request.sample_index]
        if self.includes_kind:
            parts.append(request.kind)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
