"""Module layouts that the fast decoder accepts: it refuses each one that it would not reproduce."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ida_tui.engine.rollout import decoder_support
from ida_tui.engine.rollout.agreement import (
    DrawnLogprobs,
    agrees,
    drawn_as_computed,
    mean_difference,
    worst,
)
from ida_tui.engine.rollout.generate import generate, generate_in_chunks
from ida_tui.engine.rollout.sampling import TokenSampler

EOS, PAD = 299, 0
PROMPTS = [[5, 6, 7, 8, 9]] * 2 + [[11, 12, 13]]
SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": False,
}
ATTENTION = ["q_proj", "v_proj"]


def base_model(family: str = "qwen3", **settings: Any) -> Any:
    torch.manual_seed(3)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE | settings))
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE | settings, head_dim=8))


def trained(model: Any) -> Any:
    """The model with every trained weight moved."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def adapted(kind: Callable[..., Any] = peft.LoraConfig, **settings: Any) -> Any:
    settings = {"r": 4, "lora_alpha": 8} | settings if kind is peft.LoraConfig else settings
    config = kind(task_type="CAUSAL_LM", **settings)
    return trained(peft.get_peft_model(base_model(), config))


def with_two_adapters() -> Any:
    model = adapted(target_modules=ATTENTION)
    second = peft.LoraConfig(r=4, target_modules=ATTENTION, task_type="CAUSAL_LM")
    model.add_adapter("second", second)
    model.base_model.set_adapter(["default", "second"])
    return trained(model)


def merged() -> Any:
    model = adapted(target_modules=ATTENTION)
    model.merge_adapter()
    return model


def with_own_norm() -> Any:
    class Norm(torch.nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    model = base_model().eval()
    model.model.layers[1].input_layernorm = Norm(model.model.layers[1].input_layernorm)
    return model


def with_replaced_forward() -> Any:
    model = base_model().eval()
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: 2 * type(mlp).forward(mlp, x)
    return model


def with_a_hook() -> Any:
    model = base_model().eval()
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: 1.1 * output)
    return model


SUPPORTED = {
    "no adapter": lambda: base_model().eval(),
    "llama, tied, biased": lambda: base_model(
        "llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ).eval(),
    "all linears": lambda: adapted(target_modules="all-linear"),
    "some linears": lambda: adapted(target_modules=["q_proj", "o_proj", "down_proj"]),
    "one layer": lambda: adapted(target_modules=ATTENTION, layers_to_transform=[1]),
    "rank by module": lambda: adapted(target_modules=ATTENTION, rank_pattern={"q_proj": 2}),
    "rank-stabilized": lambda: adapted(target_modules=ATTENTION, use_rslora=True),
    "trained biases": lambda: adapted(target_modules=ATTENTION, bias="all"),
}
UNSUPPORTED = {
    "embedding": lambda: adapted(target_modules=["embed_tokens", "q_proj"]),
    "output layer": lambda: adapted(target_modules=["lm_head", "q_proj"]),
    "trained embedding": lambda: adapted(
        target_modules=ATTENTION, modules_to_save=["embed_tokens"]
    ),
    "trained output": lambda: adapted(target_modules=ATTENTION, modules_to_save=["lm_head"]),
    "trained norm": lambda: adapted(target_modules=ATTENTION, modules_to_save=["norm"]),
    "trained layer norms": lambda: adapted(
        target_modules=ATTENTION, modules_to_save=["input_layernorm"]
    ),
    "trained head norms": lambda: adapted(target_modules=ATTENTION, modules_to_save=["q_norm"]),
    "trained MLP": lambda: adapted(target_modules=ATTENTION, modules_to_save=["mlp"]),
    "trained tokens": lambda: adapted(target_modules=ATTENTION, trainable_token_indices=[5, 6]),
    "DoRA": lambda: adapted(target_modules=ATTENTION, use_dora=True),
    "adapter bias": lambda: adapted(target_modules=ATTENTION, lora_bias=True),
    "IA3": lambda: adapted(
        peft.IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "LoHa": lambda: adapted(peft.LoHaConfig, r=4, target_modules=ATTENTION),
    "prompt tuning": lambda: adapted(peft.PromptTuningConfig, num_virtual_tokens=3),
    "two adapters": with_two_adapters,
    "merged": merged,
    "own norm": with_own_norm,
    "replaced forward": with_replaced_forward,
    "hook": with_a_hook,
}


@pytest.mark.parametrize("layout", SUPPORTED)
def test_a_supported_layout_is_decoded_token_for_token_with_the_models_log_probabilities(
    layout: str,
) -> None:
    model = SUPPORTED[layout]()
    assert decoder_support.unsupported_reason(model) is None
    drawn = DrawnLogprobs()
    with torch.no_grad():
        ours = generate(
            model, PROMPTS, TokenSampler(temperature=0), max_new_tokens=24, eos_token_ids=[EOS],
            pad_token_id=PAD, on_draw=drawn.add,
        )  # fmt: skip
        theirs = [
            model.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                do_sample=False, max_new_tokens=24, eos_token_id=EOS, pad_token_id=PAD,
            )[0, len(prompt) :].tolist()
            for prompt in PROMPTS
        ]  # fmt: skip
        difference = drawn_as_computed(model, PROMPTS, ours, drawn, 0.0)
    assert ours == theirs
    assert difference <= 1e-6


@pytest.mark.parametrize("layout", UNSUPPORTED)
def test_a_layout_that_the_decoder_would_not_reproduce_is_refused(layout: str) -> None:
    reason = decoder_support.unsupported_reason(UNSUPPORTED[layout]())
    assert reason is not None
    assert "\n" not in reason


# --- log-probabilities as drawn -------------------------------------------------------------------


def test_log_probabilities_as_drawn_are_scaled_by_temperature_and_ignore_truncation() -> None:
    sampler = TokenSampler(temperature=0.7, top_k=3, top_p=0.5, repetition_penalty=2.0)
    logits = torch.randn(4, 300)
    tokens = sampler.draw(logits, torch.ones(4, 300, dtype=torch.bool))
    expected = torch.log_softmax(logits / 0.7, dim=-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(sampler.logprobs(logits, tokens), expected, atol=1e-6)


def test_rows_of_later_chunks_keep_their_own_log_probabilities() -> None:
    model = base_model().eval()
    drawn, in_chunks = DrawnLogprobs(), DrawnLogprobs()
    with torch.no_grad():
        for chunk_rows, record in ((None, drawn), (1, in_chunks)):
            generate_in_chunks(
                model, PROMPTS, TokenSampler(temperature=0), chunk_rows, max_new_tokens=9,
                eos_token_ids=[EOS], pad_token_id=PAD, on_draw=record.add,
            )  # fmt: skip
    assert torch.allclose(drawn.padded(range(3), 9), in_chunks.padded(range(3), 9), atol=1e-5)
    assert bool((drawn.padded(range(3), 9) < 0).all())


def test_nan_at_one_token_or_one_rank_is_no_agreement() -> None:
    values, is_token = torch.zeros(2, 3), torch.tensor([[1, 1, 0], [1, 0, 0]])
    with_nan = values.clone()
    with_nan[0, 1] = math.nan
    assert mean_difference(values, values, is_token) == 0.0
    assert not agrees(mean_difference(with_nan, values, is_token), "bfloat16")
    in_padding = values.clone()
    in_padding[1, 2] = math.nan
    assert mean_difference(in_padding, values, is_token) == 0.0
    assert math.isnan(worst([0.1, math.nan]))
    assert math.isnan(worst([math.nan, 0.1]))
    assert worst([0.1, 0.3, 0.2]) == 0.3
