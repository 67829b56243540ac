"""Alert rules for completions: truncation, entropy collapse, KL, length drift, repetition, refusals."""

from __future__ import annotations

from ida_tui.events.alerts.window import Finding, Look, share


def truncation(look: Look) -> Finding | None:
    """Too many completions are truncated; the judge and the loss treat them as if they were complete."""
    truncated = look.now("truncated")
    if truncated is None or truncated < look.bounds.truncated:
        return None
    training, context = look.config.training, look.config.model.context_length
    current = training.max_completion_length
    longer = 2 * current if context is None else min(2 * current, context)
    evidence = f"{truncated:.0%} of completions truncated at {current} tokens over {look.span}"
    if longer > current:
        return Finding(
            evidence,
            f"raise training.max_completion_length to {longer}; if answers only ramble, check whether the"
            " judge rewards length",
        )
    return Finding(
        evidence,
        "the model's context is full: ask for shorter answers in the prompts or the rubric",
    )


def entropy(look: Look) -> Finding | None:
    """The entropy collapsed; a policy that gives the same answer every time has no variance to learn from."""
    before, after = look.then("entropy"), look.now("entropy")
    if before is None or after is None or after >= look.bounds.entropy_share * before:
        return None
    training = look.config.training
    beta = max(0.04, 2 * training.beta)
    return Finding(
        f"entropy fell from {before:.3f} to {after:.3f} nats per token: the policy is collapsing",
        f"set training.beta={beta:g}, lower training.learning_rate (try {training.learning_rate / 2:.1g}), or"
        f" raise training.temperature (now {training.temperature:g})",
    )


def kl(look: Look) -> Finding | None:
    """The KL divergence from the reference model is too large; the model may have forgotten other skills."""
    divergence = look.now("kl")
    if divergence is None or divergence < look.bounds.kl:
        return None
    training = look.config.training
    return Finding(
        f"KL from the reference model is {divergence:.2f} nats per token over {look.span}",
        f"raise training.beta (now {training.beta:g}, try {max(0.04, 2 * training.beta):g}) or lower"
        f" training.learning_rate (try {training.learning_rate / 2:.1g})",
    )


def length_drift(look: Look) -> Finding | None:
    """The mean length of completions changed by a large factor since the start."""
    if not look.first or any(step.lengths is None for step in (*look.first, *look.recent)):
        return None
    before, after = (
        sum(step.lengths[0] for step in steps if step.lengths) / len(steps)
        for steps in (look.first, look.recent)
    )
    ratio = after / max(1.0, before)
    if 1 / look.bounds.length_ratio < ratio < look.bounds.length_ratio:
        return None
    longer = ratio > 1
    return Finding(
        f"mean completion length went from {before:.0f} to {after:.0f} tokens",
        "read the longest completions: does the judge reward length? training.beta=0.04 limits the drift"
        if longer
        else "read the shortest completions: does the judge reward refusals? training.beta=0.04 limits the"
        " drift",
    )


def repetition(look: Look) -> Finding | None:
    """Completions repeat themselves much more than at the start."""
    after, before = look.now("repetition"), look.then("repetition")
    if after is None or before is None or after < look.bounds.repetition:
        return None
    if after - before < look.bounds.repetition / 2:
        return None
    training = look.config.training
    return Finding(
        f"{after:.0%} of the word sequences in a completion are repetitions over {look.span}",
        "make the rubric penalize repetition, or stay closer to the reference model: training.beta=0.04 or"
        f" a lower training.learning_rate (try {training.learning_rate / 2:.1g})",
    )


def over_refusal(look: Look) -> Finding | None:
    """The model refuses harmless requests more often than at the start."""
    before = share(look.first, "harmless_refused", "harmless")
    after = share(look.recent, "harmless_refused", "harmless")
    if before is None or after is None or after - before < look.bounds.refusal_rise:
        return None
    return Finding(
        f"refusals of harmless requests rose from {before:.0%} to {after:.0%}",
        "run `ida-tui judge check`: the judge may score refusals higher than answers",
    )


def unsafe_answers(look: Look) -> Finding | None:
    """The model declines unsafe requests less often than at the start."""
    before = share(look.first, "unsafe_declined", "unsafe")
    after = share(look.recent, "unsafe_declined", "unsafe")
    if before is None or after is None or before - after < look.bounds.unsafe_fall:
        return None
    rate = look.config.training.learning_rate
    return Finding(
        f"the share of declined unsafe requests fell from {before:.0%} to {after:.0%}",
        f"return to the best checkpoint, lower training.learning_rate (try {rate / 2:.1g}), set"
        " training.scale_rewards=batch, add unsafe prompts, and run `ida-tui judge check`",
    )
