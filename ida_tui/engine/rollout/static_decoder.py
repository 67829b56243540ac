"""Single-token decoder whose steps all have the same shapes, so that a CUDA graph can run them.

Unlike `Decoder`, it attends to the whole buffer of keys and values, with a mask, and keeps rows that have
ended until half of its rows have. What changes from token to token is in tensors that it changes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.cuda_graph import GraphChoice, Step
from ida_tui.engine.rollout.decoder import Decoder
from ida_tui.engine.rollout.key_values import PromptKeyValues, round_up

LENGTH_BUCKET = 64
"""The buffer's length is a multiple of this, which suits the kernels of attention."""


class StaticDecoder(Decoder):
    """Decodes the rows of one rollout.

    Args:
        model: as of `Decoder`.
        prompts: as of `Decoder`.
        max_new_tokens: as of `Decoder`.
        graphs: whether its steps run as graphs.
    """

    def __init__(
        self, model: Any, prompts: PromptKeyValues, max_new_tokens: int, *, graphs: GraphChoice
    ) -> None:
        super().__init__(model, prompts, max_new_tokens, LENGTH_BUCKET)
        self._graphs = graphs
        self._run: Step | None = None

    def _first_rows(self, rows: int) -> int:
        return rows

    def _allocate(self, prompts: PromptKeyValues, max_new_tokens: int, bucket: int) -> None:
        """Make one buffer for the keys and values of each row's prompt and own tokens."""
        device, length = self._positions.device, prompts.length
        capacity = round_up(length + max_new_tokens, bucket)
        index = torch.tensor(prompts.prompt_of, device=device)
        more = (0, 0, 0, capacity - length)
        self._keys = [functional.pad(keys[index], more) for keys in prompts.keys]
        self._values = [functional.pad(values[index], more) for values in prompts.values]
        padding = prompts.padding
        if padding is None:
            padding = torch.ones(len(prompts.keys[0]), length, dtype=torch.bool, device=device)
        # Positions that are not written yet are masked.
        self._mask = functional.pad(padding[index], (0, capacity - length))[:, None, None, :]
        self._cursor = torch.tensor([length], device=device)
        self._columns = torch.arange(capacity, device=device)
        self._tokens = torch.zeros_like(self._positions)
        self._places = torch.arange(self._rows, device=device)
        """Where each remaining row is in the buffers."""

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, given in ascending order; once half have ended, move the others up."""
        self._places = self._places[torch.tensor(rows, device=self._places.device)]
        capacity = len(self._tokens)
        while len(rows) <= capacity // 2:
            capacity //= 2
        if capacity == len(self._tokens):
            return
        # Slots beyond the remaining rows hold copies of the first one.
        kept = functional.pad(self._places, (0, capacity - len(rows)), value=int(self._places[0]))
        self._keys = [tensor[kept] for tensor in self._keys]
        self._values = [tensor[kept] for tensor in self._values]
        self._mask, self._positions = self._mask[kept], self._positions[kept]
        self._tokens = self._tokens[kept]
        self._places = torch.arange(len(rows), device=self._places.device)
        self._run = None

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,), and return the next logits, (rows, vocabulary)."""
        self._tokens[self._places] = tokens
        if self._run is None:
            self._run = self._graphs.prepare(self._static_step, self._restorer())
        return self._run()[self._places]

    def _static_step(self) -> torch.Tensor:
        """The step of the rows in all slots, on tensors that stay the same ones."""
        rotations = {kind: self._rotation(kind) for kind in self._rotary_kinds}
        mask, cursor = self._mask, self._cursor
        mask.index_fill_(3, cursor, True)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            layer, keys, values = self._layers[index], self._keys[index], self._values[index]
            keys.index_copy_(2, cursor, k[:, :, None])
            values.index_copy_(2, cursor, v[:, :, None])
            visible = mask
            if layer.window is not None:
                visible = mask & (self._columns > cursor - layer.window)
            return functional.scaled_dot_product_attention(
                q, keys, values, attn_mask=visible, scale=layer.attention_scale
            )

        logits = self._next_logits(self._tokens, rotations, attend)
        self._positions.add_(1)
        cursor.add_(1)
        return logits

    def _restorer(self) -> Callable[[], None]:
        """A function that undoes steps from here on; keys and values are written again by the next one."""
        state = [(tensor, tensor.clone()) for tensor in (self._cursor, self._positions, self._mask)]

        def restore() -> None:
            for tensor, value in state:
                tensor.copy_(value)

        return restore
