"""Does anything reach the weights? Zero variance, still weights, a scaler that skips, gradients near zero."""

from __future__ import annotations

from ida_tui.events.alerts.window import Finding, Look

STILL = 1e-12
"""A relative change of the weights, over a whole window, that is none."""


def zero_variance(look: Look) -> Finding | None:
    """Groups whose completions all earn the same have no advantage, and teach nothing."""
    equal = look.now("zero_std")
    if equal is None or equal < look.bounds.zero_variance:
        return None
    reward = look.now("r_ida") or 0.0
    training = look.config.training
    evidence = (
        f"in {equal:.0%} of the groups of {look.span} all {training.num_generations} completions earned the"
        f" same (mean R_IDA {reward:.2f})"
    )
    if reward > 0.7:
        return Finding(evidence, "these prompts are learned: add harder ones, or stop here")
    return Finding(
        evidence,
        f"raise training.temperature (now {training.temperature:g}) or training.num_generations"
        f" (now {training.num_generations}), or add prompts that the model sometimes answers well",
    )


def weights_still(look: Look) -> Finding | None:
    """The weights are where they were a window ago, though the learning rate is not zero."""
    steps = look.recent
    if not steps or any(step.skipped or not step.learning_rate for step in steps):
        return None
    moved = [step.weight_delta for step in steps]
    if max(moved) - min(moved) > STILL:
        return None
    rate = steps[-1].learning_rate
    if look.config.model.torch_dtype in ("float16", "bfloat16"):
        more = (
            ", or train in float32 (model.torch_dtype=float32): small changes are lost in 16 bits"
        )
    else:
        more = ", and see whether the rewards differ within a group"
    return Finding(
        f"the weights have not moved over {look.span}, at a learning rate of {rate:g}",
        f"raise training.learning_rate (try {10 * (rate or 0):g}){more}",
    )


def scaler(look: Look) -> Finding | None:
    """The gradient scaler skips an update whose gradients overflow; now and then that is ordinary."""
    steps = look.recent
    skipped = sum(step.skipped for step in steps)
    if not steps or skipped / len(steps) < look.bounds.skipped:
        return None
    scale = steps[-1].loss_scale
    of = f", scale {scale:g}" if scale is not None else ""
    rate = look.config.training.learning_rate
    return Finding(
        f"the gradient scaler skipped {skipped} of {look.span}: gradients overflow{of}",
        f"lower training.learning_rate (try {rate / 3:.1g}), or set training.bf16=true where the device can",
    )


def gradients(look: Look) -> Finding | None:
    """Rewards differ, and yet next to nothing comes back through the model."""
    steps = look.recent
    norms = [step.grad_norm for step in steps if step.grad_norm is not None and not step.skipped]
    taught = [step for step in steps if step.zero_std is not None and step.zero_std < 1]
    if not steps or len(norms) < len(steps) or not taught:
        return None
    if max(norms) > look.bounds.grad_norm:
        return None
    return Finding(
        f"the gradient's norm was at most {max(norms):.0e} over {look.span}, though rewards differ",
        "look at training.mask_truncated_completions and training.epsilon, and at whether the trained layers"
        " (lora.target_modules) are used at all",
    )
