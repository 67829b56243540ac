"""Load the policy, count it, and prove afterwards that training moved it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.precision import Format, Recipe
from ida_tui.config.schema import LoraConfig, ModelConfig, TrainingConfig
from ida_tui.errors import IdaError

SAMPLED_PER_TENSOR = 65_536


def source(model: ModelConfig) -> str:
    """What transformers is asked to load: a folder, or a hub id."""
    return str(model.folder() or model.path)


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """The tokenizer, set up as TRL needs it for generation.

    Raises:
        IdaError: it cannot be loaded, or the model has no chat template.
    """
    try:
        # Said in so many words: where it is left open, transformers asks on the terminal.
        trusted = {"trust_remote_code": model.trust_remote_code}
        AutoConfig.from_pretrained(source(model), revision=model.revision, **trusted)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            source(model),
            revision=model.revision,
            truncation_side="left",
            padding_side="left",
            **trusted,
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from error
    if not tokenizer.chat_template:
        raise IdaError(
            f"model {model.name or model.path} has no chat template, so it cannot be asked anything",
            "choose the model's chat (instruct) variant: model=NAME",
        )
    return tokenizer


def save_tokenizer(model: ModelConfig, folder: Path) -> None:
    """Write the tokenizer as the model came with it, without how it was loaded here.

    Raises:
        OSError: it cannot be read or written.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        source(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(model: ModelConfig, weights: Format) -> Any:
    """The policy in the given format, on the host.

    Raises:
        IdaError: the weights cannot be loaded.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            source(model),
            revision=model.revision,
            dtype=getattr(torch, weights),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # pickled weights can run code when they are read
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(model, error) from error


def peft_config(lora: LoraConfig) -> Any:
    """The adapter of a profile, as PEFT's own configuration."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )


def optimizer(training: TrainingConfig, numbers: Recipe) -> tuple[Any, dict[str, Any]] | None:
    """Class and arguments of an optimizer that transformers cannot make from its name; None where it can.

    Kahan's AdamW keeps, beside the weights, what bfloat16 rounds away from each update, and adds it to
    the next one (https://optimi.benjaminwarner.dev/kahan_summation).
    """
    if numbers.optim != "adamw_kahan":
        return None
    import optimi

    return optimi.AdamW, {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, numbers.beta2),
        "eps": training.adam_epsilon,
        "kahan_sum": True,
        "triton": False,  # its kernels are compiled at the first step; the plain ones run anywhere
    }


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters of the model: all of the base's, and those that training changes."""

    base: int
    trainable: int


def count(model: torch.nn.Module) -> Counts:
    """Count parameters; tied ones once, and an adapter's not as the base's."""
    base = trainable = 0
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            base += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return Counts(base, trainable)


@dataclass(frozen=True, slots=True)
class Change:
    """How far weights have moved."""

    relative: float
    """L2 norm of the change over the L2 norm at the start; not finite if a weight is not."""
    norm: float
    """L2 norm of the weights now."""
    largest: float
    """Largest change of a single weight, by absolute value."""


class WeightDelta:
    """How far the trainable weights have moved since it was made.

    Of each tensor at most 65,536 evenly spaced elements are kept (a LoRA adapter whole, mostly), in
    float32 on the host, so that full fine-tuning is not asked for a second copy of the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._start = [_sample(p) for p in self._parameters]
        self._norm = _norm(self._start)

    def change(self) -> Change:
        """The change since then, of the elements that are kept."""
        now = [_sample(parameter) for parameter in self._parameters]
        change = [after - start for after, start in zip(now, self._start, strict=True)]
        return Change(
            relative=_norm(change) / self._norm if self._norm else 0.0,
            norm=_norm(now),
            largest=max((float(tensor.abs().max()) for tensor in change), default=0.0),
        )


def _sample(parameter: torch.Tensor) -> torch.Tensor:
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
            f"cannot load the model in {source(model)}: {detail[:200]}",
            "the folder needs config.json, tokenizer files and *.safetensors of a causal language model",
        )
    return IdaError(
        f"cannot load {model.path}: {detail[:200]}",
        f"is the name right and the network up? `hf download {model.path}` fetches it beforehand;\n"
        "model=embedded needs no download",
    )
