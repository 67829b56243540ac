"""Outcome of a training run: classification of errors, and the reason when nothing was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode
from ida_tui.events import types as ev

NOTHING_LEARNED = "Nothing was learned: the weights did not move"
OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
)
"""Messages of torch's allocators, on the CPU in an ordinary RuntimeError; the last one is oneDNN's."""
WATCHDOG_PHRASE = "impacting interactivity"
"""Part of Metal's message when the system ended a command that kept the screen waiting for too long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: ev.RunEndStatus
    code: ExitCode
    message: str
    hint: str = ""
    crash: str = ""
    """The traceback, if the error is a bug in this program."""


def out_of_memory_message(error: BaseException) -> str:
    """Message for an error that means that memory ran out; empty for any other error."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(
        phrase in message.lower() for phrase in OUT_OF_MEMORY_PHRASES
    ):
        return f"out of memory: {message[:200]}" if message else "out of memory"
    return ""


def stopped_by_watchdog(error: BaseException) -> bool:
    """Whether macOS ended a GPU command because it kept the screen waiting."""
    return WATCHDOG_PHRASE in str(error).lower()


def smaller_batch_overrides(config: Config) -> str:
    """Overrides that split the same step into smaller batches, as typed; empty if a batch is one row."""
    rows = config.training.per_device_train_batch_size
    if rows == 1:
        return ""
    fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
    accumulation = config.training.completions_per_step // fewer
    return f"training.per_device_train_batch_size={fewer} training.gradient_accumulation_steps={accumulation}"


def nothing_learned_reason(steps: Sequence[ev.StepFinished]) -> str:
    """Why the weights of a run did not change, and what to do."""
    varied = [step for step in steps if step.zero_std != 1]
    if varied and all(step.skipped for step in varied):
        return (
            "Every update overflowed, so the gradient scaler skipped it.\n"
            "Lower training.learning_rate, or train in another format (training.bf16=true)"
        )
    if not any(step.scored for step in steps):
        return "No completion was scored. Run ida-tui judge check"
    return (
        "Every group had zero variance. Raise training.num_generations or training.temperature,\n"
        "or choose prompts that the model answers in different ways"
    )
