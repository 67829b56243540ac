"""Attention to shared prompts: it equals ordinary attention to each row's own copy of its prompt."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ida_tui.engine.rollout.key_values import PromptKeyValues, RolloutKeyValues

HEADS, QUERIES, SIZE, LENGTH, NEW = 2, 3, 4, 5, 6
PROMPT_OF = [0, 0, 0, 1, 1, 2, 2, 2]
KEPT = {2: [0, 2, 3, 5, 6], 4: [1, 3, 4]}
"""Rows that remain after a number of tokens, among those that remained until then."""


@pytest.mark.parametrize("bucket", [1, 4], ids=["cpu", "metal"])
@pytest.mark.parametrize("window", [None, 7, 2], ids=["full", "window", "short window"])
@pytest.mark.parametrize("is_padded", [False, True], ids=["equal lengths", "padded"])
def test_attention_to_shared_prompts_is_attention_to_each_rows_copy_of_its_prompt(
    bucket: int, window: int | None, is_padded: bool
) -> None:
    torch.manual_seed(0)
    prompts = 3
    keys, values = (torch.randn(prompts, HEADS, LENGTH, SIZE) for _ in range(2))
    padding = torch.ones(prompts, LENGTH, dtype=torch.bool)
    if is_padded:
        padding[1, :2] = False
    cache = RolloutKeyValues(
        PromptKeyValues([keys], [values], padding if is_padded else None, PROMPT_OF),
        len(PROMPT_OF) + 1,
        NEW,
        bucket,
    )
    full_keys, full_values, mask = keys[PROMPT_OF], values[PROMPT_OF], padding[PROMPT_OF]
    for token in range(1, NEW + 1):
        rows = len(full_keys)
        q, k, v = (torch.randn(rows + 1, HEADS, *shape, SIZE) for shape in ((QUERIES,), (), ()))
        cache.add_token()
        attended = cache.attend(0, q, k, v, 0.3, window)[:rows]
        full_keys = torch.cat((full_keys, k[:rows, :, None]), dim=2)
        full_values = torch.cat((full_values, v[:rows, :, None]), dim=2)
        mask = functional.pad(mask, (0, 1), value=True)
        visible = mask.clone()
        visible[:, : max(0, LENGTH + token - (window or 100))] = False
        expected = functional.scaled_dot_product_attention(
            q[:rows], full_keys, full_values, attn_mask=visible[:, None, None], scale=0.3
        )
        assert torch.allclose(attended, expected, atol=1e-6)
        if token in KEPT:
            kept = KEPT[token]
            cache.keep_rows(kept, len(kept) + 1)
            full_keys, full_values, mask = full_keys[kept], full_values[kept], mask[kept]
