"""Check of the names in the adapter's settings against the model's layers, before its weights are loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from transformers.pytorch_utils import Conv1D

from ida_tui.config.schema import Config
from ida_tui.engine.model.load import load_structure
from ida_tui.errors import UsageError
from ida_tui.planning.adapter_size import is_adapted

T = TypeVar("T")

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
    """Check that the layers and parameters that the adapter's settings name exist and can be trained so.

    PEFT ignores an unknown name if another one is known. TRL refuses the output layer only after loading.

    Raises:
        UsageError: a name matches no layer, or layers that cannot be adapted, or nothing would be trained.
    """
    lora = config.lora
    names_layers = (
        lora.target_modules != "all-linear" or lora.exclude_modules or lora.modules_to_save
        or lora.target_parameters or lora.rank_pattern or lora.alpha_pattern
    )  # fmt: skip
    if config.training.method != "lora" or not names_layers:
        return
    model = load_structure(config.model)
    layers = dict(model.named_modules())
    targets = [] if lora.target_modules == "all-linear" else lora.target_modules
    adaptable = _adaptable_names(model)
    for position, target in enumerate(targets):
        if problem := _target_problem(model, target):
            raise _name_error(
                f"lora.target_modules.{position}", target, problem, adaptable, "all-linear"
            )
    for key in ("exclude_modules", "modules_to_save"):
        for position, name in enumerate(getattr(lora, key)):
            found = (
                _matching(layers, name)
                if key == "exclude_modules"
                else [layer for full, layer in layers.items() if full.endswith(name)]
            )
            if not found:
                raise _name_error(
                    f"lora.{key}.{position}",
                    name,
                    f'the model has no layer named "{name}"',
                    sorted(
                        {layer.rpartition(".")[2] for layer in layers if layer} - set("0123456789")
                    ),
                )
            if key == "modules_to_save" and not any(list(layer.parameters()) for layer in found):
                raise UsageError(
                    f"{name} has no weights to train", "remove it", where=f"lora.{key}.{position}"
                )
    parameters = dict(model.named_parameters())
    for position, name in enumerate(lora.target_parameters):
        if not _matching(parameters, name):
            raise _name_error(
                f"lora.target_parameters.{position}",
                name,
                f'the model has no parameter named "{name}"',
                sorted({".".join(full.split(".")[-2:]) for full in parameters}),
            )
    adapted = [
        name
        for name, layer in layers.items()
        if isinstance(layer, ADAPTABLE_LAYERS)
        and layer is not model.get_output_embeddings()
        and is_adapted(name, lora)
    ]
    for position, name in enumerate(lora.target_parameters):
        for full in parameters:
            layer = full.rpartition(".")[0]
            if (full == name or full.endswith(f".{name}")) and layer in adapted:
                raise UsageError(
                    f"{layer} is adapted as a layer, and {name} names its weight",
                    f"remove it, or add {layer.rpartition('.')[2]} to lora.exclude_modules",
                    where=f"lora.target_parameters.{position}",
                )
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
                raise UsageError(
                    f'"{pattern}" matches no layer with an adapter',
                    f"write the end of a layer's name, such as {', '.join(adapted[:1]) or 'q_proj'}",
                    where=f"lora.{key}",
                )
    if not adapted and not lora.target_parameters:
        raise UsageError(
            "lora.target_modules is empty, so nothing would be trained"
            if lora.target_modules == []
            else "lora.exclude_modules and lora.modules_to_save leave no layer for an adapter",
            f"choose from {', '.join(adaptable)}; or use all-linear"
            if lora.target_modules == []
            else "exclude fewer layers; or train all weights with training.method: full",
            where="lora.target_modules" if lora.target_modules == [] else "lora.exclude_modules",
        )


def _adaptable_names(model: Any) -> list[str]:
    return sorted(
        {
            name.rpartition(".")[2]
            for name, layer in model.named_modules()
            if isinstance(layer, ADAPTABLE_LAYERS) and layer is not model.get_output_embeddings()
        }
    )


def _matching(by_name: Mapping[str, T], ending: str) -> list[T]:
    """What has this name, or a name that ends with it after a dot."""
    return [
        value for name, value in by_name.items() if name == ending or name.endswith(f".{ending}")
    ]


def _target_problem(model: Any, target: str) -> str:
    """Why a target module cannot have an adapter; empty if it can."""
    matches = _matching(dict(model.named_modules()), target)
    if model.get_output_embeddings() in matches:
        return f"the output layer {target} cannot have an adapter, because TRL would not train it"
    if not matches:
        return f'the model has no layer named "{target}"'
    if not all(isinstance(layer, ADAPTABLE_LAYERS) for layer in matches):
        kind = type(matches[0]).__name__
        return f"{target} is not a single layer but a {kind}, which cannot have an adapter"
    return ""


def _name_error(
    where: str, name: str, title: str, known: Sequence[str], otherwise: str = ""
) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1) if title.startswith("the model has") else []
    hint = f"did you mean {close[0]}? " if close else ""
    either = f"; or use {otherwise}" if otherwise else ""
    return UsageError(title, f"{hint}choose from {', '.join(known)}{either}", where=where)
