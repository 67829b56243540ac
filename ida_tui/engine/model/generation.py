"""Generation set-up of training, evaluation, chat and exports: end tokens, padding and sampling.

Everything that samples from a model uses these functions, so that it stops at the same tokens and draws from
the same distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.sections.training import TrainingConfig
from ida_tui.engine.rollout.sampling import TokenSampler


def prepare_for_generation(model: Any, tokenizer: Tokenizer) -> None:
    """Switch off the model's dropout and have its generation configuration list every end token.

    `trl.GRPOTrainer` and transformers' trainer read the end tokens from there.
    """
    turn_off_dropout(model)
    end_tokens = _declared_end_tokens(model, tokenizer)
    if set(end_tokens) != set(_as_list(model.generation_config.eos_token_id)):
        model.generation_config.eos_token_id = end_tokens


def turn_off_dropout(model: torch.nn.Module) -> None:
    """Switch off all dropout of a model, in dropout modules and in the attributes of other modules.

    Completions are drawn without dropout. With it, the loss would score them with another policy.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            # Llama and its relatives: attention_dropout; OPT: dropout, layerdrop; GPT-2: attn_pdrop.
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def end_token_ids(model: Any) -> list[int]:
    """Ids of the tokens that end an answer of a model that was prepared for generation."""
    return _as_list(model.generation_config.eos_token_id)


def _declared_end_tokens(model: Any, tokenizer: Tokenizer) -> list[int]:
    """The end tokens of the tokenizer, the generation configuration and the configuration, each once."""
    sources = (
        tokenizer.eos_token_id,
        model.generation_config.eos_token_id,
        getattr(model.config.get_text_config(), "eos_token_id", None),
    )
    return list(dict.fromkeys(token for source in sources for token in _as_list(source)))


def _as_list(tokens: int | Sequence[int] | None) -> list[int]:
    if tokens is None:
        return []
    return [tokens] if isinstance(tokens, int) else list(tokens)


def token_sampler(training: TrainingConfig, temperature: float) -> TokenSampler:
    """Sampling parameters: those of the training, at this temperature; 0 is greedy decoding."""
    return TokenSampler(
        temperature=temperature,
        top_k=training.top_k,
        top_p=training.top_p,
        min_p=training.min_p,
        repetition_penalty=training.repetition_penalty,
    )


def generation_config(sampler: TokenSampler, **settings: Any) -> GenerationConfig:
    """The same sampling parameters for transformers' `generate`, together with other settings of it."""
    sampling: dict[str, Any] = {"do_sample": False}
    if sampler.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": sampler.temperature,
            "top_k": sampler.top_k,
            "top_p": sampler.top_p,
            "min_p": sampler.min_p,
        }
    penalty = sampler.repetition_penalty
    return GenerationConfig(
        **sampling, repetition_penalty=penalty, **settings, disable_compile=True
    )


@contextmanager
def without_published_sampling(model: Any) -> Iterator[None]:
    """Inside the block, `generate` uses only the sampling parameters that it is called with.

    transformers completes them from the model's own generation configuration, such as a repetition penalty
    that the model's authors recommend.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    published = base.generation_config
    base.generation_config = GenerationConfig(
        bos_token_id=published.bos_token_id,
        eos_token_id=published.eos_token_id,
        pad_token_id=published.pad_token_id,
    )
    try:
        yield
    finally:
        base.generation_config = published
