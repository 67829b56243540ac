"""Checks of `training.sharding`: what cannot be trained with parts of the weights in several processes."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.schema import Config, DeviceName
from ida_tui.util.finding import Finding, error_finding

KEY = "training.sharding"
OFF = "set sharding to none"


def check_sharding(config: Config, device: DeviceName) -> Iterator[Finding]:
    """Errors about runs that cannot shard their weights; nothing if the option is off."""
    training, lora = config.training, config.lora
    if training.sharding == "none":
        return
    is_lora = training.method == "lora"
    refused = {
        "engine": config.engine != "plain"
        and "engine: fast reads the weights of whole layers; set engine to plain",
        "device": device == "mps" and "a Mac has one GPU; set device to cpu",
        "model.quantization": config.model.quantization != "none"
        and "packed weights cannot be divided; set model.quantization to none",
        "training.use_vllm": training.use_vllm
        and "vLLM needs the whole weights after every step; set use_vllm to false",
        "training.fp16": training.fp16 is True
        and "the gradient scaler of fp16 needs whole gradients; use bf16",
        "training.beta": not is_lora
        and training.beta > 0
        and "the reference model would be a second, whole model; set beta to 0, or method to lora",
        "lora.use_dora": is_lora and lora.use_dora and "DoRA computes the norms of whole weights",
        "lora.bias": is_lora and lora.bias != "none" and "biases are divided, the adapter is not",
        "lora.modules_to_save": is_lora
        and bool(lora.modules_to_save)
        and "these modules are divided, the adapter is not",
        "lora.target_parameters": is_lora
        and bool(lora.target_parameters)
        and "adapters on parameters compute with whole parameters",
        "lora.init_lora_weights": is_lora
        and lora.init_lora_weights not in (True, "gaussian")
        and "this initialization computes with whole weights; set it to true",
    }
    for key, reason in refused.items():
        if reason:
            problem, _, fix = reason.partition("; ")
            yield error_finding(KEY, problem, f"{fix}, or {OFF}" if fix else OFF, key)
