"""The fast step computes TRL's step: log-probabilities, entropies, loss and every gradient, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.rollout import decoder
from ida_tui.engine.rollout.generate import generate, generate_in_chunks
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.trainer.fast import PARITY_TOLERANCE

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
    """A tiny random model, with an adapter that is not at its start."""
    torch.manual_seed(3)
    model: Any
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    if method == "lora":
        lora = peft.LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def batch(
    rows: int, prompts: int, lengths: list[int], width: int = 40
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask as TRL makes them: prompts of different length padded left, completions right."""
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


def trls(model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int) -> tuple[Any, Any]:
    """What `GRPOTrainer._get_per_token_logps_and_entropies` does."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-kept] = -100
    out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -kept:], out.entropy[:, -kept:]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


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
    ],
    ids=["G1", "G2", "G8", "two-prompts", "three-prompts", "all-truncated", "short"],
)
def test_log_probabilities_entropies_and_every_gradient_are_trls(
    rows: int, prompts: int, lengths: list[int], method: str, checkpointing: bool, bucket: int
) -> None:
    model = policy(method)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    ids, mask = batch(rows, prompts, lengths)
    there = mask[:, 20:]
    advantages = torch.linspace(-1, 1.3, rows)[:, None]
    found = []
    for way in ("theirs", "ours"):
        model.zero_grad()
        if way == "theirs":
            scores, entropy = trls(model, ids, mask, 40)
        else:
            scores, entropy = completion_logprobs(
                model, ids, mask, 40, TEMPERATURE, with_entropy=True, bucket=bucket
            )
        # GRPO's loss at the first iteration, where the ratio is 1 and its gradient is not 0.
        ratio = torch.exp(scores - scores.detach())
        loss = -(ratio * advantages * there).sum() / there.sum()
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append(
            ((scores * there).detach(), (entropy * there).detach(), loss.detach(), gradients)
        )
    theirs, ours = found
    assert relative(ours[0], theirs[0]) <= RELATIVE
    assert relative(ours[1], theirs[1]) <= RELATIVE
    assert torch.isclose(ours[2], theirs[2], rtol=1e-5, atol=1e-7)
    assert ours[3].keys() == theirs[3].keys()
    for name, gradient in theirs[3].items():
        assert relative(ours[3][name], gradient) <= RELATIVE, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_the_two_ways_differ_by_less_than_the_stated_tolerance(
    dtype: torch.dtype,
) -> None:
    model = policy().to(dtype)
    ids, mask = batch(8, 2, [40, 3, 22, 9])
    there = mask[:, 20:].bool()
    with torch.no_grad():
        theirs, _ = trls(model, ids, mask, 40)
        ours, _ = completion_logprobs(model, ids, mask, 40, TEMPERATURE, with_entropy=False)
    gap = ((ours.float() - theirs.float()).abs() / theirs.float().abs().clamp(min=1.0))[there]
    assert 0 < float(gap.mean()) <= PARITY_TOLERANCE[str(dtype).removeprefix("torch.")]


def test_the_reference_is_the_model_without_its_adapter() -> None:
    model = policy()
    ids, mask = batch(4, 1, [20, 33])
    with torch.no_grad(), model.disable_adapter():
        ours, _ = completion_logprobs(model, ids, mask, 40, TEMPERATURE, with_entropy=False)
        theirs, _ = trls(model, ids, mask, 40)
    assert relative(ours * mask[:, 20:], theirs * mask[:, 20:]) <= RELATIVE


# --- sampling ------------------------------------------------------------------------


def generated(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What transformers' `generate` says greedily, up to each row's end."""
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
def test_greedy_decoding_is_generates_token_for_token(
    method: str, family: str, bucket: int
) -> None:
    model = policy(method, family).eval()
    generator = torch.Generator().manual_seed(9)
    same = torch.randint(5, 600, (18,), generator=generator).tolist()
    shorter = torch.randint(5, 600, (11,), generator=generator).tolist()
    for prompts in ([same] * 3, [same, same, shorter, shorter], [shorter]):
        with torch.no_grad():
            ours = generate(
                model, prompts, TokenSampler(temperature=0), max_new_tokens=40, eos_token_ids=[EOS],
                pad_token_id=PAD, bucket=bucket,
            )  # fmt: skip
        assert ours == generated(model, prompts, 40)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8, None])
