"""A heartbeat inside `generate`: tokens counted and read as they are sampled, a stop within one token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ida_tui.events.types import TextGenerated, TokensGenerated

INTERVAL_S = 0.5


class Heartbeat(StoppingCriteria):  # type: ignore[misc]
    """Called by transformers after every token of the batch.

    It never changes which tokens are sampled; when a stop is asked for, all rows end at once and the
    caller throws the unfinished completions away.

    Args:
        emit: takes the figures and the text.
        stop_requested: whether to end the rollout now.
        step: number of the step under way.
        eos_token_ids: tokens that end a completion.
        decode: turns rows of token ids, padded with special tokens, into their texts.
        row_ended: told of a row that ended by itself, with its text, while others go on.
    """

    def __init__(
        self,
        emit: Callable[[TokensGenerated | TextGenerated], object],
        stop_requested: Callable[[], bool],
        step: int,
        eos_token_ids: Sequence[int],
        decode: Callable[[list[list[int]]], list[str]],
        row_ended: Callable[[int, str], object] = lambda row, text: None,
    ) -> None:
        self._emit = emit
        self._stop_requested = stop_requested
        self._step = step
        self._eos = list(eos_token_ids)
        self._decode = decode
        self._row_ended = row_ended
        self._rows_told: set[int] = set()
        self._prompt_length = 0
        self._told: list[str] = []
        self._eos_tensor: torch.Tensor | None = None
        self._ended: torch.Tensor | None = None
        self._tokens: torch.Tensor | None = None
        self._counted: tuple[int, int] | None = None
        """Tokens and ended rows, where the rollout counts them itself."""
        self._started = self._last_beat = time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        """`input_ids` has shape (rows, tokens so far); returns True for rows that must end."""
        rows = input_ids.shape[0]
        if self._ended is None or self._tokens is None or self._eos_tensor is None:
            self._eos_tensor = torch.tensor(self._eos, device=input_ids.device)
            self._ended = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
            self._tokens = torch.zeros((), dtype=torch.long, device=input_ids.device)
            self._prompt_length = input_ids.shape[1] - 1
            self._told = [""] * rows
        # The last token of a row that had ended before is padding, not a sample.
        self._tokens = self._tokens + (~self._ended).sum()
        self._ended = self._ended | torch.isin(input_ids[:, -1], self._eos_tensor)
        now = time.monotonic()
        # Reading a figure makes the host wait for the device: only when it is due.
        due = now - self._last_beat >= INTERVAL_S
        if due or input_ids.device.type == "cpu":
            self._tell_ended(input_ids)
        if due:
            self.beat(rows, now)
            self._tell_text(input_ids[:, self._prompt_length :].tolist())
        return torch.full((rows,), self._stop_requested(), device=input_ids.device)

    def beat(self, rows: int, now: float | None = None) -> None:
        """Emit the figures as they are."""
        now = time.monotonic() if now is None else now
        self._last_beat = now
        tokens, ended = self._counts()
        seconds = now - self._started
        self._emit(
            TokensGenerated(
                step=self._step,
                tokens=tokens,
                tokens_per_s=round(tokens / seconds, 1) if seconds > 0 else 0.0,
                rows_done=ended,
                rows=rows,
            )
        )

    def count(self, tokens: int, ended: int) -> None:
        """Take these figures for the rollout: others have sampled rows of it, too."""
        self._counted = (tokens, ended)

    def told(
        self,
        completions: list[list[int]],
        ended: list[int],
        everywhere: Callable[[], tuple[int, int, int]] | None = None,
    ) -> None:
        """After every token of a rollout that keeps its tokens on the host.

        Args:
            completions: the tokens of every row so far.
            ended: rows that ended with the last one.
            everywhere: tokens, ended rows and rows of all processes, where there are several.
        """
        if ended:
            texts = self._decode([completions[row] for row in ended])
            for row, text in zip(ended, texts, strict=True):
                self._row_ended(row, text)
        if not self._told:
            self._told = [""] * len(completions)
        done = (self._counted or (0, 0))[1] + len(ended)
        self._counted = (sum(map(len, completions)), done)
        now = time.monotonic()
        if now - self._last_beat >= INTERVAL_S:
            rows = len(completions)
            if everywhere is not None:
                tokens, done, rows = everywhere()
                self._counted = (tokens, done)
            self.beat(rows, now)
            self._tell_text(completions)

    def _counts(self) -> tuple[int, int]:
        """Tokens sampled, and rows that have ended."""
        if self._counted is not None:
            return self._counted
        tokens = int(self._tokens) if self._tokens is not None else 0
        return tokens, int(self._ended.sum()) if self._ended is not None else 0

    def _tell_ended(self, input_ids: torch.Tensor) -> None:
        """Hand on the texts of the rows that have ended since the last time."""
        assert self._ended is not None
        ended = set(self._ended.nonzero().flatten().tolist())
        rows = sorted(ended - self._rows_told)
        if not rows:
            return
        texts = self._decode(input_ids[rows, self._prompt_length :].tolist())
        for row, text in zip(rows, texts, strict=True):
            self._row_ended(row, text)
        self._rows_told = ended

    def _tell_text(self, completions: list[list[int]]) -> None:
        """Emit what each row has gained; a character whose bytes are not all there yet waits."""
        new = []
        for row, text in enumerate(self._decode(completions)):
            whole = text.rstrip("\ufffd")
            told = self._told[row]
            new.append(whole[len(told) :] if whole.startswith(told) else "")
            self._told[row] = told + new[-1]
        self._emit(TextGenerated(self._step, tuple(new)))


@contextmanager
def heard(model: Any, heartbeat: Heartbeat) -> Iterator[None]:
    """Inside the block every `model.generate` call beats."""
    model.generate = partial(model.generate, stopping_criteria=StoppingCriteriaList([heartbeat]))
    try:
        yield
    finally:
        del model.generate
