"""Change of the trainable weights since the start of a run, measured on a sample of each tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SAMPLED_PER_TENSOR = 65_536
"""Largest number of elements that are sampled from one tensor."""


@dataclass(frozen=True, slots=True)
class WeightChange:
    """Change of the trainable weights since the start of the run."""

    relative: float
    """L2 norm of the change, over the L2 norm at the start. Not finite if a weight is not finite."""
    norm: float
    """L2 norm of the current weights."""
    largest: float
    """Largest absolute change of a single weight."""


class WeightDelta:
    """Measures the change of the trainable weights since this object was created.

    It samples at most 65,536 evenly spaced elements of each tensor, which covers most LoRA adapters fully,
    and stores them in float32 in host memory. Full fine-tuning thus needs no second copy of the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._start = [_subsample(p) for p in self._parameters]
        self._norm = _norm(self._start)

    def change(self) -> WeightChange:
        """Change of the sampled elements since the start."""
        current = [_subsample(parameter) for parameter in self._parameters]
        change = [after - before for after, before in zip(current, self._start, strict=True)]
        return WeightChange(
            relative=_norm(change) / self._norm if self._norm else 0.0,
            norm=_norm(current),
            largest=max((float(tensor.abs().max()) for tensor in change), default=0.0),
        )


def _subsample(parameter: torch.Tensor) -> torch.Tensor:
    flat = parameter.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLED_PER_TENSOR))
    return flat[::stride].to("cpu", torch.float32, copy=True)


def _norm(tensors: list[torch.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())
