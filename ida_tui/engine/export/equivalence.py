"""Equivalence check of an export: compares its greedy answers and logits with those of the run's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.conversation import prompt_context
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import Config, DeviceName, Prompt
from ida_tui.engine.inference.generate import generate_answers
from ida_tui.engine.model.chat_format import ChatFormat

MAX_PROMPTS = 12
"""Most prompts that are compared."""
MAX_ANSWER_TOKENS = 64
"""Most tokens of an answer."""
COMPARED_POSITIONS = 16
"""Last positions of each answer whose logits are compared; a vocabulary can have 152,000 entries."""
LOGIT_TOLERANCE: Mapping[WeightFormat, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest allowed relative L2 difference of the logits: what rounding the weights to the format explains."""
MIN_TOP_TOKEN_AGREEMENT: Mapping[WeightFormat, float] = {
    "float32": 1.0,
    "float16": 0.98,
    "bfloat16": 0.95,
}
"""Least share of positions with the same top token; 16-bit rounding can flip a near tie."""


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """A model's greedy answers to some prompts, and its logits along them."""

    texts: tuple[str, ...]
    """One greedy answer for each prompt."""
    logits: tuple[torch.Tensor, ...]
    """For each prompt (positions, vocabulary), float32 on the CPU, along the reference's answers."""


@dataclass(frozen=True, slots=True)
class EquivalenceCheck:
    """How closely exported weights match the run's model."""

    dtype: WeightFormat
    prompts: int
    same_answers: int
    """Greedy answers with identical text."""
    top_token_agreement: float
    """Share of positions where both models rank the same token first, 0 to 1."""
    logit_difference: float
    """Relative L2 norm of the difference of the logits; not finite if a logit is not finite."""
    on_packed: EquivalenceCheck | None = None
    """Comparison with the packed weights that the adapter was trained on; None if they were not packed."""

    @property
    def passed(self) -> bool:
        """Whether both are the same model, within the rounding of the format."""
        exact = self.same_answers == self.prompts or self.dtype != "float32"
        close = self.logit_difference <= LOGIT_TOLERANCE[self.dtype]  # false for NaN
        return exact and close and self.top_token_agreement >= MIN_TOP_TOKEN_AGREEMENT[self.dtype]

    @property
    def summary(self) -> str:
        """Such as `12 of 12 greedy answers match; logit difference 2e-07 (tolerance 1e-04 in float32)`."""
        tokens = (
            ""
            if self.top_token_agreement == 1
            else f", {100 * self.top_token_agreement:.1f}% of the tokens"
        )
        packed = (
            f"; on the packed weights of the training, {self.on_packed.same_answers} of"
            f" {self.prompts} answers are the same and the logits differ by"
            f" {self.on_packed.logit_difference:.1%}"
            if self.on_packed
            else ""
        )
        return (
            f"{self.same_answers} of {self.prompts} greedy answers match{tokens}; logit difference"
            f" {self.logit_difference:.0e} (tolerance {LOGIT_TOLERANCE[self.dtype]:.0e} in {self.dtype})"
            f"{packed}"
        )


def select_prompts(config: Config) -> Sequence[Prompt]:
    """Evenly spaced prompts for the comparison: from the held-out ones, or from all if none are held out."""
    candidates = config.prompts.held_out() or config.prompts.rows()
    stride = max(1, len(candidates) // MAX_PROMPTS)
    return candidates[::stride][:MAX_PROMPTS]


def collect_outputs(
    model: Any,
    tokenizer: Tokenizer,
    config: Config,
    device: DeviceName,
    prompts: Sequence[Prompt],
    reference: ModelOutputs | None = None,
) -> ModelOutputs:
    """Generate a model's greedy answers and take its logits.

    Args:
        model: the model, on the device.
        tokenizer: the model's tokenizer.
        config: the run's profile.
        device: the device that the model is on.
        prompts: the prompts to answer.
        reference: take the logits along these answers; None takes them along the model's own answers.
    """
    max_tokens = config.evaluation_max_completion_length
    greedy = config.evaluation.model_copy(
        update={"temperature": 0.0, "max_completion_length": min(MAX_ANSWER_TOKENS, max_tokens)}
    )
    settings = config.model_copy(update={"evaluation": greedy})
    answers = generate_answers(model, tokenizer, settings, device, prompts, samples=1, seed=0)
    texts = tuple(answer.text for answer in answers)
    reference_texts = reference.texts if reference else texts
    model.eval()
    with torch.no_grad():
        logits = [
            _logits(model, tokenizer, config, prompt, text)
            for prompt, text in zip(prompts, reference_texts, strict=True)
        ]
    return ModelOutputs(texts, tuple(logits))


def _logits(
    model: Any, tokenizer: Tokenizer, config: Config, prompt: Prompt, text: str
) -> torch.Tensor:
    """The logits at the last positions of an answer, (positions, vocabulary)."""
    chat_format = ChatFormat(tokenizer, config.model)
    prompt_ids = chat_format.encode(prompt.text, prompt_context(prompt, config.prompts.system))
    completion = text.removeprefix(chat_format.thought_opening)  # the prompt ends with it
    answer_ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*prompt_ids, *answer_ids]], device=model.device)
    positions = min(COMPARED_POSITIONS, len(answer_ids) + 1)
    logits: torch.Tensor = model(input_ids=row, use_cache=False, logits_to_keep=positions).logits
    return logits[0].float().cpu()


def compare_models(
    reference: ModelOutputs, written: ModelOutputs, dtype: WeightFormat
) -> EquivalenceCheck:
    """Compare exported weights with the run's model.

    Args:
        reference: the run's model.
        written: the model read back from the export, with logits along the reference's answers.
        dtype: the format of the exported weights.
    """
    expected, actual = torch.cat(reference.logits), torch.cat(written.logits)
    pairs = zip(reference.texts, written.texts, strict=True)
    return EquivalenceCheck(
        dtype=dtype,
        prompts=len(reference.texts),
        same_answers=sum(text == other for text, other in pairs),
        top_token_agreement=float(
            (expected.argmax(dim=-1) == actual.argmax(dim=-1)).double().mean()
        ),
        logit_difference=float((expected - actual).double().norm() / expected.double().norm()),
    )
