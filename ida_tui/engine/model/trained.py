"""A run's model as it lies on the disk, ready to answer: the device, the base, and what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ida_tui.config.precision import Format
from ida_tui.config.schema import Config, DeviceName, ModelConfig
from ida_tui.engine.device import device as devices
from ida_tui.engine.diagnostics import selftest
from ida_tui.engine.model import load as weights
from ida_tui.errors import IdaError
from ida_tui.runs.weights import Trained
from ida_tui.system import allocator


def device_for(config: Config) -> DeviceName:
    """The device that a profile names, made ready.

    Raises:
        IdaError: it is not there, or computes wrongly (exit code 5).
    """
    chosen = devices.choose(config.device)
    devices.leave_a_core()
    if chosen == "cpu":
        allocator.keep_freed_memory()
    else:
        selftest.require(chosen)
    return chosen


def load(config: Config, found: Trained, base: Format) -> Any:
    """The trained model, on the host: the base with its adapter on, or the whole model.

    Args:
        config: the run's profile.
        found: the run's weights.
        base: format that the base, or the whole model, is held in.

    Raises:
        IdaError: the weights cannot be loaded.
    """
    if config.training.method == "lora":
        return with_adapter(weights.load_model(config.model, base), found.path)
    return weights.load_model(whole(config, found.path), base)


def whole(config: Config, folder: Path) -> ModelConfig:
    """The run's model, with its weights from this folder."""
    return config.model.model_copy(update={"path": str(folder), "revision": None})


def with_adapter(base: Any, folder: Path) -> Any:
    """The base with the adapter in this folder, which can be switched off.

    Raises:
        IdaError: it cannot be loaded, or belongs to another model.
    """
    import peft
    from safetensors import SafetensorError

    try:
        return peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise IdaError(
            f"cannot load the adapter in {folder}: {' '.join(str(error).split())[:200]}",
            "it belongs to another model, or is damaged; ida-tui resume RUN goes on from a checkpoint",
        ) from error
