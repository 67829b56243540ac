"""Arguments of `trl.GRPOConfig`, and the optimizer, derived from a profile; the parity test uses them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import Config, DeviceName
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.errors import UsageError, short_text

if TYPE_CHECKING:
    from trl import GRPOConfig

# Fields of TrainingConfig that are copied to trl.GRPOConfig under the same name.
COPIED_FIELDS = (
    "num_train_epochs",
    "num_generations",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_completion_length",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_epsilon",
    "max_grad_norm",
    "beta",
    "epsilon",
    "epsilon_high",
    "delta",
    "num_iterations",
    "loss_type",
    "importance_sampling_level",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "vespo_k_pos",
    "vespo_lambda_pos",
    "vespo_k_neg",
    "vespo_lambda_neg",
    "top_entropy_quantile",
    "entropy_coef",
    "use_adaptive_entropy",
    "entropy_coef_min",
    "entropy_coef_max",
    "entropy_coef_delta",
    "entropy_target",
    "off_policy_mask_threshold",
    "use_bias_correction_kl",
    "scale_rewards",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "mask_truncated_completions",
    "shuffle_dataset",
    "save_total_limit",
)
VLLM_FIELDS = (
    "use_vllm",
    "vllm_mode",
    "vllm_server_base_url",
    "vllm_gpu_memory_utilization",
    "vllm_tensor_parallel_size",
    "vllm_enable_sleep_mode",
)


def grpo_arguments(
    config: Config, recipe: PrecisionRecipe, device: DeviceName, output_dir: Path
) -> dict[str, Any]:
    """Keyword arguments of `trl.GRPOConfig` for one run.

    Args:
        config: the resolved profile.
        recipe: number formats for the device.
        device: the device that trains the model.
        output_dir: the folder for checkpoints.
    """
    training = config.training
    names = (*COPIED_FIELDS, *(VLLM_FIELDS if training.use_vllm else ()))
    arguments: dict[str, Any] = {name: getattr(training, name) for name in names}
    return arguments | {
        "output_dir": str(output_dir),
        "max_steps": training.max_steps or -1,
        # This process's share of a rollout; None is one step.
        "steps_per_generation": training.steps_per_rollout * training.gradient_accumulation_steps
        if training.steps_per_rollout > 1
        else None,
        "lr_scheduler_kwargs": dict(training.lr_scheduler_kwargs) or None,
        "seed": config.seed,
        "use_cpu": device == "cpu",
        # TRL enables bf16 by default, even on devices that do not support it.
        "fp16": recipe.fp16,
        "bf16": recipe.bf16,
        "adam_beta2": recipe.beta2,
        # transformers has no name for adamw_kahan. The trainer gets it as an object instead.
        "optim": "adamw_torch" if recipe.optim == "adamw_kahan" else recipe.optim,
        "gradient_checkpointing": training.gradient_checkpointing is not False,
        # Completions are drawn without dropout, so the loss must score them without it.
        "disable_dropout": True,
        "trust_remote_code": config.model.trust_remote_code,
        "chat_template_kwargs": dict(config.model.chat_template_kwargs),
        # Sinks (W&B, TensorBoard, …) are fed from the run's events instead.
        "report_to": "none",
        "run_name": config.name,
        "save_strategy": "steps" if training.save_steps else "no",
        "save_steps": training.save_steps or 500,
        # Report every step, and do not replace a non-finite loss by an average.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "log_completions": False,
        "disable_tqdm": True,
        # The dataset is small: worker processes and pinned memory would only cost memory and a fork.
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        # The models have no buffers that training changes, such as running means.
        "ddp_broadcast_buffers": False,
        # Metal's allocator caches freed blocks by exact size. Release them at every step.
        "torch_empty_cache_steps": 1 if device == "mps" else None,
        **training.extra,
    }


def grpo_config(
    config: Config, recipe: PrecisionRecipe, device: DeviceName, output_dir: Path
) -> GRPOConfig:
    """The arguments of `grpo_arguments`, as checked by TRL and transformers.

    Raises:
        UsageError: they refuse a value of `training.extra`.
    """
    from trl import GRPOConfig

    try:
        return GRPOConfig(**grpo_arguments(config, recipe, device, output_dir))
    except (ValueError, TypeError, ImportError) as error:
        if not config.training.extra:
            raise
        names = ", ".join(config.training.extra)
        raise UsageError(
            f"TRL refuses these arguments: {short_text(error)}",
            f"change or remove one of {names}",
            where="training.extra",
        ) from error


@dataclass(frozen=True, slots=True)
class CustomOptimizer:
    """An optimizer that transformers cannot create from a name."""

    optimizer_class: Any
    arguments: dict[str, Any]


def custom_optimizer(training: TrainingConfig, recipe: PrecisionRecipe) -> CustomOptimizer | None:
    """The optimizer of a profile, if transformers cannot create it from a name; otherwise None.

    AdamW with Kahan summation stores what bfloat16 rounding removes from each update and adds it to the next
    update (https://optimi.benjaminwarner.dev/kahan_summation).
    """
    if recipe.optim != "adamw_kahan":
        return None
    import optimi

    return CustomOptimizer(
        optimi.AdamW,
        {
            "lr": training.learning_rate,
            "betas": (training.adam_beta1, recipe.beta2),
            "eps": training.adam_epsilon,
            "kahan_sum": True,
            "triton": False,  # Triton kernels would be compiled in the first step
        },
    )
