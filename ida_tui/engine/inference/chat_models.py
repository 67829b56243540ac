"""Base model and trained model of a run, loaded for chat; answers are generated token by token."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config import precision
from ida_tui.config.conversation import Context, system_context
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine.device import device
from ida_tui.engine.inference.generate import generate_tokens
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.finite_outputs import require_finite_outputs
from ida_tui.engine.model.generation import end_token_ids
from ida_tui.engine.model.trained import load_trained_model, prepare_device, require_memory
from ida_tui.planning import inference_memory
from ida_tui.planning.memory import resolve_limit
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.runs.weights import TrainedWeights

_UNLIMITED = 1 << 30
"""Context of a model that does not limit it, in tokens."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One answer of a model."""

    text: str
    tokens: int
    omitted_messages: int
    """Number of the oldest messages that did not fit into the context."""
    cut_off: bool
    """Whether it reached the limit of the profile's completions, `evaluation.max_completion_length`."""


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
        self._checked: set[ComparedModel] = set()
        """Models whose first answer was compared with what their modules compute."""
        self._device: DeviceName = prepare_device(config, with_screen=True)
        self._conversation_limit = self._plan_memory()
        self._tokenizer: Tokenizer = load.load_tokenizer(config.model)
        self._chat_format = ChatFormat(self._tokenizer, config.model)
        recipe = precision.resolve_precision(config, self._device)
        weight_format = recipe.weights
        model = load_trained_model(config, trained, weight_format, self._tokenizer)
        self._trained = model.to(self._device).eval()
        require_finite_outputs(self._trained, self._tokenizer, config.model, recipe)
        self._base: Any = None
        if config.needs_own_base:
            base = load.load_model(config.model, weight_format, self._tokenizer)
            self._base = base.to(self._device).eval()

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
        models = "both models" if config.needs_own_base else "one model"
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
        text: str,
        earlier: Context,
        *,
        temperature: float,
        seed: int,
        on_text: Callable[[str], object],
        should_stop: Callable[[], bool],
    ) -> ChatReply:
        """Answer a message, with the system prompt of the run's prompts.

        Args:
            which: the base model or the trained model.
            text: the user's message.
            earlier: the messages before it, alternating between user and assistant.
            temperature: 0 for greedy decoding.
            seed: seed of the sampling.
            on_text: receives the text so far, after every token.
            should_stop: polled before every token; true ends the answer there.
        """
        model = self._trained if which == "tuned" or self._base is None else self._base
        disable = which == "base" and self._base is None
        ids, omitted = self._encode(model, text, earlier)
        adapter = model.disable_adapter() if disable else nullcontext()
        with device.seeded_rng(self._device, seed), adapter:
            (tokens,), self._config = generate_tokens(
                model,
                self._tokenizer,
                self._config,
                [ids],
                temperature=temperature,
                check=which not in self._checked,
                should_stop=should_stop,
                on_tokens=lambda answers: on_text(self._chat_format.decode(answers[0])),
            )
        if tokens:
            self._checked.add(which)
        limit = self._config.evaluation_max_completion_length
        cut_off = len(tokens) >= limit and tokens[-1] not in end_token_ids(model)
        decoded = self._chat_format.decode(tokens) if tokens else ""
        return ChatReply(decoded, len(tokens), omitted, cut_off)

    def _encode(self, model: Any, text: str, earlier: Context) -> tuple[list[int], int]:
        """Token ids of the conversation, and how many of its oldest messages are left out to fit."""
        max_tokens = self._config.evaluation_max_completion_length
        context = getattr(model.config, "max_position_embeddings", None) or _UNLIMITED
        context = min(context, self._conversation_limit + max_tokens)
        system = system_context(self._config.prompts.system)
        omitted = 0
        while True:
            prompt_ids = self._chat_format.encode(text, (*system, *earlier[omitted:]))
            if len(prompt_ids) + max_tokens <= context or omitted >= len(earlier):
                # A single message that is too long is truncated at its beginning.
                return prompt_ids[-max(1, context - max_tokens) :], omitted
            omitted += 2
