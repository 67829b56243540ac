"""The command `ida-tui export RUN`: export the trained model or adapter with a model card."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.cli.arguments import add_consent_arguments, add_run_argument, check_override_keys
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import write_text

if TYPE_CHECKING:
    from ida_tui.config.precision import WeightFormat
    from ida_tui.config.schema import Config
    from ida_tui.engine.export.gguf import Quantization, Tools
    from ida_tui.engine.export.write import WrittenExport
    from ida_tui.runs.directory import RunDirectory
    from ida_tui.runs.store.exports import ExportKind
    from ida_tui.runs.weights import TrainedWeights

EPILOG = """\
examples:
  ida-tui export quickstart --merged                   a folder that transformers can load
  ida-tui export quickstart --merged --dtype bfloat16 --output ~/models/mine
  ida-tui export oblit-1-mps --adapter                 a few MB; needs the base model
  ida-tui export oblit-1-mps --gguf --dtype q8_0       a file for llama.cpp, Ollama, LM Studio
  ida-tui export oblit-1-mps --merged --push me/mine   also upload it to a private repository
"""
FORMATS = ("float32", "float16", "bfloat16")
QUANTIZATIONS = ("q8_0", "q4_k_m")


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_run_argument(parser)
    add_consent_arguments(parser)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--adapter", action="store_true", help="export the LoRA adapter only")
    kind.add_argument("--merged", action="store_true", help="export the full model, adapter merged")
    kind.add_argument(
        "--gguf", action="store_true", help="export the full model in GGUF, for llama.cpp"
    )
    parser.add_argument(
        "--dtype",
        choices=(*FORMATS, *QUANTIZATIONS),
        help="with --merged or --gguf: data type of the weights (default: the run's); q8_0 and q4_k_m,"
        " 8 and about 5 bits, need --gguf",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="output folder (default: export/ in the run directory)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export")
    parser.add_argument(
        "--push", metavar="REPO", help="also upload it to this repository on the Hugging Face Hub"
    )
    parser.add_argument(
        "--public", action="store_true", help="with --push: make a new repository public"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(options: Namespace) -> ExitCode:
    """Write the export, verify it, add a model card and move it into place; then push it if requested.

    Raises:
        UsageError: there is no such run, it has no such weights, or the target already exists.
        IdaError: the model cannot be loaded or written, the written model differs from the run's model, or
            the upload failed.
    """
    from ida_tui.config.resolve import resolve
    from ida_tui.engine.export import gguf, hub, ollama
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.runs.store import exports
    from ida_tui.runs.weights import find_weights

    directory = find_run(options.name, Path("outputs"))
    check_override_keys(options.overrides, ("model.trust_remote_code",))
    config = resolve(str(directory.config), options.overrides, uses=("code",)).config
    kind: ExportKind = "adapter" if options.adapter else "merged" if options.merged else "gguf"
    _check_options(options, config, kind)
    weights = find_weights(directory, config)
    target = (
        Path(options.output).expanduser()
        if options.output
        else exports.default_directory(directory, kind)
    )
    target = target.absolute()
    exports.check_target(target, overwrite=options.overwrite)
    quantization = options.dtype if options.dtype in QUANTIZATIONS else None
    dtype = None if quantization else options.dtype
    tools = gguf.find_tools(quantization) if kind == "gguf" else None
    token = hub.hub_token() if options.push else ""
    print_status(f"{config.name}/{directory.run_id} ({weights.label}) → {display_path(target)}")
    if not weights.is_final:
        print_status(f"! the run did not finish; these are the weights of {weights.label}")
    from ida_tui.engine import libraries
    from ida_tui.planning.hub_download import require_model_here

    # This must run before torch is imported. A push needs the hub, which a local model does not.
    libraries.set_library_defaults(None if options.push else config.model.folder())
    require_model_here(config.model, print_status, uploads=bool(options.push))
    replaced = exports.is_export(target)
    with exports.staged_directory(target) as folder:
        written = _write_export(
            directory, config, weights, kind, folder, dtype, quantization, tools
        )
    print_status(f"✓ {written.summary}")
    print_status(f"✓ {'replaced' if replaced else 'wrote'} {display_path(target)}")
    for_ollama = ollama.create_command(config.name, target) if kind == "gguf" else ""
    if for_ollama:
        print_status(f"  for Ollama: {for_ollama}")
    address = ""
    if options.push:
        address = hub.push_export(target, options.push, token, public=options.public)
        print_status(f"✓ pushed to {address}")
    if options.json:
        summary = _as_json(target, kind, weights, written, address)
        print(json.dumps(summary | ({"ollama": for_ollama} if for_ollama else {}), indent=1))
    else:
        print_lines([display_path(target)])
    return ExitCode.DONE


def _check_options(options: Namespace, config: Config, kind: ExportKind) -> None:
    if kind == "adapter" and config.training.method != "lora":
        raise UsageError(
            "this run has no adapter, because it trained all weights",
            "export the full model with --merged",
        )
    if kind == "adapter" and options.dtype:
        raise UsageError(
            "--dtype needs --merged or --gguf", "remove --dtype; an adapter is always float32"
        )
    if options.dtype in QUANTIZATIONS and kind != "gguf":
        raise UsageError(
            f"--dtype {options.dtype} needs --gguf",
            f"use --gguf, or one of {', '.join(FORMATS)}",
        )
    if options.public and not options.push:
        raise UsageError("--public needs --push", "add --push REPO, or remove --public")


def _write_export(
    directory: RunDirectory,
    config: Config,
    weights: TrainedWeights,
    kind: ExportKind,
    folder: Path,
    dtype: WeightFormat | None,
    quantization: Quantization | None,
    tools: Tools | None,
) -> WrittenExport:
    """Write all files of the export; returns the comparison with the run's model."""
    from ida_tui.analysis.model_card import CardInputs, render_card
    from ida_tui.engine.export.write import WrittenExport, write_export, write_gguf
    from ida_tui.runs.store import evaluations, exports, manifest

    if tools is not None:
        name = f"{config.name}-{directory.run_id}"
        written = write_gguf(
            config,
            weights,
            folder,
            name,
            tools,
            dtype=dtype,
            quantization=quantization,
            on_progress=print_status,
        )
    else:
        check = write_export(config, weights, kind, folder, dtype=dtype, on_progress=print_status)
        written = WrittenExport(check, check.dtype, check.summary)
    saved = map(evaluations.read_evaluation, evaluations.list_evaluations(directory))
    matching = (
        candidate for candidate in saved if candidate is not None and candidate.step == weights.step
    )
    inputs = CardInputs(
        config=config,
        trained=weights,
        kind=kind,
        dtype=written.dtype,
        verification=written.summary,
        manifest=manifest.read(directory.manifest),
        evaluation=next(matching, None),
    )
    try:
        write_text(folder / exports.MODEL_CARD_FILE, render_card(inputs))
        exports.write_metadata(
            folder,
            {
                "kind": kind,
                "dtype": written.dtype,
                "experiment": config.name,
                "run": directory.run_id,
                "step": weights.step,
                "final": weights.is_final,
                "checked": written.summary,
            },
        )
    except OSError as error:
        raise IdaError(
            f"could not write the export: {error.strerror or error}",
            "the output folder was not changed; fix the problem, or choose another folder with --output",
        ) from None
    return written


def _as_json(
    target: Path,
    kind: ExportKind,
    weights: TrainedWeights,
    written: WrittenExport,
    address: str,
) -> dict[str, Any]:
    return {
        "folder": str(target),
        "kind": kind,
        "dtype": written.dtype,
        "step": weights.step,
        "final": weights.is_final,
        "prompts": written.check.prompts,
        "same_greedy_answers": written.check.same_answers,
        "logits_difference": written.check.logit_difference,
        "pushed_to": address or None,
    }
