"""Write a run's model so that others can use it, and read it back before anybody is told that it is done.

The trained model is asked some held-out prompts; its weights are written; what was written is loaded anew
and asked the same. Both compute in float32, so that what is left of a difference is in the weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ida_tui.config import precision
from ida_tui.config.precision import Format
from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import quiet
from ida_tui.engine.device import device as devices
from ida_tui.engine.export import gguf as gguf_file
from ida_tui.engine.export.equivalence import Agreement, agreement, asked, behaviour
from ida_tui.engine.model import load as weights
from ida_tui.engine.model import trained as tuned
from ida_tui.errors import IdaError
from ida_tui.runs.store.exports import Kind
from ida_tui.runs.weights import Trained

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write(
    config: Config,
    found: Trained,
    kind: Kind,
    folder: Path,
    *,
    dtype: Format | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Agreement:
    """Write the model into a folder that is there and empty.

    Args:
        config: the run's profile.
        found: the run's weights.
        kind: the adapter alone, or the whole model.
        folder: where to.
        dtype: format of a whole model's weights; None is the one that the run held them in.
        tell: takes a line about what is going on.

    Returns:
        How far what was written agrees with the run's model.

    Raises:
        IdaError: the weights cannot be loaded or written, or do not agree.
    """
    with quiet.captured(lambda noticed: tell(f"! {noticed.text}")):
        return _write(config, found, kind, folder, dtype, tell)


def write_gguf(
    config: Config,
    found: Trained,
    folder: Path,
    name: str,
    *,
    dtype: Format | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> tuple[Agreement, str]:
    """Write the model as one GGUF file into a folder that is there and empty.

    Args:
        config: the run's profile.
        found: the run's weights.
        folder: where to.
        name: of the file, without its ending.
        dtype: format of the weights; None is the one that the run held them in.
        tell: takes a line about what is going on.

    Returns:
        How far the whole model that was converted agrees with the run's, and what is in the file, in words.

    Raises:
        IdaError: as `write`, or the model cannot be converted.
    """
    whole = folder / ".whole"
    whole.mkdir()
    agreed = write(config, found, "merged", whole, dtype=dtype, tell=tell)
    tell("converting it to GGUF")
    looked = gguf_file.convert(whole, folder / f"{name}.gguf", agreed.dtype)
    shutil.rmtree(whole)
    return agreed, looked


def _write(
    config: Config,
    found: Trained,
    kind: Kind,
    folder: Path,
    dtype: Format | None,
    tell: Callable[[str], object],
) -> Agreement:
    device = tuned.device_for(config)
    held = precision.recipe(config, device).weights
    written_in: Format = "float32" if kind == "adapter" else dtype or held
    tokenizer = weights.load_tokenizer(config.model)
    prompts = asked(config)

    def ask(model: Any, reference: Any = None) -> Any:
        return behaviour(model, tokenizer, config, device, prompts, reference)

    model = tuned.load(config, found, held).float().to(device)
    reference = ask(model)
    tell(f"writing {'the adapter' if kind == 'adapter' else f'the whole model in {written_in}'}")
    try:
        if kind == "adapter":
            _copy_adapter(found.path, folder, config)
        else:
            _write_whole(model, folder, config, written_in)
        weights.save_tokenizer(config.model, folder)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(folder, error) from None
    del model
    devices.give_back(device)
    tell(f"reading it back, and asking both {len(prompts)} prompts")
    model = _read_back(config, kind, folder, written_in, held, device)
    agreed = agreement(reference, ask(model, reference), written_in)
    del model
    devices.give_back(device)
    if not agreed.good:
        raise IdaError(
            f"what was written is not the run's model: {agreed.words}",
            "nothing was put in place. --dtype float32 rounds nothing; if that differs too,\n"
            "it is a defect of ida-tui, or of a library",
        )
    return agreed


def _write_whole(model: Any, folder: Path, config: Config, dtype: Format) -> None:
    """The whole model as transformers keeps it: the adapter put in in float32, then all of it rounded."""
    import torch

    if config.training.method == "lora":
        model = model.merge_and_unload(safe_merge=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def _copy_adapter(source: Path, folder: Path, config: Config) -> None:
    """The adapter as PEFT keeps it; of a base in a local folder only the name, not where it is here."""
    for name in ADAPTER_FILES:
        shutil.copyfile(source / name, folder / name)
    if config.model.folder() is not None:
        file = folder / "adapter_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = config.model.name or Path(config.model.path).name
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _read_back(
    config: Config, kind: Kind, folder: Path, dtype: Format, held: Format, device: DeviceName
) -> Any:
    if kind == "adapter":
        base = weights.load_model(config.model, held)
        return tuned.with_adapter(base, folder).float().to(device)
    return weights.load_model(tuned.whole(config, folder), dtype).float().to(device)


def _cannot_write(folder: Path, error: Exception) -> IdaError:
    why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return IdaError(
        f"the export cannot be written to {folder.parent}: {why}",
        "nothing was put in place; --output DIR writes it elsewhere",
    )
