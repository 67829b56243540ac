"""Alert rules for the learning signal: zero variance, still weights, skipped updates, tiny gradients."""

from __future__ import annotations

from ida_tui.events.alerts.window import AlertFinding, Window

MIN_WEIGHT_CHANGE = 1e-12
"""Relative change of the weights over the window that counts as no change."""


def zero_variance(window: Window) -> AlertFinding | None:
    """Too many zero-variance groups: equal rewards give zero advantages, so they teach nothing."""
    zero_variance_share = window.recent_mean("zero_std")
    if zero_variance_share is None or zero_variance_share < window.thresholds.zero_variance:
        return None
    reward = window.recent_mean("r_ida") or 0.0
    training = window.config.training
    evidence = (
        f"in {zero_variance_share:.0%} of the groups of {window.span} all {training.num_generations}"
        f" completions earned the same reward (mean R_IDA {reward:.2f})"
    )
    if reward > 0.7:
        return AlertFinding(
            evidence, "these prompts are learned: add harder prompts, or stop the run"
        )
    return AlertFinding(
        evidence,
        f"raise training.temperature (now {training.temperature:g}) or training.num_generations"
        f" (now {training.num_generations}), or add prompts that the model sometimes answers well",
    )


def weights_still(window: Window) -> AlertFinding | None:
    """The weights did not change over the window, although the learning rate is not zero."""
    steps = window.recent_steps
    if not steps or any(step.skipped or not step.learning_rate for step in steps):
        return None
    deltas = [step.weight_delta for step in steps]
    if max(deltas) - min(deltas) > MIN_WEIGHT_CHANGE:
        return None
    rate = steps[-1].learning_rate
    if window.config.model.torch_dtype in ("float16", "bfloat16"):
        alternative = (
            ", or train in float32 (model.torch_dtype=float32): small changes are lost in 16 bits"
        )
    else:
        alternative = ", and check whether the rewards differ within a group"
    return AlertFinding(
        f"the weights have not moved over {window.span}, at a learning rate of {rate:g}",
        f"raise training.learning_rate (try {10 * (rate or 0):g}){alternative}",
    )


def scaler(window: Window) -> AlertFinding | None:
    """The gradient scaler skips too many updates because of overflow; a few skipped updates are normal."""
    steps = window.recent_steps
    skipped = sum(step.skipped for step in steps)
    if not steps or skipped / len(steps) < window.thresholds.skipped:
        return None
    scale = steps[-1].loss_scale
    scale_text = f", loss scale {scale:g}" if scale is not None else ""
    rate = window.config.training.learning_rate
    return AlertFinding(
        f"the gradient scaler skipped {skipped} of {window.span}: gradients overflow{scale_text}",
        f"lower training.learning_rate (try {rate / 3:.1g}), or set training.bf16=true if the device"
        " supports it",
    )


def gradients(window: Window) -> AlertFinding | None:
    """The gradients are almost zero although rewards differ."""
    steps = window.recent_steps
    norms = [step.grad_norm for step in steps if step.grad_norm is not None and not step.skipped]
    has_variance = any(step.zero_std is not None and step.zero_std < 1 for step in steps)
    if not steps or len(norms) < len(steps) or not has_variance:
        return None
    if max(norms) > window.thresholds.grad_norm:
        return None
    return AlertFinding(
        f"the gradient norm was at most {max(norms):.0e} over {window.span}, although rewards differ",
        "check training.mask_truncated_completions and training.epsilon, and check that the model uses the"
        " trained layers (lora.target_modules)",
    )
