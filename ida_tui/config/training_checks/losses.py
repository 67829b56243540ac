"""Checks of the loss and of its options, as `trl.GRPOTrainer` requires them."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.schema import Config
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.util.finding import Finding, error_finding, note_finding

CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Losses that clip the probability ratio to 1 - epsilon … 1 + epsilon_high."""
SUMMED_LOSSES = ("bnpo", "dr_grpo", "dapo", "cispo")
"""Losses that sum over tokens, which weights completions by their length."""


def check_loss(config: Config) -> Iterator[Finding]:
    """Errors and notes about `loss_type` and the options of the losses."""
    training = config.training
    yield from _check_batch_dependence(training)
    yield from _check_level(training)
    if training.loss_type == "cispo" and training.epsilon_high is None:
        yield note_finding(
            "training.epsilon_high",
            f"cispo limits the probability ratio itself to epsilon_high, which is epsilon"
            f" ({training.epsilon:g}) if it is not set: every token counts that much at most",
            "set epsilon_high to 5, as its authors do",
        )
    upper = 1 + (training.epsilon_high or training.epsilon)
    if training.delta is not None and training.delta <= upper:
        yield note_finding(
            "training.delta",
            f"delta ({training.delta:g}) is not above 1 + epsilon_high ({upper:g}), so it also limits"
            " ratios within the clipping range",
            "set delta to 4, or remove it",
        )
    if training.entropy_coef_min > training.entropy_coef_max:
        yield error_finding(
            "training.entropy_coef_min",
            f"entropy_coef_min ({training.entropy_coef_min:g}) is above entropy_coef_max"
            f" ({training.entropy_coef_max:g})",
            "lower entropy_coef_min, or raise entropy_coef_max",
            "training.entropy_coef_max",
        )
    mode = str(training.extra.get("vllm_importance_sampling_mode", "sequence_mask"))
    per_token = mode.startswith("token")
    if training.loss_type == "vespo" and training.corrects_sampling and not per_token:
        drawing = "vLLM's" if training.use_vllm else "that of sampling_weights"
        yield error_finding(
            "training.loss_type",
            f"vespo needs the ratio of every token to {drawing}, but vllm_importance_sampling_mode is"
            f" {mode}",
            "set training.extra to {vllm_importance_sampling_mode: token_truncate}",
            "training.extra",
        )


def _check_batch_dependence(training: TrainingConfig) -> Iterator[Finding]:
    if training.loss_type != "bnpo":
        return
    reason = "loss_type bnpo averages over the tokens of each pass"
    if training.token_budget == "auto":
        yield error_finding(
            "training.token_budget",
            f"{reason}, so with token_budget: auto the memory of the machine would decide what is trained",
            "set token_budget to null and choose per_device_train_batch_size, or set loss_type to dapo",
            "training.loss_type",
        )
    elif training.token_budget is not None or training.gradient_accumulation_steps > 1:
        yield note_finding(
            "training.loss_type",
            f"{reason}: another per_device_train_batch_size or number of processes trains something else",
            "set loss_type to dapo, which averages over the tokens of the whole step",
        )


def _check_level(training: TrainingConfig) -> Iterator[Finding]:
    key, level, loss = (
        "training.importance_sampling_level",
        training.importance_sampling_level,
        training.loss_type,
    )
    if loss == "luspo" and level == "token":
        yield note_finding(
            key,
            "luspo is made for the ratios of whole completions, but these are of tokens",
            "set importance_sampling_level to sequence",
        )
    elif loss == "vespo" and level == "sequence":
        yield note_finding(
            key,
            "vespo computes the ratios of whole completions itself; this changes only the KL term",
            "set importance_sampling_level to token",
        )
    elif level == "sequence" and loss in SUMMED_LOSSES:
        yield note_finding(
            key,
            f"{loss} sums over tokens, so each completion's ratio counts by its length",
            "set loss_type to grpo, as GSPO does",
        )
