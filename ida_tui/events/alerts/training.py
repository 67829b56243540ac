"""Alert rules for training: zero variance, unchanged weights, skipped updates, gradients, memory."""

from __future__ import annotations

from statistics import fmean, median

from ida_tui.events.alerts.window import AlertFinding, Window
from ida_tui.events.figures import MAX_STEP_PEAKS
from ida_tui.util.statistics import slope

MIN_WEIGHT_CHANGE = 1e-12
"""Relative change of the weights over the window that counts as no change."""
MEMORY_WARMUP_STEPS = 10
"""Steps at the start that the memory trend ignores, because caches still grow with every new tensor shape."""
MIN_TREND_STEPS = 20
"""Minimum number of steps for a memory trend."""


def zero_variance(window: Window) -> AlertFinding | None:
    """Too many zero-variance groups: equal rewards give zero advantages, so they teach nothing."""
    zero_variance_share = window.recent_mean("zero_std")
    if zero_variance_share is None or zero_variance_share < window.thresholds.zero_variance:
        return None
    reward = window.recent_mean("reward") or 0.0
    training = window.config.training
    evidence = (
        f"in {zero_variance_share:.0%} of the groups of {window.rollout_span}, all {training.num_generations}"
        f" completions earned the same reward (mean {window.state.reward_name} {reward:.2f})"
    )
    if reward > 0.7:
        return AlertFinding(
            evidence, "the model has learned these prompts: add harder prompts, or stop the run"
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
    known = [step.model_change for step in steps if step.model_change is not None]
    deltas = known if len(known) == len(steps) else [step.weight_delta for step in steps]
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
    rollouts = (*steps, *window.recent_rollouts)
    norms = [step.grad_norm for step in steps if step.grad_norm is not None and not step.skipped]
    has_variance = any(step.zero_std is not None and step.zero_std < 1 for step in rollouts)
    if not steps or len(norms) < len(steps) or not has_variance:
        return None
    if max(norms) > window.thresholds.grad_norm:
        return None
    return AlertFinding(
        f"the gradient norm was at most {max(norms):.0e} over {window.span}, although rewards differ",
        "check training.mask_truncated_completions and training.epsilon, and check that the model uses the"
        " trained layers (lora.target_modules)",
    )


def memory_trend(window: Window) -> AlertFinding | None:
    """The memory peak per step grows fast enough to reach the limit before the run ends."""
    state, run = window.state, window.state.run
    peaks = state.step_peaks[-MAX_STEP_PEAKS:]
    if (
        run is None
        or len(state.steps) < MEMORY_WARMUP_STEPS + MIN_TREND_STEPS
        or len(peaks) < MIN_TREND_STEPS
    ):
        return None
    peaks = peaks[-min(len(peaks), len(state.steps) - MEMORY_WARMUP_STEPS) :]
    thirds = [median(part) for part in _split_in_thirds(peaks)]
    growth, limit = slope([float(peak) for peak in peaks]), run.limit_gb * 1e9
    steps_left = state.steps[-1].steps - state.steps[-1].step
    available = limit - fmean(peaks[-3:])
    if not thirds[0] < thirds[1] < thirds[2] or growth <= 0 or growth * steps_left < available:
        return None
    if thirds[2] - thirds[0] < 0.01 * limit:
        return None
    return AlertFinding(
        f"memory grows by {growth / 1e6:.0f} MB per step (now {peaks[-1] / 1e9:.1f} GB) and will reach the"
        f" limit of {run.limit_gb:.0f} GB in about {max(0.0, available) / growth:.0f} steps, with"
        f" {steps_left} to go",
        "set training.save_steps to lose less if the run is killed; lower training.max_completion_length or"
        " set training.token_budget to limit the growth",
    )


def _split_in_thirds(values: tuple[int, ...]) -> list[tuple[int, ...]]:
    size = len(values) // 3
    return [values[:size], values[size : 2 * size], values[2 * size :]]
