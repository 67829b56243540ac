"""The fast engine as a trainer of the step benchmark, with the completion lengths of a case."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import torch

from ida_tui.config.schema import ModelConfig
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.engine.bench.cases import BenchCase
from ida_tui.engine.bench.simulated_judge import SimulatedJudge
from ida_tui.engine.bench.trainers import BenchTrainer
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.trainer import fast
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.events.types import Noticed, StepFinished


def build_fast_trainer(
    case: BenchCase, judge: SimulatedJudge, shared: Mapping[str, Any]
) -> BenchTrainer:
    """Build the fast trainer.

    Args:
        case: the case.
        judge: judges the completions.
        shared: arguments that TRL's trainers receive too.
    """
    bench = BenchTrainer(None, judge, None, [])

    def emit(event: Any) -> None:
        if isinstance(event, StepFinished):
            bench.phases.append(dict(event.seconds))
        if isinstance(event, Noticed) and event.level != "info":
            bench.notes.append(event.text)

    tokenizer, steps = shared["processing_class"], shared["args"].max_steps
    bench.trainer = _fast_trainer_class(case, tokenizer.eos_token_id, bench.check_s)(
        recorder=StepRecorder(emit, threading.Event(), steps, IDA_AXIS_NAMES),
        reward_source=judge,
        chat_format=ChatFormat(tokenizer, ModelConfig(path="embedded")),
        **shared,
    )
    return bench


def _fast_trainer_class(case: BenchCase, eos: int, check_s: list[float]) -> Any:
    """The fast trainer, with completion lengths forced to those of the case, and its checks timed."""

    class ForcedLengthSampler(TokenSampler):
        def begin(self, step: int) -> ForcedLengthSampler:
            object.__setattr__(self, "_left", case.completion_lengths(step))
            return self

        def draw(
            self,
            logits: torch.Tensor,
            seen: torch.Tensor | None = None,
            uniforms: torch.Tensor | None = None,
        ) -> torch.Tensor:
            remaining = [n - 1 for n in self._left]  # type: ignore[attr-defined]
            logits = logits.clone()
            logits[:, eos] = -torch.inf
            tokens = super().draw(logits, seen, uniforms)
            tokens[[row for row, n in enumerate(remaining) if n == 0]] = eos
            object.__setattr__(self, "_left", [n for n in remaining if n > 0])
            return tokens

    class ForcedLengthTrainer(fast.FastTrainer):
        def _token_sampler(self) -> TokenSampler:
            return ForcedLengthSampler().begin(self._current_step)

        def _check_agreement(self, *args: Any, **kwargs: Any) -> bool:
            started = time.perf_counter()
            try:
                return super()._check_agreement(*args, **kwargs)
            finally:
                check_s.append(time.perf_counter() - started)

    return ForcedLengthTrainer
