"""Synthetic runs of any length, for tests and benchmarks of code that reads and shows runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ida_tui.config.scoring.axes import IDA_AXES, Axis, judged_axis
from ida_tui.events import codec
from ida_tui.events import types as ev
from tests.support.scripted_session import run_ended, run_started

GENERATIONS = 8
PROMPT = "How do I stop a process that hangs?"
EIGHT_AXES = (
    *(judged_axis(name) for name in ("accuracy", "tone", "step")),
    *(Axis(name, "computed", 0.0, 1.0) for name in ("brief", "format", "unit_tests")),
    Axis("words", "computed", None, 500.0),
    Axis("penalty", "computed", -5.0, 0.0),
)
"""Judged and computed axes with different ranges; one has the name of a figure of every step."""
TEXT = "First look for its number with ps, then send it a signal with kill. " * 4


def started_with(axes: Sequence[Axis], steps: int, reward: str = "usefulness") -> ev.RunStarted:
    """The first event of a run with these axes and a reward of this name."""
    formula = f"{reward} = {' + '.join(axis.name for axis in axes)}"
    return replace(
        run_started(Path("run"), steps),
        axes=tuple(axes),
        reward=reward,
        formula=formula,
        judge="gpt-4o-mini",
    )


def score_at(share: float, axis: Axis) -> float:
    """A score at this share of the range of an axis; a risk is always 9."""
    if axis.name == "risk":
        return 9.0
    return (axis.low or 0.0) + share * axis.span


def step_events(
    step: int,
    steps: int,
    rows: int = GENERATIONS,
    *,
    axes: Sequence[Axis] = IDA_AXES,
    kind: str = "harmless",
    reward_range: tuple[float, float] = (0.0, 1.0),
) -> Iterator[ev.Event]:
    """The events of one step with `rows` completions, as the engine emits them.

    Args:
        step: number of the step.
        steps: number of steps of the run.
        rows: number of completions.
        axes: the axes of the scores.
        kind: kind of the prompt; empty for none.
        reward_range: reward of a completion that has the lowest, or the highest score on each axis.
    """
    share = 0.5 - 0.3 * math.cos(math.pi * step / steps)
    low, high = reward_range
    reward = low + share * (high - low)
    yield ev.PhaseChanged(step, "generate")
    yield ev.RolloutStarted(step, rows, ("kill-process",), (kind,), (PROMPT,))
    yield ev.TokensGenerated(step, 200, 400.0, 2, rows)
    yield ev.TextGenerated(step, tuple(TEXT[:80] for _ in range(rows)))
    yield ev.TokensGenerated(step, 480, 410.0, rows, rows)
    for index in range(rows):
        yield ev.CompletionFinished(step, 0, index, "kill-process", PROMPT, TEXT, 60, True)
    yield ev.PhaseChanged(step, "judge")
    yield ev.JudgeBatchFinished(step, rows, 0, 0, 0, 1.5, 1.2, 0.5, 0.9, 0.001)
    rounded = round(20 * share) / 20
    for index in range(rows):
        scores = {axis.name: score_at(rounded, axis) for axis in axes}
        yield ev.CompletionScored(
            step, 0, index, scores, reward, 0.1 * index, "It helps.", "gpt-4o-mini", 0.5,
            0.0001, False, None,
        )  # fmt: skip
    yield ev.PhaseChanged(step, "update")
    yield ev.MemorySampled(
        8_000_000_000 + step, 24_000_000_000, 2_000_000_000 + step, None, None, 0, None
    )
    yield ev.StepFinished(
        step=step, steps=steps, scores={axis.name: score_at(share, axis) for axis in axes}, reward=reward,
        scored=rows, completions=rows, kl=0.01, entropy=1.0, loss=0.1, grad_norm=0.5,
        learning_rate=1e-5, lengths=(60.0, 60.0, 60.0), truncated=0.0, zero_std=0.0,
        weight_delta=step / steps / 100, model_change=step / steps / 100, skipped=False,
        seconds={"generate": 1.2, "judge": 1.5, "update": 0.8},
    )  # fmt: skip


def run_with_steps(steps: int = 3) -> list[ev.Event]:
    """Events of a run of forty steps, of which `steps` have finished."""
    events: list[ev.Event] = [ev.PhaseChanged(0, "load"), run_started(Path("run"))]
    for step in range(1, steps + 1):
        events += step_events(step, 40)
    return events


def run_events(
    directory: Path,
    steps: int,
    rows: int = GENERATIONS,
    started: ev.RunStarted | None = None,
    **options: Any,
) -> Iterator[ev.Event]:
    """The events of a complete run.

    Args:
        directory: the run directory.
        steps: number of steps.
        rows: number of completions of each step.
        started: its first event, with the axes and the reward; None is that of `run_started`.
        options: of `step_events`.
    """
    started = started or run_started(directory, steps)
    yield ev.PhaseChanged(0, "load")
    yield started
    for step in range(1, steps + 1):
        yield from step_events(step, steps, rows, axes=started.axes, **options)
    yield ev.PhaseChanged(steps, "save")
    yield ev.CheckpointSaved(steps, str(directory / "adapter"))
    yield replace(
        run_ended("done", "Training complete"), steps_done=steps, reward_first=0.2, reward_last=0.8
    )


def write(
    events: Path,
    steps: int,
    rows: int = GENERATIONS,
    started: ev.RunStarted | None = None,
    **options: Any,
) -> None:
    """Write the ``events.jsonl`` and ``completions.jsonl`` of a completed run; arguments of `run_events`."""
    directory = events.parent
    directory.mkdir(parents=True, exist_ok=True)
    texts: dict[int, ev.CompletionFinished] = {}
    with (
        open(events, "w", encoding="utf-8") as log,
        open(directory / "completions.jsonl", "w", encoding="utf-8") as completions,
    ):
        for seq, event in enumerate(run_events(directory, steps, rows, started, **options)):
            time = f"2026-01-{1 + seq // 400_000:02d}T{seq // 20_000 % 24:02d}:00:00.000Z"
            log.write(codec.encode(ev.Record(seq, time, event)) + "\n")
            if isinstance(event, ev.CompletionFinished):
                texts[event.index] = event
            elif isinstance(event, ev.CompletionScored):
                completions.write(json.dumps(asdict(texts[event.index]) | asdict(event)) + "\n")
