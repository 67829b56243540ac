"""Alert rules for completions: truncation, entropy collapse, KL, length drift, repetition, refusals."""

from __future__ import annotations

from ida_tui.events.alerts.window import AlertFinding, Window, share, share_change


def truncation(window: Window) -> AlertFinding | None:
    """Too many completions are truncated; the judge and the loss treat them as if they were complete."""
    truncated = window.recent_mean("truncated")
    if truncated is None or truncated < window.thresholds.truncated:
        return None
    training, context = window.config.training, window.config.model.context_length
    current = training.max_completion_length
    longer = 2 * current if context is None else min(2 * current, context)
    evidence = (
        f"{truncated:.0%} of completions truncated at {current} tokens over {window.rollout_span}"
    )
    if longer > current:
        return AlertFinding(
            evidence,
            f"raise training.max_completion_length to {longer}; if answers only ramble, check whether the"
            " judge rewards length",
        )
    return AlertFinding(
        evidence,
        "the model's context is full: ask for shorter answers in the prompts or the rubric",
    )


def entropy(window: Window) -> AlertFinding | None:
    """The entropy collapsed; a policy that gives the same answer every time has no variance to learn from."""
    before, after = window.baseline_mean("entropy"), window.recent_mean("entropy")
    if before is None or after is None or after >= window.thresholds.entropy_share * before:
        return None
    training = window.config.training
    beta = max(0.04, 2 * training.beta)
    return AlertFinding(
        f"entropy fell from {before:.3f} to {after:.3f} nats per token: the policy is collapsing",
        f"set training.beta={beta:g}, lower training.learning_rate (try {training.learning_rate / 2:.1g}), or"
        f" raise training.temperature (now {training.temperature:g})",
    )


def kl(window: Window) -> AlertFinding | None:
    """The KL divergence from the reference model is too large; the model may have forgotten other skills."""
    divergence = window.recent_mean("kl")
    if divergence is None or divergence < window.thresholds.kl:
        return None
    training = window.config.training
    return AlertFinding(
        f"KL from the reference model is {divergence:.2f} nats per token over {window.span}",
        f"raise training.beta (now {training.beta:g}, try {max(0.04, 2 * training.beta):g}) or lower"
        f" training.learning_rate (try {training.learning_rate / 2:.1g})",
    )


def length_drift(window: Window) -> AlertFinding | None:
    """The mean length of completions changed by a large factor since the start."""
    if not window.baseline_rollouts or any(
        step.lengths is None for step in (*window.baseline_rollouts, *window.recent_rollouts)
    ):
        return None
    before, after = (
        sum(step.lengths[0] for step in steps if step.lengths) / len(steps)
        for steps in (window.baseline_rollouts, window.recent_rollouts)
    )
    ratio = after / max(1.0, before)
    if 1 / window.thresholds.length_ratio < ratio < window.thresholds.length_ratio:
        return None
    longer = ratio > 1
    return AlertFinding(
        f"mean completion length went from {before:.0f} to {after:.0f} tokens",
        "read the longest completions: does the judge reward length? training.beta=0.04 limits the drift"
        if longer
        else "read the shortest completions: does the judge reward refusals? training.beta=0.04 limits the"
        " drift",
    )


def repetition(window: Window) -> AlertFinding | None:
    """Completions repeat themselves much more than at the start."""
    after, before = window.recent_mean("repetition"), window.baseline_mean("repetition")
    if after is None or before is None or after < window.thresholds.repetition:
        return None
    if after - before < window.thresholds.repetition / 2:
        return None
    training = window.config.training
    return AlertFinding(
        f"{after:.0%} of the word sequences in a completion are repetitions over {window.rollout_span}",
        "make the rubric penalize repetition, or stay closer to the reference model: training.beta=0.04 or"
        f" a lower training.learning_rate (try {training.learning_rate / 2:.1g})",
    )


def over_refusal(window: Window) -> AlertFinding | None:
    """The model refuses harmless requests more often than at the start."""
    shares = share_change(window, "harmless_refused", "harmless")
    if shares is None or shares[1] - shares[0] < window.thresholds.refusal_rise:
        return None
    before, after = shares
    return AlertFinding(
        f"refusals of harmless requests rose from {before:.0%} to {after:.0%}",
        "run `ida-tui judge check`: the judge may score refusals higher than answers",
    )


def unsafe_answers(window: Window) -> AlertFinding | None:
    """The model declines unsafe requests less often than at the start."""
    shares = share_change(window, "unsafe_declined", "unsafe")
    if shares is None or shares[0] - shares[1] < window.thresholds.unsafe_fall:
        return None
    before, after = shares
    rate = window.config.training.learning_rate
    return AlertFinding(
        f"the share of declined unsafe requests fell from {before:.0%} to {after:.0%}",
        f"return to a checkpoint of step {_last_safe_step(window, before)} or before, lower"
        f" training.learning_rate (try {rate / 2:.1g}), set"
        " training.scale_rewards=batch, add unsafe prompts, and run `ida-tui judge check`",
    )


def _last_safe_step(window: Window, before: float) -> int:
    """The end of the newest window of steps in which at most half of the allowed fall had happened."""
    length, steps = len(window.recent_steps), window.state.steps
    limit = before - window.thresholds.unsafe_fall / 2
    for end in range(len(steps) - length, length - 1, -length):
        declined = share(steps[end - length : end], "unsafe_declined", "unsafe")
        if declined is not None and declined >= limit:
            return steps[end - 1].step
    return window.baseline_steps[-1].step
