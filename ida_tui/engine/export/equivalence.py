"""Whether two sets of weights are one model: the same prompts, the same words, nearly the same logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.precision import Format
from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.engine.inference.generate import answer

PROMPTS = 12
"""How many are asked at most."""
LONGEST = 64
"""Tokens of an answer at most."""
LAST = 16
"""Places of each answer whose logits are compared, its last ones; a vocabulary can have 152 k entries."""
TOLERANCE: Mapping[Format, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Most that logits may differ, in relative L2 norm: what rounding the weights to the format explains."""
TOKENS_ALIKE: Mapping[Format, float] = {"float32": 1.0, "float16": 0.98, "bfloat16": 0.95}
"""Least share of places where both find the same token likeliest; 16 bits can turn a near tie round."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a model says to some prompts, and how sure it is."""

    texts: tuple[str, ...]
    """Its greedy answers."""
    logits: tuple[torch.Tensor, ...]
    """For each prompt (places, vocabulary), float32 on the host, along the reference's answers."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far written weights agree with those that they were made from."""

    dtype: Format
    prompts: int
    same: int
    """Greedy answers that are the same, to the letter."""
    tokens_alike: float
    """Share of places where both find the same token likeliest, 0 to 1."""
    difference: float
    """Relative L2 norm of the difference of the logits; not finite where one is not."""

    @property
    def good(self) -> bool:
        """Whether it is the same model, as far as its format can tell."""
        exact = self.same == self.prompts or self.dtype != "float32"
        near = self.difference <= TOLERANCE[self.dtype]  # false for NaN
        return exact and near and self.tokens_alike >= TOKENS_ALIKE[self.dtype]

    @property
    def words(self) -> str:
        """Such as ``12 of 12 greedy answers are the same, logits differ by 2e-07 (1e-04 may be)``."""
        alike = "" if self.tokens_alike == 1 else f", {100 * self.tokens_alike:.1f} % of the tokens"
        return (
            f"{self.same} of {self.prompts} greedy answers are the same{alike}; logits differ by"
            f" {self.difference:.0e} ({TOLERANCE[self.dtype]:.0e} may be, in {self.dtype})"
        )


def asked(config: Config) -> list[Prompt]:
    """Prompts to ask: of the held-out ones, or where there are none of all, evenly spread."""
    found = config.prompts.held_out() or config.prompts.prompts
    step = max(1, len(found) // PROMPTS)
    return found[::step][:PROMPTS]


def behaviour(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    device: DeviceName,
    prompts: Sequence[Prompt],
    reference: Behaviour | None = None,
) -> Behaviour:
    """Ask a model.

    Args:
        model: the model, on the device.
        tokenizer: its own.
        config: the run's profile.
        device: where the model is.
        prompts: what is asked.
        reference: along whose answers the logits are taken; None is along its own.
    """
    longest = config.evaluation.max_completion_length or config.training.max_completion_length
    greedy = config.evaluation.model_copy(
        update={"temperature": 0.0, "max_completion_length": min(LONGEST, longest)}
    )
    settings = config.model_copy(update={"evaluation": greedy})
    said = answer(model, tokenizer, settings, device, prompts, samples=1, seed=0)
    texts = tuple(one.text for one in said)
    along = reference.texts if reference else texts
    model.eval()
    with torch.no_grad():
        logits = [
            _logits(model, tokenizer, config, prompt, text)
            for prompt, text in zip(prompts, along, strict=True)
        ]
    return Behaviour(texts, tuple(logits))


def _logits(
    model: Any, tokenizer: Tokenizer, config: Config, prompt: Prompt, text: str
) -> torch.Tensor:
    """The logits at the last places of an answer, (places, vocabulary)."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt.text}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **config.model.chat_template_kwargs,
    )["input_ids"]
    more: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*ids, *more]], device=model.device)
    places = min(LAST, len(more) + 1)
    out: torch.Tensor = model(input_ids=row, use_cache=False, logits_to_keep=places).logits
    return out[0].float().cpu()


def agreement(reference: Behaviour, written: Behaviour, dtype: Format) -> Agreement:
    """Hold what was written against what it was made from.

    Args:
        reference: the run's own model.
        written: the model as it was read back from the disk, along the reference's answers.
        dtype: the format that its weights were written in.
    """
    one, other = torch.cat(reference.logits), torch.cat(written.logits)
    pairs = zip(reference.texts, written.texts, strict=True)
    return Agreement(
        dtype=dtype,
        prompts=len(reference.texts),
        same=sum(before == after for before, after in pairs),
        tokens_alike=float((one.argmax(dim=-1) == other.argmax(dim=-1)).double().mean()),
        difference=float((one - other).double().norm() / one.double().norm()),
    )
