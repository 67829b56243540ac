"""Batched completion generation: one prefill per distinct prompt, finished rows dropped from the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from ida_tui.config.sections.training import SamplingWeights
from ida_tui.engine.device.cuda_graph import GraphChoice
from ida_tui.engine.device.low_precision import LowPrecisionWeights
from ida_tui.engine.rollout.decoder import Decoder
from ida_tui.engine.rollout.key_values import PromptKeyValues
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.rollout.shared_rng import SharedSampler
from ida_tui.engine.rollout.static_decoder import StaticDecoder

OnTokens = Callable[[list[list[int]], list[int]], object]
"""Callback after every token: all completions so far, and the rows that ended with this token."""


OnDraw = Callable[[list[int], torch.Tensor], object]
"""Callback after every token: the rows that got one, and the log-probabilities of `TokenSampler.logprobs`."""


def _ignore_tokens(completions: list[list[int]], ended: list[int]) -> None:
    pass


def generate_in_chunks(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampler: TokenSampler,
    chunk_rows: int | None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_tokens: OnTokens = _ignore_tokens,
    on_draw: OnDraw | None = None,
    shared_sampler: SharedSampler | None = None,
    **settings: Any,
) -> list[list[int]]:
    """Generate in chunks of rows, one after the other, to limit the size of the key-value cache.

    Args:
        model: the policy.
        prompts: token ids, one list per row.
        sampler: draws the tokens.
        chunk_rows: rows per chunk; None generates all rows together.
        should_stop: checked before every token; true ends the rollout with the tokens generated so far.
        on_tokens: called after every token with all completions so far and the rows that just ended.
        on_draw: called after every token with its rows and log-probabilities; None does not compute them.
        shared_sampler: random numbers shared by several processes, which can also stop the rollout; or None.
        **settings: further arguments of `generate`.

    Returns:
        The completions' token ids, one list per row.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(prompts), chunk_rows or len(prompts)):
        chunk = slice(start, start + (chunk_rows or len(prompts)))

        def on_chunk_tokens(rows: list[list[int]], ended: list[int], chunk: slice = chunk) -> None:
            completions[chunk] = rows
            on_tokens(completions, [chunk.start + row for row in ended])

        def on_chunk_draw(rows: list[int], logprobs: torch.Tensor, chunk: slice = chunk) -> None:
            assert on_draw is not None
            on_draw([chunk.start + row for row in rows], logprobs)

        completions[chunk] = generate(
            model,
            prompts[chunk],
            sampler,
            should_stop=should_stop,
            on_tokens=on_chunk_tokens,
            on_draw=None if on_draw is None else on_chunk_draw,
            shared_sampler=shared_sampler,
            **settings,
        )
        if shared_sampler.stopped if shared_sampler else should_stop():
            break
    return completions


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampler: TokenSampler,
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    should_stop: Callable[[], bool] = lambda: False,
    on_tokens: OnTokens = _ignore_tokens,
    on_draw: OnDraw | None = None,
    overlap_forward: bool | None = None,
    bucket: int = 1,
    shared_sampler: SharedSampler | None = None,
    weights: SamplingWeights = "model",
    graphs: GraphChoice | None = None,
) -> list[list[int]]:
    """Generate one completion for each prompt. Equal prompts are read once. Call it under `torch.no_grad`.

    Args:
        model: the policy; `decoder_support.unsupported_reason` must return None for it.
        prompts: token ids, one list per row.
        sampler: draws the tokens.
        max_new_tokens: maximum completion length, in tokens.
        eos_token_ids: ids of the tokens that end a completion. The ending token is part of the completion.
        pad_token_id: token id that pads shorter prompts.
        should_stop: checked before every token; true ends the rollout with the tokens generated so far.
        on_tokens: called after every token with all completions so far and the rows that just ended.
        on_draw: called after every token with its rows and log-probabilities; None does not compute them.
        overlap_forward: whether to start the next forward pass before reading the tokens; None: on GPUs only.
        bucket: attention lengths are rounded up to a multiple of this (`device.length_bucket`).
        shared_sampler: random numbers shared by several processes; None for a single process.
        weights: number format of the frozen weights after the prompts have been read.
        graphs: whether steps of one shape run as CUDA graphs; None: steps of the smallest shapes.

    Returns:
        The completions' token ids, one list per row.

    Raises:
        PeerLostError: another process of the run has exited.
        RuntimeError: a logit is not finite, so no token can be drawn.
    """
    device = model.device
    unique, prompt_of = _distinct_prompts(prompts)
    logits, decoder, seen = _prefill(
        model, unique, prompt_of, sampler, max_new_tokens, pad_token_id, bucket, weights, graphs
    )
    eos_ids = frozenset(eos_token_ids)
    completions: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    # Reading a token makes the host wait for the device. On a GPU the next forward pass is therefore started
    # first, at the cost of one superfluous position for each row that turns out to have ended.
    overlap = device.type != "cpu" if overlap_forward is None else overlap_forward
    for _ in range(max_new_tokens):
        uniforms = None
        if shared_sampler is not None:
            uniforms = shared_sampler.next_uniforms(len(active), should_stop(), device)
            if uniforms is None:
                break
            if not active:
                continue  # other processes are still generating
        elif should_stop():
            break
        tokens = sampler.draw(logits, seen, uniforms)
        is_last = len(completions[active[0]]) + 1 == max_new_tokens
        next_logits = decoder.step(tokens) if overlap and not is_last else None
        token_ids = tokens.tolist()
        if max(token_ids) >= logits.shape[-1]:  # the result of sampling from NaN
            raise RuntimeError("a logit is not finite: there is no probability to draw from")
        if on_draw is not None:
            on_draw(active, sampler.logprobs(logits, tokens))
        for row, token in zip(active, token_ids, strict=True):
            completions[row].append(token)
        remaining = [index for index, token in enumerate(token_ids) if token not in eos_ids]
        ended = [row for row, token in zip(active, token_ids, strict=True) if token in eos_ids]
        if ended:
            active = [active[index] for index in remaining]
            if active:
                decoder.keep_rows(remaining)
                selected = torch.tensor(remaining, device=device)
                tokens = tokens[selected]
                seen = None if seen is None else seen[selected]
                next_logits = None if next_logits is None else next_logits[selected]
        on_tokens(completions, ended)
        if is_last or (not active and shared_sampler is None):
            break
        if not active:
            continue
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        logits = decoder.step(tokens) if next_logits is None else next_logits
    return completions


