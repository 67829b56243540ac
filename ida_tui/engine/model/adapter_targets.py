"""Check of `lora.target_modules` against the layers of the model, before its weights are loaded."""

from __future__ import annotations

import difflib

import torch
from transformers.pytorch_utils import Conv1D

from ida_tui.config.schema import Config
from ida_tui.engine.model.load import load_structure
from ida_tui.errors import UsageError

ADAPTABLE_LAYERS = (
    torch.nn.Linear,
    torch.nn.Embedding,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    Conv1D,
)
"""Types of layers for which PEFT has a LoRA adapter."""


def check_adapter_targets(config: Config) -> None:
    """Check that each of the profile's target modules names layers that an adapter can train.

    PEFT ignores an unknown name if another one is known. TRL refuses the output layer only after loading.

    Raises:
        UsageError: a name matches no layer, or layers that cannot be adapted.
    """
    targets = config.lora.target_modules
    if config.training.method != "lora" or targets == "all-linear":
        return
    model = load_structure(config.model)
    output_layer = model.get_output_embeddings()
    layers = dict(model.named_modules())
    adaptable = sorted(
        {
            name.rpartition(".")[2]
            for name, layer in layers.items()
            if isinstance(layer, ADAPTABLE_LAYERS) and layer is not output_layer
        }
    )
    for position, target in enumerate(targets):
        matches = [
            layer for name, layer in layers.items() if name == target or name.endswith(f".{target}")
        ]
        if output_layer in matches:
            title = (
                f"the output layer {target} cannot have an adapter, because TRL would not train it"
            )
        elif not matches:
            title = f'the model has no layer named "{target}"'
        elif not all(isinstance(layer, ADAPTABLE_LAYERS) for layer in matches):
            kind = type(matches[0]).__name__
            title = f"{target} is not a single layer but a {kind}, which cannot have an adapter"
        else:
            continue
        close = difflib.get_close_matches(target, adaptable, n=1)
        hint = f"did you mean {close[0]}? " if close and not matches else ""
        raise UsageError(
            title,
            f"{hint}choose from {', '.join(adaptable)}; or use all-linear",
            where=f"lora.target_modules.{position}",
        )
    if not targets:
        raise UsageError(
            "lora.target_modules is empty, so nothing would be trained",
            f"choose from {', '.join(adaptable)}; or use all-linear",
            where="lora.target_modules",
        )
