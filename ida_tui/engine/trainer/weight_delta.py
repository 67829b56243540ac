"""Change of a model's weights since the start of a run: exact for a LoRA adapter, sampled for all weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from ida_tui.engine.device.packed import PackedLinear
from ida_tui.engine.distributed.sharding import whole

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


@dataclass(frozen=True, slots=True)
class DoraFactors:
    """The trained parts of one layer with DoRA, whose weight is m · V / ‖V‖ by rows; V = W + scale · B·A."""

    base: torch.Tensor
    """W, (outputs, inputs)."""
    factors: LoraFactors
    magnitude: torch.Tensor
    """m, (outputs,)."""
    start_magnitude: torch.Tensor

    def change_squared(self) -> float:
        """Squared L2 norm of the change of the layer's weight. Both weights are computed in float32."""
        layer = self.factors
        start_a, start_b = layer.start or (None, None)
        now = self._weight(
            layer.a.detach().float(), layer.b.detach().float(), self.magnitude.detach()
        )
        start = self._weight(start_a, start_b, self.start_magnitude)
        return float((now - start).square().sum())

    def _weight(
        self, a: torch.Tensor | None, b: torch.Tensor | None, magnitude: torch.Tensor
    ) -> torch.Tensor:
        weight = self.base.detach().float()
        if a is not None and b is not None:
            weight = weight + self.factors.scale * (b @ a)
        norms = torch.linalg.vector_norm(weight, dim=1)
        normalized: torch.Tensor = (magnitude.float() / norms)[:, None] * weight
        return normalized


@dataclass(frozen=True, slots=True)
class ParameterAdapter:
    """An adapter on a parameter, such as the stacked weights of experts."""

    layer: Any
    """PEFT's wrapper of the module that holds the parameter."""
    name: str
    """Name of the adapter."""
    start: torch.Tensor | None
    """What it added at the start; None for nothing."""

    def change_squared(self) -> float:
        """Squared L2 norm of the change of the parameter."""
        delta = self.layer.get_delta_weight(self.name).detach().float()
        return float((delta if self.start is None else delta - self.start).square().sum())


class WeightDelta:
    """Measures the change of a model's weights since this object was created.

    The change B·A of an adapter is exact: ‖B·A‖² = tr(BᵀB · AAᵀ), with two products of rank × rank. With DoRA
    and for adapters on parameters, one layer's weight at a time is computed, which is exact, too. Of other
    trainable weights, at most 65,536 evenly spaced elements of each tensor are compared with copies in host
    memory. Full fine-tuning thus needs no second copy of the model. If the weights are sharded, all ranks
    measure together.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        adapters = list(_trained_adapters(model))
        self._factors = [adapter for adapter in adapters if isinstance(adapter, LoraFactors)]
        self._dense = [adapter for adapter in adapters if not isinstance(adapter, LoraFactors)]
        in_adapter = {id(p) for name, p in model.named_parameters() if "lora_" in name}
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._is_weight = [id(p) not in in_adapter for p in self._parameters]
        self._start = [_subsample(p) for p in self._parameters]
        self._norm = _norm(self._start)
        packed = {id(m.weight): m for m in model.modules() if isinstance(m, PackedLinear)}
        self._model_norm = _exact_norm(
            packed[id(parameter)].unpacked(torch.float32)
            if id(parameter) in packed
            else whole(parameter)
            for name, parameter in model.named_parameters()
            if id(parameter) not in in_adapter and ".modules_to_save." not in name
        )

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
        with torch.no_grad():
            squares += sum(adapter.change_squared() for adapter in self._dense)
        for tensor, parameter, is_weight in zip(
            sampled, self._parameters, self._is_weight, strict=True
        ):
            if is_weight:
                share = tensor.numel() / max(1, parameter.numel())
                squares += float(tensor.double().square().sum()) / (share or 1.0)
        return squares**0.5 / self._model_norm if self._model_norm else 0.0


def _trained_adapters(
    model: torch.nn.Module,
) -> Iterator[LoraFactors | DoraFactors | ParameterAdapter]:
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name, scale in module.scaling.items():
            is_embedding = name in module.lora_embedding_A
            if is_embedding:
                a, b = module.lora_embedding_A[name], module.lora_embedding_B[name]
            elif name in module.lora_A:
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
            else:
                continue
            if not b.requires_grad:
                continue
            if isinstance(module, ParamWrapper):
                delta = module.get_delta_weight(name).detach().float() if b.any() else None
                yield ParameterAdapter(module, name, delta)
                continue
            start = (a.detach().float().clone(), b.detach().float().clone()) if b.any() else None
            factors = LoraFactors(a, b, float(scale), start)
            if name in module.lora_magnitude_vector:
                magnitude = module.lora_magnitude_vector[name].weight
                base = module.get_base_layer().weight
                yield DoraFactors(
                    base.T if is_embedding else base, factors, magnitude, magnitude.detach().clone()
                )
            else:
                yield factors


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
    flat = whole(parameter).detach().reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLED_PER_TENSOR))
    # An even stride would often divide the width of the tensor and sample the same few columns.
    return flat[:: stride | 1].to("cpu", torch.float32, copy=True)


def _norm(tensors: list[torch.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _exact_norm(tensors: Iterable[torch.Tensor]) -> float:
    """L2 norm of all elements, computed in float32 on their device."""
    norms = [
        torch.linalg.vector_norm(chunk, dtype=torch.float32)
        for tensor in tensors
        for chunk in torch.split(tensor.detach().reshape(-1), NORM_CHUNK)
    ]
    return _norm([torch.stack(norms).cpu()]) if norms else 0.0
