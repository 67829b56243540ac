"""The output layer without its logits: log-probabilities and entropies, a tile of the vocabulary at a time.

TRL's kernel does the same and is used wherever it has Triton or torch's products are good. On a CPU where
they are not (`linear.prefers_onednn`) the tiles are computed here; the sums are those of an online softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels import ChunkedLogProbFunction

from ida_tui.engine.device.onednn import by_onednn, onednn

VOCABULARY_TILE, TOKEN_TILE = 8192, 512
"""A tile of 16 MB in float32: small enough for the caches, large enough for the products."""


def score(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target, and the entropy it was drawn with (without a gradient).

    Args:
        states: (tokens, hidden).
        weight: (vocabulary, hidden).
        bias: (vocabulary,) or None.
        targets: (tokens,).
        temperature: the logits are divided by it.
    """
    if by_onednn(states, weight):
        own: tuple[torch.Tensor, torch.Tensor] = _Tiles.apply(
            states, weight, bias, targets, temperature
        )
        return own
    found = ChunkedLogProbFunction.apply(
        states,
        weight,
        bias,
        targets,
        temperature,
        VOCABULARY_TILE,
        None,
        1.0,
        ("log_probs", "entropy"),
    )
    return found[0], found[1].detach()


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = states.shape[0]
        scores, entropies, totals = (states.new_empty(tokens) for _ in range(3))
        for here in _spans(tokens, TOKEN_TILE):
            x, goal = states[here], targets[here]
            top = x.new_full((len(x), 1), -torch.inf)
            mass, weighted, wanted = x.new_zeros(3, len(x), 1)
            for tile in _spans(weight.shape[0], VOCABULARY_TILE):
                z = _logits(x, weight, bias, tile, temperature)
                inside = (goal >= tile.start) & (goal < tile.stop)
                column = (goal - tile.start).clamp(0, z.shape[1] - 1)[:, None]
                wanted = torch.where(inside[:, None], z.gather(1, column), wanted)
                higher = torch.maximum(top, z.amax(dim=1, keepdim=True))
                shrink = torch.exp(top - higher)
                e = torch.exp(z - higher)
                mass = mass * shrink + e.sum(dim=1, keepdim=True)
                weighted = weighted * shrink + (e.mul_(z)).sum(dim=1, keepdim=True)
                top = higher
            total = top + mass.log()
            totals[here] = total[:, 0]
            scores[here] = (wanted - total)[:, 0]
            entropies[here] = (total - weighted / mass)[:, 0]
        ctx.save_for_backward(states, weight, bias, targets, totals)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return scores, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        states, weight, bias, targets, totals = ctx.saved_tensors
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        for_states = torch.zeros_like(states) if wants_states else None
        for_weight = torch.zeros_like(weight) if wants_weight else None
        for_bias = torch.zeros_like(bias) if bias is not None and wants_bias else None
        for here in _spans(states.shape[0], TOKEN_TILE):
            x, goal, gradient = states[here], targets[here], gradients[0][here, None]
            for tile in _spans(weight.shape[0], VOCABULARY_TILE):
                z = _logits(x, weight, bias, tile, ctx.temperature)
                # d log p(target) / dz = [z is the target] - p
                change = torch.exp(z.sub_(totals[here, None])).mul_(-gradient / ctx.temperature)
                inside = (goal >= tile.start) & (goal < tile.stop)
                column = (goal - tile.start).clamp(0, z.shape[1] - 1)[:, None]
                share = torch.where(inside[:, None], gradient / ctx.temperature, 0.0)
                change.scatter_add_(1, column, share)
                if for_states is not None:
                    for_states[here] += onednn(change, weight[tile].t(), None)
                if for_weight is not None:
                    for_weight[tile] += onednn(change.t(), x.t(), None)
                if for_bias is not None:
                    for_bias[tile] += change.sum(dim=0)
        return for_states, for_weight, for_bias, None, None


def _logits(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tile: slice,
    temperature: float,
) -> torch.Tensor:
    z = onednn(x, weight[tile], None if bias is None else bias[tile])
    return z if temperature == 1.0 else z.div_(temperature)


def _spans(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
