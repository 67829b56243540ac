"""Rank and world size of this process, as set by `torchrun` or `accelerate launch`.

The launchers set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. This module imports nothing heavy,
because the command line needs these values before anything else is loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from ida_tui.errors import UsageError

if TYPE_CHECKING:
    from ida_tui.config.schema import Config
    from ida_tui.config.sections.training import TrainingConfig


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """Position of a process among the processes that train together."""

    rank: int = 0
    """Rank, from 0. Rank 0 owns the run directory, the judge and all printed output."""
    world_size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Rank among the processes of this machine, from 0; on CUDA also the index of the GPU."""
    local_world_size: int = 1
    """Number of processes on this machine."""

    @property
    def is_single(self) -> bool:
        """Whether there is only one process."""
        return self.world_size == 1

    @property
    def label(self) -> str:
        """Display name, for example `process 2 of 4 (rank 1)`."""
        return process_label(self.rank, self.world_size)


SINGLE_PROCESS = ProcessInfo()


def process_label(rank: int, world_size: int) -> str:
    """Display name of a process."""
    return f"process {rank + 1} of {world_size} (rank {rank})"


def process_info() -> ProcessInfo:
    """Read rank and world size of this process; a single process if no launcher has set them.

    Raises:
        UsageError: an environment variable has an invalid value.
    """
    world = _environment_int("WORLD_SIZE", 1)
    if world <= 1 or "RANK" not in os.environ:
        return SINGLE_PROCESS
    process = ProcessInfo(
        _environment_int("RANK", 0),
        world,
        _environment_int("LOCAL_RANK", 0),
        _environment_int("LOCAL_WORLD_SIZE", world),
    )
    if not 0 <= process.rank < world:
        raise UsageError(
            f"RANK={process.rank} is out of range for WORLD_SIZE={world}",
            "start with torchrun or accelerate launch, which set RANK and WORLD_SIZE;\n"
            "for a single process: unset RANK WORLD_SIZE LOCAL_RANK",
        )
    return process


def _environment_int(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UsageError(
            f"the environment variable {name}={text[:40]!r} is not a number",
            f"start with torchrun or accelerate launch, which set {name}",
        ) from None


def split_batch(training: TrainingConfig, world_size: int) -> TrainingConfig:
    """Divide a step evenly among the processes.

    The number of completions per step stays per_device_train_batch_size × gradient_accumulation_steps of the
    profile. Each rank gets a contiguous part of the rows, so a group may start on one rank and end on the
    next. The micro-batch size stays the profile's, or is reduced to the next size that divides a rank's rows.

    Args:
        training: the profile's training section.
        world_size: number of processes.

    Raises:
        UsageError: the completions cannot be divided evenly.
    """
    rows = training.completions_per_step
    if rows % world_size:
        divisors = [n for n in range(1, rows + 1) if rows % n == 0]
        nearest = sorted(sorted(divisors, key=lambda n: abs(n - world_size))[:3])
        raise UsageError(
            f"{rows} completions per step cannot be divided evenly among {world_size} processes",
            f"use {' or '.join(map(str, nearest))} processes, or a multiple of {world_size} completions:\n"
            f"training.gradient_accumulation_steps={_valid_accumulation_steps(training, world_size)}",
            where="training.per_device_train_batch_size × training.gradient_accumulation_steps",
        )
    rank_rows = rows // world_size
    batch_size = min(rank_rows, training.per_device_train_batch_size)
    batch_size = next(n for n in range(batch_size, 0, -1) if rank_rows % n == 0)
    return training.with_batch(batch_size, rank_rows // batch_size)


def _valid_accumulation_steps(training: TrainingConfig, world_size: int) -> int:
    """Next number of accumulation steps for which the processes get equal numbers of complete groups."""
    batch, group = training.per_device_train_batch_size, training.num_generations
    unit = world_size * group // gcd(world_size, group)
    unit //= gcd(unit, batch)
    return -(-training.gradient_accumulation_steps // unit) * unit


def sharding_backend() -> str:
    """Sharding that `accelerate launch` is configured for, by name; empty for none."""
    version = os.environ.get("FSDP_VERSION", "1")
    for variable, name in (
        ("FSDP", f"FSDP{version}"),
        ("DEEPSPEED", "DeepSpeed"),
        ("MEGATRON_LM", "Megatron-LM"),
    ):
        if os.environ.get(f"ACCELERATE_USE_{variable}", "false").lower() in ("1", "true"):
            return name
    return ""


def take_over_fsdp() -> None:
    """Have accelerate not shard the model: it is sharded as it loads (`training.sharding`)."""
    os.environ.pop("ACCELERATE_USE_FSDP", None)


def per_rank_config(config: Config, world_size: int) -> Config:
    """The profile with each process's share of the step; unchanged for a single process."""
    if world_size == 1:
        return config
    return config.model_copy(update={"training": split_batch(config.training, world_size)})
