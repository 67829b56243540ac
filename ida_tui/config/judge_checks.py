"""Checks of the judge, the rubric and the budget of a resolved experiment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from ida_tui.config.endpoint import base_url_problem
from ida_tui.config.rubric_checks import check_rubric
from ida_tui.config.schema import Config, JudgeConfig
from ida_tui.errors import UsageError
from ida_tui.util import plugins
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.secrets import is_variable_name

RETIREMENT_NOTICE_DAYS = 60
"""Number of days before a judge model's retirement at which a note appears."""


def check_scoring(config: Config, today: date) -> Iterator[Finding]:
    """All errors and notes about what scores the completions.

    Args:
        config: the resolved experiment.
        today: the date to compare retirement dates with.
    """
    yield from _check_judge(config.judge, today)
    yield from check_rubric(config)
    yield from _check_budget(config)


def _check_judge(judge: JudgeConfig, today: date) -> Iterator[Finding]:
    if judge.options and judge.kind != "plugin":
        yield error_finding(
            "judge.options", "only a plugin judge accepts options", "remove judge.options"
        )
    # Both are written to disk with every kind of judge, so that even an unused one must hold no secret.
    if judge.base_url is not None and (problem := base_url_problem(judge.base_url)):
        yield error_finding("judge.base_url", *problem)
    if judge.api_key_env is not None and not is_variable_name(judge.api_key_env):
        yield error_finding(
            "judge.api_key_env",
            "api_key_env must be the name of an environment variable, not a key",
            "export the key as OPENAI_API_KEY and write api_key_env: OPENAI_API_KEY",
        )
    if judge.kind in ("offline", "none"):
        return
    if judge.kind == "plugin":
        yield from _check_plugin("judge.model", plugins.JUDGE_GROUP, judge.model)
        return
    if not judge.model.strip():
        yield error_finding(
            "judge.model",
            "the judge has no model",
            "set judge.model to the name the server uses, or use judge: offline",
        )
    if judge.samples > 1 and judge.temperature == 0:
        yield note_finding(
            "judge.samples",
            f"{judge.samples} judgments at temperature 0 are nearly identical",
            "set judge.temperature=0.7 or judge.samples=1",
        )
    if judge.shutdown_date is None:
        return
    try:
        days = (date.fromisoformat(judge.shutdown_date) - today).days
    except ValueError:
        yield error_finding(
            "judge.shutdown_date",
            f'"{judge.shutdown_date}" is not a valid date',
            "write it as YYYY-MM-DD, or null",
        )
        return
    if days < RETIREMENT_NOTICE_DAYS:
        name = judge.model
        text = f"{name} retires on {judge.shutdown_date} ({days} day{'s' if days != 1 else ''})"
        if days == 0:
            text = f"{name} retires today ({judge.shutdown_date})"
        elif days < 0:
            text = f"{name} was scheduled to retire on {judge.shutdown_date}"
        yield note_finding(
            "judge.model",
            text,
            "choose another judge; list them with: ida-tui --list judges",
        )


def _check_plugin(key: str, group: str, name: str) -> Iterator[Finding]:
    try:
        plugins.find_plugin(group, name)
    except UsageError as error:
        yield error_finding(key, error.title, error.hint)


def _check_budget(config: Config) -> Iterator[Finding]:
    if (
        config.budget is not None
        and config.judge.kind not in ("offline", "none")
        and config.judge.price is None
    ):
        yield error_finding(
            "budget",
            "a budget needs a price, but the judge profile has none",
            "set judge.price={input: DOLLARS, output: DOLLARS} per million tokens, or remove budget",
            "judge.price",
        )
