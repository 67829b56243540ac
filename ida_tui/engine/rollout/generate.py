"""A step's completions: a prompt is read once, its group sampled together, finished rows are dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from ida_tui.engine.rollout.decoder import Decoder
from ida_tui.engine.rollout.sampling import Sampling
from ida_tui.engine.rollout.shared_rng import Lockstep

Told = Callable[[list[list[int]], list[int]], object]
"""Given all completions so far and the rows that have just ended."""


def _tell_nobody(completions: list[list[int]], ended: list[int]) -> None:
    pass


def sample_in_parts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    at_once: int | None,
    *,
    stop: Callable[[], bool] = lambda: False,
    told: Told = _tell_nobody,
    lockstep: Lockstep | None = None,
    **settings: Any,
) -> list[list[int]]:
    """As `sample`, so many rows after each other: their keys and values are not held together.

    Args:
        model: the policy.
        prompts: token ids, one list a row.
        sampling: how tokens are drawn.
        at_once: rows of a part; None is all of them.
        stop: asked before every token; true ends the rollout with what there is.
        told: after every token, given all completions so far and the rows that have just ended.
        lockstep: the other processes that sample rows of the same step; it has a word in stopping, too.
        **settings: `sample`'s others.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(prompts), at_once or len(prompts)):
        part = slice(start, start + (at_once or len(prompts)))

        def tell(rows: list[list[int]], ended: list[int], part: slice = part) -> None:
            completions[part] = rows
            told(completions, [part.start + row for row in ended])

        completions[part] = sample(
            model, prompts[part], sampling, stop=stop, told=tell, lockstep=lockstep, **settings
        )
        if lockstep.stopped if lockstep else stop():
            break
    return completions


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    eos: Sequence[int],
    pad: int,
    stop: Callable[[], bool] = lambda: False,
    told: Told = _tell_nobody,
    ahead: bool | None = None,
    bucket: int = 1,
    lockstep: Lockstep | None = None,
) -> list[list[int]]:
    """Sample one completion for each prompt; equal prompts that stand together are read once.

    Args:
        model: the policy, one that `decoder.unsupported` has nothing to say of; called without gradients.
        prompts: token ids, one list a row.
        sampling: how tokens are drawn.
        max_new_tokens: longest completion.
        eos: tokens that end one; the token is part of it.
        pad: token id that fills shorter prompts.
        stop: asked before every token; true ends the rollout with what there is.
        told: after every token, given all completions so far and the rows that have just ended.
        ahead: whether a forward pass is under way while its tokens are read; None decides by the device.
        bucket: lengths that are attended to are multiples of this (`device.length_bucket`).
        lockstep: the other processes that sample rows of the same step; None draws for these rows alone.

    Raises:
        RankLost: one of them is gone.
        RuntimeError: a logit is not finite, so that there is no probability to draw from.
    """
    device = model.device
    unique, row_of = _unique(prompts)
    logits, decoder, seen = _prefill(model, unique, row_of, sampling, max_new_tokens, pad, bucket)
    ends = frozenset(eos)
    completions: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    # Reading a token makes the host wait for the device. Where that costs something, the next forward pass is
    # under way by then; a row that turns out to have ended has been computed once too often.
    late = device.type != "cpu" if ahead is None else ahead
    for _ in range(max_new_tokens):
        numbers = None
        if lockstep is not None:
            numbers = lockstep.numbers(len(alive), stop(), device)
            if numbers is None:
                break
            if not alive:
                continue  # rows of other processes are still being sampled
        elif stop():
            break
        tokens = sampling.draw(logits, seen, numbers)
        last = len(completions[alive[0]]) + 1 == max_new_tokens
        coming = decoder.step(tokens) if late and not last else None
        drawn = tokens.tolist()
        if max(drawn) >= logits.shape[-1]:  # what drawing from NaN gives
            raise RuntimeError("a logit is not finite: there is no probability to draw from")
        for row, token in zip(alive, drawn, strict=True):
            completions[row].append(token)
        staying = [place for place, token in enumerate(drawn) if token not in ends]
        ended = [row for row, token in zip(alive, drawn, strict=True) if token in ends]
        if ended:
            alive = [alive[place] for place in staying]
            if alive:
                decoder.keep(staying)
                index = torch.tensor(staying, device=device)
                tokens = tokens[index]
                seen = None if seen is None else seen[index]
                coming = None if coming is None else coming[index]
        told(completions, ended)
        if last or (not alive and lockstep is None):
            break
        if not alive:
            continue
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        logits = decoder.step(tokens) if coming is None else coming
    return completions


def _unique(prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """The different prompts, and for each row which one it has."""
    places: dict[tuple[int, ...], int] = {}
    row_of = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    return [list(prompt) for prompt in places], row_of


def _prefill(
    model: Any,
    unique: list[list[int]],
    row_of: list[int],
    sampling: Sampling,
    room: int,
    pad: int,
    bucket: int,
) -> tuple[torch.Tensor, Decoder, torch.Tensor | None]:
    """Read every prompt once: the logits after it, (rows, vocabulary), and a decoder that holds all rows."""
    device = model.device
    longest = -(-max(map(len, unique)) // bucket) * bucket
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in unique], device=device)
    padded = any(len(prompt) < longest for prompt in unique)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in unique], device=device)
    cache = DynamicCache()
    out = model(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    index = torch.tensor(row_of, device=device)
    decoder = Decoder(
        model,
        [layer.keys[index] for layer in cache.layers],
        [layer.values[index] for layer in cache.layers],
        mask.bool()[index] if padded else None,
        room,
        bucket,
    )
    logits = out.logits[:, -1][index]
    seen = None
    if sampling.needs_history:
        one_hot = torch.zeros(len(unique), logits.shape[-1], dtype=torch.bool, device=device)
        one_hot.scatter_(1, ids, mask.bool())
        if padded:
            # The padding's own id counts only where a prompt really holds it.
            holds = torch.tensor([[pad in prompt] for prompt in unique], device=device)
            one_hot[:, pad : pad + 1] = holds
        seen = one_hot[index]
    return logits, decoder, seen
