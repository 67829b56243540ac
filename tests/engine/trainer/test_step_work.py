"""Arithmetic and memory of a step, counted by hand on a small model and a device of round numbers."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from ida_tui.engine.device.speed import DeviceSpeed, measure_speed
from ida_tui.engine.trainer.step_work import ModelSize, least_seconds

SHAPE = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10,
}  # fmt: skip
HEAD = 8 * 10
READS_FAST = DeviceSpeed(read_bytes_per_s=1e30, flops_per_s=1.0)
MULTIPLIES_FAST = DeviceSpeed(read_bytes_per_s=1.0, flops_per_s=1e30)


def size_of(*, tied: bool = True, lora: bool = False) -> ModelSize:
    """Sizes of a small Llama."""
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    policy = get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj"])) if lora else model
    size = ModelSize.from_model(policy, trains_all_weights=not lora)
    assert size is not None
    return size


def test_an_embedding_that_is_only_looked_up_costs_nothing() -> None:
    assert size_of(tied=True) == size_of(tied=False)
    assert size_of().head_weights == HEAD


def test_an_adapter_is_part_of_the_work() -> None:
    assert size_of(lora=True).body_weights == size_of().body_weights + 2 * (8 + 8)


def test_a_mixture_of_experts_has_no_account_because_tokens_use_some_of_its_weights() -> None:
    mixtral = MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=2))
    assert ModelSize.from_model(mixtral, trains_all_weights=False) is None


def test_generation_multiplies_every_weight_once_for_each_token_and_the_prompt_once() -> None:
    size = size_of()
    least = least_seconds(size, READS_FAST, [5], [3, 1])
    assert least["generate"] == pytest.approx(
        2 * size.body_weights * 5
        + 2 * (size.body_weights + HEAD) * 4
        + size.attention_flops * (2 * 5.5 + 2 * 7)  # two rows for one position, then one for two
    )


def test_generation_reads_every_weight_once_for_each_position() -> None:
    size = size_of()
    least = least_seconds(size, MULTIPLIES_FAST, [5], [3, 1])
    assert least["generate"] == pytest.approx(
        size.weight_bytes * (1 + 3) + size.cache_bytes * (2 * 5.5 + 2 * 7)
    )


@pytest.mark.parametrize(("lora", "passes"), [(True, 2), (False, 3)])
def test_an_update_is_a_forward_pass_and_one_for_each_kind_of_gradient(
    lora: bool, passes: int
) -> None:
    size = size_of(lora=lora)
    least = least_seconds(size, READS_FAST, [5], [3, 1])
    forward = 2 * (size.body_weights * 9 + HEAD * 4)
    assert least["update"] == pytest.approx(passes * forward)
    assert least["reference"] == pytest.approx(forward)


def test_the_speed_of_this_machine_is_measured_once() -> None:
    speed = measure_speed(torch.device("cpu"), torch.float32)
    assert speed is measure_speed(torch.device("cpu"), torch.float32)
    assert speed.read_bytes_per_s > 0
    assert speed.flops_per_s > 0
