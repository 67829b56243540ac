"""Parity of the fast step with TRL in float32: log-probabilities, entropies, loss and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.rollout import decoder_support
from ida_tui.engine.rollout.agreement import TOLERANCE
from ida_tui.engine.rollout.generate import generate, generate_in_chunks
from ida_tui.engine.rollout.sampling import TokenSampler
from tests.support.trl_policy import as_policy, relative_error, trl_logprobs

VOCABULARY, EOS, PAD, TEMPERATURE = 700, 699, 0, 0.9
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
RELATIVE = 1e-5


def policy(method: str = "lora", family: str = "qwen3") -> Any:
    """A tiny random model whose adapter is not at its initial values."""
    torch.manual_seed(3)
    model: Any
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    return as_policy(model, TEMPERATURE, lora_rank=8 if method == "lora" else None).train()


def batch(
    rows: int, prompts: int, lengths: list[int], width: int = 40
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask as in TRL: prompts padded on the left, completions on the right."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.full((rows, 20 + width), PAD)
    mask = torch.zeros_like(ids)
    texts = [torch.randint(5, 600, (20 - 3 * n,), generator=generator) for n in range(prompts)]
    for row in range(rows):
        prompt = texts[row * prompts // rows]
        ids[row, 20 - len(prompt) : 20] = prompt
        mask[row, 20 - len(prompt) : 20] = 1
        length = lengths[row % len(lengths)]
        ids[row, 20 : 20 + length] = torch.randint(5, 600, (length,), generator=generator)
        mask[row, 20 : 20 + length] = 1
    return ids, mask


@pytest.mark.parametrize(
    ("checkpointing", "bucket"),
    [(False, 1), (True, 1), (False, 16)],
    ids=["cached", "checkpointing", "in-buckets"],
)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    ("rows", "prompts", "lengths"),
    [
        (1, 1, [17]),
        (2, 1, [40, 1]),
        (8, 1, [40, 3, 22, 9, 31, 40, 12, 1]),
        (8, 2, [40, 3, 22, 9]),
        (6, 3, [5, 40]),
        (4, 1, [40]),
        (3, 3, [1, 2, 3]),
        (2, 1, [0]),
        (4, 2, [0, 7]),
    ],
    ids=[
        "G1",
        "G2",
        "G8",
        "two-prompts",
        "three-prompts",
        "all-truncated",
        "short",
        "all-masked",
        "some-masked",
    ],
)
def test_log_probabilities_entropies_and_gradients_match_trl(
    rows: int, prompts: int, lengths: list[int], method: str, checkpointing: bool, bucket: int
) -> None:
    model = policy(method)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    ids, mask = batch(rows, prompts, lengths)
    completion_mask = mask[:, 20:]
    advantages = torch.linspace(-1, 1.3, rows)[:, None]
    results = []
    for engine in ("theirs", "ours"):
        model.zero_grad()
        if engine == "theirs":
            logprobs, entropy = trl_logprobs(model, ids, mask, 40)
        else:
            logprobs, entropy = completion_logprobs(
                model, ids, mask, 40, TEMPERATURE, with_entropy=True, bucket=bucket
            )
        # GRPO's loss in the first iteration: the ratio is 1 and its gradient is not 0.
        ratio = torch.exp(logprobs - logprobs.detach())
        loss = -(ratio * advantages * completion_mask).sum() / completion_mask.sum().clamp(min=1)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append(
            (
                (logprobs * completion_mask).detach(),
                (entropy * completion_mask).detach(),
                loss.detach(),
                gradients,
            )
        )
    theirs, ours = results
    assert relative_error(ours[0], theirs[0]) <= RELATIVE
    assert relative_error(ours[1], theirs[1]) <= RELATIVE
    assert torch.isclose(ours[2], theirs[2], rtol=1e-5, atol=1e-7)
    assert ours[3].keys() == theirs[3].keys()
    for name, gradient in theirs[3].items():
        assert relative_error(ours[3][name], gradient) <= RELATIVE, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_the_difference_is_below_the_stated_tolerance(
    dtype: torch.dtype,
) -> None:
    model = policy().to(dtype)
    ids, mask = batch(8, 2, [40, 3, 22, 9])
    completion_mask = mask[:, 20:].bool()
    with torch.no_grad():
        theirs, _ = trl_logprobs(model, ids, mask, 40)
        ours, _ = completion_logprobs(model, ids, mask, 40, TEMPERATURE, with_entropy=False)
    gap = ((ours.float() - theirs.float()).abs() / theirs.float().abs().clamp(min=1.0))[
        completion_mask
    ]
    assert 0 < float(gap.mean()) <= TOLERANCE[str(dtype).removeprefix("torch.")]


def test_the_reference_model_is_the_model_without_its_adapter() -> None:
    model = policy()
    ids, mask = batch(4, 1, [20, 33])
    with torch.no_grad(), model.disable_adapter():
        ours, _ = completion_logprobs(model, ids, mask, 40, TEMPERATURE, with_entropy=False)
        theirs, _ = trl_logprobs(model, ids, mask, 40)
    assert relative_error(ours * mask[:, 20:], theirs * mask[:, 20:]) <= RELATIVE


# --- sampling ------------------------------------------------------------------------


def transformers_greedy(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy output of transformers' `generate`, up to the end of each row."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens,
        eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    rows = out[:, longest:].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("bucket", [1, 16], ids=["", "in-buckets"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_greedy_decoding_matches_transformers_token_for_token(
    method: str, family: str, bucket: int
) -> None:
    model = policy(method, family).eval()
    generator = torch.Generator().manual_seed(9)
    longer = torch.randint(5, 600, (18,), generator=generator).tolist()
    shorter = torch.randint(5, 600, (11,), generator=generator).tolist()
    for prompts in ([longer] * 3, [longer, longer, shorter, shorter], [shorter]):
        with torch.no_grad():
            ours = generate(
                model, prompts, TokenSampler(temperature=0), max_new_tokens=40, eos_token_ids=[EOS],
                pad_token_id=PAD, bucket=bucket,
            )  # fmt: skip
        assert ours == transformers_greedy(model, prompts, 40)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 8, None])
def test_sampling_in_chunks_gives_the_same_rows(
    chunk_size: int | None,
) -> None:
    model = policy("full").eval()
    prompts = [[5, 6, 7]] * 3 + [[8, 9]] * 2
    progress: list[tuple[list[int], list[int]]] = []
    with torch.no_grad():
        ours = generate_in_chunks(
            model, prompts, TokenSampler(temperature=0), chunk_size, max_new_tokens=20,
            eos_token_ids=[EOS], pad_token_id=PAD,
            on_tokens=lambda rows, ended: progress.append(([len(row) for row in rows], list(ended))),
        )  # fmt: skip
    assert ours == transformers_greedy(model, prompts, 20)
    assert all(len(lengths) == len(prompts) for lengths, _ in progress)
    rows = [row for _, ended in progress for row in ended]
    assert sorted(rows) == [row for row, ids in enumerate(ours) if ids[-1] == EOS]


@pytest.mark.parametrize("overlap", [False, True], ids=["cpu", "device"])
def test_a_row_that_ends_does_not_change_the_others(overlap: bool) -> None:
    model = policy("full").eval()
    prompts = [[n + 5, n + 6, n + 7] for n in range(6)]
    full_rows = transformers_greedy(model, prompts, 30)
    # Uses a token that some rows generate early as EOS, so that those rows end one after the other.
    end_token = full_rows[2][4]
    with torch.no_grad():
        ours = generate(
            model,
            prompts,
            TokenSampler(temperature=0),
            max_new_tokens=30,
            eos_token_ids=[end_token],
            pad_token_id=PAD,
            overlap_forward=overlap,
        )
    assert ours == [
        row[: row.index(end_token) + 1] if end_token in row else row for row in full_rows
    ]
    assert len({len(row) for row in ours}) > 1


def chi_square(drawn: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's statistic over its degrees of freedom; near 1 if the draws follow the probabilities."""
    expected = probabilities * drawn.numel()
    counts = torch.bincount(drawn, minlength=len(probabilities)).float()
    frequent = expected >= 5
    rest = torch.stack([counts[~frequent].sum(), expected[~frequent].sum()])
    statistic = ((counts - expected) ** 2 / expected)[frequent].sum()
    if rest[1] >= 5:
        statistic += (rest[0] - rest[1]) ** 2 / rest[1]
    return float(statistic / frequent.sum())


