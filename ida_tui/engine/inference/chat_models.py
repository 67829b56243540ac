"""Base model and trained model of a run, loaded for chat; answers are generated token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import StoppingCriteriaList

from ida_tui.config import precision
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.device import device as devices
from ida_tui.engine.model import load as weights
from ida_tui.engine.model import trained as tuned
from ida_tui.engine.rollout import decoder
from ida_tui.engine.rollout import generate as rollout
from ida_tui.engine.rollout.sampling import Sampling
from ida_tui.runs.store.evaluations import Model
from ida_tui.runs.weights import Trained

Message = dict[str, str]
"""A chat message with the keys ``role`` and ``content``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a model."""

    text: str
    tokens: int
    left_out: int
    """Number of the oldest messages that did not fit into the context."""


class Pair:
    """The base model and the trained model.

    With an adapter, one model is in memory, and the adapter is switched off for the base model's answers.
    Without one, both models are in memory.

    Args:
        config: the run's profile.
        trained: the run's weights.

    Raises:
        IdaError: the device or the weights cannot be used.
    """

    def __init__(self, config: Config, found: Trained) -> None:
        self._config = config
        self._device: DeviceName = tuned.device_for(config)
        self._tokenizer: Tokenizer = weights.load_tokenizer(config.model)
        weight_format = precision.recipe(config, self._device).weights
        self._tuned = tuned.load(config, found, weight_format).to(self._device).eval()
        self._base: Any = None
        if config.training.method != "lora":
            self._base = weights.load_model(config.model, weight_format).to(self._device).eval()

    def close(self) -> None:
        """Free the models' memory."""
        self._tuned = self._base = None
        devices.give_back(self._device)

    def reply(
        self,
        who: Model,
        conversation: Sequence[Message],
        *,
        temperature: float,
        seed: int,
        told: Callable[[str], object],
        stop: Callable[[], bool],
    ) -> Reply:
        """Answer the last message.

        Args:
            which: the base model or the trained model.
            conversation: the messages, alternating between user and assistant; the last is the user's.
            temperature: 0 for greedy decoding.
            seed: seed of the sampling.
            on_text: receives the text so far, after every token.
            should_stop: polled before every token; true ends the answer there.
        """
        model = self._tuned if who == "tuned" or self._base is None else self._base
        disable = who == "base" and self._base is None
        ids, left_out = self._ids(model, conversation)
        adapter = model.disable_adapter() if disable else nullcontext()
        with torch.no_grad(), devices.isolated_randomness(self._device, seed), adapter:
            tokens = self._sample(model, ids, temperature, told, stop)
        return Reply(self._text(tokens), len(tokens), left_out)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    @property
    def _longest(self) -> int:
        evaluation, training = self._config.evaluation, self._config.training
        return evaluation.max_completion_length or training.max_completion_length

    def _ids(self, model: Any, conversation: Sequence[Message]) -> tuple[list[int], int]:
        """Token ids of the conversation, and how many of its oldest messages are left out to fit."""
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        left_out = 0
        while True:
            prompt_ids: list[int] = self._tokenizer.apply_chat_template(
                list(conversation[left_out:]),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **self._config.model.chat_template_kwargs,
            )["input_ids"]
            if len(prompt_ids) + self._longest <= context or left_out + 2 >= len(conversation):
                # A single message that is too long is truncated at its beginning.
                return prompt_ids[-max(1, context - self._longest) :], left_out
            left_out += 2

    def _sample(
        self,
        model: Any,
        ids: list[int],
        temperature: float,
        told: Callable[[str], object],
        stop: Callable[[], bool],
    ) -> list[int]:
        end_tokens = model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        end_tokens = [end_tokens] if isinstance(end_tokens, int) else list(end_tokens)
        if self._config.engine == "fast" and decoder.unsupported(model) is None:
            return rollout.sample(
                model,
                [ids],
                Sampling(temperature=temperature),
                max_new_tokens=self._longest,
                eos=end_tokens,
                pad=self._tokenizer.pad_token_id,
                stop=stop,
                told=lambda rows, _: told(self._text(rows[0])),
                bucket=devices.length_bucket(self._device),
            )[0]

        def check_stop(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            told(self._text(tokens[0, len(ids) :].tolist()))
            return torch.full((tokens.shape[0],), stop(), device=tokens.device)

        prompt = torch.tensor([ids], device=model.device)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
            if temperature
            else {"do_sample": False}
        )
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **sampling,
            max_new_tokens=self._longest,
            pad_token_id=self._tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([check_stop]),
        )
        tokens: list[int] = output[0, len(ids) :].tolist()
        return tokens
