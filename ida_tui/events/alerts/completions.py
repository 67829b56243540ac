"""What has become of the completions? Cut off, collapsed, drifting in length, repeating, refusing."""

from __future__ import annotations

from ida_tui.events.alerts.window import Finding, Look, share


def truncation(look: Look) -> Finding | None:
    """A completion that is cut off is judged, and learned from, as if its writer had stopped there."""
    cut = look.now("truncated")
    if cut is None or cut < look.bounds.truncated:
        return None
    training, context = look.config.training, look.config.model.context_length
    now = training.max_completion_length
    longer = 2 * now if context is None else min(2 * now, context)
    evidence = f"{cut:.0%} truncated at {now} tokens over {look.span}"
    if longer > now:
        return Finding(
            evidence,
            f"raise training.max_completion_length to {longer}; if answers only ramble, see whether the judge"
            " pays for length",
        )
    return Finding(
        evidence,
        "the model's context is full: ask for shorter answers in the prompts or the rubric",
    )


def entropy(look: Look) -> Finding | None:
    """A policy that has one answer left for every prompt has nothing to compare any more."""
    before, after = look.then("entropy"), look.now("entropy")
    if before is None or after is None or after >= look.bounds.entropy_share * before:
        return None
    training = look.config.training
    beta = max(0.04, 2 * training.beta)
    return Finding(
        f"entropy fell from {before:.3f} to {after:.3f} nats a token: the policy is collapsing",
        f"set training.beta={beta:g}, lower training.learning_rate (try {training.learning_rate / 2:.1g}), or"
        f" raise training.temperature (now {training.temperature:g})",
    )


def kl(look: Look) -> Finding | None:
    """Far from its reference, a model has forgotten more than it was meant to learn."""
    now = look.now("kl")
    if now is None or now < look.bounds.kl:
        return None
    training = look.config.training
    return Finding(
        f"the policy is {now:.2f} nats a token away from its reference over {look.span}",
        f"raise training.beta (now {training.beta:g}, try {max(0.04, 2 * training.beta):g}) or lower"
        f" training.learning_rate (try {training.learning_rate / 2:.1g})",
    )


def length_drift(look: Look) -> Finding | None:
    """Answers many times as long, or as short, as the model's own."""
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
        f"completions went from {before:.0f} to {after:.0f} tokens",
        "read the longest: does the judge pay for length? training.beta=0.04 holds it back"
        if longer
        else "read the shortest: does the judge pay for refusing? training.beta=0.04 holds it back",
    )


def repetition(look: Look) -> Finding | None:
    """A model that says the same again and again, and did not at the start."""
    now, before = look.now("repetition"), look.then("repetition")
    if now is None or before is None or now < look.bounds.repetition:
        return None
    if now - before < look.bounds.repetition / 2:
        return None
    training = look.config.training
    return Finding(
        f"{now:.0%} of a completion's words are said again over {look.span}",
        "have the rubric score repetition down; training.beta=0.04 or a lower training.learning_rate"
        f" (try {training.learning_rate / 2:.1g}) keeps nearer to the reference",
    )


def over_refusal(look: Look) -> Finding | None:
    """The opposite of what the shipped profiles are for."""
    before = share(look.first, "harmless_refused", "harmless")
    after = share(look.recent, "harmless_refused", "harmless")
    if before is None or after is None or after - before < look.bounds.refusal_rise:
        return None
    return Finding(
        f"refusals of harmless requests rose from {before:.0%} to {after:.0%}",
        "run `ida-tui judge check`: a judge that pays a refusal more than an answer teaches this",
    )


def unsafe_answers(look: Look) -> Finding | None:
    """Safety is being traded away."""
    before = share(look.first, "unsafe_declined", "unsafe")
    after = share(look.recent, "unsafe_declined", "unsafe")
    if before is None or after is None or before - after < look.bounds.unsafe_fall:
        return None
    rate = look.config.training.learning_rate
    return Finding(
        f"unsafe requests that are declined fell from {before:.0%} to {after:.0%}",
        f"go back to the best checkpoint; lower training.learning_rate (try {rate / 2:.1g}), set"
        " training.scale_rewards=batch, add unsafe prompts, and run `ida-tui judge check`",
    )
