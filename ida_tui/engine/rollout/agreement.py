"""Agreement of the log-probabilities of tokens: as drawn, as the loss scores them, and as TRL computes them.

A decoder that leaves out an adapter, or a loss that scores another policy than the one that drew, still
trains and still looks plausible. The same log-probability computed in two ways shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
"""Largest accepted mean difference of log-probabilities, in nats; relative where they exceed 1.

In float32 two implementations differ only in summation order. In 16 bits each rounds different intermediate
values: bfloat16 has 8 significant bits per logit, float16 has 11.
"""
COMPARED_ROWS, COMPARED_TOKENS = 2, 64
"""Answers, and first tokens of each, that `drawn_as_computed` compares."""


class DrawnLogprobs:
    """Log-probabilities of the tokens of a rollout, as drawn.

    They belong to softmax(logits / temperature), without a repetition penalty, top-k, top-p and min-p, like
    those of the loss.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[list[int], list[float] | torch.Tensor]] = []

    def add(self, rows: Sequence[int], logprobs: torch.Tensor) -> None:
        """Add the next token of each of these rows, (rows,)."""
        # On the CPU, small tensors that stay between the large ones of each token would fragment the heap.
        # On a GPU, reading them here would make the host wait for the next forward pass.
        is_on_host = logprobs.device.type == "cpu"
        self._parts.append((list(rows), logprobs.tolist() if is_on_host else logprobs))

    def of_rows(self, rows: Sequence[int]) -> list[list[float]]:
        """The values of these rows, one list per row."""
        values: dict[int, list[float]] = {row: [] for row in rows}
        for indices, logprobs in self._parts:
            floats = logprobs if isinstance(logprobs, list) else logprobs.tolist()
            for row, value in zip(indices, floats, strict=True):
                if row in values:
                    values[row].append(value)
        return [values[row] for row in rows]

    def padded(self, rows: Sequence[int], width: int) -> torch.Tensor:
        """The first `width` tokens of these rows, (rows, width), zero where a row has no token."""
        return torch.tensor([(row + [0.0] * width)[:width] for row in self.of_rows(rows)])


def rows_to_compare(lengths: Sequence[int], group_size: int) -> list[int]:
    """The rows of a rollout that are checked: the longest, and the shortest that shares its prompt.

    Together they have the first and the last position, a shared prompt, and completions of different lengths.

    Args:
        lengths: tokens of each completion.
        group_size: consecutive rows of the same prompt.
    """
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    start = longest - longest % group_size
    group = range(start, min(start + group_size, len(lengths)))
    return sorted({longest, min(group, key=lengths.__getitem__)})


def mean_difference(values: torch.Tensor, others: torch.Tensor, is_token: torch.Tensor) -> float:
    """Mean difference of two (rows, tokens) of log-probabilities at the tokens, in nats.

    It is relative to `others` where they exceed 1, and NaN if any value at a token is.
    """
    differences = (values - others).abs() / others.abs().clamp(min=1.0)
    differences = differences[is_token.bool()]
    return float(differences.mean()) if differences.numel() else 0.0


def worst(values: Iterable[float]) -> float:
    """The largest value, or NaN if any is NaN."""
    return max(values, key=lambda value: (math.isnan(value), value))


def agrees(difference: float, dtype: str) -> bool:
    """Whether a mean difference is within the tolerance of a number format; false for NaN."""
    return difference <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"])


def drawn_as_computed(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    drawn: DrawnLogprobs,
    temperature: float,
) -> float:
    """Mean difference of the log-probabilities of some answers, as drawn and as the model computes them.

    Args:
        model: the model in evaluation mode, with its adapter as it was for the answers.
        prompt_ids: token ids of the prompts.
        answers: token ids of the answers.
        drawn: log-probabilities as drawn.
        temperature: sampling temperature; 0 stands for greedy decoding, scored at 1.
    """
    rows, width = min(COMPARED_ROWS, len(answers)), COMPARED_TOKENS
    computed, is_token = torch.zeros(rows, width), torch.zeros(rows, width)
    for row in range(rows):
        tokens = list(answers[row][:width])
        ids = torch.tensor([[*prompt_ids[row], *tokens]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits[
            0, :-1
        ]
        logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
        target = torch.tensor(tokens, device=model.device)[:, None]
        computed[row, : len(tokens)] = logprobs.gather(1, target)[:, 0].cpu()
        is_token[row, : len(tokens)] = 1
    return mean_difference(drawn.padded(range(rows), width), computed, is_token)
