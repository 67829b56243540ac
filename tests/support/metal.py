"""Simulation of Metal on the CPU: fp16 autocast with a gradient scaler in the full engine.

accelerate silently ignores fp16 on the CPU. Inside `simulated_metal`, a run on the CPU uses the precision
recipe of mps (float16 base, float32 adapter, AdamW that supports the scaler), and accelerate is patched to
use autocast and a scaler. The device itself still differs from a Mac: kernels, memory and random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from ida_tui.config import precision
from ida_tui.config.schema import Config, DeviceName


def install_scaler(trainer: Any, patch: pytest.MonkeyPatch, scaler: torch.amp.GradScaler) -> None:
    """Patch a trainer on the CPU to train in fp16 with this scaler."""
    trainer.accelerator.scaler = scaler
    trainer.accelerator.native_amp = True
    patch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")


@contextmanager
def simulated_metal(scale: float = 65536.0) -> Iterator[list[torch.amp.GradScaler]]:
    """Train runs inside the block as on mps; yields the list of scalers that they use.

    Args:
        scale: initial scale of the scaler; the default of torch is 65,536.
    """
    from ida_tui.engine.run import build, preflight

    scalers: list[torch.amp.GradScaler] = []
    original = build.build_trainer

    def metal_recipe(config: Config, device: DeviceName) -> precision.PrecisionRecipe:
        return precision.resolve_precision(config, "mps")

    def build_trainer(*arguments: Any, **options: Any) -> Any:
        trainer = original(*arguments, **options)
        scalers.append(torch.amp.GradScaler("cpu", init_scale=scale))
        install_scaler(trainer, patch, scalers[-1])
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "precision", SimpleNamespace(resolve_precision=metal_recipe))
        patch.setattr(build, "build_trainer", build_trainer)
        yield scalers
