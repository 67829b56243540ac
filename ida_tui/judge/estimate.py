"""Estimates for a judge before its first call: tokens per call and its retirement date."""

from __future__ import annotations

from datetime import date

from ida_tui.config.conversation import longest_prompt_characters
from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.config.scoring_checks.judge import RETIREMENT_NOTICE_DAYS
from ida_tui.judge.backends.openai.group import group_system_message
from ida_tui.judge.backends.openai.prompt import system_message

_CHARS_PER_TOKEN = 4.0
_TYPICAL_COMPLETION_TOKENS = 250
TYPICAL_REPLY_TOKENS = 60
"""Tokens of a verdict on one completion."""
_GROUP_REPLY_TOKENS = 40
"""The same in a reply on a whole group, whose reasons are shorter."""
_SAMPLED_PROMPTS = 2000


def typical_call_tokens(
    rubric: RubricConfig, prompts: PromptSet, completions: int = 1
) -> tuple[int, int]:
    """Input and output tokens of one typical call, from the lengths of the rubric and the prompts.

    Args:
        rubric: the rubric of the scores.
        prompts: the prompts of the run, with their additional checks.
        completions: completions that one call scores.
    """
    rows = prompts.rows()
    # A sample of a large set.
    rows = rows[:: max(1, len(rows) // _SAMPLED_PROMPTS)]
    lengths = [
        longest_prompt_characters([p], prompts.system) + sum(map(len, p.checks)) for p in rows
    ]
    system = system_message(rubric) if completions == 1 else group_system_message(rubric)
    chars = len(system) + sum(lengths) / max(1, len(lengths))
    input_tokens = chars / _CHARS_PER_TOKEN + completions * _TYPICAL_COMPLETION_TOKENS
    reply = TYPICAL_REPLY_TOKENS if completions == 1 else completions * _GROUP_REPLY_TOKENS
    return round(input_tokens), reply


def retirement_warning(config: JudgeConfig, today: date) -> str | None:
    """A warning if the model retires within `RETIREMENT_NOTICE_DAYS` days or already has; else None."""
    if config.kind == "offline" or not config.shutdown_date:
        return None
    try:
        retired = date.fromisoformat(config.shutdown_date)
    except ValueError:
        return f"the judge's shutdown_date {config.shutdown_date!r} is not a date (YYYY-MM-DD)"
    days = (retired - today).days
    if days > RETIREMENT_NOTICE_DAYS:
        return None
    advice = "choose another judge; scores of two judges are not comparable"
    if days <= 0:
        return f"the judge {config.model} retired on {retired}: {advice}"
    return f"the judge {config.model} retires on {retired} ({days} days): {advice}"
