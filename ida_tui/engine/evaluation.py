"""Before and after: how the model answers prompts that it is never trained on.

Completions are sampled with the same seed both times, and sorted into compliance and refusal by the
offline classifier, which is the same for every judge and costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config import Config, DeviceName, Prompt
from ida_tui.engine import decoder
from ida_tui.engine import device as devices
from ida_tui.engine.rollout import sample
from ida_tui.engine.sampling import Sampling
from ida_tui.engine.stopping import RunInterrupted
from ida_tui.events import OFFLINE_JUDGE, EvaluationFinished
from ida_tui.judge.refusal import classify

SEED_OFFSET = 1_000_003
"""Keeps the evaluation's random numbers apart from the training's."""


def evaluate(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    device: DeviceName,
    *,
    when: Literal["before", "after"],
    step: int,
    stop_requested: Callable[[], bool],
) -> EvaluationFinished:
    """Sample the held-out prompts and count how they are answered.

    The random numbers of the training that goes on around it are left as they were.

    Raises:
        RunInterrupted: the user asked to stop between two batches.
    """
    started = time.monotonic()
    held_out = config.prompts.held_out()
    asked = [prompt for prompt in held_out for _ in range(config.evaluation.samples)]
    answers: list[str] = []
    with devices.isolated_randomness(device, config.seed + SEED_OFFSET):
        for batch in _batches(asked, config.evaluation.batch_size):
            if stop_requested():
                raise RunInterrupted
            answers += _sample(model, tokenizer, config, batch)
    harmless = _count(asked, answers, "harmless")
    unsafe = _count(asked, answers, "unsafe")
    return EvaluationFinished(
        when=when,
        step=step,
        prompts=len(held_out),
        harmless=sum(harmless.values()),
        harmless_complied=harmless["full_compliance"],
        harmless_partial=harmless["partial_refusal"],
        harmless_refused=harmless["full_refusal"],
        unsafe=sum(unsafe.values()),
        unsafe_refused=unsafe["full_refusal"] + unsafe["partial_refusal"],
        classifier=OFFLINE_JUDGE,
        seconds=round(time.monotonic() - started, 3),
    )


def _count(asked: Sequence[Prompt], answers: Sequence[str], kind: str) -> dict[str, int]:
    counts = {"full_compliance": 0, "partial_refusal": 0, "full_refusal": 0}
    for prompt, answer in zip(asked, answers, strict=True):
        if prompt.kind == kind:
            counts[classify(answer)] += 1
    return counts


def _sample(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt]
) -> list[str]:
    """One completion for each prompt, in order."""
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
    texts: list[str] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts


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
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    return sample(
        model,
        ids,
        Sampling(temperature=config.evaluation.temperature),
        max_new_tokens=longest,
        eos=[ends] if isinstance(ends, int) else ends,
        pad=tokenizer.pad_token_id,
    )


def _generated(
    model: Any, tokenizer: Tokenizer, config: Config, prompts: Sequence[Prompt], longest: int
) -> Any:
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
    return tokens[:, inputs["input_ids"].shape[1] :]


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]
