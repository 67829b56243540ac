"""Log-probabilities of completions: each shared prompt is computed once, with little padding.

TRL runs prompt and completion of every row through the model, padded to the longest row. Without Triton it
also applies the output layer to prompts and padding. Here each distinct prompt goes through the model once,
and its keys and values (with their gradients) serve all its completions. In float32 on the CPU the batch is
one sequence (`joint_sequence`); elsewhere completions of similar length form a micro-batch. Only completion
tokens reach the output layer. `tests/engine/trainer/test_fast_parity.py` compares the results and the
gradients with TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from ida_tui.engine.architecture.parts import CausalParts
from ida_tui.engine.loss.fused_layers import use_fused_layers
from ida_tui.engine.loss.joint_sequence import (
    JointSequence,
    joint_states,
    supports_joint_sequences,
)
from ida_tui.engine.loss.lm_head import chunked_logprobs
from ida_tui.engine.loss.padding import similar_lengths


@dataclass(frozen=True, slots=True)
class CompletionBatch:
    """A batch split into distinct prompts and completions.

    Args:
        prompts: the distinct prompts, left-padded, (prompts, longest prompt).
        prompt_mask: 1 for a prompt token, 0 for padding, in the shape of `prompts`.
        prompt_of: index of each row's prompt, (rows,).
        completions: right-padded, (rows, longest completion).
        lengths: number of tokens of each completion.
        bucket: completion lengths are rounded up to a multiple of this.
    """

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    prompt_of: torch.Tensor
    completions: torch.Tensor
    lengths: list[int]
    bucket: int = 1

    @classmethod
    def from_padded(
        cls,
        ids: torch.Tensor,
        mask: torch.Tensor,
        logits_to_keep: int,
        bucket: int = 1,
        *,
        trim: bool = True,
    ) -> CompletionBatch:
        """Split TRL's padded tensors.

        Args:
            ids: (rows, prompt + completion), prompts padded on the left and completions on the right.
            mask: 1 for a token, 0 for padding, in the shape of `ids`.
            logits_to_keep: width of the completion part.
            bucket: both widths are padded to a multiple of this.
            trim: whether the width of the prompts may change: padding common to all of them is removed.
        """
        if bucket > 1:
            before, after = -(ids.shape[1] - logits_to_keep) % bucket, -logits_to_keep % bucket
            before = before if trim else 0
            ids, mask = (functional.pad(tensor, (before, after)) for tensor in (ids, mask))
            logits_to_keep += after
        width = ids.shape[1] - logits_to_keep
        prompts, prompt_mask = ids[:, :width], mask[:, :width]
        ids_and_mask = torch.cat((prompts * prompt_mask, prompt_mask), dim=1)
        unique, prompt_of = torch.unique(ids_and_mask, dim=0, return_inverse=True)
        unique_mask = unique[:, width:]
        longest = int(unique_mask.sum(dim=1).max()) if width and trim else width
        lengths = mask[:, width:].sum(dim=1).tolist()
        longest = min(width, -(-longest // bucket) * bucket)
        return cls(
            prompts=unique[:, width - longest : width],
            prompt_mask=unique_mask[:, width - longest :],
            prompt_of=prompt_of,
            completions=ids[:, width:],
            lengths=[int(length) for length in lengths],
            bucket=bucket,
        )

    def micro_batches(self) -> Iterator[list[int]]:
        """Rows that go through the model together, grouped by length to limit padding."""
        return similar_lengths(self.lengths)


def completion_logprobs(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    logits_to_keep: int,
    temperature: float,
    *,
    with_entropy: bool,
    entropy_gradient: bool = False,
    bucket: int = 1,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability and entropy of every completion token at a sampling temperature.

    Args:
        model: a causal language model that `scoring_support.unsupported_reason` accepts.
        ids: (rows, prompt + completion).
        mask: 1 for a token, 0 for padding. A row whose completion is fully masked gets zeros. If all are, the
            zeros still have a gradient, of zero, for every trained weight.
        logits_to_keep: width of the completion part.
        temperature: the logits are divided by it.
        with_entropy: whether to return entropies.
        entropy_gradient: whether they have a gradient, for an entropy bonus.
        bucket: sequence lengths are rounded up to a multiple of this (`device.length_bucket`).

    Returns:
        Log-probabilities, (rows, logits_to_keep), zero at padding; and entropies in the same shape, or None.
    """
    parts = CausalParts.of(model)
    backbone = parts.backbone
    is_relative = _has_relative_positions(backbone)
    batch = CompletionBatch.from_padded(ids, mask, logits_to_keep, bucket, trim=is_relative)
    if not any(batch.lengths):
        zeros = torch.zeros(ids.shape[0], logits_to_keep, device=ids.device)
        return zeros + _zero_of_trained_weights(model), zeros if with_entropy else None
    # Gradient checkpointing recomputes activations, which does not work with a key-value cache.
    recomputes = backbone.is_gradient_checkpointing and backbone.training
    # The backward pass recomputes the forward pass, which must then use the same kernels.
    with nullcontext() if recomputes else use_fused_layers(backbone):
        longest = batch.prompts.shape[1] + max(batch.lengths)
        if bucket == 1 and not recomputes and supports_joint_sequences(backbone, longest):
            sequence = JointSequence.of(batch, logits_to_keep, backbone.config.num_attention_heads)
            hidden, labels = joint_states(backbone, sequence), sequence.labels
            positions = sequence.columns
        else:
            hidden, labels, positions = _states_of_micro_batches(
                backbone, batch, logits_to_keep, recomputes=recomputes
            )
    return _logprobs_of_states(
        parts,
        hidden,
        labels,
        positions,
        (ids.shape[0], logits_to_keep),
        temperature,
        with_entropy,
        entropy_gradient,
    )