@pytest.mark.parametrize(
    "sampling",
    [
        TokenSampler(),
        TokenSampler(temperature=0.7),
        TokenSampler(top_k=20),
        TokenSampler(top_p=0.8),
        TokenSampler(min_p=0.05),
        TokenSampler(temperature=1.3, top_k=50, top_p=0.9, min_p=0.01),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "min_p", "all"],
)
def test_tokens_follow_the_same_distribution_as_in_transformers(
    sampling: TokenSampler,
) -> None:
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as hf

    torch.manual_seed(0)
    logits = 2.5 * torch.randn(1, VOCABULARY)
    processors = LogitsProcessorList()
    if sampling.temperature != 1:
        processors.append(hf.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(hf.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(hf.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(hf.MinPLogitsWarper(sampling.min_p))
    probabilities = torch.softmax(
        processors(torch.zeros(1, 1, dtype=torch.long), logits.clone()), dim=-1
    )[0]
    drawn = sampling.draw(logits.expand(40_000, -1))
    assert bool((probabilities[drawn] > 0).all()), "a token was drawn that transformers excludes"
    assert chi_square(drawn, probabilities) < 1.35


def test_the_first_sampled_token_follows_the_softmax_of_the_logits() -> None:
    model = policy().eval()
    prompt = [7, 8, 9, 10]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.manual_seed(1)
        rows = generate(
            model,
            [prompt] * 20_000,
            TokenSampler(),
            max_new_tokens=1,
            eos_token_ids=[EOS],
            pad_token_id=PAD,
        )
    drawn = torch.tensor([row[0] for row in rows])
    assert chi_square(drawn, torch.softmax(logits.float(), dim=-1)) < 1.35


def test_repetition_penalty_matches_transformers() -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(0)
    logits, token_ids = torch.randn(3, VOCABULARY), torch.randint(0, VOCABULARY, (3, 12))
    seen = torch.zeros(3, VOCABULARY, dtype=torch.bool).scatter_(1, token_ids, True)
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(token_ids, logits.clone()).argmax(dim=-1)
    ours = TokenSampler(temperature=0, repetition_penalty=1.7).draw(logits, seen)
    assert ours.tolist() == theirs.tolist()


def test_logits_that_are_not_finite_end_the_rollout() -> None:
    model = policy("full").eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
        with pytest.raises(RuntimeError, match="probability"):
            generate(
                model,
                [[5, 6]],
                TokenSampler(),
                max_new_tokens=3,
                eos_token_ids=[EOS],
                pad_token_id=PAD,
            )


# --- unsupported models -----------------------------------------------------------------


def test_unsupported_models_are_reported_with_a_reason() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    assert "gpt2" in (decoder_support.unsupported_reason(gpt2) or "")
    dora = peft.get_peft_model(
        Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
        peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert "DoRA" in (decoder_support.unsupported_reason(dora) or "")


@pytest.mark.parametrize(
    ("model_type", "settings", "warning", "note"),
    [
        (
            "gemma2",
            {"sliding_window": 16},
            "TRL's code samples; only scoring is fast: the model type gemma2 is not one of llama,",
            "Fast step: log-probabilities agree with TRL's within",
        ),
        (
            "qwen3_moe",
            {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
            "TRL's code scores; only sampling is fast: only TRL's code computes the loss that balances",
            "Fast step: log-probabilities agree with the sampling's within",
        ),
    ],
    ids=["sampling", "scoring"],
)
def test_what_is_not_supported_is_left_to_trls_code_and_the_log_says_so(
    model_type: str,
    settings: dict[str, Any],
    warning: str,
    note: str,
    tmp_path: Path,
    ida_tui_here: Any,
) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    shape = SHAPE | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "head_dim": 12,
    }
    config = CONFIG_MAPPING[model_type](**shape | settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = ida_tui_here(
        "--run", "quickstart", f"model={tmp_path / 'model'}", "training.max_steps=1",
        "training.num_generations=2", "training.per_device_train_batch_size=2",
        "training.max_completion_length=8", "evaluation.enabled=false",
        "model.attn_implementation=eager",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert warning in done.out
    assert note in done.out


def test_arguments_that_only_trls_sampling_reads_leave_the_sampling_to_it_and_say_so_once(
    ida_tui_here: Any,
) -> None:
    done = ida_tui_here(
        "--run", "quickstart", "training.max_steps=2", "training.num_generations=2",
        "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1",
        "training.max_completion_length=8", "evaluation.enabled=false",
        "training.extra={generation_kwargs: {suppress_tokens: [7]}}",
    )  # fmt: skip
    assert done.code == 0, done.err
    reason = "only TRL's sampling reads generation_kwargs of training.extra"
    assert done.out.count(f"TRL's code samples; only scoring is fast: {reason}") == 1


# --- the overridden TRL methods ------------------------------------------------------------


def parameter_names(function: Any) -> Iterator[str]:
    import inspect

    yield from inspect.signature(function).parameters


def test_trl_still_calls_the_overridden_methods() -> None:
    """If a new TRL version changes these, review the fast step before using it."""
    import inspect

    import trl
    from trl import GRPOTrainer
    from trl.kernels import ChunkedLogProbFunction

    assert trl.__version__.startswith("1.16.")
    parameters = list(parameter_names(GRPOTrainer._get_per_token_logps_and_entropies))
    assert parameters[:8] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size",
        "compute_entropy", "compute_aux_loss",
    ]  # fmt: skip
    assert list(parameter_names(GRPOTrainer._generate_single_turn))[:2] == ["self", "prompt_ids"]
    assert list(parameter_names(ChunkedLogProbFunction.forward))[1:] == [
        "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
        "logit_scale", "outputs",
    ]  # fmt: skip
    source = inspect.getsource(GRPOTrainer)
    assert source.count("self._get_per_token_logps_and_entropies(") == 4
    assert source.count("self._generate_single_turn(") == 2
