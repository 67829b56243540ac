"""Log-probabilities and entropies in tiles, compared with those of the full logits."""

from __future__ import annotations

import pytest
import torch

from ida_tui.engine.loss import lm_head

TOKENS, HIDDEN, VOCABULARY, TEMPERATURE = 21, 16, 150, 0.7


@pytest.mark.parametrize("trained", [False, True], ids=["frozen-weight", "trained-weight"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
def test_tiles_give_the_values_and_gradients_of_the_full_logits(
    trained: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "VOCABULARY_TILE", 64)
    monkeypatch.setattr(lm_head, "TOKEN_TILE", 8)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).requires_grad_(trained)
    bias = torch.randn(VOCABULARY, generator=generator).requires_grad_(trained)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    gradient = torch.randn(TOKENS, generator=generator)
    used_bias = bias if with_bias else None
    inputs = [tensor for tensor in (states, weight, used_bias) if tensor is not None]
    inputs = [tensor for tensor in inputs if tensor.requires_grad]

    logprobs, entropies = lm_head.chunked_logprobs(states, weight, used_bias, targets, TEMPERATURE)

    expected = torch.log_softmax(
        torch.nn.functional.linear(states, weight, used_bias) / TEMPERATURE, dim=1
    )
    of_targets = expected.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(logprobs, of_targets, atol=1e-5)
    assert torch.allclose(entropies, -(expected.exp() * expected).sum(dim=1), atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(logprobs, inputs, gradient),
        torch.autograd.grad(of_targets, inputs, gradient),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)
