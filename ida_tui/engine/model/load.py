"""Model and tokenizer loading, parameter counts, and measurement of the weight change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.precision import PrecisionRecipe, WeightFormat
from ida_tui.config.schema import LoraConfig, ModelConfig, TrainingConfig
from ida_tui.errors import IdaError

SAMPLED_PER_TENSOR = 65_536


def model_source(model: ModelConfig) -> str:
    """The folder or hub id that transformers loads the model from."""
    return str(model.folder() or model.path)


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """Load the tokenizer with the padding that TRL needs for generation.

    Raises:
        IdaError: the tokenizer cannot be loaded, or has no chat template.
    """
    try:
        # Always pass this flag: without it transformers prompts on the terminal.
        trust = {"trust_remote_code": model.trust_remote_code}
        AutoConfig.from_pretrained(model_source(model), revision=model.revision, **trust)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            model_source(model),
            revision=model.revision,
            truncation_side="left",
            padding_side="left",
            **trust,
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from error
    if not tokenizer.chat_template:
        raise IdaError(
            f"model {model.name or model.path} has no chat template",
            "choose the chat (instruct) variant of the model: model=NAME",
        )
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


def load_model(model: ModelConfig, dtype: WeightFormat) -> Any:
    """Load a model in the given number format, into host memory.

    Raises:
        IdaError: the weights cannot be loaded.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            model_source(model),
            revision=model.revision,
            dtype=getattr(torch, dtype),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # loading pickled weights can run arbitrary code
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(model, error) from error


def peft_config(lora: LoraConfig) -> Any:
    """PEFT's configuration of the profile's adapter."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )


def custom_optimizer(
    training: TrainingConfig, recipe: PrecisionRecipe
) -> tuple[Any, dict[str, Any]] | None:
    """Class and arguments of an optimizer that transformers cannot create from a name; None if it can.

    AdamW with Kahan summation stores what bfloat16 rounding removes from each update and adds it to the next
    update (https://optimi.benjaminwarner.dev/kahan_summation).
    """
    if recipe.optim != "adamw_kahan":
        return None
    import optimi

    return optimi.AdamW, {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, recipe.beta2),
        "eps": training.adam_epsilon,
        "kahan_sum": True,
        "triton": False,  # Triton kernels would be compiled in the first step
    }


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


@dataclass(frozen=True, slots=True)
class WeightChange:
    """Change of the trainable weights since the start of the run."""

    relative: float
    """L2 norm of the change, over the L2 norm at the start. Not finite if a weight is not finite."""
    norm: float
    """L2 norm of the current weights."""
    largest: float
    """Largest absolute change of a single weight."""


class WeightDelta:
    """Measures the change of the trainable weights since this object was created.

    It samples at most 65,536 evenly spaced elements of each tensor, which covers most LoRA adapters fully,
    and stores them in float32 in host memory. Full fine-tuning thus needs no second copy of the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._start = [_subsample(p) for p in self._parameters]
        self._norm = _norm(self._start)

    def change(self) -> WeightChange:
        """Change of the sampled elements since the start."""
        current = [_subsample(parameter) for parameter in self._parameters]
        change = [after - before for after, before in zip(current, self._start, strict=True)]
        return WeightChange(
            relative=_norm(change) / self._norm if self._norm else 0.0,
            norm=_norm(current),
            largest=max((float(tensor.abs().max()) for tensor in change), default=0.0),
        )


def _subsample(parameter: torch.Tensor) -> torch.Tensor:
    flat = parameter.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLED_PER_TENSOR))
    return flat[::stride].to("cpu", torch.float32, copy=True)


def _norm(tensors: list[torch.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _cannot_load(model: ModelConfig, error: Exception) -> IdaError:
    detail = " ".join(str(error).split())
    if model.folder() is not None:
        return IdaError(
            f"cannot load the model in {model_source(model)}: {detail[:200]}",
            "the folder needs config.json, tokenizer files and *.safetensors of a causal language model",
        )
    return IdaError(
        f"cannot load {model.path}: {detail[:200]}",
        f"check the name and the network, or download the model first: hf download {model.path}\n"
        "model=embedded needs no download",
    )
