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
from ida_tui.engine.device import device
from ida_tui.engine.model import load
from ida_tui.engine.model.trained import load_trained_model, prepare_device
from ida_tui.engine.rollout import decoder, generate
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.runs.weights import TrainedWeights

ChatMessage = dict[str, str]
"""A chat message with the keys `role` and `content`."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One answer of a model."""

    text: str
    tokens: int
    omitted_messages: int
    """Number of the oldest messages that did not fit into the context."""


class ChatModels:
    """The base model and the trained model.

    With an adapter, one model is in memory, and the adapter is switched off for the base model's answers.
    Without one, both models are in memory.

    Args:
        config: the run's profile.
        trained: the run's weights.

    Raises:
        IdaError: the device or the weights cannot be used.
    """

    def __init__(self, config: Config, trained: TrainedWeights) -> None:
        self._config = config
        self._device: DeviceName = prepare_device(config)
        self._tokenizer: Tokenizer = load.load_tokenizer(config.model)
        weight_format = precision.resolve_precision(config, self._device).weights
        self._trained = load_trained_model(config, trained, weight_format).to(self._device).eval()
        self._base: Any = None
        if config.training.method != "lora":
            self._base = load.load_model(config.model, weight_format).to(self._device).eval()

    def close(self) -> None:
        """Free the models' memory."""
        self._trained = self._base = None
        device.free_memory(self._device)

    def reply(
        self,
        which: ComparedModel,
        conversation: Sequence[ChatMessage],
        *,
        temperature: float,
        seed: int,
        on_text: Callable[[str], object],
        should_stop: Callable[[], bool],
    ) -> ChatReply:
        """Answer the last message.

        Args:
            which: the base model or the trained model.
            conversation: the messages, alternating between user and assistant; the last is the user's.
            temperature: 0 for greedy decoding.
            seed: seed of the sampling.
            on_text: receives the text so far, after every token.
            should_stop: polled before every token; true ends the answer there.
        """
        model = self._trained if which == "tuned" or self._base is None else self._base
        disable = which == "base" and self._base is None
        ids, omitted = self._encode(model, conversation)
        adapter = model.disable_adapter() if disable else nullcontext()
        with torch.no_grad(), device.seeded_rng(self._device, seed), adapter:
            tokens = self._generate(model, ids, temperature, on_text, should_stop)
        return ChatReply(self._decode(tokens), len(tokens), omitted)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _encode(self, model: Any, conversation: Sequence[ChatMessage]) -> tuple[list[int], int]:
        """Token ids of the conversation, and how many of its oldest messages are left out to fit."""
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        max_tokens = self._config.evaluation_max_completion_length
        omitted = 0
        while True:
            prompt_ids: list[int] = self._tokenizer.apply_chat_template(
                list(conversation[omitted:]),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **self._config.model.chat_template_kwargs,
            )["input_ids"]
            if len(prompt_ids) + max_tokens <= context or omitted + 2 >= len(conversation):
                # A single message that is too long is truncated at its beginning.
                return prompt_ids[-max(1, context - max_tokens) :], omitted
            omitted += 2

    def _generate(
        self,
        model: Any,
        ids: list[int],
        temperature: float,
        on_text: Callable[[str], object],
        should_stop: Callable[[], bool],
    ) -> list[int]:
        end_tokens = model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        end_tokens = [end_tokens] if isinstance(end_tokens, int) else list(end_tokens)
        if self._config.engine == "fast" and decoder.unsupported_reason(model) is None:
            return generate.generate(
                model,
                [ids],
                TokenSampler(temperature=temperature),
                max_new_tokens=self._config.evaluation_max_completion_length,
                eos_token_ids=end_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                should_stop=should_stop,
                on_tokens=lambda rows, _: on_text(self._decode(rows[0])),
                bucket=device.length_bucket(self._device),
            )[0]

        def check_stop(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            on_text(self._decode(tokens[0, len(ids) :].tolist()))
            return torch.full((tokens.shape[0],), should_stop(), device=tokens.device)

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
            max_new_tokens=self._config.evaluation_max_completion_length,
            pad_token_id=self._tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([check_stop]),
        )
        tokens: list[int] = output[0, len(ids) :].tolist()
        return tokens
