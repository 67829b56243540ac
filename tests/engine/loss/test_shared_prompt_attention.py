"""Attention of a joint sequence, compared with torch's attention under a dense mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ida_tui.engine.loss import shared_prompt_attention as attention
from ida_tui.engine.loss.padding import similar_lengths

HEADS, KEY_HEADS, WIDTH = 6, 2, 8
GROUPS = [(7, [5, 5, 5]), (11, [1]), (20, []), (3, [17, 4, 2, 1, 1])]
"""Tokens of each prompt and of its completions."""


def layout_and_mask() -> tuple[attention.SequenceLayout, torch.Tensor]:
    """The layout of `GROUPS`, and its dense mask: whether a token (row) attends to another (column)."""
    tokens = sum(prompt + sum(completions) for prompt, completions in GROUPS)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    spans: list[tuple[int, int]] = []
    groups: list[attention.PromptGroup] = []
    end = 0
    for prompt_tokens, completions in GROUPS:
        prompt = slice(end, end + prompt_tokens)
        for length in (prompt_tokens, *completions):
            spans.append((end, length))
            mask[end : end + length, end : end + length] = torch.ones(length, length).tril().bool()
            mask[end : end + length, prompt] |= end > prompt.start
            end += length
        if completions:
            groups += attention.PromptGroup.of(prompt, slice(prompt.stop, end), HEADS)
    segments: list[attention.Segments] = []
    for rows in similar_lengths([length for _, length in spans]):
        segments += attention.Segments.of([spans[row] for row in rows], HEADS)
    return attention.SequenceLayout(tuple(segments), tuple(groups)), mask


@pytest.mark.parametrize(
    ("block", "scores"), [(128, 2**22), (4, 2**22), (4, 100)], ids=["whole", "blocks", "parts"]
)
def test_outputs_and_gradients_are_those_of_a_dense_mask(
    block: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    monkeypatch.setattr(attention, "MAX_SCORES", scores)
    layout, mask = layout_and_mask()
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, len(mask), heads, WIDTH, generator=generator).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]
    query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
    ours, _ = attention.attend(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, layout=layout
    )
    theirs = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    weights = torch.randn(theirs.shape, generator=generator)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for gradient, expected in zip(
        torch.autograd.grad(ours, inputs, weights),
        torch.autograd.grad(theirs, inputs, weights),
        strict=True,
    ):
        assert torch.allclose(gradient, expected, atol=1e-5)
