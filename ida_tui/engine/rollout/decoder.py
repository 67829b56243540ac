"""Single-token decoder for the model families of `families` that uses their weights without their modules.

Generating a token has to read every weight once. On a small machine the dispatch overhead of the transformers
and PEFT modules doubles that cost. `Decoder` uses the same weights with fewer calls: keys and values are
written in place into one buffer per rollout, finished rows are dropped, and a LoRA adapter is applied as two
low-rank products. The adapter is never merged into the base model, because merging and unmerging drifts.

`decoder_support.unsupported_reason` says why transformers has to generate instead for any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.architecture.families import FAMILIES, embedding_scale, rotary_kinds
from ida_tui.engine.architecture.parts import CausalParts, unwrap_peft
from ida_tui.engine.device.rollout_weights import RolloutWeights
from ida_tui.engine.rollout.decoder_layer import DecoderLayer, linear_projection, rms_norm

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of some positions."""
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Appends a token's keys and values, (rows, key-value heads, head size), to a layer's, and attends to all.

Each key-value head has several queries, (rows, key-value heads, queries, head size).
"""


class Decoder:
    """Decodes the rows of one rollout.

    Args:
        model: the policy with its current weights, which `decoder_support.unsupported_reason` accepts.
        keys: the prompts' keys, one tensor per layer, (rows, key-value heads, tokens, head size).
        values: the prompts' values, in the same shape.
        padding: (rows, tokens), true for a token and false for padding on the left; None if no row is padded.
        max_new_tokens: maximum number of tokens after the prompt.
        bucket: attention lengths are rounded up to a multiple of this. Values above 1 are for devices that
            compile a kernel and reserve memory for every new length (Metal).
        weights: makes the products with the weights; None for their own number format.
    """

    def __init__(
        self,
        model: Any,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        padding: torch.Tensor | None,
        max_new_tokens: int,
        bucket: int = 1,
        weights: RolloutWeights | None = None,
    ) -> None:
        self._parts = CausalParts.of(model)
        base = unwrap_peft(model)
        config = base.config
        self._kv_heads = config.num_key_value_heads
        self._head_size = keys[0].shape[-1]
        self._queries_per_kv_head = config.num_attention_heads // self._kv_heads
        self._embedding = base.model.embed_tokens.weight
        self._embedding_scale = embedding_scale(base.model.embed_tokens, base.model)
        self._norm = rms_norm(base.model.norm, FAMILIES[config.model_type].norm_offset)
        self._rotary = base.model.rotary_emb
        self._rotary_kinds = rotary_kinds(config)
        weights = RolloutWeights() if weights is None else weights
        self._layers = [
            DecoderLayer.from_module(config, layer, index, weights)
            for index, layer in enumerate(base.model.layers)
        ]
        self._head = linear_projection([base.lm_head], weights)
        rows, _, length, _ = keys[0].shape
        self._rows, self._length, self._bucket = rows, length, bucket
        max_new_tokens = _round_up(length + max_new_tokens, bucket) - length
        self._keys = [_kv_buffer(tensor, max_new_tokens) for tensor in keys]
        self._values = [_kv_buffer(tensor, max_new_tokens) for tensor in values]
        self._mask: torch.Tensor | None = None
        lengths = torch.full((rows,), length, device=keys[0].device)
        if padding is None and bucket > 1:
            padding = torch.ones(rows, length, dtype=torch.bool, device=keys[0].device)
        if padding is not None:
            # With buckets, positions that are not written yet must be masked.
            self._mask = functional.pad(padding, (0, max_new_tokens), value=bucket == 1)[
                :, None, None, :
            ]
            lengths = padding.sum(dim=1)
        self._positions = lengths

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, given in ascending order, and move them up."""
        length = self._length
        for tensor in (*self._keys, *self._values):
            for target, source in enumerate(rows):
                if target != source:
                    tensor[target, :, :length].copy_(tensor[source, :, :length])
        index = torch.tensor(rows, device=self._positions.device)
        self._positions = self._positions[index]
        if self._mask is not None:
            self._mask = self._mask[index]
        self._rows = len(rows)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,), and return the next logits, (rows, vocabulary)."""
        rows, position = self._rows, self._length
        self._length += 1
        rotations = {kind: self._rotation(kind) for kind in self._rotary_kinds}
        self._positions = self._positions + 1
        end = _round_up(self._length, self._bucket)
        mask = None if self._mask is None else self._mask[:, :, :, :end]
        if mask is not None and self._bucket > 1:
            mask[:, :, :, position] = True

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            layer, keys, values = self._layers[index], self._keys[index], self._values[index]
            keys[:rows, :, position] = k
            values[:rows, :, position] = v
            # A token sees the last tokens of a window only.
            start = 0 if layer.window is None else max(0, self._length - layer.window)
            return functional.scaled_dot_product_attention(
                q,
                keys[:rows, :, start:end],
                values[:rows, :, start:end],
                attn_mask=None if mask is None else mask[:, :, :, start:],
                scale=layer.attention_scale,
            )

        return self._next_logits(tokens, rotations, attend)

    def _next_logits(
        self, tokens: torch.Tensor, rotations: Mapping[str, Rotation], attend: Attention
    ) -> torch.Tensor:
        """Logits after one more token of each row.

        Args:
            tokens: the tokens, (rows,).
            rotations: cosines and sines of their positions, by kind of rotary embedding.
            attend: the attention of a layer, given its number, queries, keys and values.
        """
        rows = len(tokens)
        x = functional.embedding(tokens, self._embedding)
        if self._embedding_scale != 1.0:
            x = x * self._embedding_scale
        for index, layer in enumerate(self._layers):
            q, k, v = layer.attention_in(layer.norm_in(x))
            q, k = layer.split_q(q), layer.split_k(k)
            if layer.rotary is not None:
                rotated = _rotate(torch.cat((q, k), dim=1), *rotations[layer.rotary])
                q, k = torch.split(rotated, [q.shape[1], self._kv_heads], dim=1)
            # Group the queries by key-value head, so that keys and values are not repeated in memory.
            q = q.reshape(rows, self._kv_heads, self._queries_per_kv_head, self._head_size)
            attended = attend(index, q, k, v.view(rows, self._kv_heads, self._head_size))
            x = x + layer.attention_out(attended.reshape(rows, -1))
            x = x + layer.mlp(layer.norm_mlp(x))
        (logits,) = self._head(self._norm(x))
        return self._parts.transformed(logits)

    def _rotation(self, kind: str) -> Rotation:
        """Cosines and sines of the rows' positions, (rows, 1, rotated size) each."""
        keys = (kind,) if kind else ()
        cos, sin = self._rotary(self._embedding, self._positions[:, None], *keys)
        return cos.to(self._embedding.dtype), sin.to(self._embedding.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (rows, heads, head size), of the first elements that `cos` has."""
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat((_rotate(x[..., :size], cos, sin), x[..., size:]), dim=-1)
    half = size // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _kv_buffer(prompt: torch.Tensor, extra_tokens: int) -> torch.Tensor:
    """Copy the prompt's keys or values into a buffer with space for this many more tokens."""
    rows, heads, length, size = prompt.shape
    buffer = prompt.new_zeros(rows, heads, length + extra_tokens, size)
    buffer[:, :, :length] = prompt
    return buffer


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
