"""Generation progress: token counts and text during a rollout, and a stop after any token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ida_tui.events.types import TextGenerated, TokensGenerated

EMIT_INTERVAL_S = 0.5
"""Shortest time between two reports."""
STRAGGLER_SHARE = 0.9
"""Share of the rows after whose end the others are stragglers."""


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """Progress of a rollout."""

    tokens: int
    """Tokens generated so far."""
    ended_rows: int
    """Completions that have ended with EOS."""
    rows: int
    """Completions in the rollout."""


class GenerationProgress(StoppingCriteria):  # type: ignore[misc]
    """A stopping criterion that reports progress after every token of the batch.

    It never changes which tokens are sampled. When a stop is requested, all rows end immediately and the
    caller discards the unfinished completions.

    Args:
        emit: receives the token counts and the new text.
        stop_requested: returns whether to end the rollout now.
        step: number of the step in progress.
        eos_token_ids: ids of the tokens that end a completion.
        decode: turns rows of token ids, padded with special tokens, into texts.
        on_row_ended: called with row and text when a row ends with EOS while other rows continue.
        clock: the run's clock, in seconds.
    """

    def __init__(
        self,
        emit: Callable[[TokensGenerated | TextGenerated], object],
        stop_requested: Callable[[], bool],
        step: int,
        eos_token_ids: Sequence[int],
        decode: Callable[[list[list[int]]], list[str]],
        on_row_ended: Callable[[int, str], object] = lambda row, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._stop_requested = stop_requested
        self._step = step
        self._eos_token_ids = list(eos_token_ids)
        self._decode = decode
        self._on_row_ended = on_row_ended
        self._reported_rows: set[int] = set()
        self._prompt_length = 0
        self._emitted_texts: list[str] = []
        self._eos_tensor: torch.Tensor | None = None
        self._ended_mask: torch.Tensor | None = None
        self._token_count: torch.Tensor | None = None
        self._ended_rows = 0
        """Rows that have ended, if the rollout has its tokens on the host."""
        self._clock = clock
        self._started = self._last_emit = clock()
        self._stragglers_since: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        """Report progress.

        Args:
            input_ids: prompts and tokens so far, (rows, tokens).
            scores: unused.
            **kwargs: unused.

        Returns:
            (rows,), true for rows that must end.
        """
        rows = input_ids.shape[0]
        if self._ended_mask is None or self._token_count is None or self._eos_tensor is None:
            self._eos_tensor = torch.tensor(self._eos_token_ids, device=input_ids.device)
            self._ended_mask = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
            self._token_count = torch.zeros((), dtype=torch.long, device=input_ids.device)
            self._prompt_length = input_ids.shape[1] - 1
            self._emitted_texts = [""] * rows
        # The last token of a row that ended earlier is padding. Do not count it.
        self._token_count = self._token_count + (~self._ended_mask).sum()
        self._ended_mask = self._ended_mask | torch.isin(input_ids[:, -1], self._eos_tensor)
        now = self._clock()
        # Reading a value makes the host wait for the device. Do it only once per interval.
        interval_over = now - self._last_emit >= EMIT_INTERVAL_S
        if interval_over or input_ids.device.type == "cpu":
            self._report_ended_rows(input_ids)
        if interval_over:
            counts = RolloutCounts(int(self._token_count), int(self._ended_mask.sum()), rows)
            self.emit_counts(counts, now)
            self._emit_text(input_ids[:, self._prompt_length :].tolist())
        return torch.full((rows,), self._stop_requested(), device=input_ids.device)

    @property
    def stragglers_s(self) -> float | None:
        """Seconds since `STRAGGLER_SHARE` of the rows have ended; None if they have not, or were not seen."""
        return None if self._stragglers_since is None else self._clock() - self._stragglers_since

    def emit_counts(self, counts: RolloutCounts, now: float | None = None) -> None:
        """Emit the token and row counts."""
        now = self._clock() if now is None else now
        self._last_emit = now
        seconds = now - self._started
        self._emit(
            TokensGenerated(
                step=self._step,
                tokens=counts.tokens,
                tokens_per_s=round(counts.tokens / seconds, 1) if seconds > 0 else 0.0,
                rows_done=counts.ended_rows,
                rows=counts.rows,
            )
        )

    def on_tokens(
        self,
        completions: list[list[int]],
        ended: list[int],
        global_counts: Callable[[], RolloutCounts] | None = None,
    ) -> None:
        """Report progress after every token of a rollout that has its tokens on the host.

        Args:
            completions: the tokens of every row so far.
            ended: rows that ended with the last token.
            global_counts: returns the counts over all processes, if there are several.
        """
        if ended:
            texts = self._decode([completions[row] for row in ended])
            for row, text in zip(ended, texts, strict=True):
                self._on_row_ended(row, text)
        if not self._emitted_texts:
            self._emitted_texts = [""] * len(completions)
        self._ended_rows += len(ended)
        now = self._clock()
        if self._stragglers_since is None and self._ended_rows >= STRAGGLER_SHARE * len(
            completions
        ):
            self._stragglers_since = now
        if now - self._last_emit >= EMIT_INTERVAL_S:
            if global_counts is not None:
                counts = global_counts()
            else:
                tokens = sum(map(len, completions))
                counts = RolloutCounts(tokens, self._ended_rows, len(completions))
            self.emit_counts(counts, now)
            self._emit_text(completions)

    def _report_ended_rows(self, input_ids: torch.Tensor) -> None:
        """Report the texts of the rows that have ended since the last call."""
        assert self._ended_mask is not None
        ended = set(self._ended_mask.nonzero().flatten().tolist())
        rows = sorted(ended - self._reported_rows)
        if not rows:
            return
        texts = self._decode(input_ids[rows, self._prompt_length :].tolist())
        for row, text in zip(rows, texts, strict=True):
            self._on_row_ended(row, text)
        self._reported_rows = ended

    def _emit_text(self, completions: list[list[int]]) -> None:
        """Emit the new text of each row. A character whose bytes are incomplete is held back."""
        additions = []
        for row, text in enumerate(self._decode(completions)):
            complete = text.rstrip("\ufffd")
            emitted = self._emitted_texts[row]
            additions.append(complete[len(emitted) :] if complete.startswith(emitted) else "")
            self._emitted_texts[row] = emitted + additions[-1]
        self._emit(TextGenerated(self._step, tuple(additions)))


@contextmanager
def attach(model: Any, progress: GenerationProgress) -> Iterator[None]:
    """Attach the progress report to every `model.generate` call inside the block."""
    model.generate = partial(model.generate, stopping_criteria=StoppingCriteriaList([progress]))
    try:
        yield
    finally:
        del model.generate