def _distinct_prompts(prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """The distinct prompts, and for each row the index of its prompt."""
    indices: dict[tuple[int, ...], int] = {}
    prompt_of = [indices.setdefault(tuple(prompt), len(indices)) for prompt in prompts]
    return [list(prompt) for prompt in indices], prompt_of


def _prefill(
    model: Any,
    unique: list[list[int]],
    prompt_of: list[int],
    sampler: TokenSampler,
    max_new_tokens: int,
    pad_token_id: int,
    bucket: int,
    weights: SamplingWeights,
    graphs: GraphChoice | None,
) -> tuple[torch.Tensor, Decoder, torch.Tensor | None]:
    """Read every distinct prompt once.

    Returns:
        The logits after each row's prompt, (rows, vocabulary); a decoder that holds all rows; and, for a
        repetition penalty, which tokens each row has seen, (rows, vocabulary), otherwise None.
    """
    device = model.device
    longest = -(-max(map(len, unique)) // bucket) * bucket
    ids = torch.tensor([[pad_token_id] * (longest - len(p)) + p for p in unique], device=device)
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
    index = torch.tensor(prompt_of, device=device)
    prompts = PromptKeyValues(
        [layer.keys for layer in cache.layers],
        [layer.values for layer in cache.layers],
        mask.bool() if padded else None,
        prompt_of,
    )
    if graphs is not None:
        decoder: Decoder = StaticDecoder(model, prompts, max_new_tokens, graphs=graphs)
    else:
        copies = None if weights == "model" else LowPrecisionWeights(weights)
        decoder = Decoder(model, prompts, max_new_tokens, bucket, copies)
    logits = out.logits[:, -1][index]
    seen = None
    if sampler.needs_history:
        one_hot = torch.zeros(len(unique), logits.shape[-1], dtype=torch.bool, device=device)
        one_hot.scatter_(1, ids, mask.bool())
        if padded:
            # The padding id counts as seen only if the prompt itself contains it.
            contains_pad = torch.tensor(
                [[pad_token_id in prompt] for prompt in unique], device=device
            )
            one_hot[:, pad_token_id : pad_token_id + 1] = contains_pad
        seen = one_hot[index]
    return logits, decoder, seen
