"""Export of a run's model as an adapter, a merged model or a GGUF file, with a check of what was written.

The trained model answers some held-out prompts, its weights are written, and the written weights are loaded
and answer the same prompts. Both compute in float32, so that any difference comes from the weights. An
adapter that was trained on packed weights is exported for the original ones, and how much that changes is
shown, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config import precision
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import libraries
from ida_tui.engine.device.device import free_memory
from ida_tui.engine.export import gguf, ollama
from ida_tui.engine.export.chat_layout import ChatLayout, UnknownLayout, find_layout
from ida_tui.engine.export.equivalence import (
    EquivalenceCheck,
    collect_outputs,
    compare_models,
    select_prompts,
)
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.trained import (
    attach_adapter,
    full_model_config,
    load_trained_model,
    prepare_device,
    require_memory,
)
from ida_tui.errors import IdaError
from ida_tui.planning.inference_memory import plan_export
from ida_tui.runs.store.exports import ExportKind
from ida_tui.runs.weights import TrainedWeights
from ida_tui.util.format import format_count

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_export(
    config: Config,
    trained: TrainedWeights,
    kind: ExportKind,
    folder: Path,
    *,
    dtype: WeightFormat | None = None,
    on_progress: Callable[[str], object] = lambda line: None,
) -> EquivalenceCheck:
    """Write the model into an existing, empty folder.

    Args:
        config: the run's profile.
        trained: the run's weights.
        kind: the adapter alone, or the full model.
        folder: the folder to write to.
        dtype: format of a full model's weights; None is the format that the run held them in.
        on_progress: receives progress lines.

    Returns:
        How closely the written weights match the run's model.

    Raises:
        IdaError: the weights cannot be loaded or written, or do not match.
    """
    with libraries.capture_library_output(lambda notice: on_progress(f"! {notice.text}")):
        return _write(config, trained, kind, folder, dtype, on_progress)


@dataclass(frozen=True, slots=True)
class WrittenExport:
    """What was written, and how it was checked."""

    check: EquivalenceCheck
    """How closely the weights, before a conversion to GGUF, match the run's."""
    dtype: str
    """Format of the matrices."""
    summary: str
    """All checks in one line."""


def write_gguf(
    config: Config,
    trained: TrainedWeights,
    folder: Path,
    name: str,
    tools: gguf.Tools,
    *,
    dtype: WeightFormat | None = None,
    quantization: gguf.Quantization | None = None,
    on_progress: Callable[[str], object] = lambda line: None,
) -> WrittenExport:
    """Write the model as one GGUF file, with Ollama's Modelfile, into an existing, empty folder.

    Args:
        config: the run's profile.
        trained: the run's weights.
        folder: the folder to write to.
        name: file name without its suffix.
        tools: llama.cpp's programs, from `gguf.find_tools`.
        dtype: format of the weights; None is the format that the run held them in.
        quantization: round the matrices further, to this format.
        on_progress: receives progress lines.

    Raises:
        IdaError: as `write_export`, or the model cannot be converted.
    """
    full_model, file = folder / ".whole", folder / f"{name}.gguf"
    full_model.mkdir()
    check = write_export(
        config, trained, "merged", full_model, dtype=dtype, on_progress=on_progress
    )
    on_progress("converting to GGUF")
    exact = full_model / file.name if quantization else file
    summary = gguf.convert_to_gguf(tools, full_model, exact, check.dtype)
    if quantization:
        on_progress(f"rounding to {quantization}")
        summary = f"{summary}; {gguf.quantize(tools, full_model, exact, file, quantization)}"
    _write_modelfile(config, full_model, file, on_progress)
    shutil.rmtree(full_model)
    return WrittenExport(check, quantization or check.dtype, f"{check.summary}; {summary}")


