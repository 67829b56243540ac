"""Chunked language-model head: log-probabilities and entropies without the full logits.

In float32 on the CPU they are computed here, one tile of tokens × vocabulary at a time, with an online
softmax. Elsewhere TRL's kernel does it, which works in the same way.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels import ChunkedLogProbFunction

from ida_tui.engine.device.onednn import linear

VOCABULARY_TILE, TOKEN_TILE = 2048, 512
"""Tile size. A tile takes 4 MB in float32: it fits the CPU caches and still multiplies efficiently."""
KERNEL_TILE = 8192
"""Columns of the output layer that TRL's kernel computes at a time."""


def chunked_logprobs(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    temperature: float,
    entropy_gradient: bool = False,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target token, and the entropy of its distribution.

    Args:
        states: hidden states, (tokens, hidden).
        weight: weight of the output layer, (vocabulary, hidden).
        bias: bias of the output layer, (vocabulary,), or None.
        targets: token ids, (tokens,).
        temperature: the logits are divided by it.
        entropy_gradient: whether the entropies have a gradient. TRL's kernel computes it on all devices.
        scale: factor of the logits.
        softcap: bound of the logits, after the scale; None for no bound.

    Returns:
        Log-probabilities and entropies, (tokens,) each.
    """
    if _is_tiled_here(states, weight) and not entropy_gradient and softcap is None:
        tiled: tuple[torch.Tensor, torch.Tensor] = _TiledLogprobs.apply(
            states, weight, bias, targets, temperature / scale
        )
        return tiled
    outputs = ChunkedLogProbFunction.apply(
        states,
        weight,
        bias,
        targets,
        temperature,
        KERNEL_TILE,
        softcap,
        scale,
        ("log_probs", "entropy"),
    )
    return outputs[0], outputs[1] if entropy_gradient else outputs[1].detach()


def _is_tiled_here(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether these are computed by `_TiledLogprobs`."""
    return (
        states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class _TiledLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies by an online softmax over tiles of the vocabulary.

    The gradient of log p(target) with respect to the state is (W[target] - Σ p W) / temperature. If the
    weight is frozen, the forward pass computes this vector and the backward pass only scales it. That is one
    product less than computing the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        ctx.is_frozen = needs_states and not (needs_weight or needs_bias)
        tokens = states.shape[0]
        logprobs, entropies, log_sum_exps = (states.new_empty(tokens) for _ in range(3))
        directions = torch.empty_like(states) if ctx.is_frozen else None
        for span in _slices(tokens, TOKEN_TILE):
            x, target = states[span], targets[span]
            running_max = x.new_full((len(x), 1), -torch.inf)
            sum_exp, weighted_sum, target_logit = x.new_zeros(3, len(x), 1)
            expected = torch.zeros_like(x) if ctx.is_frozen else None
            for tile in _slices(weight.shape[0], VOCABULARY_TILE):
                z = _logits(x, weight, bias, tile, temperature)
                in_tile = (target >= tile.start) & (target < tile.stop)
                column = (target - tile.start).clamp(0, z.shape[1] - 1)[:, None]
                target_logit = torch.where(in_tile[:, None], z.gather(1, column), target_logit)
                new_max = torch.maximum(running_max, z.amax(dim=1, keepdim=True))
                rescale = torch.exp(running_max - new_max)
                e = (z - new_max).exp_()
                sum_exp = sum_exp * rescale + e.sum(dim=1, keepdim=True)
                if expected is not None:
                    expected.mul_(rescale).add_(linear(e, weight[tile].t(), None))
                weighted_sum = weighted_sum * rescale + e.mul_(z).sum(dim=1, keepdim=True)
                running_max = new_max
            log_sum_exp = running_max + sum_exp.log()
            log_sum_exps[span] = log_sum_exp[:, 0]
            logprobs[span] = (target_logit - log_sum_exp)[:, 0]
            entropies[span] = (log_sum_exp - weighted_sum / sum_exp)[:, 0]
            if directions is not None and expected is not None:
                directions[span] = (weight[target] - expected.div_(sum_exp)).div_(temperature)
        if directions is not None:
            ctx.save_for_backward(directions)
        else:
            ctx.save_for_backward(states, weight, bias, targets, log_sum_exps)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        if ctx.is_frozen:
            (directions,) = ctx.saved_tensors
            return directions * gradients[0][:, None], None, None, None, None
        states, weight, bias, targets, log_sum_exps = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_states = torch.zeros_like(states) if needs_states else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        for span in _slices(states.shape[0], TOKEN_TILE):
            x, target, gradient = states[span], targets[span], gradients[0][span, None]
            for tile in _slices(weight.shape[0], VOCABULARY_TILE):
                z = _logits(x, weight, bias, tile, ctx.temperature)
                # d log p(target) / dz = [z is the target] - p
                probabilities = torch.exp(z.sub_(log_sum_exps[span, None]))
                grad_logits = probabilities.mul_(-gradient / ctx.temperature)
                in_tile = (target >= tile.start) & (target < tile.stop)
                column = (target - tile.start).clamp(0, z.shape[1] - 1)[:, None]
                target_grad = torch.where(in_tile[:, None], gradient / ctx.temperature, 0.0)
                grad_logits.scatter_add_(1, column, target_grad)
                if grad_states is not None:
                    grad_states[span] += linear(grad_logits, weight[tile].t(), None)
                if grad_weight is not None:
                    grad_weight[tile] += linear(grad_logits.t(), x.t(), None)
                if grad_bias is not None:
                    grad_bias[tile] += grad_logits.sum(dim=0)
        return grad_states, grad_weight, grad_bias, None, None


def _logits(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tile: slice,
    temperature: float,
) -> torch.Tensor:
    """Logits of one tile of the vocabulary, (tokens, tile)."""
    z = linear(x, weight[tile], None if bias is None else bias[tile])
    return z if temperature == 1.0 else z.div_(temperature)


def _slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size` that cover `length`."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
