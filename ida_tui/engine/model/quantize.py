"""Loading of a model whose linear layers are packed into 4 or 8 bits by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch

from ida_tui.config.schema import ModelConfig
from ida_tui.engine.device.packed import Int8Linear, Nf4Linear, PackedLinear
from ida_tui.errors import IdaError
from ida_tui.system import allocator

STATE_OF_TRANSFORMERS = (
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "is_quantized",
    "quantization_method",
    "hf_quantizer",
    "hf_device_map",
)
"""What transformers notes on a quantized model.

TRL reads it and rounds the adapter to bfloat16, where AdamW's small updates are lost; others would load
bitsandbytes' layers.
"""


def loading_arguments(model: ModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that pack each layer as soon as it is read; none if none is packed.

    The embedding and the output layer stay as they are.
    """
    if model.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    settings = (
        BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
        if model.quantization == "nf4"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    return {"quantization_config": settings, "device_map": {"": "cpu"}}


def use_packed_layers(model: Any, dtype: torch.dtype) -> None:
    """Replace the layers of bitsandbytes by ours, which compute the same while sampling and training.

    Args:
        model: the model, as loaded with `loading_arguments`.
        dtype: number format of its other weights.

    Raises:
        IdaError: the model has no linear layer that could be packed.
    """
    import bitsandbytes

    for name, layer in list(model.named_modules()):
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            model.set_submodule(name, Nf4Linear(layer, dtype))
        elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            model.set_submodule(name, Int8Linear(layer, dtype))
    if not any(isinstance(layer, PackedLinear) for layer in model.modules()):
        raise IdaError(
            "model.quantization packs linear layers, but this model has none",
            "set model.quantization=none",
            where="model.quantization",
        )
    # The other weights are views of the weights' file, which would stay in memory with what was packed.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()
    for name in STATE_OF_TRANSFORMERS:
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
    allocator.release_free_memory()  # each layer was held several times over while it was packed
