"""The untrained and the trained model of a run, answering one conversation a token at a time."""

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
"""``role`` and ``content``, as chat templates take them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    tokens: int
    left_out: int
    """Messages at the beginning of the conversation that it had no room for."""


class Pair:
    """Both models. An adapter is switched off and on again; two whole models are both in memory.

    Args:
        config: the run's profile.
        found: the run's weights.

    Raises:
        IdaError: the device or the weights cannot be used.
    """

    def __init__(self, config: Config, found: Trained) -> None:
        self._config = config
        self._device: DeviceName = tuned.device_for(config)
        self._tokenizer: Tokenizer = weights.load_tokenizer(config.model)
        held = precision.recipe(config, self._device).weights
        self._tuned = tuned.load(config, found, held).to(self._device).eval()
        self._base: Any = None
        if config.training.method != "lora":
            self._base = weights.load_model(config.model, held).to(self._device).eval()

    def close(self) -> None:
        """Give their memory back."""
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
            who: the untrained or the trained model.
            conversation: messages by turns, the user's last.
            temperature: 0 is greedy.
            seed: of the sampling.
            told: given the text so far, after every token.
            stop: asked before every token; true ends the answer with what there is.
        """
        model = self._tuned if who == "tuned" or self._base is None else self._base
        off = who == "base" and self._base is None
        ids, left_out = self._ids(model, conversation)
        adapter = model.disable_adapter() if off else nullcontext()
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
        """The conversation as tokens; the oldest turns are left out where it is too long."""
        room = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        left_out = 0
        while True:
            ids: list[int] = self._tokenizer.apply_chat_template(
                list(conversation[left_out:]),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **self._config.model.chat_template_kwargs,
            )["input_ids"]
            if len(ids) + self._longest <= room or left_out + 2 >= len(conversation):
                # One message that is too long by itself is cut at its beginning.
                return ids[-max(1, room - self._longest) :], left_out
            left_out += 2

    def _sample(
        self,
        model: Any,
        ids: list[int],
        temperature: float,
        told: Callable[[str], object],
        stop: Callable[[], bool],
    ) -> list[int]:
        ends = model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends)
        if self._config.engine == "fast" and decoder.unsupported(model) is None:
            return rollout.sample(
                model,
                [ids],
                Sampling(temperature=temperature),
                max_new_tokens=self._longest,
                eos=ends,
                pad=self._tokenizer.pad_token_id,
                stop=stop,
                told=lambda rows, _: told(self._text(rows[0])),
                bucket=devices.length_bucket(self._device),
            )[0]

        def look(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            told(self._text(tokens[0, len(ids) :].tolist()))
            return torch.full((tokens.shape[0],), stop(), device=tokens.device)

        row = torch.tensor([ids], device=model.device)
        how = (
            {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
            if temperature
            else {"do_sample": False}
        )
        out = model.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            **how,
            max_new_tokens=self._longest,
            pad_token_id=self._tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([look]),
        )
        tokens: list[int] = out[0, len(ids) :].tolist()
        return tokens
