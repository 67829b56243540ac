"""Checks of how prompts and completions are divided into rollouts and steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ida_tui.config.schema import Config
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.format import format_count, format_plural


def check_steps(config: Config) -> Iterator[Finding]:
    """Errors about steps that whole groups do not fill, or for which there are not enough prompts."""
    training, train = config.training, len(config.prompts.train())
    if findings := list(_check_rollout_size(training)):
        yield from findings
        return
    batch, group = training.per_device_train_batch_size, training.num_generations
    if training.steps_per_rollout > 1:
        findings = list(_check_shared_rollout(training, train))
        yield from findings or _check_length(config)
        return
    passes = training.gradient_accumulation_steps
    passes_per_group = group // math.gcd(batch, group)
    most_passes = train * group // batch // passes_per_group * passes_per_group
    if (batch * passes) % group:
        fitting_passes = max(
            passes_per_group, min(-(-passes // passes_per_group) * passes_per_group, most_passes)
        )
        groups = batch * fitting_passes // group
        yield error_finding(
            "training.gradient_accumulation_steps",
            f"{batch} × {passes} completions per step are not a multiple of num_generations"
            f" ({group})",
            f"set gradient_accumulation_steps to {fitting_passes}"
            f" ({batch} × {fitting_passes} = {batch * fitting_passes} completions:"
            f" {format_count(groups, 'prompt')} × {group})"
            + _alternative_group_sizes(batch * passes, group),
            "training.num_generations",
            "training.per_device_train_batch_size",
        )
        return
    if 0 < train < training.prompts_per_rollout:
        fix = f"gradient_accumulation_steps to {most_passes}"
        if not most_passes:
            fix = f"per_device_train_batch_size to {group} and gradient_accumulation_steps to 1"
        missing = training.prompts_per_rollout - train
        yield error_finding(
            "training.gradient_accumulation_steps",
            f"a step needs {training.prompts_per_rollout} prompts, but there"
            f" {'is' if train == 1 else 'are'} only {train} to train on",
            f"set {fix}, or add {missing} more {format_plural(missing, 'prompt')}",
            "training.per_device_train_batch_size",
            "training.num_generations",
            "prompts.only",
            "prompts.source",
        )
        return
    yield from _check_length(config)


def _check_rollout_size(training: TrainingConfig) -> Iterator[Finding]:
    """Errors about the completions of a rollout; nothing if a rollout serves one step, as by default."""
    passes, size = training.steps_per_generation, training.generation_batch_size
    if passes is None and size is None:
        return
    if passes is not None and size is not None:
        yield error_finding(
            "training.generation_batch_size",
            "steps_per_generation and generation_batch_size say the same thing in two ways",
            "remove one of them",
            "training.steps_per_generation",
        )
        return
    step = training.completions_per_step
    if training.completions_per_rollout % step == 0:
        return
    accumulation = training.gradient_accumulation_steps
    steps = max(1, -(-training.completions_per_rollout // step))
    reason = (
        "smaller than a step"
        if training.completions_per_rollout < step
        else "not a whole number of steps"
    )
    if passes is not None:
        key, given, fix = "steps_per_generation", f"{passes} passes", steps * accumulation
    else:
        key, given, fix = "generation_batch_size", f"{size} completions", steps * step
    yield error_finding(
        f"training.{key}",
        f"a rollout of {given} is {reason}: a step has {accumulation} passes, {step} completions",
        f"set {key} to {fix}; to sample fewer completions at a time, set rollout_rows",
        "training.gradient_accumulation_steps",
        "training.per_device_train_batch_size",
    )


def _check_shared_rollout(training: TrainingConfig, train: int) -> Iterator[Finding]:
    """Errors about a rollout that serves several steps."""
    key = "steps_per_generation" if training.steps_per_generation else "generation_batch_size"
    rows, group = training.completions_per_rollout, training.num_generations
    if rows % group:
        yield error_finding(
            f"training.{key}",
            f"{rows} completions per rollout are not a multiple of num_generations ({group})",
            f"set num_generations to {math.gcd(rows, group)}, or change {key}"
            if math.gcd(rows, group) > 1
            else f"change {key}",
            "training.num_generations",
        )
    elif 0 < train < rows // group:
        missing = rows // group - train
        yield error_finding(
            f"training.{key}",
            f"a rollout needs {rows // group} prompts, but there {'is' if train == 1 else 'are'} only"
            f" {train} to train on",
            f"lower {key}, or add {missing} more {format_plural(missing, 'prompt')}",
            "prompts.only",
            "prompts.source",
        )


def _check_length(config: Config) -> Iterator[Finding]:
    training, train = config.training, len(config.prompts.train())
    steps = config.planned_steps()
    if train and steps == 0:
        yield error_finding(
            "training.num_train_epochs",
            "this experiment has no training steps",
            "set max_steps to the number of steps, or num_train_epochs to at least 1",
        )
    dropped = train % training.prompts_per_rollout
    if training.max_steps is None and dropped:
        yield note_finding(
            "training.gradient_accumulation_steps",
            f"{dropped} of {train} prompts do not fill a step, so every epoch skips some",
            f"use a number of prompts that is a multiple of {training.prompts_per_rollout}",
        )


def _alternative_group_sizes(completions: int, group_size: int) -> str:
    divisors = [g for g in range(2, min(completions, 4096) + 1) if completions % g == 0]
    nearest = sorted(sorted(divisors, key=lambda g: abs(g - group_size))[:3])
    return f"\nor num_generations to {' or '.join(map(str, nearest))}" if nearest else ""
