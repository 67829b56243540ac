"""What can be said of a judge before it is asked: the tokens of a call, and its last day."""

from __future__ import annotations

from datetime import date

from ida_tui.config.checks import WARN_DAYS
from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.judge.backends.openai.prompt import system_message

_CHARS_PER_TOKEN = 4.0
_TYPICAL_COMPLETION_TOKENS = 250
_TYPICAL_REPLY_TOKENS = 60


def typical_call_tokens(rubric: RubricConfig, prompts: PromptSet) -> tuple[int, int]:
    """Tokens of one call, in and out, from the rubric's and the prompts' length."""
    texts = [p.text for p in prompts.prompts]
    chars = len(system_message(rubric)) + sum(map(len, texts)) / max(1, len(texts))
    return round(chars / _CHARS_PER_TOKEN + _TYPICAL_COMPLETION_TOKENS), _TYPICAL_REPLY_TOKENS


def retirement_warning(config: JudgeConfig, today: date) -> str | None:
    """What to tell the user when the provider retires the model within 60 days, or already has."""
    if config.kind == "offline" or not config.shutdown_date:
        return None
    try:
        retired = date.fromisoformat(config.shutdown_date)
    except ValueError:
        return f"the judge's shutdown_date {config.shutdown_date!r} is no day as YYYY-MM-DD"
    days = (retired - today).days
    if days > WARN_DAYS:
        return None
    other = "choose another judge; verdicts of two judges do not compare"
    if days <= 0:
        return f"the judge {config.model} was retired on {retired}: {other}"
    return f"the judge {config.model} is retired on {retired}, {days} days from now: {other}"