def test_rows_that_are_sampled_in_parts_are_those_that_are_sampled_together(
    at_once: int | None,
) -> None:
    model = policy("full").eval()
    prompts = [[5, 6, 7]] * 3 + [[8, 9]] * 2
    told: list[tuple[list[int], list[int]]] = []
    with torch.no_grad():
        ours = generate_in_chunks(
            model, prompts, TokenSampler(temperature=0), at_once, max_new_tokens=20,
            eos_token_ids=[EOS], pad_token_id=PAD,
            on_tokens=lambda rows, ended: told.append(([len(row) for row in rows], list(ended))),
        )  # fmt: skip
    assert ours == generated(model, prompts, 20)
    assert all(len(lengths) == len(prompts) for lengths, _ in told)
    rows = [row for _, ended in told for row in ended]
    assert sorted(rows) == [row for row, ids in enumerate(ours) if ids[-1] == EOS]


@pytest.mark.parametrize("ahead", [False, True], ids=["cpu", "device"])
def test_a_row_that_ends_leaves_the_others_as_they_were(ahead: bool) -> None:
    model = policy("full").eval()
    prompts = [[n + 5, n + 6, n + 7] for n in range(6)]
    whole = generated(model, prompts, 30)
    # Take a token that some rows say early as the end: those rows drop out, one after the other.
    end = whole[2][4]
    with torch.no_grad():
        ours = generate(
            model,
            prompts,
            TokenSampler(temperature=0),
            max_new_tokens=30,
            eos_token_ids=[end],
            pad_token_id=PAD,
            overlap_forward=ahead,
        )
    assert ours == [row[: row.index(end) + 1] if end in row else row for row in whole]
    assert len({len(row) for row in ours}) > 1


def chi_square(drawn: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's statistic over its degrees of freedom; near 1 where the draws follow the probabilities."""
    expected = probabilities * drawn.numel()
    counts = torch.bincount(drawn, minlength=len(probabilities)).float()
    often = expected >= 5
    rest = torch.stack([counts[~often].sum(), expected[~often].sum()])
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    if rest[1] >= 5:
        statistic += (rest[0] - rest[1]) ** 2 / rest[1]
    return float(statistic / often.sum())


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
def test_tokens_are_drawn_from_the_distribution_that_transformers_draws_from(
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
    wanted = torch.softmax(processors(torch.zeros(1, 1, dtype=torch.long), logits.clone()), dim=-1)[
        0
    ]
    drawn = sampling.draw(logits.expand(40_000, -1))
    assert bool((wanted[drawn] > 0).all()), "a token was drawn that transformers leaves out"
    assert chi_square(drawn, wanted) < 1.35


def test_what_the_model_samples_first_follows_the_softmax_of_its_logits() -> None:
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


def test_repetition_penalty_is_transformers_own() -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(0)
    logits, held = torch.randn(3, VOCABULARY), torch.randint(0, VOCABULARY, (3, 12))
    seen = torch.zeros(3, VOCABULARY, dtype=torch.bool).scatter_(1, held, True)
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(held, logits.clone()).argmax(dim=-1)
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


# --- what is not covered -----------------------------------------------------------------


def test_models_outside_the_covered_families_say_why() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    assert "gpt2" in (decoder.unsupported_reason(gpt2) or "")
    sliding = Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    )
    assert "sliding" in (decoder.unsupported_reason(sliding) or "")
    dora = peft.get_peft_model(
        Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
        peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert "DoRA" in (decoder.unsupported_reason(dora) or "")


def test_a_model_that_is_not_covered_is_trained_by_trls_own_code_and_the_log_says_so(
    tmp_path: Path, ida_tui_here: Any
) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    shape = SHAPE | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen3Config(**shape, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = ida_tui_here(
        "--run", "quickstart", f"model={tmp_path / 'model'}", "training.max_steps=1",
        "training.num_generations=2", "training.per_device_train_batch_size=2",
        "training.max_completion_length=8", "evaluation.enabled=false",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Fast step is off, using TRL's code: the model uses sliding-window attention" in done.out


# --- TRL's side of the contract ------------------------------------------------------------


def signature(function: Any) -> Iterator[str]:
    import inspect

    yield from inspect.signature(function).parameters


def test_what_is_overridden_is_still_what_trl_calls() -> None:
    """A new TRL that changes these has to be read before the fast step is trusted with it."""
    import inspect

    import trl
    from trl import GRPOTrainer
    from trl.kernels import ChunkedLogProbFunction

    assert trl.__version__.startswith("1.16.")
    scoring = list(signature(GRPOTrainer._get_per_token_logps_and_entropies))
    assert scoring[:8] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size",
        "compute_entropy", "compute_aux_loss",
    ]  # fmt: skip
    assert list(signature(GRPOTrainer._generate_single_turn))[:2] == ["self", "prompt_ids"]
    assert list(signature(ChunkedLogProbFunction.forward))[1:] == [
        "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
        "logit_scale", "outputs",
    ]  # fmt: skip
    source = inspect.getsource(GRPOTrainer)
    assert source.count("self._get_per_token_logps_and_entropies(") == 4
    assert source.count("self._generate_single_turn(") == 2
