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
from ida_tui.engine.model.trained import load_trained_model, prepare_device, require_memory
from ida_tui.engine.rollout import decoder, generate
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.planning import inference_memory
from ida_tui.planning.memory import resolve_limit
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.runs.weights import TrainedWeights

_UNLIMITED = 1 << 30
"""Context of a model that does not limit it, in tokens."""
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
        IdaError: the device or the weights cannot be used, or the chat does not fit into memory.
    """

    memory_text: str
    """The memory plan of the chat, on one line."""

    def __init__(self, config: Config, trained: TrainedWeights) -> None:
        self._config = config
        self._device: DeviceName = prepare_device(config)
        self._conversation_limit = self._plan_memory()
        self._tokenizer: Tokenizer = load.load_tokenizer(config.model)
        weight_format = precision.resolve_precision(config, self._device).weights
        self._trained = load_trained_model(config, trained, weight_format).to(self._device).eval()
        self._base: Any = None
        if config.training.method != "lora":
            self._base = load.load_model(config.model, weight_format).to(self._device).eval()

    def _plan_memory(self) -> int:
        """Plan the memory of the chat; the longest conversation that it has memory for, in tokens.

        Raises:
            IdaError: not even a short conversation fits (exit code 4).
        """
        config, name = self._config, self._device
        shortest = inference_memory.plan_chat(
            config, name, inference_memory.MIN_CONVERSATION_TOKENS
        )
        warning = require_memory(shortest, config, name, "chat")
        if shortest is None:
            self.memory_text = "memory: unknown, because the model's layer sizes are unknown"
            return _UNLIMITED
        limit = resolve_limit(config, device.usable_memory(name))
        longest = inference_memory.longest_conversation(config, name, limit)
        planned = inference_memory.plan_chat(config, name, longest)
        assert planned is not None
        models = "one model" if config.training.method == "lora" else "both models"
        self.memory_text = warning or (
            f"memory: at most about {planned.peak_bytes / 1e9:.1f} of {limit / 1e9:.1f} GB, for {models}"
            f" and a conversation of up to {longest:,} tokens"
        )
        return longest

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
        max_tokens = self._config.evaluation_max_completion_length
        context = getattr(model.config, "max_position_embeddings", None) or _UNLIMITED
        context = min(context, self._conversation_limit + max_tokens)
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