def _states_of_micro_batches(
    backbone: Any, batch: CompletionBatch, width: int, *, recomputes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states that predict the completion tokens, those tokens, and their places in the result."""
    states_of = (
        _states_of_full_rows(backbone, batch)
        if recomputes
        else _states_with_shared_prompts(backbone, batch)
    )
    hidden, labels, positions = [], [], []
    device = batch.completions.device
    for rows in batch.micro_batches():
        longest = -(-batch.lengths[rows[0]] // batch.bucket) * batch.bucket
        if longest == 0:
            continue
        index = torch.tensor(rows, device=device)
        tokens = batch.completions[index, :longest]
        states = states_of(batch.prompt_of[index], tokens)
        valid = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
        for position, row in enumerate(rows):
            valid[position, : batch.lengths[row]] = True
        hidden.append(states[valid])
        labels.append(tokens[valid])
        columns = torch.arange(longest, device=device)
        positions.append((index[:, None] * width + columns)[valid])
    return torch.cat(hidden), torch.cat(labels), torch.cat(positions)


def _zero_of_trained_weights(model: Any) -> torch.Tensor | float:
    """A zero whose gradient is zero for every trained weight, so that the optimizer updates all of them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum((parameter.reshape(-1)[:1].sum() * 0.0 for parameter in trained), 0.0)


def _has_relative_positions(backbone: Any) -> bool:
    """Whether only the distance of two tokens matters, so that a row may start at any position.

    Other models count positions from the left end of TRL's batch, padding included, or from the mask.
    """
    return hasattr(backbone, "rotary_emb")


def _position_ids(backbone: Any, mask: torch.Tensor, tokens: int) -> dict[str, torch.Tensor]:
    """Argument `position_ids` for the last `tokens` columns of a mask; none where the model counts itself."""
    if not _has_relative_positions(backbone):
        return {}
    return {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens:]}


StatesFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes the hidden states that predict the completion tokens, (rows, longest, hidden).

The arguments are the index of each row's prompt, (rows,), and its completion tokens, (rows, longest). The
first state of a row is that of its last prompt token.
"""


def _states_with_shared_prompts(backbone: Any, batch: CompletionBatch) -> StatesFunction:
    """Run every distinct prompt through the model once and reuse its keys and values for all completions."""
    cache = DynamicCache()
    prompt_states = backbone(
        input_ids=batch.prompts,
        attention_mask=batch.prompt_mask,
        past_key_values=cache,
        use_cache=True,
        **_position_ids(backbone, batch.prompt_mask, batch.prompts.shape[1]),
    ).last_hidden_state

    def states(prompt_of: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = prompt_states[prompt_of, -1:]
        if tokens.shape[1] == 1:
            return last
        completion_states = _continue_from_prompts(backbone, cache, batch, prompt_of, tokens)
        return torch.cat((last, completion_states), dim=1)

    return states


def _states_of_full_rows(backbone: Any, batch: CompletionBatch) -> StatesFunction:
    """Run prompt and completion of each row as one sequence, which gradient checkpointing requires."""

    def states(prompt_of: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        mask = batch.prompt_mask[prompt_of]
        full_mask = torch.cat((mask, mask.new_ones(tokens.shape)), dim=1)
        all_states = backbone(
            input_ids=torch.cat((batch.prompts[prompt_of], tokens), dim=1),
            attention_mask=full_mask,
            use_cache=False,
            **_position_ids(backbone, full_mask, full_mask.shape[1]),
        ).last_hidden_state
        predicting: torch.Tensor = all_states[:, mask.shape[1] - 1 : -1]
        return predicting

    return states


def _continue_from_prompts(
    backbone: Any,
    prompts: DynamicCache,
    batch: CompletionBatch,
    prompt_of: torch.Tensor,
    tokens: torch.Tensor,
) -> torch.Tensor:
    """Hidden states of all completion tokens except the last, (rows, longest - 1, hidden)."""
    cache = DynamicCache()
    is_single_prompt = batch.prompts.shape[0] == 1
    for layer_index, layer in enumerate(prompts.layers):
        if is_single_prompt:  # a view, which does not copy keys and values
            keys = layer.keys.expand(len(tokens), -1, -1, -1)
            values = layer.values.expand(len(tokens), -1, -1, -1)
        else:
            keys, values = layer.keys[prompt_of], layer.values[prompt_of]
        cache.update(keys, values, layer_index)
    tokens = tokens[:, :-1]
    mask = batch.prompt_mask[prompt_of]
    # Padding on the right needs no mask: causal attention hides it from all tokens.
    full_mask = torch.cat((mask, mask.new_ones(tokens.shape)), dim=1)
    states: torch.Tensor = backbone(
        input_ids=tokens,
        attention_mask=full_mask,
        past_key_values=cache,
        use_cache=True,
        **_position_ids(backbone, full_mask, tokens.shape[1]),
    ).last_hidden_state
    return states


def _logprobs_of_states(
    parts: CausalParts,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    positions: torch.Tensor,
    shape: tuple[int, int],
    temperature: float,
    with_entropy: bool,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply the output layer to the hidden states and scatter the results to their rows and columns."""
    logprobs, entropies = chunked_logprobs(
        hidden,
        parts.head.weight,
        parts.head.bias,
        labels,
        temperature,
        entropy_gradient,
        scale=parts.scale,
        softcap=parts.softcap,
    )

    def scatter(values: torch.Tensor) -> torch.Tensor:
        flat = values.new_zeros(shape[0] * shape[1])
        return flat.scatter(0, positions, values).view(shape)

    return scatter(logprobs), scatter(entropies) if with_entropy else None
