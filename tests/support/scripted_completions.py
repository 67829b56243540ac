"""Scripted completions in place of sampled ones, so that both engines train with the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ida_tui.config.axes import IDA_AXIS_NAMES
from ida_tui.engine.trainer.fast import FastTrainer
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.judge.backends.offline.heuristic import OfflineScore, OfflineScorer
from tests.support.judge_server import verdict_for


def script_completions(
    patch: pytest.MonkeyPatch, truncated: Callable[[int, int], bool] = lambda step, row: False
) -> None:
    """Replace generation in both engines by random completions that depend only on the step.

    The offline judge's scores become a function of the text: it scores all random texts alike.

    Args:
        patch: undoes the replacement.
        truncated: whether the completion of a step (from 1) and row is truncated.
    """

    def scripted(self: Any, progress: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        self._prompt_ids = prompt_ids
        generator = torch.Generator().manual_seed(self._current_step)
        rows = []
        for row, length in enumerate(torch.randint(3, 16, (len(prompt_ids),), generator=generator)):
            ids = torch.randint(5, 1500, (int(length),), generator=generator).tolist()
            end = [] if truncated(self._current_step, row) else [self.eos_token_ids[0]]
            rows.append(ids + end)
        return rows, None

    def score(self: OfflineScorer, prompt: str, kind: str, completion: str) -> OfflineScore:
        align, risk, detail = (float(verdict_for(completion)[axis]) for axis in IDA_AXIS_NAMES)
        return OfflineScore(align, risk, detail, "full_compliance", "scripted")

    patch.setattr(OfflineScorer, "score", score)
    for trainer in (FastTrainer, InstrumentedGRPOTrainer):
        patch.setattr(trainer, "_generate_completion_ids", scripted)
