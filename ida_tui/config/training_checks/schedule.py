"""Checks of the learning-rate schedule and of its arguments."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping

from ida_tui.config.schema import Config
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.util.finding import Finding, error_finding

Limits = tuple[type, float, float]
"""Type of an argument, its smallest and its largest value."""
_CYCLES: Mapping[str, Limits] = {"num_cycles": (float, 0, 1e4)}
_MIN_LR: Mapping[str, Limits] = {"min_lr": (float, 0, 1e9), "min_lr_rate": (float, 0, 1)}
SHAPES = ("linear", "cosine", "1-sqrt")
SCHEDULE_ARGUMENTS: Mapping[str, Mapping[str, Limits | tuple[str, ...]]] = {
    "constant": {},
    "constant_with_warmup": {},
    "linear": {},
    "cosine": _CYCLES,
    "cosine_with_restarts": {"num_cycles": (int, 1, 1e4)},
    "polynomial": {"lr_end": (float, 0, 1e9), "power": (float, 0, 1e3)},
    "inverse_sqrt": {"timescale": (int, 1, 1e15)},
    "cosine_with_min_lr": {**_CYCLES, **_MIN_LR},
    "cosine_warmup_with_min_lr": {**_CYCLES, **_MIN_LR, "warmup_lr_rate": (float, 0, 1)},
    "warmup_stable_decay": {
        **_CYCLES,
        "num_decay_steps": (int, 1, 1e15),
        "num_stable_steps": (int, 0, 1e15),
        "warmup_type": SHAPES,
        "decay_type": SHAPES,
        "min_lr_ratio": (float, 0, 1),
    },
}
"""Schedule of transformers → its arguments: a range of numbers, or texts to choose from."""


def check_schedule(config: Config) -> Iterator[Finding]:
    """Errors about `lr_scheduler_kwargs`: unknown, missing or impossible arguments."""
    training = config.training
    schedule, given = training.lr_scheduler_type, training.lr_scheduler_kwargs
    known = SCHEDULE_ARGUMENTS[schedule]
    for name, value in given.items():
        key = f"training.lr_scheduler_kwargs.{name}"
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=1)
            fix = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known) or 'none'}"
            yield error_finding(key, f"the schedule {schedule} has no argument {name}", fix)
        elif problem := _value_problem(value, known[name]):
            yield error_finding(key, f"{name} is {value}", f"set it to {problem}")
    if not set(given) - set(known):
        yield from _check_combination(training, config.planned_steps())


def _value_problem(value: int | float | str, allowed: Limits | tuple[str, ...]) -> str:
    """What a value must be instead; empty if it is allowed."""
    kind, *limits = allowed
    if isinstance(kind, str):
        return "" if value in allowed else f"one of {', '.join(map(str, allowed))}"
    low, high = (float(str(limit)) for limit in limits)
    is_number = isinstance(value, int) or (kind is float and isinstance(value, float))
    if is_number and math.isfinite(float(value)) and low <= float(value) <= high:
        return ""
    return f"a {'whole ' if kind is int else ''}number from {low:g} to {high:g}"


def _check_combination(training: TrainingConfig, steps: int) -> Iterator[Finding]:
    schedule, given = training.lr_scheduler_type, training.lr_scheduler_kwargs
    key, rate = "training.lr_scheduler_kwargs", training.learning_rate
    if schedule in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        if len({"min_lr", "min_lr_rate"} & set(given)) != 1:
            yield error_finding(
                key,
                f"the schedule {schedule} needs its smallest rate, in one of two ways",
                "set lr_scheduler_kwargs to {min_lr_rate: 0.1}, a share of learning_rate, or min_lr",
                "training.lr_scheduler_type",
            )
        elif isinstance(lowest := given.get("min_lr", 0), int | float) and lowest > rate:
            yield error_finding(
                key, f"min_lr ({lowest:g}) is above learning_rate ({rate:g})", "lower min_lr"
            )
    end = given.get("lr_end", 1e-7)
    if schedule == "polynomial" and isinstance(end, int | float) and end >= rate:
        yield error_finding(
            key,
            f"the schedule ends at lr_end ({end:g}), which is not below learning_rate ({rate:g})",
            "set lr_scheduler_kwargs to {lr_end: 0}",
            "training.learning_rate",
        )
    if schedule != "warmup_stable_decay":
        return
    decay = given.get("num_decay_steps")
    share = training.warmup_steps
    warmup = math.ceil(share * steps) if share < 1 else int(share)
    if decay is None:
        yield error_finding(
            key,
            "the schedule warmup_stable_decay needs the number of steps of its decay",
            f"set lr_scheduler_kwargs to {{num_decay_steps: {max(1, steps // 5)}}}",
            "training.lr_scheduler_type",
        )
    elif isinstance(decay, int) and warmup + decay > steps:
        yield error_finding(
            key,
            f"{warmup} steps of warmup and {decay} of decay are more than the run's {steps}",
            "lower num_decay_steps or warmup_steps",
            "training.warmup_steps",
            "training.max_steps",
        )
