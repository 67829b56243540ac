"""Generation of answers to prompts outside of training, with the model's current weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import StoppingCriteriaList

from ida_tui.config.conversation import Context, prompt_context
from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.engine.architecture.parts import longest_exact_sequence
from ida_tui.engine.device.device import length_bucket, seeded_rng
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.generation import (
    end_token_ids,
    generation_config,
    token_sampler,
    without_published_sampling,
)
from ida_tui.engine.rollout import decoder_support
from ida_tui.engine.rollout.agreement import DrawnLogprobs, agrees, drawn_as_computed
from ida_tui.engine.rollout.generate import generate
from ida_tui.engine.rollout.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """One generated answer, not yet judged."""

    prompt: Prompt
    sample_index: int
    """Index among the answers to this prompt, from 0."""
    text: str
    """The whole completion, with its thought."""
    tokens: int
    context: Context = ()
    """The messages before the prompt's text."""
    thought_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    """The completion's token ids, with the one that ended it."""


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
    on_progress: Callable[[int, int], object] = lambda answers, planned: None,
) -> list[GeneratedAnswer]:
    """Generate answers with the `evaluation` settings of a profile, in the order of the prompts.

    The other sampling parameters (top-p, top-k, min-p, repetition penalty) are those of the training.
    The random number state of a surrounding training run is left unchanged.

    Args:
        model: the policy, with its adapter on or off.
        tokenizer: the policy's tokenizer.
        config: gives the batch size, sampling parameters, maximum answer length and engine.
        device: the device that the model is on.
        prompts: the prompts to answer.
        samples: answers to each prompt.
        seed: seed of the sampling; the same seed gives the same answers on the CPU.
        should_stop: polled before every token; true interrupts.
        on_progress: receives the number of answers so far and of all answers, before every batch.

    Raises:
        RunInterrupted: `should_stop` returned true.
    """
    requests = [(prompt, index) for prompt in prompts for index in range(samples)]
    answers: list[GeneratedAnswer] = []
    chat_format = ChatFormat(tokenizer, config.model)
    check = True
    with seeded_rng(device, seed):
        for batch in _batches(requests, config.evaluation_rows):
            on_progress(len(answers), len(requests))
            contexts = [prompt_context(prompt, config.prompts.system) for prompt, _ in batch]
            prompt_ids = [
                chat_format.encode(prompt.text, context)
                for (prompt, _), context in zip(batch, contexts, strict=True)
            ]
            completions, config = generate_tokens(
                model,
                tokenizer,
                config,
                prompt_ids,
                temperature=config.evaluation.temperature,
                check=check,
                should_stop=should_stop,
            )
            if should_stop():
                raise RunInterrupted
            check = False
            texts = chat_format.decode_all(completions)
            answers += [
                GeneratedAnswer(
                    prompt,
                    index,
                    text,
                    len(tokens),
                    context,
                    chat_format.count_thought_tokens(text, len(tokens)),
                    tuple(tokens),
                )
                for (prompt, index), context, text, tokens in zip(
                    batch, contexts, texts, completions, strict=True
                )
            ]
    return answers


def generate_tokens(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    prompt_ids: Sequence[Sequence[int]],
    *,
    temperature: float,
    check: bool,
    should_stop: Callable[[], bool] = lambda: False,
    on_tokens: Callable[[list[list[int]]], object] = lambda completions: None,
) -> tuple[list[list[int]], Config]:
    """Generate one answer for each prompt.

    Args:
        model: the policy, with its adapter on or off.
        tokenizer: the policy's tokenizer.
        config: gives the engine, the maximum answer length, and the sampling parameters of the training.
        prompt_ids: token ids of the prompts.
        temperature: sampling temperature; 0 is greedy decoding.
        check: whether to compare the log-probabilities of some answers, as the fast engine drew them, with
            those of the model's modules. If they differ, transformers answers instead, with a warning.
        should_stop: polled before every token; true ends the answers there.
        on_tokens: receives all answers so far, after every token.

    Returns:
        The token ids of the answers, in order, each with the token that ended it; and the profile for further
        answers, with `engine: plain` if the fast engine failed the check.
    """
    sampler = token_sampler(config.training, temperature)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if config.engine == "fast" and _can_decode(model, config, prompt_ids):
                drawn = DrawnLogprobs()
                answers = generate(
                    model,
                    prompt_ids,
                    sampler,
                    max_new_tokens=config.evaluation_max_completion_length,
                    eos_token_ids=end_token_ids(model),
                    pad_token_id=tokenizer.pad_token_id,
                    should_stop=should_stop,
                    on_tokens=lambda completions, _: on_tokens(completions),
                    on_draw=drawn.add if check else None,
                    bucket=length_bucket(model.device.type),
                )
                if not check or _drawn_by_this_model(
                    model, prompt_ids, answers, drawn, temperature
                ):
                    return answers, config
                config = config.model_copy(update={"engine": "plain"})
            answers = _generate_with_transformers(
                model, tokenizer, config, prompt_ids, sampler, should_stop, on_tokens
            )
            return answers, config
    finally:
        model.train(was_training)


def _can_decode(model: Any, config: Config, prompt_ids: Sequence[Sequence[int]]) -> bool:
    """Whether the fast engine supports the model, and the prompts with their longest answers."""
    if decoder_support.unsupported_reason(model) is not None:
        return False
    longest = max(map(len, prompt_ids)) + config.evaluation_max_completion_length
    limit = longest_exact_sequence(model)
    return limit is None or longest <= limit


def _drawn_by_this_model(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    drawn: DrawnLogprobs,
    temperature: float,
) -> bool:
    """Whether the fast engine drew the answers from the model's distribution; warns if it did not."""
    difference = drawn_as_computed(model, prompt_ids, answers, drawn, temperature)
    if agrees(difference, str(model.dtype).removeprefix("torch.")):
        return True
    warnings.warn(
        "The fast engine is off; transformers answers instead: the log-probabilities of the drawn tokens"
        f" differ from the model's by {difference:.1e} on average",
        stacklevel=2,
    )
    return False


def _generate_with_transformers(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    prompt_ids: Sequence[Sequence[int]],
    sampler: TokenSampler,
    should_stop: Callable[[], bool],
    on_tokens: Callable[[list[list[int]]], object],
) -> list[list[int]]:
    longest, end_tokens = max(map(len, prompt_ids)), frozenset(end_token_ids(model))

    def answers(tokens: torch.Tensor) -> list[list[int]]:
        return [_truncate_after_eos(row, end_tokens) for row in tokens[:, longest:].tolist()]

    def check_stop(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        on_tokens(answers(tokens))
        return torch.full((tokens.shape[0],), should_stop(), device=tokens.device)

    padding = [longest - len(ids) for ids in prompt_ids]
    settings = generation_config(
        sampler,
        max_new_tokens=config.evaluation_max_completion_length,
        eos_token_id=end_token_ids(model),
        pad_token_id=tokenizer.pad_token_id,
    )
    rows = zip(padding, prompt_ids, strict=True)
    ids = [[tokenizer.pad_token_id] * missing + list(prompt) for missing, prompt in rows]
    mask = [[0] * missing + [1] * (longest - missing) for missing in padding]
    with without_published_sampling(model):
        tokens = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([check_stop]),
        )
    return answers(tokens)


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
