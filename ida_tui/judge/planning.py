"""What can be said of a judge before it is asked: the cost of a call, and its last day."""

from __future__ import annotations

from datetime import date

from ida_tui.config import JudgeConfig, PromptSet, RubricConfig
from ida_tui.judge.prompting import system_message

RETIREMENT_NOTICE_DAYS = 60

_CHARS_PER_TOKEN = 4.0
_TYPICAL_COMPLETION_TOKENS = 250
_TYPICAL_REPLY_TOKENS = 60


def typical_call_cost(
    config: JudgeConfig, rubric: RubricConfig, prompts: PromptSet
) -> float | None:
    """US dollars of one call, from the rubric's and the prompts' length; null without a price."""
    if config.kind == "offline":
        return 0.0
    if config.price is None:
        return None
    texts = [p.text for p in prompts.prompts]
    chars = len(system_message(rubric)) + sum(map(len, texts)) / max(1, len(texts))
    tokens = chars / _CHARS_PER_TOKEN + _TYPICAL_COMPLETION_TOKENS
    return (tokens * config.price.input + _TYPICAL_REPLY_TOKENS * config.price.output) / 1e6


def retirement_warning(config: JudgeConfig, today: date) -> str | None:
    """What to tell the user when the provider retires the model within 60 days, or already has."""
    if config.kind == "offline" or not config.shutdown_date:
        return None
    try:
        retired = date.fromisoformat(config.shutdown_date)
    except ValueError:
        return f"the judge's shutdown_date {config.shutdown_date!r} is no day as YYYY-MM-DD"
    days = (retired - today).days
    if days > RETIREMENT_NOTICE_DAYS:
        return None
    other = "choose another judge; verdicts of two judges do not compare"
    if days <= 0:
        return f"the judge {config.model} was retired on {retired}: {other}"
    return f"the judge {config.model} is retired on {retired}, {days} days from now: {other}"
