"""Which of several processes this one is, as `torchrun` and `accelerate launch` say it.

They set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. Nothing heavy is imported here, so that the
command line can ask before anything else is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from ida_tui.errors import UsageError

if TYPE_CHECKING:
    from ida_tui.config.schema import Config, TrainingConfig


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those that train together."""

    rank: int = 0
    """From 0; rank 0 owns the run's directory, its judge and everything that is printed."""
    world: int = 1
    """How many processes there are."""
    local: int = 0
    """From 0, among the processes of this machine; on CUDA also the number of its GPU."""
    local_world: int = 1
    """How many of them are on this machine."""

    @property
    def alone(self) -> bool:
        """Whether one process trains by itself."""
        return self.world == 1

    @property
    def words(self) -> str:
        """As a person is told: ``process 2 of 4 (rank 1)``."""
        return named(self.rank, self.world)


ALONE = Place()


def named(rank: int, world: int) -> str:
    """A process as a person is told of it."""
    return f"process {rank + 1} of {world} (rank {rank})"


def place() -> Place:
    """This process's place; alone where no launcher has set one.

    Raises:
        UsageError: what the launcher has set is no place.
    """
    world = _number("WORLD_SIZE", 1)
    if world <= 1 or "RANK" not in os.environ:
        return ALONE
    found = Place(
        _number("RANK", 0),
        world,
        _number("LOCAL_RANK", 0),
        _number("LOCAL_WORLD_SIZE", world),
    )
    if not 0 <= found.rank < world:
        raise UsageError(
            f"RANK={found.rank} is none of {world} processes",
            "start it with torchrun or accelerate launch, which set RANK and WORLD_SIZE;\n"
            "for one process: unset RANK WORLD_SIZE LOCAL_RANK",
        )
    return found


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UsageError(
            f"the environment says {name}={text[:40]!r}, which is no number",
            "start it with torchrun or accelerate launch, which set it",
        ) from None


def shared(training: TrainingConfig, world: int) -> TrainingConfig:
    """One process's part of a step.

    The step stays the profile's: its per_device_train_batch_size × gradient_accumulation_steps completions
    are divided evenly, rank by rank in the order that one process has them in, so that a group may begin on
    one rank and end on the next. As many go through the model at once as the profile says, or the next
    smaller number that divides a rank's part.

    Raises:
        UsageError: they cannot be divided evenly.
    """
    rows = training.completions_per_step
    if rows % world:
        fits = [n for n in range(1, rows + 1) if rows % n == 0]
        near = sorted(sorted(fits, key=lambda n: abs(n - world))[:3])
        raise UsageError(
            f"{rows} completions of a step cannot be divided evenly among {world} processes",
            f"use {' or '.join(map(str, near))} processes, or a multiple of {world} completions:\n"
            f"training.gradient_accumulation_steps={_passes(training, world)}",
            where="training.per_device_train_batch_size × training.gradient_accumulation_steps",
        )
    part = rows // world
    at_once = min(part, training.per_device_train_batch_size)
    at_once = next(n for n in range(at_once, 0, -1) if part % n == 0)
    return training.model_copy(
        update={
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": part // at_once,
        }
    )


def _passes(training: TrainingConfig, world: int) -> int:
    """The next number of passes with which whole groups make up whole parts."""
    batch, group = training.per_device_train_batch_size, training.num_generations
    unit = world * group // gcd(world, group)
    unit //= gcd(unit, batch)
    return -(-training.gradient_accumulation_steps // unit) * unit


def sharding() -> str:
    """What `accelerate launch` was told to divide the model with: `FSDP`, `DeepSpeed`, or empty."""
    for name in ("FSDP", "DeepSpeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() in ("1", "true"):
            return name
    return ""


def part_of(config: Config, world: int) -> Config:
    """The profile as one process computes it; itself where there is only one."""
    if world == 1:
        return config
    return config.model_copy(update={"training": shared(config.training, world)})
