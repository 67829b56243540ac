"""Attention of a joint sequence: causal within each prompt and completion, and from completions to prompts.

The two parts of a completion's attention, to its prompt and to its own tokens, are computed separately and
combined with their log-sum-exps, as flash attention combines blocks. No mask and no copy of the prompt's keys
and values is needed, and the prompt's keys are read once for all its completions. The backward pass of a part
is that of flash attention with the combined output and log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The tokens of a prompt, and those of all its completions, which follow it."""

    prompt: slice
    completions: slice


@dataclass(frozen=True, slots=True)
class Segments:
    """Prompts or completions of similar lengths, computed together.

    Args:
        index: index of each token, (segments, longest); padding repeats a segment's last token.
        is_padding: whether it is padding, (segments, longest); None if nothing is.
        kept: positions in the flattened `index` that are no padding; None if all are.
        span: the tokens, if they follow each other without padding; else None.
    """

    index: torch.Tensor
    is_padding: torch.Tensor | None
    kept: torch.Tensor | None
    span: slice | None

    @classmethod
    def of(cls, segments: Sequence[tuple[int, int]]) -> Segments:
        """Segments given by start and length."""
        ordered = sorted(segments)
        starts, lengths = (torch.tensor(values)[:, None] for values in zip(*ordered, strict=True))
        longest = int(lengths.max())
        offsets = torch.arange(longest)
        index = starts + torch.minimum(offsets, lengths - 1)
        is_padding = offsets >= lengths
        if bool(is_padding.any()):
            return cls(index, is_padding, (~is_padding).flatten().nonzero()[:, 0], None)
        first, end = int(starts[0]), int(starts[-1]) + longest
        is_span = end - first == index.numel()
        return cls(index, None, None, slice(first, end) if is_span else None)

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """(tokens, …) → (segments, longest, …)."""
        if self.span is not None:
            return values[self.span].unflatten(0, self.index.shape)
        return values.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Write (segments, longest, …) to their tokens of (tokens, …)."""
        if self.span is not None:
            target[self.span].unflatten(0, self.index.shape).copy_(values)
            return
        index, flat = self.index.flatten(), values.flatten(0, 1)
        if self.kept is not None:
            index, flat = index[self.kept], flat.index_select(0, self.kept)
        target.index_copy_(0, index, flat)


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """Which tokens of a joint sequence attend to which.

    Args:
        segments: the prompts and completions; attention within each is causal.
        groups: the prompts that have completions of more than one token.
    """

    segments: tuple[Segments, ...]
    groups: tuple[PromptGroup, ...]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    scaling: float,
    layout: SequenceLayout,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers for a joint sequence.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, head width).
        key: (1, key-value heads, tokens, head width).
        value: like `key`.
        attention_mask: not read.
        scaling: factor of the scores.
        layout: which tokens attend to which.
        **_: other arguments of transformers.

    Returns:
        The outputs, (1, tokens, heads, head width), and no attention weights.
    """
    outputs: torch.Tensor = _SharedPromptAttention.apply(query, key, value, scaling, layout)
    return outputs, None


class _SharedPromptAttention(torch.autograd.Function):
    """Attention of a joint sequence; saves its inputs, its output and the log-sum-exps."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        per_key = q.shape[1] // k.shape[1]
        out = torch.empty_like(q)
        log_sum_exp = q.new_empty(q.shape[:2])
        for segments in layout.segments:
            queries, keys, values = (segments.take(tensor) for tensor in (q, k, v))
            for head in range(per_key):
                part, part_lse = _flash(
                    queries[:, :, head::per_key].transpose(1, 2),
                    keys.transpose(1, 2),
                    values.transpose(1, 2),
                    0.0,
                    True,
                    scale=scaling,
                )
                segments.put(out[:, head::per_key], part.transpose(1, 2))
                segments.put(log_sum_exp[:, head::per_key], part_lse.transpose(1, 2))
        for group in layout.groups:
            part, part_lse = _flash(
                _by_key_head(q[group.completions], per_key),
                *_shared_by_queries(group, k, v, per_key),
                0.0,
                False,
                scale=scaling,
            )
            own = _by_key_head(out[group.completions], per_key)
            own_lse = _by_key_head(log_sum_exp[group.completions, :, None], per_key)[..., 0]
            own.lerp_(part, torch.sigmoid(part_lse - own_lse)[..., None])
            own_lse.copy_(torch.logaddexp(own_lse, part_lse))
        ctx.save_for_backward(q, k, v, out, log_sum_exp)
        ctx.scaling, ctx.layout = scaling, layout
        return out[None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        q, k, v, out, log_sum_exp = ctx.saved_tensors
        grad_out = gradients[0][0].contiguous()
        per_key = q.shape[1] // k.shape[1]
        grad_q, grad_k, grad_v = (torch.empty_like(tensor) for tensor in (q, k, v))
        for segments in ctx.layout.segments:
            queries, keys, values, outputs, lse, grad = (
                segments.take(tensor) for tensor in (q, k, v, out, log_sum_exp, grad_out)
            )
            if segments.is_padding is not None:
                grad.masked_fill_(segments.is_padding[..., None, None], 0.0)
            grad_keys = grad_values = None
            for head in range(per_key):
                of_queries, of_keys, of_values = _flash_backward(
                    grad[:, :, head::per_key].transpose(1, 2),
                    queries[:, :, head::per_key].transpose(1, 2),
                    keys.transpose(1, 2),
                    values.transpose(1, 2),
                    outputs[:, :, head::per_key].transpose(1, 2),
                    lse[:, :, head::per_key].transpose(1, 2),
                    0.0,
                    True,
                    scale=ctx.scaling,
                )
                segments.put(grad_q[:, head::per_key], of_queries.transpose(1, 2))
                grad_keys = of_keys if grad_keys is None else grad_keys.add_(of_keys)
                grad_values = of_values if grad_values is None else grad_values.add_(of_values)
            segments.put(grad_k, grad_keys.transpose(1, 2))
            segments.put(grad_v, grad_values.transpose(1, 2))
        for group in ctx.layout.groups:
            queries, outputs, grad, of_own = (
                _by_key_head(tensor[group.completions], per_key)
                for tensor in (q, out, grad_out, grad_q)
            )
            lse = _by_key_head(log_sum_exp[group.completions, :, None], per_key)[..., 0]
            of_queries, of_keys, of_values = _flash_backward(
                grad,
                queries,
                *_shared_by_queries(group, k, v, per_key),
                outputs,
                lse,
                0.0,
                False,
                scale=ctx.scaling,
            )
            of_own.add_(of_queries)
            grad_k[group.prompt].add_(of_keys.sum(dim=0).transpose(0, 1))
            grad_v[group.prompt].add_(of_values.sum(dim=0).transpose(0, 1))
        return *(tensor.transpose(0, 1)[None] for tensor in (grad_q, grad_k, grad_v)), None, None


def _by_key_head(values: torch.Tensor, per_key: int) -> torch.Tensor:
    """View (tokens, heads, width) as (queries per key head, key heads, tokens, width)."""
    return values.unflatten(1, (-1, per_key)).permute(2, 1, 0, 3)


def _shared_by_queries(
    group: PromptGroup, key: torch.Tensor, value: torch.Tensor, per_key: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """View a prompt's keys and values as (queries per key head, key heads, tokens, width)."""
    keys, values = (
        tensor[group.prompt].transpose(0, 1).expand(per_key, -1, -1, -1) for tensor in (key, value)
    )
    return keys, values
