"""Generation of answers to prompts outside of training, with the model's current weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.engine.device.device import length_bucket, seeded_rng
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.rollout import decoder
from ida_tui.engine.rollout.generate import generate
from ida_tui.engine.rollout.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """One generated answer, not yet judged."""

    prompt: Prompt
    sample_index: int
    """Index among the answers to this prompt, from 0."""
    text: str
    tokens: int


def generate_answers(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    device: DeviceName,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[GeneratedAnswer]:
    """Generate answers with the `evaluation` settings of a profile, in the order of the prompts.

    The random number state of a surrounding training run is left unchanged.

    Args:
        model: the policy, with its adapter on or off.
        tokenizer: the policy's tokenizer.
        config: gives the batch size, temperature, maximum answer length and engine.
        device: the device that the model is on.
        prompts: the prompts to answer.
        samples: answers to each prompt.
        seed: seed of the sampling; the same seed gives the same answers on the CPU.
        should_stop: polled between two batches; true interrupts.

    Raises:
        RunInterrupted: `should_stop` returned true.
    """
    requests = [(prompt, index) for prompt in prompts for index in range(samples)]
    answers: list[GeneratedAnswer] = []
    with seeded_rng(device, seed):
        for batch in _batches(requests, config.evaluation_rows):
            if should_stop():
                raise RunInterrupted
            completions = _generate_batch(model, tokenizer, config, [prompt for prompt, _ in batch])
            texts: list[str] = tokenizer.batch_decode(completions, skip_special_tokens=True)
            answers += [
                GeneratedAnswer(prompt, index, text, len(tokens))
                for (prompt, index), text, tokens in zip(batch, texts, completions, strict=True)
            ]
    return answers


def _generate_batch(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt]
) -> list[list[int]]:
    """Token ids of one answer for each prompt, in order; each includes the token that ended it."""
    max_tokens = config.evaluation_max_completion_length
    was_training = model.training
    model.eval()
    with torch.no_grad():
        if config.engine == "fast" and decoder.unsupported_reason(model) is None:
            tokens = _generate_fast(model, tokenizer, config, prompts, max_tokens)
        else:
            tokens = _generate_with_transformers(model, tokenizer, config, prompts, max_tokens)
    model.train(was_training)
    return tokens


def _generate_fast(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt], max_tokens: int
) -> list[list[int]]:
    prompt_ids = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt.text}] for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **config.model.chat_template_kwargs,
    )["input_ids"]
    return generate(
        model,
        prompt_ids,
        TokenSampler(temperature=config.evaluation.temperature),
        max_new_tokens=max_tokens,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bucket=length_bucket(model.device.type),
    )


def _generate_with_transformers(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt], max_tokens: int
) -> list[list[int]]:
    evaluation = config.evaluation
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt.text}] for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
        **config.model.chat_template_kwargs,
    ).to(model.device)
    sampling_arguments: dict[str, Any] = (
        {"do_sample": True, "temperature": evaluation.temperature, "top_p": 1.0, "top_k": 0}
        if evaluation.temperature > 0
        else {"do_sample": False}
    )
    tokens = model.generate(
        **inputs,
        **sampling_arguments,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    end_tokens = frozenset(_eos_token_ids(model, tokenizer))
    rows: list[list[int]] = tokens[:, inputs["input_ids"].shape[1] :].tolist()
    return [_truncate_after_eos(row, end_tokens) for row in rows]


def _eos_token_ids(model: Any, tokenizer: Tokenizer) -> list[int]:
    end_tokens = model.generation_config.eos_token_id or tokenizer.eos_token_id
    return [end_tokens] if isinstance(end_tokens, int) else list(end_tokens)


def _truncate_after_eos(row: list[int], end_tokens: frozenset[int]) -> list[int]:
    """The row without the padding after its end token."""
    end = next(
        (position for position, token in enumerate(row) if token in end_tokens), len(row) - 1
    )
    return row[: end + 1]


def _batches(
    requests: Sequence[tuple[Prompt, int]], size: int
) -> Iterator[Sequence[tuple[Prompt, int]]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]
