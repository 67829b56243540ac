"""Norms and feed-forward blocks as single operations, compared with transformers' modules."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from ida_tui.engine.loss.fused_layers import use_fused_layers

HIDDEN = 24


def backbone(*, lora: bool, activation: str = "silu") -> Any:
    """A model of one layer whose adapter and norms are not at their initial values."""
    torch.manual_seed(1)
    model: Any = LlamaModel(
        LlamaConfig(
            vocab_size=50, hidden_size=HIDDEN, intermediate_size=40, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, hidden_act=activation,
        )
    )  # fmt: skip
    if lora:
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), model
        )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "norm" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        parameter.requires_grad_("lora_" in name if lora else True)
    return model


def results(module: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The output of a module, and the gradients of its input and of its trained weights."""
    x = x.clone().requires_grad_()
    out = module(x)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, [x, *trained], weights)]


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["mlp", "input_layernorm"])
def test_a_fused_module_has_the_output_and_gradients_of_the_original(name: str, lora: bool) -> None:
    model = backbone(lora=lora)
    module = getattr(model.layers[0], name)
    x = torch.randn(2, 5, HIDDEN)
    expected = results(module, x)
    with use_fused_layers(model):
        fused = results(module, x)
    assert len(fused) == len(expected)
    for ours, theirs in zip(fused, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(module)


def test_a_block_with_another_activation_is_left_alone() -> None:
    model = backbone(lora=True, activation="gelu")
    with use_fused_layers(model):
        assert "forward" not in vars(model.layers[0].mlp)
        assert "forward" in vars(model.layers[0].mlp.gate_proj)
