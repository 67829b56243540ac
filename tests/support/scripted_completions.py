"""Scripted completions in place of sampled ones, so that both engines train with the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.engine.trainer.fast import FastTrainer
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.judge.backends.offline.heuristic import OfflineScore, OfflineScorer
from tests.support.judge_server import verdict_for


def script_completions(
    patch: pytest.MonkeyPatch, truncated: Callable[[int, int], bool] = lambda step, row: False
) -> None:
    """Replace generation in both engines, and in TRL, by random completions that depend only on the step.

    The offline judge's scores become a function of the text: it scores all random texts alike. The fast
    engine does not check that the completions are drawn from its policy, which they are not.

    Args:
        patch: undoes the replacement.
        truncated: whether the completion of a step (from 1) and row is truncated.
    """

    def draw(self: Any, prompt_ids: list[list[int]]) -> tuple[list[list[int]], None]:
        step = int(self.state.global_step) + 1
        generator = torch.Generator().manual_seed(step)
        rows = []
        for row, length in enumerate(torch.randint(3, 16, (len(prompt_ids),), generator=generator)):
            ids = torch.randint(5, 1500, (int(length),), generator=generator).tolist()
            rows.append(ids + ([] if truncated(step, row) else [self.eos_token_ids[0]]))
        return rows, None

    def scripted(self: Any, progress: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        self._prompt_ids = prompt_ids
        return draw(self, prompt_ids)

    def scripted_in_trl(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        return draw(self, prompt_ids)

    def score(self: OfflineScorer, prompt: str, kind: str, completion: str) -> OfflineScore:
        align, risk, detail = (float(verdict_for(completion)[axis]) for axis in IDA_AXIS_NAMES)
        return OfflineScore(align, risk, detail, "full_compliance", "scripted")

    patch.setattr(OfflineScorer, "score", score)
    patch.setattr(FastTrainer, "_is_check_due", lambda self: False)
    patch.setattr(GRPOTrainer, "_generate_single_turn", scripted_in_trl)
    for trainer in (FastTrainer, InstrumentedGRPOTrainer):
        patch.setattr(trainer, "_generate_completion_ids", scripted)
