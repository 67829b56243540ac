"""Model and tokenizer loading, the adapter's configuration, and parameter counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.model_files import model_problem
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import LoraConfig, ModelConfig
from ida_tui.engine.model.generation import prepare_for_generation
from ida_tui.errors import IdaError


def model_source(model: ModelConfig) -> str:
    """The folder or hub id that transformers loads the model from."""
    return str(model.folder() or model.path)


def require_safe_files(model: ModelConfig) -> None:
    """Check the model's local files before a library reads them.

    Raises:
        IdaError: a file is not a regular file or of absurd size, or the chat template does not end.
    """
    if problem := model_problem(model):
        raise IdaError(*problem)


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """Load the tokenizer, prepared for generation: it pads on the left, with EOS if it has no pad token.

    Raises:
        IdaError: the tokenizer cannot be loaded, or has no chat template.
    """
    require_safe_files(model)
    try:
        _load_config(model)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            model_source(model),
            revision=model.revision,
            truncation_side="left",
            padding_side="left",
            trust_remote_code=model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from error
    if not tokenizer.chat_template:
        raise IdaError(
            f"model {model.name or model.path} has no chat template",
            "choose the chat (instruct) variant of the model: model=NAME",
        )
    if tokenizer.eos_token_id is None:
        raise IdaError(
            f"the tokenizer of model {model.name or model.path} has no end token (eos_token)",
            "training needs one to know when an answer ends: set eos_token in tokenizer_config.json",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(model: ModelConfig, folder: Path) -> None:
    """Write the model's original tokenizer, without the settings that it was loaded with here.

    Raises:
        OSError: the tokenizer cannot be read or written.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_source(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(model: ModelConfig, dtype: WeightFormat, tokenizer: Tokenizer) -> Any:
    """Load a model in the given number format into host memory, prepared for generation with this tokenizer.

    Raises:
        IdaError: the weights cannot be loaded.
    """
    require_safe_files(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model_source(model),
            revision=model.revision,
            dtype=getattr(torch, dtype),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # loading pickled weights can run arbitrary code
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(model, error) from error
    prepare_for_generation(loaded, tokenizer)
    return loaded


def load_structure(model: ModelConfig) -> Any:
    """The model's layers without their weights, on the meta device, which has no memory."""
    settings = _load_config(model)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, trust_remote_code=model.trust_remote_code)


def _load_config(model: ModelConfig) -> Any:
    # Always pass this flag: without it transformers prompts on the terminal.
    return AutoConfig.from_pretrained(
        model_source(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def peft_config(lora: LoraConfig, model: ModelConfig) -> Any:
    """PEFT's configuration of the profile's adapter for this base model."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # see `turn_off_dropout`
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
        revision=model.revision if model.folder() is None else None,
    )


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Number of parameters of the base model, and of trainable parameters."""

    base: int
    trainable: int


def count_parameters(model: torch.nn.Module) -> ParameterCounts:
    """Count parameters. Tied weights count once, and adapter weights do not count as base weights."""
    base = trainable = 0
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            base += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return ParameterCounts(base, trainable)


def _cannot_load(model: ModelConfig, error: Exception) -> IdaError:
    detail = " ".join(str(error).split())
    if model.folder() is not None:
        return IdaError(
            f"cannot load the model in {model_source(model)}: {detail[:200]}",
            "the folder must contain config.json, tokenizer files and *.safetensors\n"
            "of a causal language model",
        )
    return IdaError(
        f"cannot load {model.path}: {detail[:200]}",
        f"check the name and the network, or download the model first: hf download {model.path}\n"
        "model=embedded needs no download",
    )
