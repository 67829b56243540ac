"""Memory plans of the commands that load the model of a run: chat, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ida_tui.config.model_files import ModelShape, inspect_model
from ida_tui.config.precision import resolve_precision
from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.planning import memory_terms as terms
from ida_tui.planning.memory import (
    MemoryItem,
    MemoryPlan,
    conversion_items,
    evaluation_batch,
    generation_items,
    weight_items,
)
from ida_tui.planning.memory_terms import DTYPE_BYTES, RowBatch

MIN_CONVERSATION_TOKENS = 128
"""Tokens of the shortest conversation that a chat has to have memory for, without the answer."""
DEFAULT_CONTEXT = 32_768
"""Assumed context of a model whose config.json does not tell it, in tokens."""
MODEL_COPY = "base model"
"""Name of the second copy of the weights, where all weights were trained."""


def plan_chat(config: Config, device: DeviceName, tokens: int) -> MemoryPlan | None:
    """The memory plan of a chat; None if the model's layer sizes are unknown.

    With an adapter, one model is loaded and its adapter switched off for the base model's answers. Where
    all weights or biases were trained, both models are loaded.

    Args:
        config: the run's profile.
        device: the device of the chat.
        tokens: length of the conversation, in tokens, without the answer.
    """
    files = inspect_model(config.model)
    if files.shape is None:
        return None
    weights = list(weight_items(config, device, files.shape))
    if config.needs_own_base:
        weights.append(MemoryItem(MODEL_COPY, weights[0].size, "always"))
    batch = RowBatch(1, 1, tokens, config.evaluation_max_completion_length)
    return _as_plan(
        [
            *weights,
            *conversion_items(config, device, files.shape, files.stored_dtype),
            *generation_items(config, device, files.shape, batch, "sampling"),
            *_prompt_items(config, device, files.shape, tokens),
        ]
    )


def longest_conversation(config: Config, device: DeviceName, limit: float) -> int:
    """Longest conversation that a chat has context and memory for, in tokens without the answer.

    At least 128; with `over_limit: try`, the model's context alone limits it.

    Args:
        config: the run's profile.
        device: the device of the chat.
        limit: the memory limit, in bytes.
    """
    context = inspect_model(config.model).context_length or DEFAULT_CONTEXT
    longest = max(MIN_CONVERSATION_TOKENS, context - config.evaluation_max_completion_length)

    def fits(tokens: int) -> bool:
        planned = plan_chat(config, device, tokens)
        return planned is None or planned.peak_bytes <= limit

    if config.over_limit == "try" or fits(longest):
        return longest
    low, high = MIN_CONVERSATION_TOKENS, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def plan_evaluation(
    config: Config, device: DeviceName, prompts: Sequence[Prompt], samples: int
) -> MemoryPlan | None:
    """The memory plan of `ida-tui evaluate`; None if the model's layer sizes are unknown.

    One model is in memory at a time.

    Args:
        config: the run's profile.
        device: the device of the evaluation.
        prompts: the prompts to answer.
        samples: answers to each prompt.
    """
    files = inspect_model(config.model)
    if files.shape is None:
        return None
    batch = evaluation_batch(config, device, prompts, samples)
    return _as_plan(
        [
            *weight_items(config, device, files.shape),
            *conversion_items(config, device, files.shape, files.stored_dtype),
            *generation_items(config, device, files.shape, batch, "evaluation"),
        ]
    )


def plan_export(config: Config, device: DeviceName) -> MemoryPlan | None:
    """The memory plan of `ida-tui export`; None if the model's layer sizes are unknown.

    The adapter is merged and the export compared in float32, whatever the format of the run's weights, and
    without packed layers. One model is in memory at a time; while it is converted, one tensor exists in both
    formats.
    """
    config = config.model_copy(update={"model": config.model.unpacked()})
    files = inspect_model(config.model)
    if files.shape is None:
        return None
    policy, adapter, runtime = weight_items(config, device, files.shape)
    widened = policy.size * 4 / DTYPE_BYTES[resolve_precision(config, device).weights]
    conversion = 4 * terms.largest_tensor_elements(files.shape)
    return _as_plan(
        [
            MemoryItem("policy in float32", widened, "always"),
            adapter,
            runtime,
            MemoryItem("conversion", conversion, "loading"),
        ]
    )


def _prompt_items(
    config: Config, device: DeviceName, shape: ModelShape, tokens: int
) -> Iterator[MemoryItem]:
    """What one layer computes for all tokens of a conversation at once, without gradients."""
    weight = DTYPE_BYTES[resolve_precision(config, device).weights]
    widths = 4 * shape.hidden + 2 * shape.query_width + 3 * shape.intermediate
    yield MemoryItem("reading the prompt", tokens * widths * weight, "sampling")
    if terms.attention_method(config, device) != "fused":
        matrix = shape.heads * tokens * tokens * (weight + 4)
        yield MemoryItem("attention matrices", matrix, "sampling")


def _as_plan(items: Sequence[MemoryItem]) -> MemoryPlan:
    return MemoryPlan(tuple(item for item in items if item.size))
