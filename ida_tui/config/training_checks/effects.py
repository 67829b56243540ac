"""Notes about options that are set but change nothing together with the other options."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ida_tui.config.precision import resolve_precision
from ida_tui.config.schema import Config, DeviceName
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.config.training_checks.losses import CLIPPED_LOSSES
from ida_tui.util.finding import Finding

ADAM_OPTIONS = ("adam_beta1", "adam_beta2", "adam_epsilon")
VLLM_OPTIONS = {
    "vllm_mode": ("colocate", "server"),
    "vllm_server_base_url": ("server",),
    "vllm_gpu_memory_utilization": ("colocate",),
    "vllm_tensor_parallel_size": ("colocate",),
    "vllm_enable_sleep_mode": ("colocate",),
}
"""Options of vLLM, and the values of `vllm_mode` with which they have an effect."""

LOSS_OPTIONS = (
    ((*CLIPPED_LOSSES, "cispo"), ("epsilon", "epsilon_high")),
    (CLIPPED_LOSSES, ("delta",)),
    (("sapo",), ("sapo_temperature_neg", "sapo_temperature_pos")),
    (("vespo",), ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")),
)
"""Losses, and the options that only they have."""
ADAPTIVE_ENTROPY_OPTIONS = (
    "entropy_coef_min",
    "entropy_coef_max",
    "entropy_coef_delta",
    "entropy_target",
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
    yield from _check_loss_options(training)
    for name in ADAM_OPTIONS:
        if _is_set(training, name) and resolve_precision(config, device).optim == "adafactor":
            yield _no_effect(name, "with the optimizer adafactor", f"remove {name}")
    for name, modes in VLLM_OPTIONS.items():
        if not _is_set(training, name):
            continue
        if not training.use_vllm:
            yield _no_effect(name, "without use_vllm", f"set use_vllm to true, or remove {name}")
        elif training.vllm_mode not in modes:
            reason = f"with vllm_mode {training.vllm_mode}"
            yield _no_effect(name, reason, f"set vllm_mode to {modes[0]}, or remove {name}")
    if training.use_vllm and training.rollout_rows is not None:
        yield _no_effect("rollout_rows", "with use_vllm, which batches by itself", "remove it")


def _check_loss_options(training: TrainingConfig) -> Iterator[Finding]:
    """A note for each option of a loss that the run's loss does not have, or that is never reached."""
    for loss_types, names in LOSS_OPTIONS:
        if training.loss_type not in loss_types:
            for name in filter(partial(_is_set, training), names):
                yield _no_effect(
                    name,
                    f"with loss_type {training.loss_type}",
                    f"set loss_type to {loss_types[0]}, or remove {name}",
                )
    if training.num_iterations == 1 and training.steps_per_rollout == 1:
        clipped = (
            ("epsilon", "epsilon_high", "delta") if training.loss_type in CLIPPED_LOSSES else ()
        )
        for name in filter(partial(_is_set, training), (*clipped, "off_policy_mask_threshold")):
            if name != "off_policy_mask_threshold" or not training.draws_from_another_policy:
                yield _no_effect(
                    name,
                    "with num_iterations 1: each batch is used for one update, so no probability ratio is"
                    " clipped",
                    f"set num_iterations to 2 or more, or remove {name}",
                )
    if not training.use_adaptive_entropy:
        for name in filter(partial(_is_set, training), ADAPTIVE_ENTROPY_OPTIONS):
            yield _no_effect(
                name,
                "without use_adaptive_entropy",
                f"set use_adaptive_entropy to true, or remove {name}",
            )
    if _is_set(training, "use_bias_correction_kl") and not training.beta:
        yield _no_effect(
            "use_bias_correction_kl",
            "without a KL term",
            "set beta above 0, or remove use_bias_correction_kl",
        )


def _is_set(training: TrainingConfig, name: str) -> bool:
    """Whether an option is not at its default."""
    return bool(getattr(training, name) != TrainingConfig.model_fields[name].default)


def _no_effect(name: str, reason: str, fix: str) -> Finding:
    return Finding("note", f"training.{name}", f"{name} has no effect {reason}", fix)