def _write_modelfile(
    config: Config, full_model: Path, file: Path, on_progress: Callable[[str], object]
) -> None:
    """Write Ollama's Modelfile beside a GGUF file, and say what it lacks."""
    tokenizer = load.load_tokenizer(config.model)
    chat = ChatFormat(tokenizer, config.model)
    layout: ChatLayout | None = None
    try:
        layout = find_layout(chat.render)
    except UnknownLayout as unknown:
        on_progress(
            f"! the Modelfile has no TEMPLATE, because of the model's chat template: {unknown}.\n"
            "  Ollama takes the most similar of its own; compare its answers with those of ida-tui chat"
        )
    if layout is not None:
        if tokenizer.bos_token and gguf.adds_bos(file):
            layout = layout.without_bos(tokenizer.bos_token)
        if "strftime_now" in str(tokenizer.chat_template):
            on_progress("! the chat template writes the date; TEMPLATE has the date of this export")
    settings = json.loads((full_model / "generation_config.json").read_text(encoding="utf-8"))
    end_tokens = settings["eos_token_id"]
    ids = end_tokens if isinstance(end_tokens, list) else [end_tokens]
    system = config.prompts.system
    if system and not ollama.can_quote(system):
        on_progress('! the Modelfile has no SYSTEM: a line of the system prompt ends with """')
        system = None
    text = ollama.modelfile(
        file.name, layout, [str(tokenizer.convert_ids_to_tokens(n)) for n in ids], system
    )
    (file.parent / ollama.MODELFILE).write_text(text, encoding="utf-8")


def _write(
    config: Config,
    trained: TrainedWeights,
    kind: ExportKind,
    folder: Path,
    dtype: WeightFormat | None,
    on_progress: Callable[[str], object],
) -> EquivalenceCheck:
    device = prepare_device(config)
    warning = require_memory(plan_export(config, device), config, device, "export")
    if warning:
        on_progress(f"! {warning}")
    run_format = precision.resolve_precision(config, device).weights
    export_format: WeightFormat = "float32" if kind == "adapter" else dtype or run_format
    tokenizer = load.load_tokenizer(config.model)
    prompts = select_prompts(config)

    def outputs_of(model: Any, reference: Any = None) -> Any:
        return collect_outputs(model, tokenizer, config, device, prompts, reference)

    packed = None
    if config.model.quantization != "none":
        # An adapter is never merged into packed weights: rounding to them again would lose it.
        model = load_trained_model(config, trained, run_format, tokenizer).to(device)
        packed = outputs_of(model)
        del model
        free_memory(device)
        config, run_format = config.model_copy(update={"model": config.model.unpacked()}), "float32"
    model = load_trained_model(config, trained, run_format, tokenizer).float().to(device)
    reference = outputs_of(model)
    on_packed = compare_models(packed, outputs_of(model, packed), "float32") if packed else None
    on_progress(
        f"writing {'the adapter' if kind == 'adapter' else f'the full model in {export_format}'}"
    )
    try:
        if kind == "adapter":
            _copy_adapter(trained.path, folder, config)
        else:
            _write_full_model(model, folder, config, export_format)
        load.save_tokenizer(config.model, folder)
    except (OSError, SafetensorError) as error:
        raise _write_error(folder, error) from None
    del model
    free_memory(device)
    on_progress(f"checking the export with {format_count(len(prompts), 'prompt')} on both models")
    model = _read_back(config, kind, folder, export_format, run_format, tokenizer, device)
    check = compare_models(reference, outputs_of(model, reference), export_format)
    check = replace(check, on_packed=on_packed)
    del model
    free_memory(device)
    if not check.passed:
        raise IdaError(
            f"the exported weights do not match the run's model: {check.summary}",
            "Nothing was exported. Try --dtype float32, which does not round; if that export\n"
            "does not match either, this is a bug in ida-tui or in a library",
        )
    return check


def _write_full_model(model: Any, folder: Path, config: Config, dtype: WeightFormat) -> None:
    """Save the full model for transformers: merge the adapter in float32, then round all weights."""
    import torch

    if config.training.method == "lora":
        model = model.merge_and_unload(safe_merge=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def _copy_adapter(source: Path, folder: Path, config: Config) -> None:
    """Copy the adapter in PEFT's format; replace a local base model's path by its name."""
    for name in ADAPTER_FILES:
        shutil.copyfile(source / name, folder / name)
    if config.model.is_local:
        file = folder / "adapter_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = config.model.public_name
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _read_back(
    config: Config,
    kind: ExportKind,
    folder: Path,
    dtype: WeightFormat,
    run_format: WeightFormat,
    tokenizer: Tokenizer,
    device: DeviceName,
) -> Any:
    if kind == "adapter":
        base = load.load_model(config.model, run_format, tokenizer)
        return attach_adapter(base, folder).float().to(device)
    exported = full_model_config(config, folder)
    return load.load_model(exported, dtype, tokenizer).float().to(device)


def _write_error(folder: Path, error: Exception) -> IdaError:
    why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return IdaError(
        f"could not write the export to {folder.parent}: {why}",
        "Nothing was exported. Use --output DIR to write to another folder",
    )
