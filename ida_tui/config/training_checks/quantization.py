"""Checks of packed linear layers: what can be trained on them, and the package that packs them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from ida_tui.config.schema import Config
from ida_tui.util.finding import Finding, error_finding

KEY = "model.quantization"
INSTALL = "uv sync --extra quantization\nor pip install 'ida-tui[quantization]'"
UNPACKED_LAYERS = ("embed_tokens", "lm_head", "norm")
"""Ends of the names of layers that are not packed, of the Llama family."""


def check_quantization(config: Config) -> Iterator[Finding]:
    """Errors about settings that packed layers do not allow; nothing if none are packed."""
    if config.model.quantization == "none":
        return
    if find_spec("bitsandbytes") is None:
        yield error_finding(KEY, "needs the package bitsandbytes, which is not installed", INSTALL)
    if config.training.method == "full":
        yield error_finding(
            KEY,
            "packed weights cannot be trained",
            "set training.method to lora, or model.quantization to none",
            "training.method",
        )
        return
    if config.training.use_vllm:
        yield error_finding(
            KEY,
            "TRL would merge the adapter into the packed weights to send them to vLLM",
            "set training.use_vllm to false, or model.quantization to none",
            "training.use_vllm",
        )
    lora = config.lora
    if lora.use_dora:
        yield error_finding(
            KEY,
            "DoRA trains the norms of the weights, which are packed",
            "set lora.use_dora to false, or model.quantization to none",
            "lora.use_dora",
        )
    if lora.target_parameters:
        yield error_finding(
            KEY,
            "an adapter on a weight adds to it, but the weight is packed",
            "name layers in lora.target_modules, or set model.quantization to none",
            "lora.target_parameters",
        )
    for name in lora.modules_to_save:
        if not name.endswith(UNPACKED_LAYERS):
            yield error_finding(
                KEY,
                f"{name} is packed and cannot be trained in full",
                "remove it from lora.modules_to_save, or set model.quantization to none",
                "lora.modules_to_save",
            )
