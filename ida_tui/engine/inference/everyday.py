"""Everyday questions, answered by the untrained and the trained model, to see whether training broke it.

The answers are greedy. Besides their length and repetition, the perplexity of the untrained model's answers
under each model tells how far the trained model has moved where it should not have. Nothing is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.prompts import PromptSet
from ida_tui.config.resolve import resolve_profile
from ida_tui.config.schema import EVERYDAY_TOKENS, Config, DeviceName
from ida_tui.engine.inference.generate import generate_answers
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.events.values import EverydayFigures
from ida_tui.judge.calibration.cross_check import repetition_share
from ida_tui.runs.store.baseline import EverydayAnswer
from ida_tui.util.statistics import mean_of_known

LARGEST_LOSS = 36.0
"""Largest mean loss of a token that is told apart, in nats; an event can hold its exponential."""


class EverydayCheck:
    """The first questions of the profile `everyday`, asked of the models of one run.

    Args:
        config: the run's profile; `evaluation.everyday` is the number of questions.
        tokenizer: the tokenizer of both models.
        device: the device that the models are on.
        should_stop: polled before every token.
        on_progress: receives the number of answers so far and of all answers of a model.

    Raises:
        UsageError: the profile `everyday` cannot be used.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        device: DeviceName,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], object] = lambda answers, planned: None,
    ) -> None:
        questions = resolve_profile("prompts", "everyday").config
        assert isinstance(questions, PromptSet)
        self._prompts = questions.rows()[: config.evaluation.everyday]
        evaluation = config.evaluation.model_copy(
            update={"temperature": 0.0, "max_completion_length": EVERYDAY_TOKENS}
        )
        self._config = config.model_copy(update={"evaluation": evaluation, "prompts": questions})
        self._tokenizer = tokenizer
        self._device = device
        self._should_stop = should_stop
        self._on_progress = on_progress

    def answer(self, model: Any) -> list[EverydayAnswer]:
        """The answers of a model, each with its log-probability under the same model.

        Raises:
            RunInterrupted: `should_stop` returned true.
        """
        answers = generate_answers(
            model,
            self._tokenizer,
            self._config,
            self._device,
            self._prompts,
            samples=1,
            seed=0,
            should_stop=self._should_stop,
            on_progress=self._on_progress,
        )
        logprobs = self._logprobs(model, [answer.token_ids for answer in answers])
        return [
            EverydayAnswer(answer.prompt.id, answer.text, list(answer.token_ids), logprob)
            for answer, logprob in zip(answers, logprobs, strict=True)
        ]

    def compare(self, before: Sequence[EverydayAnswer], model: Any) -> EverydayFigures | None:
        """The figures of both models; None if the untrained model answered other questions.

        Args:
            before: what `answer` returned for the untrained model.
            model: the trained model.

        Raises:
            RunInterrupted: `should_stop` returned true.
        """
        if [answer.prompt_id for answer in before] != [prompt.id for prompt in self._prompts]:
            return None
        after = self.answer(model)
        tokens = [answer.token_ids for answer in before]
        count = sum(map(len, tokens))
        return EverydayFigures(
            questions=len(before),
            length_before=count / len(before),
            length_after=sum(len(answer.token_ids) for answer in after) / len(after),
            repetition_before=_mean_repetition(before),
            repetition_after=_mean_repetition(after),
            perplexity_before=_perplexity([answer.logprob for answer in before], count),
            perplexity_after=_perplexity(self._logprobs(model, tokens), count),
        )

    def _logprobs(self, model: Any, answers: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each answer to its question, in nats, without dropout."""
        chat_format = ChatFormat(self._tokenizer, self._config.model)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return [
                    _logprob(model, chat_format.encode(prompt.text), tokens)
                    for prompt, tokens in zip(self._prompts, answers, strict=True)
                ]
        finally:
            model.train(was_training)


def _logprob(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, :-1]
    target = torch.tensor(list(tokens), device=model.device)
    return -float(torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum"))


def _mean_repetition(answers: Sequence[EverydayAnswer]) -> float:
    return mean_of_known([repetition_share(answer.text) for answer in answers]) or 0.0


def _perplexity(logprobs: Sequence[float], tokens: int) -> float:
    """The perplexity of answers with this number of tokens in all; the largest number for a broken model."""
    loss = -sum(logprobs) / max(1, tokens)
    return math.exp(min(loss, LARGEST_LOSS) if math.isfinite(loss) else LARGEST_LOSS)
