"""How a run ends: what an error means for the person who started it, and whether anything was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode
from ida_tui.events import types as ev

NOTHING_LEARNED = "Nothing was learned: the weights did not move"
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
)
"""What torch's allocators say, on the CPU in an ordinary RuntimeError; the last is how oneDNN puts it."""
WATCHDOG = "impacting interactivity"
"""What Metal says when the system has ended a command that kept the GPU from the screen for too long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: ev.Status
    code: ExitCode
    message: str
    hint: str = ""
    crash: str = ""
    """A traceback, where this program is at fault."""


def exhausted(error: BaseException) -> str:
    """What to say of an error that means that memory ran out; empty for any other."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in said.lower() for words in NO_MEMORY):
        return f"out of memory: {said[:200]}" if said else "out of memory"
    return ""


def stopped_by_watchdog(error: BaseException) -> bool:
    """Whether macOS ended a command of the run because the screen had to wait for it."""
    return WATCHDOG in str(error).lower()


def smaller_batch(config: Config) -> str:
    """The same step in smaller pieces, as it is typed; empty where they are as small as they get."""
    rows = config.training.per_device_train_batch_size
    if rows == 1:
        return ""
    fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
    passes = config.training.completions_per_step // fewer
    return f"training.per_device_train_batch_size={fewer} training.gradient_accumulation_steps={passes}"


def why_nothing(steps: Sequence[ev.StepFinished]) -> str:
    """What kept the weights of a run where they were, and what to do."""
    taught = [step for step in steps if step.zero_std != 1]
    if taught and all(step.skipped for step in taught):
        return (
            "every update overflowed and the gradient scaler skipped it:\n"
            "lower training.learning_rate, or train in another format (training.bf16=true)"
        )
    if not any(step.scored for step in steps):
        return "no completion was scored: ida-tui judge check"
    return (
        "no group had rewards that differ, so nothing taught: raise training.num_generations or\n"
        "training.temperature, or choose prompts that the model answers in different ways"
    )
