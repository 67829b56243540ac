"""Notes about options that are set but change nothing together with the other options."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.precision import resolve_precision
from ida_tui.config.schema import Config, DeviceName, TrainingConfig
from ida_tui.util.finding import Finding

ADAM_OPTIONS = ("adam_beta1", "adam_beta2", "adam_epsilon")
VLLM_OPTIONS = (
    "vllm_mode",
    "vllm_server_base_url",
    "vllm_gpu_memory_utilization",
    "vllm_tensor_parallel_size",
)


def check_effects(config: Config, device: DeviceName) -> Iterator[Finding]:
    """A note for each training option that is not at its default and has no effect."""
    training = config.training
    if training.warmup_steps and training.lr_scheduler_type == "constant":
        yield _no_effect(
            "warmup_steps",
            "with a constant learning rate",
            "set lr_scheduler_type to constant_with_warmup",
        )
    if _is_set(training, "num_train_epochs") and training.max_steps is not None:
        yield _no_effect(
            "num_train_epochs",
            f"because max_steps is {training.max_steps}",
            "set max_steps to null, or remove num_train_epochs",
        )
    if _is_set(training, "epsilon") and training.num_iterations == 1:
        yield _no_effect(
            "epsilon",
            "with num_iterations 1: each batch is used for one update, so no probability ratio is clipped",
            "set num_iterations to 2 or more, or remove epsilon",
        )
    for name in ADAM_OPTIONS:
        if _is_set(training, name) and resolve_precision(config, device).optim == "adafactor":
            yield _no_effect(name, "with the optimizer adafactor", f"remove {name}")
    for name in VLLM_OPTIONS:
        if _is_set(training, name) and not training.use_vllm:
            yield _no_effect(name, "without use_vllm", f"set use_vllm to true, or remove {name}")


def _is_set(training: TrainingConfig, name: str) -> bool:
    """Whether an option is not at its default."""
    return bool(getattr(training, name) != TrainingConfig.model_fields[name].default)


def _no_effect(name: str, reason: str, fix: str) -> Finding:
    return Finding("note", f"training.{name}", f"{name} has no effect {reason}", fix)
