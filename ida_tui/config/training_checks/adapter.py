"""Checks of the adapter's settings that need no model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ida_tui.config.model_files import inspect_model
from ida_tui.config.schema import Config
from ida_tui.util.finding import Finding, error_finding

TIED_LAYERS = ("embed_tokens", "lm_head")
"""Layers that share one weight in models with tied embeddings."""


def check_adapter(config: Config) -> Iterator[Finding]:
    """Errors about combinations of the adapter's settings; nothing if all weights are trained."""
    lora = config.lora
    if config.training.method != "lora":
        return
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, name):
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                yield error_finding(
                    f"lora.{name}",
                    f'"{pattern[:60]}" is not a regular expression: {error}',
                    "write the end of a layer's name, such as q_proj",
                )
    if lora.init_lora_weights is False:
        yield error_finding(
            "lora.init_lora_weights",
            "a random adapter would change the model before the first step",
            "set init_lora_weights to true, gaussian or orthogonal: they start as the base model",
        )
    ranks = [lora.r, *lora.rank_pattern.values()]
    if lora.init_lora_weights == "orthogonal" and any(rank % 2 for rank in ranks):
        yield error_finding(
            "lora.init_lora_weights",
            f"orthogonal needs even ranks, but one is {next(rank for rank in ranks if rank % 2)}",
            "set lora.r and all of lora.rank_pattern to even numbers",
            "lora.r",
            "lora.rank_pattern",
        )
    if lora.bias != "none" and config.training.beta:
        yield error_finding(
            "lora.bias",
            "with beta above 0 the reference is the model without its adapter, and PEFT does not"
            " restore trained biases there",
            "set lora.bias to none, or training.beta to 0",
            "training.beta",
        )
    if lora.target_parameters and lora.use_dora:
        yield error_finding(
            "lora.target_parameters",
            "PEFT has no DoRA for the weights of target_parameters",
            "set use_dora to false, or name layers in target_modules",
            "lora.use_dora",
        )
    if lora.target_parameters and lora.init_lora_weights == "orthogonal":
        yield error_finding(
            "lora.target_parameters",
            "PEFT has no orthogonal start for the weights of target_parameters",
            "set init_lora_weights to true or gaussian",
            "lora.init_lora_weights",
        )
    shape = inspect_model(config.model).shape
    tied = [
        layer
        for layer in TIED_LAYERS
        if any(layer.endswith(name.rpartition(".")[2]) for name in lora.modules_to_save)
    ]
    if shape is not None and shape.tied_embeddings and tied:
        yield error_finding(
            "lora.modules_to_save",
            f"{tied[0]} shares its weight with the {'output layer' if 'embed' in tied[0] else 'embedding'}"
            " in this model, and a trained copy would not",
            f"remove {tied[0]}, or train all weights with training.method: full",
        )
