"""Log-probabilities of a batch of completions, with each shared prompt computed once and no padding scored.

TRL runs prompt and completion of every row through the model, padded to the longest, and scores prompt
and padding too where there is no Triton. Here every different prompt goes through the model once, its
keys and values (with their gradients) serve all its completions, completions of like length go together,
and only completion positions reach the output layer. The numbers are the same:
`tests/engine/test_fast_parity.py` compares them, and the gradients, with TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from ida_tui.engine.device.onednn import quicker_linears
from ida_tui.engine.loss.lm_head import score

WASTE = 0.25
"""Padding that is put up with before completions are put into another pass."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch, taken apart on the host.

    Args:
        prompts: the different prompts, left-padded, (prompts, longest prompt).
        prompt_mask: 1 for their tokens.
        prompt_of: for each row the prompt that it has.
        completions: right-padded, (rows, longest completion).
        lengths: tokens of each completion.
        bucket: completions go through the model at a multiple of this many tokens.
    """

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    prompt_of: torch.Tensor
    completions: torch.Tensor
    lengths: list[int]
    bucket: int = 1

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, kept: int, bucket: int = 1) -> Batch:
        """From TRL's tensors.

        Args:
            ids: (rows, prompt + completion), prompts padded on the left and completions on the right.
            mask: 1 for tokens, the same shape.
            kept: columns of the completions.
            bucket: both widths are made multiples of this by padding.
        """
        if bucket > 1:
            before, after = -(ids.shape[1] - kept) % bucket, -kept % bucket
            ids, mask = (functional.pad(tensor, (before, after)) for tensor in (ids, mask))
            kept += after
        width = ids.shape[1] - kept
        prompts, prompt_mask = ids[:, :width], mask[:, :width]
        both = torch.cat((prompts * prompt_mask, prompt_mask), dim=1)
        unique, prompt_of = torch.unique(both, dim=0, return_inverse=True)
        unique_mask = unique[:, width:]
        used = int(unique_mask.sum(dim=1).max()) if width else 0
        lengths = mask[:, width:].sum(dim=1).tolist()
        used = min(width, -(-used // bucket) * bucket)
        return cls(
            prompts=unique[:, width - used : width],
            prompt_mask=unique_mask[:, width - used :],
            prompt_of=prompt_of,
            completions=ids[:, width:],
            lengths=[int(length) for length in lengths],
            bucket=bucket,
        )

    def passes(self) -> Iterator[list[int]]:
        """Rows that go through the model together: like lengths, so that little of it is padding."""
        order = sorted(range(len(self.lengths)), key=lambda row: -self.lengths[row])
        together: list[int] = []
        tokens = 0
        for row in order:
            longest = self.lengths[together[0]] if together else self.lengths[row]
            area = longest * (len(together) + 1)
            if together and area - tokens - self.lengths[row] > WASTE * area:
                yield together
                together, tokens = [], 0
            together.append(row)
            tokens += self.lengths[row]
        if together:
            yield together


def log_probabilities(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    kept: int,
    temperature: float,
    *,
    entropy: bool,
    bucket: int = 1,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability, and entropy, of every completion token under the model at a temperature.

    Args:
        model: a causal language model of the covered families, with or without an adapter.
        ids: (rows, prompt + completion).
        mask: 1 for tokens; a row whose completion is masked as a whole has no log-probabilities.
        kept: columns of the completions.
        temperature: the logits are divided by it.
        entropy: whether the entropy is wanted too.
        bucket: lengths that go through the model are multiples of this (`device.length_bucket`).

    Returns:
        Two (rows, kept) tensors, zero where there is no token; the second None where it is not wanted.
    """
    batch = Batch.of(ids, mask, kept, bucket)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone, head = base.model, base.lm_head
    # Recomputed activations and a cache exclude each other.
    recomputes = backbone.is_gradient_checkpointing and backbone.training
    # What is recomputed in the backward pass has to be what was computed here.
    with nullcontext() if recomputes else quicker_linears(backbone):
        states_of = _whole_rows(backbone, batch) if recomputes else _after_prompts(backbone, batch)
        hidden, labels, places = [], [], []
        for rows in batch.passes():
            longest = -(-batch.lengths[rows[0]] // bucket) * bucket
            if longest == 0:
                continue
            index = torch.tensor(rows, device=ids.device)
            tokens = batch.completions[index, :longest]
            states = states_of(batch.prompt_of[index], tokens)
            valid = torch.zeros(len(rows), longest, dtype=torch.bool, device=ids.device)
            for place, row in enumerate(rows):
                valid[place, : batch.lengths[row]] = True
            hidden.append(states[valid])
            labels.append(tokens[valid])
            columns = torch.arange(longest, device=ids.device)
            places.append((index[:, None] * kept + columns)[valid])
    return _score(base, head, hidden, labels, places, (ids.shape[0], kept), temperature, entropy)


States = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the prompt of each row, (rows,), and the tokens of its completion, (rows, longest), the states that
predict those tokens, (rows, longest, hidden): the prompt's last one, then the completion's own."""


def _after_prompts(backbone: Any, batch: Batch) -> States:
    """Every prompt goes through the model now, once; its keys and values serve all its completions."""
    cache = DynamicCache()
    read = backbone(
        input_ids=batch.prompts,
        attention_mask=batch.prompt_mask,
        position_ids=(batch.prompt_mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state

    def states(prompt_of: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = read[prompt_of, -1:]
        if tokens.shape[1] == 1:
            return last
        own = _continue(backbone, cache, batch, prompt_of, tokens)
        return torch.cat((last, own), dim=1)

    return states


def _whole_rows(backbone: Any, batch: Batch) -> States:
    """Prompt and completion of every row together, as gradient checkpointing needs it."""

    def states(prompt_of: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        mask = batch.prompt_mask[prompt_of]
        whole = torch.cat((mask, mask.new_ones(tokens.shape)), dim=1)
        out = backbone(
            input_ids=torch.cat((batch.prompts[prompt_of], tokens), dim=1),
            attention_mask=whole,
            position_ids=(whole.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        own: torch.Tensor = out[:, mask.shape[1] - 1 : -1]
        return own

    return states


def _continue(
    backbone: Any,
    prompts: DynamicCache,
    batch: Batch,
    prompt_of: torch.Tensor,
    tokens: torch.Tensor,
) -> torch.Tensor:
    """States of completions but their last token, (rows, longest - 1, hidden), after their prompts."""
    cache = DynamicCache()
    one = batch.prompts.shape[0] == 1
    for number, layer in enumerate(prompts.layers):
        if one:  # a view: the prompt's keys and values are not copied
            keys = layer.keys.expand(len(tokens), -1, -1, -1)
            values = layer.values.expand(len(tokens), -1, -1, -1)
        else:
            keys, values = layer.keys[prompt_of], layer.values[prompt_of]
        cache.update(keys, values, number)
    tokens = tokens[:, :-1]
    mask = batch.prompt_mask[prompt_of]
    # Padding on the right comes after every token that counts: causality alone hides it.
    whole = torch.cat((mask, mask.new_ones(tokens.shape)), dim=1)
    start = mask.sum(dim=1, keepdim=True)
    states: torch.Tensor = backbone(
        input_ids=tokens,
        attention_mask=whole,
        position_ids=start + torch.arange(tokens.shape[1], device=tokens.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states


def _score(
    base: Any,
    head: Any,
    hidden: list[torch.Tensor],
    labels: list[torch.Tensor],
    places: list[torch.Tensor],
    shape: tuple[int, int],
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    place = torch.cat(places)
    scores, entropies = score(
        torch.cat(hidden), head.weight, head.bias, torch.cat(labels), temperature
    )

    def spread(values: torch.Tensor) -> torch.Tensor:
        flat = values.new_zeros(shape[0] * shape[1])
        return flat.scatter(0, place, values).view(shape)

    return spread(scores), spread(entropies) if entropy else None
