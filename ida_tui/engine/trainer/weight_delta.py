"""Change of a model's weights since the start of a run: exact for a LoRA adapter, sampled for all weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer

SAMPLED_PER_TENSOR = 65_536
"""Largest number of elements that are sampled from one tensor."""
NORM_CHUNK = 1 << 24
"""Elements whose norm is computed at a time, so that a conversion to float32 stays small."""


@dataclass(frozen=True, slots=True)
class WeightChange:
    """Change of the weights since the start of the run. A figure is not finite if a weight is not finite."""

    model: float
    """L2 norm of the change of the model's weights, over their L2 norm at the start.

    An adapter changes the weights by scale · (B·A - B₀·A₀), as merging it would.
    """
    relative: float
    """L2 norm of the change of the trainable weights (the adapter's, with LoRA), over that at the start."""
    norm: float
    """L2 norm of the trainable weights."""
    largest: float
    """Largest absolute change of a single trainable weight."""


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The trained factors of one layer's adapter, which add scale · B·A to its weight."""

    a: torch.Tensor
    """(rank, inputs)."""
    b: torch.Tensor
    """(outputs, rank)."""
    scale: float
    start: tuple[torch.Tensor, torch.Tensor] | None
    """A and B at the start of the run; None where B was zero, as in every new adapter."""

    @property
    def low_rank_change(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors L, (outputs, k), and R, (k, inputs), of the change B·A - B₀·A₀ = L·R, in float32.

        The start is subtracted from the factors, so that a small change is not lost to rounding.
        """
        a, b = self.a.detach().float(), self.b.detach().float()
        if self.start is None:
            return b, a
        start_a, start_b = self.start
        return torch.cat((b - start_b, start_b), dim=1), torch.cat((a, a - start_a), dim=0)


class WeightDelta:
    """Measures the change of a model's weights since this object was created.

    The change B·A of an adapter is exact: ‖B·A‖² = tr(BᵀB · AAᵀ), with two products of rank × rank. Of other
    trainable weights, at most 65,536 evenly spaced elements of each tensor are compared with copies in host
    memory. Full fine-tuning thus needs no second copy of the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._factors = list(_trained_factors(model))
        in_adapter = {id(tensor) for factors in self._factors for tensor in (factors.a, factors.b)}
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._is_weight = [id(p) not in in_adapter for p in self._parameters]
        self._start = [_subsample(p) for p in self._parameters]
        self._norm = _norm(self._start)
        self._model_norm = _exact_norm([p for p in model.parameters() if id(p) not in in_adapter])

    def change(self) -> WeightChange:
        """The change since the start."""
        current = [_subsample(parameter) for parameter in self._parameters]
        change = [after - before for after, before in zip(current, self._start, strict=True)]
        return WeightChange(
            model=self._model_change(change),
            relative=_norm(change) / self._norm if self._norm else 0.0,
            norm=_norm(current),
            largest=max((float(tensor.abs().max()) for tensor in change), default=0.0),
        )

    def _model_change(self, sampled: list[torch.Tensor]) -> float:
        squares = _adapter_change_squared(self._factors)
        for tensor, parameter, is_weight in zip(
            sampled, self._parameters, self._is_weight, strict=True
        ):
            if is_weight:
                share = tensor.numel() / max(1, parameter.numel())
                squares += float(tensor.double().square().sum()) / (share or 1.0)
        return squares**0.5 / self._model_norm if self._model_norm else 0.0


def _trained_factors(model: torch.nn.Module) -> Iterator[LoraFactors]:
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name, scale in module.scaling.items():
            if name in module.lora_A:
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
            elif name in module.lora_embedding_A:
                a, b = module.lora_embedding_A[name], module.lora_embedding_B[name]
            else:
                continue
            if b.requires_grad:
                start = (
                    (a.detach().float().clone(), b.detach().float().clone()) if b.any() else None
                )
                yield LoraFactors(a, b, float(scale), start)


def _adapter_change_squared(factors: list[LoraFactors]) -> float:
    """Squared L2 norm of the change that adapters make to their layers; layers of one shape go together."""
    by_shape: defaultdict[
        tuple[torch.Size, torch.Size, float], list[tuple[torch.Tensor, torch.Tensor]]
    ] = defaultdict(list)
    for layer in factors:
        left, right = layer.low_rank_change
        by_shape[left.shape, right.shape, layer.scale].append((left, right))
    squares = []
    for (_, _, scale), pairs in by_shape.items():
        left = torch.stack([pair[0] for pair in pairs])
        right = torch.stack([pair[1] for pair in pairs])
        grams = (left.mT @ left) * (right @ right.mT)
        squares.append(scale**2 * grams.sum())
    return max(0.0, float(torch.stack(squares).double().sum())) if squares else 0.0


def _subsample(parameter: torch.Tensor) -> torch.Tensor:
    flat = parameter.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLED_PER_TENSOR))
    # An even stride would often divide the width of the tensor and sample the same few columns.
    return flat[:: stride | 1].to("cpu", torch.float32, copy=True)


def _norm(tensors: list[torch.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _exact_norm(tensors: list[torch.Tensor]) -> float:
    """L2 norm of all elements, computed in float32 on their device."""
    norms = [
        torch.linalg.vector_norm(chunk, dtype=torch.float32)
        for tensor in tensors
        for chunk in torch.split(tensor.detach().reshape(-1), NORM_CHUNK)
    ]
    return _norm([torch.stack(norms).cpu()]) if norms else 0.0
