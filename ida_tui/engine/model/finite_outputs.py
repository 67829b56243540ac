"""Check of a loaded model for outputs that are not finite, before anything is sampled from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.errors import IdaError


def require_finite_outputs(
    model: Any,
    tokenizer: Tokenizer,
    profile: ModelConfig,
    recipe: PrecisionRecipe,
    autocast: AbstractContextManager[Any] | None = None,
) -> None:
    """Check the weights, and the logits of one short prompt, on the model's device.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        profile: its profile.
        recipe: the number formats.
        autocast: context of the forward pass; None is the format of the weights.

    Raises:
        IdaError: a weight or a logit is NaN or infinite.
    """
    # The logits of one prompt need not show a damaged weight: attention on the CPU can hide a NaN.
    if not _damaged_weight(model) and _has_finite_logits(model, tokenizer, profile, autocast):
        return
    raise not_finite_error(model, profile, recipe)


def _has_finite_logits(
    model: Any,
    tokenizer: Tokenizer,
    profile: ModelConfig,
    autocast: AbstractContextManager[Any] | None,
) -> bool:
    ids = ChatFormat(tokenizer, profile).encode("Hello")
    device = model.get_input_embeddings().weight.device
    with torch.no_grad(), autocast or nullcontext():
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    # A few models exclude a token with a logit of minus infinity.
    return not bool((logits.isnan() | logits.isposinf()).any())


def not_finite_error(model: Any, profile: ModelConfig, recipe: PrecisionRecipe) -> IdaError:
    """The error to show for a model whose outputs are not finite."""
    name = profile.name or profile.path
    where = "model.torch_dtype"
    if recipe.weights == "float16" or recipe.fp16:
        return IdaError(
            f"model {name} does not fit into float16: its outputs are NaN or infinite",
            "load it as bfloat16, whose range is that of float32: model.torch_dtype=bfloat16\n"
            "if that does not help, its weights are damaged: download or copy them again",
            where=where,
        )
    if damage := _damaged_weight(model):
        return IdaError(
            f"the weights of model {name} are damaged: {damage} has values that are NaN or infinite",
            "download or copy the model again",
            where="model.path",
        )
    return IdaError(
        f"the outputs of model {name} in {recipe.weights} are NaN or infinite",
        "load it as float32: model.torch_dtype=float32\nor choose another model: model=NAME",
        where=where,
    )


def _damaged_weight(model: Any) -> str:
    """The name of the first weight with values that are not finite; empty if there is none."""
    for name, weight in model.named_parameters():
        # Any value that is not finite spoils the sum, which takes no memory.
        if (
            weight.is_floating_point()
            and not bool(weight.detach().sum(dtype=torch.float32).isfinite())
            and not bool(weight.isfinite().all())
        ):
            return str(name).removeprefix("base_model.model.").replace(".base_layer", "")
    return ""
