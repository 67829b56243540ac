"""Trained model of a run, loaded from disk: device, base model, and adapter or full weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.model_files import find_damaged_weights
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import Config, DeviceName, ModelConfig
from ida_tui.engine.device.device import choose_device, usable_memory
from ida_tui.engine.device.threads import choose_threads
from ida_tui.engine.diagnostics import selftest
from ida_tui.engine.model import load
from ida_tui.errors import IdaError, out_of_memory_message, short_text
from ida_tui.planning.memory import MemoryPlan, require_fit, resolve_limit
from ida_tui.runs.weights import TrainedWeights
from ida_tui.system import allocator


def prepare_device(config: Config, *, with_screen: bool = False) -> DeviceName:
    """Select and prepare the profile's device.

    Args:
        config: the run's profile.
        with_screen: whether the app shows the work.

    Raises:
        IdaError: the device is missing, or fails its self-test (exit code 5).
    """
    device = choose_device(config.device)
    choose_threads(with_screen=with_screen, device=device).apply()
    if device == "cpu":
        allocator.keep_freed_memory()
    else:
        selftest.require_self_test(device)
    return device


def require_memory(
    planned: MemoryPlan | None, config: Config, device: DeviceName, subject: str
) -> str:
    """Check the memory plan of a command against the limit, as a run does before it starts.

    Args:
        planned: the plan; None if it is unknown.
        config: the run's profile, with its limit.
        device: the device of the command.
        subject: what is planned, such as `chat`.

    Returns:
        A warning if the plan does not fit and `over_limit` is `try`; otherwise empty.

    Raises:
        IdaError: the plan does not fit (exit code 4).
    """
    limit = resolve_limit(config, usable_memory(device))
    fix = "raise limit_gb in the run's config.yaml" if limit < usable_memory(device) else ""
    return require_fit(
        planned,
        limit,
        config,
        subject=subject,
        fix=fix
        or "use a machine with more memory, or set over_limit: try in the run's config.yaml",
    )


def load_trained_model(
    config: Config, trained: TrainedWeights, dtype: WeightFormat, tokenizer: Tokenizer
) -> Any:
    """Load the trained model into host memory: the base model with its adapter, or the full model.

    Args:
        config: the run's profile.
        trained: the run's weights.
        dtype: number format of the base model, or of the full model.
        tokenizer: the model's tokenizer.

    Raises:
        IdaError: the weights cannot be loaded.
    """
    if config.training.method == "lora":
        return attach_adapter(load.load_model(config.model, dtype, tokenizer), trained.path)
    return load.load_model(full_model_config(config, trained.path), dtype, tokenizer)


def full_model_config(config: Config, folder: Path) -> ModelConfig:
    """The run's model profile, with the weights from this folder."""
    return config.model.model_copy(update={"path": str(folder), "revision": None})


def attach_adapter(base: Any, folder: Path) -> Any:
    """Attach the adapter in this folder to the base model. It can be disabled later.

    Raises:
        IdaError: the adapter cannot be loaded, or belongs to another model.
    """
    import peft

    try:
        with warnings.catch_warnings():
            # PEFT fills absent weights with zeros, which would make the trained model the base model.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except Exception as error:
        if out_of_memory_message(error):
            raise
        detail = find_damaged_weights(folder) or short_text(error) or type(error).__name__
        raise IdaError(
            f"cannot load the adapter in {folder}: {detail}",
            "the adapter is damaged or belongs to another model;\n"
            "to continue from a checkpoint: ida-tui resume RUN",
        ) from error
