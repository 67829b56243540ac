"""Parity of the fast step for each model family: with `generate`, with TRL's log-probabilities and gradients.

The models are tiny and random. Attention windows are shorter than the longest prompt, end inside of a
completion, or are wider than all rows.
"""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ida_tui.engine.architecture.families import FAMILIES
from ida_tui.engine.architecture.parts import longest_exact_sequence
from ida_tui.engine.loss import scoring_support
from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.rollout import decoder_support
from ida_tui.engine.rollout.agreement import DrawnLogprobs
from ida_tui.engine.rollout.generate import generate
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.trainer import scoring_probe
from tests.support.trl_policy import as_policy, relative_error, trl_logprobs

VOCABULARY, EOS, PAD, TEMPERATURE, WIDTH = 101, 100, 0, 0.8, 18
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]] * 2 + [[21, 22, 23]] + [[31, 32, 33, 34, 35, 36]]
LENGTHS = [14, 3, 9, 6]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "bos_token_id": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.1, 1.3, 1.7],
    "long_factor": [2.0, 3.0, 4.0],
    "partial_rotary_factor": 0.75,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
DECODED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral, window in the prompt": ("mistral", {"sliding_window": 5}),
    "mistral, window in the completion": ("mistral", {"sliding_window": 15}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {"sliding_window": 6, "layer_types": ALTERNATING, "num_hidden_layers": 4,
                               "query_pre_attn_scalar": 12}),
    "gemma3, capped": ("gemma3_text", {"sliding_window": 14, "final_logit_softcapping": 3.0}),
    "gemma3, wide window": ("gemma3_text", {"sliding_window": 64}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, windows": ("smollm3", {"no_rope_layer_interval": 2, "use_sliding_window": True,
                                     "sliding_window": 6}),
    "phi3, window": ("phi3", {"sliding_window": 7}),
    "phi4, partly rotated": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {"attention_multiplier": 0.2, "residual_multiplier": 0.3,
                            "embedding_multiplier": 5.0, "logits_scaling": 2.0}),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"mlp_only_layers": [1]}),
}  # fmt: skip
SCORED_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gemma2, capped": ("gemma2", {"sliding_window": 6, "final_logit_softcapping": 2.0}),
    "cohere2": ("cohere2", {"sliding_window": 6, "logit_scale": 0.3}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.0}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": 12}),
}


def build(family: tuple[str, dict[str, Any]], method: str = "full") -> Any:
    """A tiny random model with TRL's output layer; the adapter of the method `lora` is not zero."""
    model_type, settings = family
    torch.manual_seed(3)
    config = CONFIG_MAPPING[model_type](**SHAPE | settings)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    # Dropout would make the two ways differ; TRL turns it off, too.
    return as_policy(model, TEMPERATURE, lora_rank=4 if method == "lora" else None).eval()


