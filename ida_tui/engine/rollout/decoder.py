"""Single-token decoder for the model families of `families` that uses their weights without their modules.

Generating a token has to read every weight once. On a small machine the dispatch overhead of the transformers
and PEFT modules doubles that cost. `Decoder` uses the same weights with fewer calls, from copies in the
fastest layout (`rollout_weights`) that include a LoRA adapter. The model's own weights are never merged,
because merging and unmerging drifts. Where there is no copy, the adapter is two low-rank products.

Rows that have ended are computed until enough of them have ended: the time of a token hardly depends on a few
rows, and every number of rows needs kernels of its own (`config.devices.decoding_rows`).

`decoder_support.unsupported_reason` says why transformers has to generate instead for any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from ida_tui.config.devices import decoding_rows
from ida_tui.engine.architecture.families import FAMILIES, embedding_scale, rotary_kinds
from ida_tui.engine.architecture.parts import CausalParts, longest_exact_sequence, unwrap_peft
from ida_tui.engine.device.rollout_weights import RolloutWeights
from ida_tui.engine.rollout.decoder_layer import DecoderLayer, projection, rms_norm
from ida_tui.engine.rollout.key_values import PromptKeyValues, RolloutKeyValues

MIN_PACKED_TOKENS = 16
"""A rollout with fewer tokens ends before packed weights have saved the time of packing them."""

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
        prompts: keys and values of the prompts.
        max_new_tokens: maximum number of tokens after the prompt.
        bucket: attention lengths are rounded up to a multiple of this. Values above 1 are for devices that
            compile a kernel and reserve memory for every new length (Metal).
        weights: makes the products with the weights; None for their own number format.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptKeyValues,
        max_new_tokens: int,
        bucket: int = 1,
        weights: RolloutWeights | None = None,
    ) -> None:
        self._parts = CausalParts.of(model)
        base = unwrap_peft(model)
        config = base.config
        self._kv_heads = config.num_key_value_heads
        self._head_size = prompts.keys[0].shape[-1]
        self._queries_per_kv_head = config.num_attention_heads // self._kv_heads
        self._embedding = base.model.embed_tokens.weight
        self._embedding_scale = embedding_scale(base.model.embed_tokens, base.model)
        self._norm = rms_norm(base.model.norm, FAMILIES[config.model_type].norm_offset)
        self._rotary = base.model.rotary_emb
        self._rotary_kinds = rotary_kinds(config)
        rows = len(prompts.prompt_of)
        if weights is None:
            packs = rows > 1 and max_new_tokens >= MIN_PACKED_TOKENS
            weights = RolloutWeights() if packs else RolloutWeights(0)
        self._layers = [
            DecoderLayer.from_module(config, layer, index, weights)
            for index, layer in enumerate(base.model.layers)
        ]
        self._head = projection(self._parts.head, weights)
        self._rows = self._first_rows(rows)
        """Rows that are computed, which includes rows that have ended."""
        self._slots = list(range(rows))
        """Which of them the remaining rows are, in ascending order."""
        self._positions = functional.pad(prompts.row_lengths(), (0, self._rows - rows))
        positions = prompts.length + max_new_tokens
        # Beyond this length some rotary embeddings change for all positions, and transformers samples.
        positions = min(positions, longest_exact_sequence(model) or positions)
        self._rotations = {kind: self._rotations_of(kind, positions) for kind in self._rotary_kinds}
        self._allocate(prompts, max_new_tokens, bucket)

    def _first_rows(self, rows: int) -> int:
        """Number of rows that are computed at first."""
        return decoding_rows(rows)

    def _allocate(self, prompts: PromptKeyValues, max_new_tokens: int, bucket: int) -> None:
        self._key_values = RolloutKeyValues(prompts, self._rows, max_new_tokens, bucket)

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these of the remaining rows, given in ascending order."""
        self._slots = [self._slots[row] for row in rows]
        fewer = decoding_rows(len(rows))
        if fewer < self._rows:
            self._key_values.keep_rows(self._slots, fewer)
            positions = self._positions[self._slots]
            self._positions = functional.pad(positions, (0, fewer - len(rows)))
            self._rows, self._slots = fewer, list(range(len(rows)))

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,), and return the next logits, (rows, vocabulary)."""
        in_front = self._slots[-1] == len(self._slots) - 1
        slots = torch.tensor(self._slots, device=tokens.device)
        if len(tokens) < self._rows:
            tokens = tokens.new_zeros(self._rows).index_copy_(0, slots, tokens)
        rotations = {kind: self._rotation(kind) for kind in self._rotary_kinds}
        self._positions = self._positions + 1
        self._key_values.add_token()

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            layer = self._layers[index]
            return self._key_values.attend(index, q, k, v, layer.attention_scale, layer.window)

        logits = self._next_logits(tokens, rotations, attend)
        return logits[: len(self._slots)] if in_front else logits[slots]

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
            q_and_k, v = layer.attention_in(layer.norm_in(x))
            if layer.rotary is not None:
                q_and_k = _rotate(q_and_k, *rotations[layer.rotary])
            q, k = q_and_k[:, : -self._kv_heads], q_and_k[:, -self._kv_heads :]
            # Group the queries by key-value head, so that keys and values are not repeated in memory.
            q = q.reshape(rows, self._kv_heads, self._queries_per_kv_head, self._head_size)
            attended = attend(index, q, k, v)
            x = x + layer.attention_out(attended.reshape(rows, -1))
            x = x + layer.mlp(layer.norm_mlp(x))
        return self._parts.transformed(self._head(self._norm(x)))

    def _rotation(self, kind: str) -> Rotation:
        """Cosines and sines of the rows' positions, (rows, 1, rotated size) each."""
        cos, sin = self._rotations[kind]
        return cos[self._positions], sin[self._positions]

    def _rotations_of(self, kind: str, positions: int) -> Rotation:
        """Cosines and sines of the first positions, (positions, 1, rotated size) each.

        The sines of the first half are negative: the rotation swaps the halves and negates the second.
        """
        every = torch.arange(positions, device=self._embedding.device)[:, None]
        cos, sin = self._rotary(self._embedding, every, *((kind,) if kind else ()))
        cos, sin = cos.to(self._embedding.dtype), sin.to(self._embedding.dtype)
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (rows, heads, head size), of the first elements that `cos` has."""
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat((_rotate(x[..., :size], cos, sin), x[..., size:]), dim=-1)
    # `sin` has the signs of the rotation.
    return torch.addcmul(x * cos, x.roll(size // 2, dims=-1), sin)
