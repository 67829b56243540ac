"""Memory plans of chat, evaluation and export, and what happens when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.export.write import write_export
from ida_tui.engine.inference.chat_models import ChatModels
from ida_tui.engine.inference.evaluate import EvaluationPrompts, generate_pairs
from ida_tui.errors import ExitCode, IdaError
from ida_tui.planning import inference_memory
from ida_tui.planning.memory import MemoryPlan
from ida_tui.runs.weights import TrainedWeights

TOKEN = 36 * 2 * 1024 * 2
"""Bytes of keys and values of a token: layers, two, width, float16."""


def mac(*overrides: str) -> Config:
    return resolve("oblit-1-mps", list(overrides), verify=False).config


def items(plan: MemoryPlan | None) -> dict[str, float]:
    assert plan is not None
    return {item.name: item.size for item in plan.items}


def peak(plan: MemoryPlan | None) -> float:
    assert plan is not None
    return plan.peak_bytes


def test_a_chat_with_an_adapter_holds_one_model_and_the_cache_of_its_conversation() -> None:
    parts = items(inference_memory.plan_chat(mac(), "mps", 1000))
    assert parts["policy"] == 4_022_468_096 * 2
    assert inference_memory.MODEL_COPY not in parts
    assert parts["KV cache"] == (1000 + 512) * TOKEN
    assert parts["attention matrices"] == 32 * 1000 * 1000 * 6


def test_a_chat_with_a_fully_trained_model_holds_both_models() -> None:
    parts = items(inference_memory.plan_chat(mac("training.method=full"), "cpu", 1000))
    assert parts[inference_memory.MODEL_COPY] == parts["policy"]
    assert "adapter" not in parts


def test_a_conversation_may_be_as_long_as_context_and_memory_allow() -> None:
    config = mac()
    assert inference_memory.longest_conversation(config, "cuda", 1e12) == 40_960 - 512
    limit = 12e9
    longest = inference_memory.longest_conversation(config, "mps", limit)
    needed = [peak(inference_memory.plan_chat(config, "mps", n)) for n in (longest, longest + 1)]
    assert needed[0] <= limit < needed[1]


def test_an_evaluation_holds_one_model_and_the_rows_that_it_samples_at_a_time() -> None:
    config = mac("training.rollout_rows=4")
    parts = items(
        inference_memory.plan_evaluation(config, "mps", config.prompts.held_out(), samples=4)
    )
    assert parts["KV cache"] == (4 * 512 + 64) * TOKEN
    assert parts["logits"] == 6 * 4 * 151_936 * 4
    assert {"gradients", "optimizer", "activations"}.isdisjoint(parts)


def test_an_export_holds_the_model_in_float32() -> None:
    assert (
        items(inference_memory.plan_export(mac(), "cpu"))["policy in float32"] == 4_022_468_096 * 4
    )


@pytest.mark.parametrize("subject", ["chat", "evaluation", "export"])
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(
    subject: str, tmp_path: Path
) -> None:
    config = resolve("quickstart", ["limit_gb=0.5"]).config
    weights = cast(TrainedWeights, None)  # not reached
    held_out = EvaluationPrompts("held out", config.prompts.held_out())
    actions: dict[str, Any] = {
        "chat": lambda: ChatModels(config, weights),
        "evaluation": lambda: generate_pairs(config, None, held_out, samples=1, seeds=(0, 0)),
        "export": lambda: write_export(config, weights, "merged", tmp_path),
    }
    with pytest.raises(IdaError) as raised:
        actions[subject]()
    assert raised.value.code is ExitCode.OUT_OF_MEMORY
    assert f"the {subject} does not fit: it needs about 1." in raised.value.title
    assert "the limit is 0.5 GB" in raised.value.title
    assert "limit_gb" in raised.value.hint