def padded(
    prompts: list[list[int]], completions: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask as in TRL: prompts padded on the left, completions on the right."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest + WIDTH), PAD)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        columns = slice(longest - len(prompt), longest + len(completion))
        ids[row, columns] = torch.tensor(prompt + completion)
        mask[row, columns] = 1
    return ids, mask


def scored(model: Any, ids: torch.Tensor, mask: torch.Tensor, code: str) -> tuple[Any, ...]:
    """Log-probabilities, entropies and gradients of a loss, computed by TRL or by the fast step."""
    model.zero_grad()
    if code == "trl":
        logprobs, entropies = trl_logprobs(model, ids, mask, WIDTH)
    else:
        logprobs, entropies = completion_logprobs(
            model, ids, mask, WIDTH, TEMPERATURE, with_entropy=True
        )
    is_token = mask[:, -WIDTH:]
    advantages = torch.linspace(-1, 1.3, len(ids))[:, None]
    ratio = torch.exp(logprobs - logprobs.detach())
    (-(ratio * advantages * is_token).sum() / is_token.sum()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return (logprobs * is_token).detach(), (entropies * is_token).detach(), gradients


def assert_scored_as_by_trl(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compare the two ways; return the log-probabilities."""
    theirs, ours = scored(model, ids, mask, "trl"), scored(model, ids, mask, "fast")
    assert relative_error(ours[0], theirs[0]) <= 1e-5
    assert relative_error(ours[1], theirs[1]) <= 1e-5
    assert ours[2].keys() == theirs[2].keys()
    scale = max(float(gradient.norm()) for gradient in theirs[2].values())
    for name, gradient in theirs[2].items():
        # A gradient that is zero but for rounding has no relative error.
        error = float((ours[2][name] - gradient).norm())
        assert error <= 1e-5 * max(float(gradient.norm()), 1e-3 * scale), name
    return ours[0]


def greedy_by_transformers(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy output of transformers' `generate`, up to the end of each row."""
    ids, mask = padded(prompts, [[] for _ in prompts])
    width = ids.shape[1] - WIDTH
    out = model.generate(
        input_ids=ids[:, :width], attention_mask=mask[:, :width], do_sample=False,
        max_new_tokens=WIDTH, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    rows = out[:, width:].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", DECODED)
def test_a_family_is_sampled_as_by_transformers_and_scored_as_drawn_and_as_by_trl(
    family: str, method: str
) -> None:
    model = build(DECODED[family], method)
    assert decoder_support.unsupported_reason(model) is None
    assert scoring_support.unsupported_reason(model) is None
    assert scoring_probe.disagreement(model, "float32") is None
    greedy = greedy_by_transformers(model, PROMPTS)
    for bucket in (1, 8):
        with torch.no_grad():
            ours = generate(
                model, PROMPTS, TokenSampler(temperature=0), max_new_tokens=WIDTH,
                eos_token_ids=[EOS], pad_token_id=PAD, bucket=bucket,
            )  # fmt: skip
        assert ours == greedy
    drawn = DrawnLogprobs()
    torch.manual_seed(1)
    with torch.no_grad():
        completions = generate(
            model, PROMPTS, TokenSampler(temperature=TEMPERATURE), max_new_tokens=WIDTH,
            eos_token_ids=[EOS], pad_token_id=PAD, on_draw=drawn.add,
        )  # fmt: skip
    logprobs = assert_scored_as_by_trl(model, *padded(PROMPTS, completions))
    assert relative_error(drawn.padded(range(len(PROMPTS)), WIDTH), logprobs) <= 1e-5


def test_every_family_of_the_decoder_has_its_parity_test() -> None:
    assert {model_type for model_type, _ in DECODED.values()} == set(FAMILIES)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out is set to False but the target module is `Conv1D`"
)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", SCORED_ONLY)
def test_any_causal_model_is_scored_as_by_trl(family: str, method: str) -> None:
    model = build(SCORED_ONLY[family], method)
    assert scoring_support.unsupported_reason(model) is None
    assert scoring_probe.disagreement(model, "float32") is None
    generator = torch.Generator().manual_seed(5)
    completions = [
        torch.randint(2, EOS, (length,), generator=generator).tolist() for length in LENGTHS
    ]
    assert_scored_as_by_trl(model, *padded(PROMPTS, completions))


def with_prompt_tuning() -> Any:
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    return peft.get_peft_model(build(("llama", {})), config)


def with_adapter_on_the_output_layer() -> Any:
    config = peft.LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM")
    return peft.get_peft_model(build(("llama", {})), config)


REFUSED = {
    "recurrent layers": lambda: build(("mamba", {"num_hidden_layers": 2})),
    "layers of the type conv": lambda: build(("lfm2", {"full_attn_idxs": [1]})),
    "PROMPT_TUNING": with_prompt_tuning,
    "output layer": with_adapter_on_the_output_layer,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_that_cannot_be_scored_fast_is_refused_by_name(reason: str) -> None:
    refusal = scoring_support.unsupported_reason(REFUSED[reason]())
    assert refusal is not None
    assert reason in refusal
    assert "\n" not in refusal


def test_positions_that_depend_on_the_length_are_exact_up_to_a_limit_only() -> None:
    assert longest_exact_sequence(build(("llama", {}))) is None
    assert longest_exact_sequence(build(DECODED["phi4, partly rotated"])) == 64
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert longest_exact_sequence(build(("llama", {"rope_parameters": dynamic}))) == 128
    assert longest_exact_sequence(build(DECODED["gemma3"])) is None


def test_the_probe_finds_a_model_that_sees_later_tokens() -> None:
    model = build(("bert", {"is_decoder": False}))
    assert scoring_support.unsupported_reason(model) is None
    assert "differ from the model's own" in (scoring_probe.disagreement(model, "float32") or "")
