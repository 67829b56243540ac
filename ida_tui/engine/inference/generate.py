"""Answers to prompts that a model is not trained on, from whatever weights it holds now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.engine.device import device as devices
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.rollout import decoder
from ida_tui.engine.rollout.generate import sample
from ida_tui.engine.rollout.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer, not yet judged."""

    prompt: Prompt
    sample: int
    """Which of the answers to this prompt, from 0."""
    text: str
    tokens: int


def answer(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    device: DeviceName,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    seed: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Sample answers as ``evaluation`` of a profile says; in the order of the prompts.

    The random numbers of the training that goes on around it are left as they were.

    Args:
        model: the policy, with its adapter on or off.
        tokenizer: the policy's own.
        config: batch size, temperature, longest answer, engine.
        device: where the model is.
        prompts: what is asked.
        samples: answers to each.
        seed: of the sampling; the same one makes the same answers on the CPU.
        stop_requested: asked between two batches.

    Raises:
        RunInterrupted: `stop_requested` said so.
    """
    asked = [(prompt, number) for prompt in prompts for number in range(samples)]
    answers: list[Sampled] = []
    with devices.isolated_randomness(device, seed):
        for batch in _batches(asked, config.evaluation.batch_size):
            if stop_requested():
                raise RunInterrupted
            found = _sample(model, tokenizer, config, [prompt for prompt, _ in batch])
            texts: list[str] = tokenizer.batch_decode(found, skip_special_tokens=True)
            answers += [
                Sampled(prompt, number, text, len(tokens))
                for (prompt, number), text, tokens in zip(batch, texts, found, strict=True)
            ]
    return answers


def _sample(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt]
) -> list[list[int]]:
    """Tokens of one completion for each prompt, in order, each with the token that ended it."""
    evaluation = config.evaluation
    longest = evaluation.max_completion_length or config.training.max_completion_length
    was_training = model.training
    model.eval()
    with torch.no_grad():
        if config.engine == "fast" and decoder.unsupported(model) is None:
            tokens = _rolled_out(model, tokenizer, config, prompts, longest)
        else:
            tokens = _generated(model, tokenizer, config, prompts, longest)
    model.train(was_training)
    return tokens


def _rolled_out(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt], longest: int
) -> list[list[int]]:
    ids = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt.text}] for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **config.model.chat_template_kwargs,
    )["input_ids"]
    return sample(
        model,
        ids,
        Sampling(temperature=config.evaluation.temperature),
        max_new_tokens=longest,
        eos=_ends(model, tokenizer),
        pad=tokenizer.pad_token_id,
    )


def _generated(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt], longest: int
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
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": evaluation.temperature, "top_p": 1.0, "top_k": 0}
        if evaluation.temperature > 0
        else {"do_sample": False}
    )
    tokens = model.generate(
        **inputs,
        **sampling,
        max_new_tokens=longest,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    ends = frozenset(_ends(model, tokenizer))
    rows: list[list[int]] = tokens[:, inputs["input_ids"].shape[1] :].tolist()
    return [_until_end(row, ends) for row in rows]


def _ends(model: Any, tokenizer: Tokenizer) -> list[int]:
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends)


def _until_end(row: list[int], ends: frozenset[int]) -> list[int]:
    """A row without the padding after the token that ended it."""
    end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: end + 1]


def _batches(
    asked: Sequence[tuple[Prompt, int]], size: int
) -> Iterator[Sequence[tuple[Prompt, int]]]:
    for start in range(0, len(asked), size):
        yield asked[start : start + size]
