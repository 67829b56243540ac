"""Attention of a joint sequence: causal within each prompt and completion, and from completions to prompts.

The two parts of a completion's attention, to its prompt and to its own tokens, are computed separately and
combined with their log-sum-exps, as flash attention combines blocks. The prompt's part is one matrix product
for all its completions, without a mask and without a copy of keys and values for each row. The backward pass
computes the attention weights again from the log-sum-exps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

QUERY_BLOCK = 128
"""Queries of a segment that are computed at a time, so that the keys after them are left out."""
MAX_SCORES = 2**22
"""Scores computed at a time; 16 MB in float32."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The tokens of a prompt, and tokens of its completions, which attend to all of it."""

    prompt: slice
    completions: slice

    @classmethod
    def of(cls, prompt: slice, completions: slice, heads: int) -> Iterator[PromptGroup]:
        """A prompt and all its completions, split to limit the number of scores."""
        step = max(1, MAX_SCORES // (heads * (prompt.stop - prompt.start)))
        for start in range(completions.start, completions.stop, step):
            yield cls(prompt, slice(start, min(start + step, completions.stop)))


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
    def of(cls, segments: Sequence[tuple[int, int]], heads: int) -> Iterator[Segments]:
        """Segments given by start and length, split to limit the number of scores."""
        longest = max(length for _, length in segments)
        step = max(1, MAX_SCORES // (heads * longest * min(longest, QUERY_BLOCK)))
        ordered = sorted(segments)
        for start in range(0, len(ordered), step):
            yield cls._of_part(ordered[start : start + step])

    @classmethod
    def _of_part(cls, segments: Sequence[tuple[int, int]]) -> Segments:
        starts, lengths = (torch.tensor(values)[:, None] for values in zip(*segments, strict=True))
        longest = int(lengths.max())
        offsets = torch.arange(longest)
        index = starts + torch.minimum(offsets, lengths - 1)
        is_padding = offsets >= lengths
        if bool(is_padding.any()):
            return cls(index, is_padding, (~is_padding).flatten().nonzero()[:, 0], None)
        first, end = int(starts[0]), int(starts[-1]) + longest
        is_span = end - first == index.numel()
        return cls(index, None, None, slice(first, end) if is_span else None)

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return self.index.shape[1]

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """(key heads, tokens, width) → (key heads · segments, longest, width)."""
        if self.span is not None:
            taken = values[:, self.span]
        else:
            taken = values.index_select(1, self.index.flatten())
        return taken.reshape(-1, self.longest, values.shape[2])

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Write (key heads · segments, longest, width) to their tokens of (key heads, tokens, width)."""
        values = values.view(target.shape[0], -1, target.shape[2])
        if self.span is not None:
            target[:, self.span] = values
            return
        index = self.index.flatten()
        if self.kept is not None:
            index, values = index[self.kept], values.index_select(1, self.kept)
        target.index_copy_(1, index, values)

    def clear_padding(self, values: torch.Tensor) -> torch.Tensor:
        """Set (key heads · segments, longest, width) to zero at padding, in place."""
        if self.is_padding is not None:
            by_head = values.view(-1, *self.index.shape, values.shape[2])
            by_head.masked_fill_(self.is_padding[..., None], 0.0)
        return values


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
        key: (1, key heads, tokens, head width).
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
    """Attention of a joint sequence; saves queries, keys, values, the output and the log-sum-exps.

    Tensors are sorted by key head: (key heads, tokens, queries per key head · head width). The queries that
    share a key head are then rows of the same product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        k, v = key[0].contiguous(), value[0].contiguous()
        key_heads, tokens, width = k.shape
        per_key = query.shape[1] // key_heads
        q = _by_key_head(query[0].transpose(0, 1), key_heads).mul_(scaling)
        out = torch.empty_like(q)
        log_sum_exp = q.new_empty(key_heads, tokens, per_key)
        for segments in layout.segments:
            queries = _rows(segments.take(q), width)
            keys, values = segments.take(k), segments.take(v)
            part = torch.empty_like(queries)
            part_lse = queries.new_empty(*queries.shape[:2], 1)
            for rows, end, mask in _blocks(segments.longest, per_key):
                scores = torch.baddbmm(mask, queries[:, rows], keys[:, :end].mT)
                part[:, rows], part_lse[:, rows] = _weighted_values(scores, values[:, :end])
            segments.put(out, part.view(-1, segments.longest, per_key * width))
            segments.put(log_sum_exp, part_lse.view(-1, segments.longest, per_key))
        for group in layout.groups:
            scores = torch.bmm(_rows(q[:, group.completions], width), k[:, group.prompt].mT)
            part, part_lse = _weighted_values(scores, v[:, group.prompt])
            own = out[:, group.completions].view(key_heads, -1, per_key, width)
            own_lse = log_sum_exp[:, group.completions]
            part_lse = part_lse.view(own_lse.shape)
            own.lerp_(part.view(own.shape), torch.sigmoid(part_lse - own_lse)[..., None])
            own_lse.copy_(torch.logaddexp(own_lse, part_lse))
        by_token = _by_token(out, width)
        ctx.save_for_backward(q, k, v, by_token, log_sum_exp)
        ctx.scaling, ctx.layout = scaling, layout
        return by_token[None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        q, k, v, out, log_sum_exp = ctx.saved_tensors
        key_heads, _, width = k.shape
        per_key = q.shape[2] // width
        grad_out = gradients[0][0]
        # The softmax's gradient subtracts the mean gradient of each query's weights.
        means = _by_key_head((grad_out * out).sum(dim=2, keepdim=True), key_heads)
        grad = _by_key_head(grad_out, key_heads)
        grad_q, grad_k, grad_v = (torch.empty_like(tensor) for tensor in (q, k, v))
        for segments in ctx.layout.segments:
            queries, lse = _rows(segments.take(q), width), _rows(segments.take(log_sum_exp), 1)
            of_out = _rows(segments.clear_padding(segments.take(grad)), width)
            mean = _rows(segments.clear_padding(segments.take(means)), 1)
            keys, values = segments.take(k), segments.take(v)
            of_queries, of_keys, of_values = (
                torch.empty_like(queries),
                torch.zeros_like(keys),
                torch.zeros_like(values),
            )
            for rows, end, mask in _blocks(segments.longest, per_key):
                weights = torch.baddbmm(mask, queries[:, rows], keys[:, :end].mT)
                weights.sub_(lse[:, rows]).exp_()
                of_values[:, :end].baddbmm_(weights.mT, of_out[:, rows])
                of_scores = torch.bmm(of_out[:, rows], values[:, :end].mT)
                of_scores.sub_(mean[:, rows]).mul_(weights)
                of_queries[:, rows] = torch.bmm(of_scores, keys[:, :end])
                of_keys[:, :end].baddbmm_(of_scores.mT, queries[:, rows])
            segments.put(grad_q, of_queries.view(-1, segments.longest, per_key * width))
            segments.put(grad_k, of_keys)
            segments.put(grad_v, of_values)
        for group in ctx.layout.groups:
            queries, of_out, of_queries = (
                _rows(tensor[:, group.completions], width) for tensor in (q, grad, grad_q)
            )
            lse, mean = (_rows(t[:, group.completions], 1) for t in (log_sum_exp, means))
            keys, values = k[:, group.prompt], v[:, group.prompt]
            weights = torch.bmm(queries, keys.mT).sub_(lse).exp_()
            grad_v[:, group.prompt].baddbmm_(weights.mT, of_out)
            of_scores = torch.bmm(of_out, values.mT).sub_(mean).mul_(weights)
            of_queries.baddbmm_(of_scores, keys)
            grad_k[:, group.prompt].baddbmm_(of_scores.mT, queries)
        by_token = _by_token(grad_q.mul_(ctx.scaling), width)
        return by_token.transpose(0, 1)[None], grad_k[None], grad_v[None], None, None


def _weighted_values(
    scores: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values averaged by the softmax of the scores, and the log-sum-exp of these; overwrites the scores."""
    highest = scores.amax(dim=2, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(dim=2, keepdim=True)
    return torch.bmm(weights, values).div_(total), highest.add_(total.log_())


def _blocks(length: int, per_key: int) -> Iterator[tuple[slice, int, torch.Tensor]]:
    """Blocks of queries of a segment: their rows, the keys they may see, and the mask that is added."""
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        queries = torch.arange(start, end).repeat_interleave(per_key)
        is_later = torch.arange(end) > queries[:, None]
        mask = torch.zeros(is_later.shape).masked_fill_(is_later, -torch.inf)
        yield slice(start * per_key, end * per_key), end, mask


def _by_key_head(values: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Copy (tokens, heads, width) to (key heads, tokens, queries per key head · width)."""
    by_head = values.reshape(values.shape[0], key_heads, -1).transpose(0, 1)
    return by_head.clone(memory_format=torch.contiguous_format)


def _by_token(values: torch.Tensor, width: int) -> torch.Tensor:
    """Copy (key heads, tokens, queries per key head · width) to (tokens, heads, width)."""
    return values.transpose(0, 1).reshape(values.shape[1], -1, width)


def _rows(values: torch.Tensor, width: int) -> torch.Tensor:
    """View (n, tokens, queries per key head · width) as (n, tokens · queries per key head, width)."""
    return values.view(values.shape[0], -1, width)
