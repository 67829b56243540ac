"""Identity of verdicts: cache keys, and the parts of a scoring on which all scores of a run depend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ida_tui.config.conversation import prompt_context
from ida_tui.config.prompts import texts_of
from ida_tui.config.schema import JudgeConfig, Prompt, PromptSet, RubricConfig
from ida_tui.config.scoring.reward_files import file_digests
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.judge.api_key import OPENAI_BASE_URL, host_of
from ida_tui.judge.backends.offline.heuristic import HEURISTIC_VERSION
from ida_tui.judge.backends.openai import group, prompt
from ida_tui.judge.verdict import JudgeRequest
from ida_tui.util.text import strip_credentials


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
        shared = _plugin_inputs(config, rubric, version)
        return cls(json.dumps(shared, sort_keys=True), includes_kind=True)

    @classmethod
    def for_endpoint(cls, config: JudgeConfig, rubric: RubricConfig) -> CacheKeyBuilder:
        """Keys for an endpoint: from its URL, model, rubric, prompt wording and sampling options."""
        shared = _endpoint_inputs(config, rubric)
        return cls(json.dumps(shared, sort_keys=True))

    def build(self, request: JudgeRequest) -> str:
        """The key of one request: 64 hexadecimal digits."""
        parts: list[object] = [
            self.prefix, request.prompt, request.completion, request.sample_index
        ]  # fmt: skip
        if self.includes_kind:
            parts.append(request.kind)
        parts += [part for part in (request.context, request.checks) if part]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def build_group(self, requests: Sequence[JudgeRequest], sample_index: int) -> list[str]:
        """The keys of the verdicts of one call on a group: each depends on all parts of the group."""
        first, completions = requests[0], [request.completion for request in requests]
        parts = ["group", group.GROUP_PROMPT_VERSION, self.prefix, first.prompt, completions]
        parts += [sample_index, first.context, first.checks]
        shared = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return [
            hashlib.sha256(f"{shared} {position}".encode()).hexdigest()
            for position in range(len(requests))
        ]


def scoring_parts(
    config: JudgeConfig, rubric: RubricConfig, prompts: PromptSet, plugin_version: str | None = None
) -> dict[str, str]:
    """What the scores of a run depend on: two runs, or two parts of one, are comparable if it is equal.

    Returns:
        Parts as named in `ida_tui.events.scoring.PART_NAMES`, with a short text or a digest each.
    """
    parts = {
        "formula": rubric.formula_text,
        **_function_parts(rubric),
        "prompts": _digest_items(_prompt_parts(p, prompts.system) for p in prompts.train()),
    }
    if config.kind == "none":
        return {"judge": "", **parts}
    if config.kind == "offline":
        corpus = _digest_items(texts_of(prompts.rows()))
        version = {"corpus": corpus, "heuristic": HEURISTIC_VERSION}
        return {"judge": OFFLINE_JUDGE, **parts, **version}
    if config.kind == "plugin":
        inputs = _plugin_inputs(config, rubric, plugin_version)
        judge = f"{config.model} (plugin) {plugin_version or ''}".rstrip()
        settings: list[object] = [inputs["options"], config.samples]
    else:
        inputs = _endpoint_inputs(config, rubric)
        judge = f"{config.model} at {host_of(config.base_url)}"
        parts["endpoint"] = strip_credentials(str(inputs["base_url"]))
        parts["prompting"] = str(inputs["prompting"])
        # A reply that is complete does not depend on its maximum length.
        sampling = {k: v for k, v in inputs["sampling"].items() if k != "max_tokens"}
        settings = [sampling, config.samples]
        if extra := _extra_inputs(config):
            settings = [*settings, extra]
        if config.mode == "group":
            settings = [*settings, "group"]
            parts["prompting"] += f" for groups {group.GROUP_PROMPT_VERSION}"
    if config.include_thoughts:
        settings = [settings, "with thoughts"]
    instructions = {key: value for key, value in inputs["rubric"].items() if key != "formula"}
    return {
        "judge": judge,
        **parts,
        "rubric": _digest(instructions),
        "settings": _digest(settings),
    }


def _prompt_parts(prompt: Prompt, default_system: str | None) -> list[object]:
    """What makes a prompt another one; without context and columns if it has none, as in older runs."""
    context = prompt_context(prompt, default_system)
    more = [part for part in (context, prompt.columns) if part]
    return [prompt.id, prompt.kind, prompt.text, *more]


def _function_parts(rubric: RubricConfig) -> dict[str, str]:
    """The computed axes of a run and the contents of their files; empty without computed axes."""
    if not rubric.computed_axes:
        return {}
    axes = [
        (name, axis.function.rpartition("/")[2], axis.options, axis.range, axis.include_thoughts)
        for name, axis in rubric.computed_axes.items()
    ]
    return {"functions": _digest([axes, list(file_digests(rubric).values())])}


def _plugin_inputs(
    config: JudgeConfig, rubric: RubricConfig, version: str | None
) -> dict[str, Any]:
    """What a verdict of a plugin depends on."""
    return {
        "plugin": config.model,
        "version": version,
        "options": config.options,
        "rubric": rubric.instructions(),
    }


def _endpoint_inputs(config: JudgeConfig, rubric: RubricConfig) -> dict[str, Any]:
    """What a verdict of an endpoint depends on."""
    return {
        "base_url": (config.base_url or OPENAI_BASE_URL).rstrip("/"),
        "model": config.model,
        "rubric": rubric.instructions(),
        "schema": prompt.verdict_schema(rubric),
        "prompting": prompt.PROMPT_VERSION,
        "sampling": {
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "reasoning_effort": config.reasoning_effort,
            "max_judged_chars": config.max_judged_chars,
        },
        **_extra_inputs(config),
    }


def _extra_inputs(config: JudgeConfig) -> dict[str, Any]:
    """The further fields and parameters of a request; empty without any, as in older caches."""
    return {key: value for key in ("extra_body", "extra_query") if (value := getattr(config, key))}


def _digest_items(items: Iterable[object]) -> str:
    """The digest of a list, which is not held in memory."""
    digest, separator = hashlib.sha256(b"["), ""
    for item in items:
        digest.update((separator + json.dumps(item, sort_keys=True)).encode())
        separator = ", "
    digest.update(b"]")
    return digest.hexdigest()[:12]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
