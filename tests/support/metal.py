"""Metal's number formats on the CPU: fp16 autocast with a gradient scaler, through the whole engine.

accelerate ignores fp16 on the CPU without a word. Inside `simulated_metal` a run on the CPU takes the recipe
of mps (float16 base, float32 adapter, AdamW that honours the scaler), and accelerate is told behind its back
to use autocast and a scaler. What stays different from a Mac is the device: its kernels, its memory and its
random numbers.
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


def with_scaler(trainer: Any, patch: pytest.MonkeyPatch, scaler: torch.amp.GradScaler) -> None:
    """Make a trainer that is on the CPU train in fp16 with this scaler."""
    trainer.accelerator.scaler = scaler
    trainer.accelerator.native_amp = True
    patch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")


@contextmanager
def simulated_metal(scale: float = 65536.0) -> Iterator[list[torch.amp.GradScaler]]:
    """Runs inside the block are trained as on mps; yields the scalers that they used.

    Args:
        scale: what the scaler begins with; its own beginning is 65,536.
    """
    from ida_tui.engine.run import build as assembly
    from ida_tui.engine.run import preflight

    scalers: list[torch.amp.GradScaler] = []
    build = assembly.build_trainer

    def metals(config: Config, device: DeviceName) -> precision.PrecisionRecipe:
        return precision.resolve_precision(config, "mps")

    def built(*arguments: Any, **named: Any) -> Any:
        trainer = build(*arguments, **named)
        scalers.append(torch.amp.GradScaler("cpu", init_scale=scale))
        with_scaler(trainer, patch, scalers[-1])
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "precision", SimpleNamespace(resolve_precision=metals))
        patch.setattr(assembly, "build_trainer", built)
        yield scalers
