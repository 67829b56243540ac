"""Time of a step: how long each phase takes, how long it would take at least, and what would save most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from ida_tui.events.judge_wait import judge_wait
from ida_tui.events.state import RunState

NEWEST_STEPS = 10
"""Number of newest steps whose mean is shown."""
PHASES = ("generate", "judge", "reference", "update")
MIN_PHASE = 0.01
"""Share of a step below which a phase is left out."""
MIN_SAVING = 0.05
"""Share of a step below which a saving is not worth a line."""


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Mean time of a phase in a step."""

    phase: str
    seconds: float
    least_s: float | None
    """Shortest time at the speed of the device, as measured at the start; None if it is not known."""

    @property
    def ratio(self) -> float | None:
        """How many times the shortest time the phase takes."""
        return self.seconds / self.least_s if self.least_s else None


@dataclass(frozen=True, slots=True)
class Saving:
    """A change of the configuration that would shorten the steps."""

    seconds: float
    """The most that it can save in a step."""
    change: str
    """What to change, such as `judge.concurrency=16`."""
    reason: str


@dataclass(frozen=True, slots=True)
class StepTime:
    """Mean time of some steps."""

    seconds: float
    phases: tuple[PhaseTime, ...]
    saving: Saving | None
    """The change that would save most; None if none is worth a line."""


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """Settings of a run that decide the time of its steps, as far as they are known."""

    recomputes: bool = False
    """Whether gradient checkpointing is on."""
    is_plain: bool = False
    """Whether TRL's own code computes the steps although the fast code could."""


def step_time(state: RunState, settings: TimeSettings = TimeSettings()) -> StepTime | None:
    """Mean time of the newest steps by phase; None without shortest times, as in older runs.

    Args:
        state: the run. Steps that reused completions count with the time that they took.
        settings: the settings of the run.
    """
    steps = [step for step in state.steps[-NEWEST_STEPS:] if step.least_seconds]
    if not steps:
        return None
    total = fmean(sum(step.seconds.values()) for step in steps)
    phases = {}
    for name in PHASES:
        seconds = fmean(step.seconds.get(name, 0.0) for step in steps)
        known = any(name in step.least_seconds for step in steps)
        least = fmean(step.least_seconds.get(name, 0.0) for step in steps) if known else None
        if seconds >= MIN_PHASE * total:
            phases[name] = PhaseTime(name, seconds, least)
    stragglers_s = fmean(step.stragglers_s or 0.0 for step in steps)
    savings = [*_judge_savings(state), *_savings(phases, stragglers_s, settings)]
    best = max(savings, key=lambda saving: saving.seconds, default=None)
    worth = best is not None and best.seconds >= MIN_SAVING * total
    return StepTime(total, tuple(phases.values()), best if worth else None)


def format_phases(time: StepTime, *, limits: bool = True) -> str:
    """The phases of a step in one line, such as `6.2 s: generate 3.1 s (1.9× the limit) · judge 2.0 s`.

    Args:
        time: the time of the step.
        limits: whether to compare the phases with their shortest times.
    """
    parts = []
    for phase in time.phases:
        ratio = phase.ratio if limits else None
        limit = "" if ratio is None else f" ({ratio:.{0 if ratio >= 10 else 1}f}× the limit)"
        parts.append(f"{phase.phase} {phase.seconds:.1f} s{limit}")
    return f"{time.seconds:.1f} s: {' · '.join(parts)}"


def _judge_savings(state: RunState) -> Iterator[Saving]:
    wait = judge_wait(state)
    if wait is not None and wait.remedy is not None and wait.remedy.saved_s is not None:
        saved_s = wait.remedy.saved_s * wait.rollouts / wait.steps
        yield Saving(saved_s, wait.remedy.setting, wait.remedy.reason)


def _savings(
    phases: dict[str, PhaseTime], stragglers_s: float, settings: TimeSettings
) -> Iterator[Saving]:
    if "reference" in phases:
        yield Saving(
            phases["reference"].seconds,
            "training.beta=0",
            "if the policy may move away from the reference model",
        )
    if stragglers_s:
        yield Saving(
            stragglers_s,
            "a lower training.max_completion_length",
            "because nine in ten completions have ended and wait for the longest",
        )
    if "update" in phases and settings.recomputes:
        yield Saving(
            phases["update"].seconds / 3,
            "training.gradient_checkpointing=false",
            "if the memory suffices: the update computes the forward pass twice",
        )
    if settings.is_plain:
        yield Saving(
            sum(phase.seconds - phase.least_s for phase in phases.values() if phase.least_s) / 2,
            "engine=fast",
            "because TRL's own code computes the steps",
        )
