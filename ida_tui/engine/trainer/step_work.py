"""Work of a training step: memory to read, arithmetic to do, and the shortest time for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ida_tui.engine.device.speed import DeviceSpeed, measure_speed


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes of a causal language model that decide how much work a token is."""

    body_weights: int
    """Weights that every token is multiplied with, without the output layer."""
    head_weights: int
    """Weights of the output layer."""
    weight_bytes: int
    """Bytes of both, as stored."""
    cache_bytes: int
    """Bytes of the keys and values of one token in all layers."""
    attention_flops: int
    """Floating-point operations that one token spends on each token before it, in all layers."""
    trains_all_weights: bool

    @classmethod
    def from_model(cls, model: Any, *, trains_all_weights: bool) -> ModelSize | None:
        """Sizes of a model; None if a token does not use all of its weights (mixture of experts).

        Args:
            model: the policy, with or without an adapter.
            trains_all_weights: whether the gradients of all weights are computed.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config, head = base.config, base.get_output_embeddings()
        embedding = base.get_input_embeddings()
        expert_counts = ("num_experts", "num_local_experts", "n_routed_experts")
        if any((getattr(config, name, None) or 0) > 1 for name in expert_counts):
            return None
        if head is None or embedding is None or not hasattr(head, "weight"):
            return None
        heads = getattr(config, "num_attention_heads", 0)
        head_size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        layers = config.num_hidden_layers
        cached_heads = getattr(config, "num_key_value_heads", None) or heads
        shared = embedding.weight is head.weight
        total = sum(parameter.numel() for parameter in model.parameters())
        total_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        looked_up = 0 if shared else embedding.weight.numel()
        return cls(
            body_weights=total - head.weight.numel() - looked_up,
            head_weights=head.weight.numel(),
            weight_bytes=total_bytes - looked_up * embedding.weight.element_size(),
            cache_bytes=2 * layers * cached_heads * head_size * head.weight.element_size(),
            attention_flops=4 * layers * heads * head_size,
            trains_all_weights=trains_all_weights,
        )


class StepAccount:
    """What the steps of a run compute, and how long that takes at least.

    Args:
        model: the policy.
        dtype: number format in which matrices are multiplied.
        trains_all_weights: whether the gradients of all weights are computed.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, trains_all_weights: bool) -> None:
        self._size = ModelSize.from_model(model, trains_all_weights=trains_all_weights)
        self._speed = measure_speed(model.device, dtype)
        self._prompt_lengths: list[int] = []
        self._completion_lengths: list[int] = []
        self.stragglers_s: float | None = None
        """Time of the newest rollout in which nine in ten completions had ended; None if unknown."""

    def record_rollout(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        stragglers_s: float | None,
    ) -> None:
        """Record a rollout: the token ids of each row's prompt and completion."""
        self._prompt_lengths = [len(prompt) for prompt in {tuple(prompt) for prompt in prompts}]
        self._completion_lengths = [len(completion) for completion in completions]
        self.stragglers_s = stragglers_s

    def least_seconds(self) -> dict[str, float]:
        """Shortest time of each phase for the newest rollout; empty for models of unknown size."""
        if self._size is None or not self._completion_lengths:
            return {}
        return least_seconds(
            self._size, self._speed, self._prompt_lengths, self._completion_lengths
        )


def least_seconds(
    size: ModelSize,
    speed: DeviceSpeed,
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
) -> dict[str, float]:
    """Shortest time of each phase that computes, at the measured speed of the device.

    The time is that of perfect code: each distinct prompt is read once, finished completions cost nothing,
    and reading memory overlaps with arithmetic.

    Args:
        size: the model.
        speed: the device.
        prompt_lengths: tokens of each distinct prompt.
        completion_lengths: tokens of each completion.
    """
    prompt_tokens, tokens = sum(prompt_lengths), sum(completion_lengths)
    forward = 2 * (size.body_weights * (prompt_tokens + tokens) + size.head_weights * tokens)
    # The gradient of the inputs costs as much as the forward pass; so does that of the weights.
    passes = 3 if size.trains_all_weights else 2
    return {
        "generate": _least_generation_s(size, speed, prompt_lengths, completion_lengths),
        "reference": speed.least_seconds(size.weight_bytes, forward),
        "update": speed.least_seconds(passes * size.weight_bytes, passes * forward),
    }


def _least_generation_s(
    size: ModelSize,
    speed: DeviceSpeed,
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
) -> float:
    weights = size.body_weights + size.head_weights
    prefill = 2 * size.body_weights * sum(prompt_lengths)
    seconds = speed.least_seconds(size.weight_bytes, prefill)
    context = sum(prompt_lengths) / max(1, len(prompt_lengths))
    lengths = sorted(completion_lengths)
    done = start = 0
    # Between two ends of completions the number of rows is the same.
    for length in dict.fromkeys(lengths):
        rows, positions = len(lengths) - done, length - start
        seen = rows * (context + (start + length) / 2)
        seconds += positions * speed.least_seconds(
            size.weight_bytes + seen * size.cache_bytes,
            2 * weights * rows + seen * size.attention_flops,
        )
        done += lengths.count(length)
        start = length
    return seconds
