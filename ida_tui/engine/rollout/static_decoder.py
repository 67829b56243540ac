"""Single-token decoder whose steps all have the same shapes, so that a CUDA graph can run them.

Unlike `Decoder`, it attends to the whole buffer of keys and values, with a mask, and keeps the rows that have
ended until half of its rows have. All that changes from token to token is in tensors that it changes in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.cuda_graph import GraphChoice, Step
from ida_tui.engine.rollout.decoder import _rotate, _round_up
from ida_tui.engine.rollout.decoder_layer import DecoderLayer, rms_norm, unwrap_peft

LENGTH_BUCKET = 64
"""The buffer's length is a multiple of this, which suits the kernels of attention."""


class StaticDecoder:
    """Decodes the rows of one rollout, like `Decoder`.

    Args:
        model: the policy with its current weights, which `decoder_support.unsupported_reason` accepts.
        keys: the prompts' keys, one tensor per layer, (rows, key-value heads, tokens, head size).
        values: the prompts' values, in the same shape.
        padding: (rows, tokens), true for a token and false for padding on the left; None if no row is padded.
        max_new_tokens: maximum number of tokens after the prompt.
        graphs: whether its steps are run as graphs.
    """

    def __init__(
        self,
        model: Any,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        padding: torch.Tensor | None,
        max_new_tokens: int,
        graphs: GraphChoice,
    ) -> None:
        base = unwrap_peft(model)
        config = base.config
        self._kv_heads = config.num_key_value_heads
        self._queries_per_kv_head = config.num_attention_heads // self._kv_heads
        self._head_size = keys[0].shape[-1]
        self._embedding = base.model.embed_tokens.weight
        self._norm, self._lm_head = rms_norm(base.model.norm), base.lm_head
        self._rotary = base.model.rotary_emb
        self._layers = [DecoderLayer.from_module(layer) for layer in base.model.layers]
        rows, _, length, _ = keys[0].shape
        device = keys[0].device
        extra = _round_up(length + max_new_tokens, LENGTH_BUCKET) - length
        self._keys = [functional.pad(tensor, (0, 0, 0, extra)) for tensor in keys]
        self._values = [functional.pad(tensor, (0, 0, 0, extra)) for tensor in values]
        if padding is None:
            padding = torch.ones(rows, length, dtype=torch.bool, device=device)
        self._mask = functional.pad(padding, (0, extra))[:, None, None, :]
        self._positions = padding.sum(dim=1)
        self._cursor = torch.tensor([length], device=device)
        self._tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self._slots = torch.arange(rows, device=device)
        """Where each remaining row is in the buffers."""
        self._graphs = graphs
        self._run: Step | None = None

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, given in ascending order; once half have ended, move the others up."""
        self._slots = self._slots[torch.tensor(rows, device=self._slots.device)]
        capacity = len(self._tokens)
        while len(rows) <= capacity // 2:
            capacity //= 2
        if capacity == len(self._tokens):
            return
        # Slots beyond the remaining rows hold copies of the first one.
        kept = functional.pad(self._slots, (0, capacity - len(rows)), value=int(self._slots[0]))
        self._keys = [tensor[kept] for tensor in self._keys]
        self._values = [tensor[kept] for tensor in self._values]
        self._mask, self._positions = self._mask[kept], self._positions[kept]
        self._tokens = self._tokens[kept]
        self._slots = torch.arange(len(rows), device=self._slots.device)
        self._run = None

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,), and return the next logits, (rows, vocabulary)."""
        self._tokens[self._slots] = tokens
        if self._run is None:
            self._run = self._graphs.prepare(self._compute, self._restorer())
        return self._run()[self._slots]

    def _restorer(self) -> Any:
        """A function that sets the position back to the current one."""
        state = [(tensor, tensor.clone()) for tensor in (self._cursor, self._positions, self._mask)]

        def restore() -> None:
            for tensor, value in state:
                tensor.copy_(value)

        return restore

    def _compute(self) -> torch.Tensor:
        """The step for the rows in all slots, on tensors that stay the same ones."""
        rows = len(self._tokens)
        cos, sin = self._rotary(self._embedding, self._positions[:, None])
        cos, sin = cos.to(self._embedding.dtype), sin.to(self._embedding.dtype)
        self._mask.index_fill_(3, self._cursor, True)
        x = functional.embedding(self._tokens, self._embedding)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            q, k, v = layer.attention_in(layer.norm_in(x))
            q = _rotate(layer.norm_q(q.view(rows, -1, self._head_size)), cos, sin)
            k = _rotate(layer.norm_k(k.view(rows, self._kv_heads, self._head_size)), cos, sin)
            keys.index_copy_(2, self._cursor, k[:, :, None])
            values.index_copy_(2, self._cursor, v.view(rows, self._kv_heads, 1, self._head_size))
            attended = functional.scaled_dot_product_attention(
                q.reshape(rows, self._kv_heads, self._queries_per_kv_head, self._head_size),
                keys,
                values,
                attn_mask=self._mask,
            )
            (out,) = layer.attention_out(attended.reshape(rows, -1))
            x = x + out
            gate, up = layer.mlp_in(layer.norm_mlp(x))
            (down,) = layer.mlp_out(functional.silu(gate).mul_(up))
            x = x + down
        self._positions.add_(1)
        self._cursor.add_(1)
        return functional.linear(self._norm(x), self._lm_head.weight, self._lm_head.bias)
