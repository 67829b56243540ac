"""Export of a run's model as an adapter, a merged model or a GGUF file, with a check of what was written.

The trained model answers some held-out prompts, its weights are written, and the written weights are loaded
and answer the same prompts. Both compute in float32, so that any difference comes from the weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config import precision
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import libraries
from ida_tui.engine.device.device import free_memory
from ida_tui.engine.export import gguf
from ida_tui.engine.export.equivalence import (
    EquivalenceCheck,
    collect_outputs,
    compare_models,
    select_prompts,
)
from ida_tui.engine.model import load
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


def write_gguf(
    config: Config,
    trained: TrainedWeights,
    folder: Path,
    name: str,
    converter: Path,
    *,
    dtype: WeightFormat | None = None,
    on_progress: Callable[[str], object] = lambda line: None,
) -> tuple[EquivalenceCheck, str]:
    """Write the model as one GGUF file into an existing, empty folder.

    Args:
        config: the run's profile.
        trained: the run's weights.
        folder: the folder to write to.
        name: file name without its suffix.
        converter: llama.cpp's converter, from `gguf.find_converter`.
        dtype: format of the weights; None is the format that the run held them in.
        on_progress: receives progress lines.

    Returns:
        How closely the full model before conversion matches the run's, and a summary of the file.

    Raises:
        IdaError: as `write_export`, or the model cannot be converted.
    """
    full_model = folder / ".whole"
    full_model.mkdir()
    check = write_export(
        config, trained, "merged", full_model, dtype=dtype, on_progress=on_progress
    )
    on_progress("converting to GGUF")
    summary = gguf.convert_to_gguf(converter, full_model, folder / f"{name}.gguf", check.dtype)
    shutil.rmtree(full_model)
    return check, summary


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

    model = load_trained_model(config, trained, run_format, tokenizer).float().to(device)
    reference = outputs_of(model)
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
