"""Keys and values of a rollout: those of each distinct prompt once, and those of each row's own tokens.

The rows of a prompt attend to its keys in one matrix product, so that they are read once instead of once per
row. A row's weights are the softmax over the prompt's and its own tokens together, as in ordinary attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PromptKeyValues:
    """What the model computed for the distinct prompts of a rollout, and which row has which prompt."""

    keys: Sequence[torch.Tensor]
    """One tensor per layer, (prompts, key-value heads, tokens, head size)."""
    values: Sequence[torch.Tensor]
    """In the same shapes."""
    padding: torch.Tensor | None
    """(prompts, tokens), true for a token, false for padding on the left; None if no prompt is padded."""
    prompt_of: Sequence[int]
    """Index of each row's prompt."""

    @property
    def length(self) -> int:
        """Tokens of a prompt, with its padding."""
        return self.keys[0].shape[2]

    def row_lengths(self) -> torch.Tensor:
        """Tokens of each row's prompt, without padding, (rows,)."""
        index = torch.tensor(self.prompt_of, device=self.keys[0].device)
        if self.padding is None:
            return torch.full_like(index, self.length)
        return self.padding.sum(dim=1)[index]


class RolloutKeyValues:
    """Keys and values of the prompts and of the rows' own tokens, and attention to them.

    Args:
        prompts: the prompts, and which row has which. Rows beyond these are unused; they attend to anything.
        rows: number of rows, the unused ones included.
        max_new_tokens: largest number of tokens that are added to each row.
        bucket: numbers of own tokens are rounded up to a multiple of this, and the excess is masked.
    """

    def __init__(
        self, prompts: PromptKeyValues, rows: int, max_new_tokens: int, bucket: int
    ) -> None:
        self._prompt_keys, self._prompt_values = list(prompts.keys), list(prompts.values)
        _, heads, _, size = prompts.keys[0].shape
        shape = (rows, heads, round_up(max_new_tokens, bucket), size)
        self._keys = [keys.new_zeros(shape) for keys in prompts.keys]
        self._values = [values.new_zeros(shape) for values in prompts.values]
        self._bucket = bucket
        self._own_tokens = 0
        self._own_mask: torch.Tensor | None = None
        self._prompt_mask: torch.Tensor | None = None
        if prompts.padding is not None:
            mask = torch.zeros_like(prompts.padding, dtype=prompts.keys[0].dtype)
            self._prompt_mask = mask.masked_fill_(~prompts.padding, -torch.inf)
        self._group(list(prompts.prompt_of), rows)

    def _group(self, prompt_of: list[int], rows: int) -> None:
        """Group the rows by prompt, in a table with a line for each prompt, and drop prompts without rows."""
        self._rows, self._prompt_of = rows, prompt_of
        members: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompt_of):
            members.setdefault(prompt, []).append(row)
        kept, width = list(members), max(map(len, members.values()))
        if kept != list(range(len(self._prompt_keys[0]))):
            self._prompt_keys = [keys[kept] for keys in self._prompt_keys]
            self._prompt_values = [values[kept] for values in self._prompt_values]
            if self._prompt_mask is not None:
                self._prompt_mask = self._prompt_mask[kept]
            self._prompt_of = [kept.index(prompt) for prompt in prompt_of]
        # Lines of prompts with fewer rows are filled up with any row.
        table = [row for line in members.values() for row in line + [line[0]] * (width - len(line))]
        self._prompts, self._group_size = len(kept), width
        self._table: torch.Tensor | None = None
        """The rows in the order of the table; None if it is their own order."""
        self._place: torch.Tensor | None = None
        """Position of each row in the table."""
        if table != list(range(rows)):
            place = [0] * rows
            for position, row in reversed(list(enumerate(table))):
                place[row] = position
            device = self._prompt_keys[0].device
            self._table = torch.tensor(table, device=device)
            self._place = torch.tensor(place, device=device)

    def keep_rows(self, kept: list[int], rows: int) -> None:
        """Move these rows to the front, in this order, and reduce the number of rows."""
        device = self._keys[0].device
        index, end = torch.tensor(kept, device=device), self._own_tokens
        for tensor in (*self._keys, *self._values):
            tensor[: len(kept), :, :end] = tensor[index, :, :end]
        self._group([self._prompt_of[row] for row in kept], rows)

    def add_token(self) -> None:
        """Make space for one more token of each row, whose keys and values `attend` writes."""
        self._own_tokens += 1
        if self._bucket > 1:
            self._own_mask = self._keys[0].new_zeros(round_up(self._own_tokens, self._bucket))
            self._own_mask[self._own_tokens :] = -torch.inf

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Write the keys and values of the rows' new tokens, and attend to all tokens in the window.

        Args:
            layer: number of the layer.
            q: queries of each key-value head, (rows, key-value heads, queries, head size).
            k: keys of the new tokens, (rows, key-value heads, head size).
            v: values of the new tokens, in the shape of the keys.
            scale: factor of the products of queries and keys.
            window: number of tokens that a token attends to, itself included; None for all.

        Returns:
            The weighted means of the values, in the shape of the queries.
        """
        rows, heads, queries, size = q.shape
        keys, values = self._keys[layer][:rows], self._values[layer][:rows]
        keys[:, :, self._own_tokens - 1] = k
        values[:, :, self._own_tokens - 1] = v
        length, end = self._prompt_keys[layer].shape[2], round_up(self._own_tokens, self._bucket)
        first = 0 if window is None else max(0, length + self._own_tokens - window)
        # The visible tokens of the prompts and the visible own tokens.
        seen, own = slice(min(first, length), length), slice(max(0, first - length), end)
        q = q * scale
        own_scores = torch.bmm(
            q.view(rows * heads, queries, size), keys[:, :, own].flatten(0, 1).transpose(1, 2)
        )
        if self._own_mask is not None:
            own_scores += self._own_mask[own]
        prompt_scores = torch.bmm(
            self._by_prompt(q), self._prompt_keys[layer][:, :, seen].flatten(0, 1).transpose(1, 2)
        )
        if self._prompt_mask is not None:
            mask = self._prompt_mask[:, None, seen].repeat_interleave(heads, dim=0)
            prompt_scores += mask
        scores = torch.cat(
            (
                self._by_row(prompt_scores, heads, queries),
                own_scores.view(rows, heads, queries, own.stop - own.start),
            ),
            dim=-1,
        )
        if scores.dtype == torch.float32:
            weights = torch.softmax(scores, dim=-1)
        else:
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        prompt_tokens = seen.stop - seen.start
        of_prompts = torch.bmm(
            self._by_prompt(weights[..., :prompt_tokens]),
            self._prompt_values[layer][:, :, seen].flatten(0, 1),
        )
        attended = torch.baddbmm(
            self._by_row(of_prompts, heads, queries).reshape(rows * heads, queries, size),
            weights[..., prompt_tokens:].flatten(0, 1),
            values[:, :, own].flatten(0, 1),
        )
        return attended.view(rows, heads, queries, size)

    def _by_prompt(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, heads, queries, n) as (prompts * heads, rows of a prompt * queries, n)."""
        _, heads, queries, n = x.shape
        if self._table is not None:
            x = x[self._table]
        grouped = x.reshape(self._prompts, self._group_size, heads, queries, n).transpose(1, 2)
        return grouped.reshape(self._prompts * heads, self._group_size * queries, n)

    def _by_row(self, x: torch.Tensor, heads: int, queries: int) -> torch.Tensor:
        """The inverse of `_by_prompt`, contiguous."""
        n = x.shape[-1]
        grouped = x.view(self._prompts, heads, self._group_size, queries, n).transpose(1, 2)
        flat = grouped.reshape(self._prompts * self._group_size, heads, queries, n)
        return flat if self._place is None else flat[self._place]


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple that is not below a length."""
    return -(-length // multiple) * multiple
