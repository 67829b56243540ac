"""Checks of the judge, the rubric and the budget of a resolved experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from ida_tui.config.prompts import RUBRIC_COLUMN, Prompt
from ida_tui.config.schema import Config, JudgeConfig, JudgeSettings
from ida_tui.config.scoring_checks.request import check_request
from ida_tui.config.scoring_checks.rubric import check_rubric
from ida_tui.config.trust.endpoint import base_url_problem
from ida_tui.errors import UsageError
from ida_tui.util import plugins
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.format import format_count
from ida_tui.util.paths import display_path, expand_home, is_file
from ida_tui.util.secrets import is_variable_name
from ida_tui.util.text import quoted

PANEL_KEYS = (
    "name",
    "kind",
    "mode",
    "panel",
    "panel_score",
    "max_unscored",
    "anchor_every",
    "gold",
)
"""Settings of a judge that also apply to a panel; its judges have all others themselves."""
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
    yield from _check_rubric_column(config)
    yield from _check_budget(config)


def _check_judge(judge: JudgeConfig, today: date) -> Iterator[Finding]:
    if judge.mode == "group" and judge.kind in ("offline", "plugin"):
        yield error_finding(
            "judge.mode",
            f"a judge of kind {judge.kind} scores one completion at a time",
            "set judge.mode to absolute, or choose a judge on a server",
        )
    if judge.gold is not None and not is_file(expand_home(judge.gold)):
        yield note_finding(
            "judge.gold",
            f"there is no file {display_path(Path(judge.gold))}, so the judge cannot be checked against it",
            "check the path; it is relative to the profile's folder, or the working directory",
        )
    if judge.kind == "panel":
        yield from _check_panel(judge, today)
        return
    if judge.panel and judge.kind != "none":
        yield error_finding(
            "judge.panel",
            f"judge.panel is set, but judge.kind is {judge.kind}",
            "set judge.kind to panel, or remove judge.panel",
            "judge.kind",
        )
    yield from _check_one("judge", judge, today)


def _check_panel(judge: JudgeConfig, today: date) -> Iterator[Finding]:
    yield from check_request("judge", judge)
    if len(judge.panel) < 2:
        count = "one judge" if judge.panel else "no judges"
        yield error_finding(
            "judge.panel",
            f"the panel has {count}",
            "list two to eight judge profiles, such as judge.panel=[gpt-4o-mini,ollama]",
        )
    for number, member in enumerate(judge.panel):
        key = f"judge.panel.{number}"
        if member.kind in ("panel", "none"):
            yield error_finding(
                f"{key}.kind",
                f"a judge of kind {member.kind} cannot be in a panel",
                "list judges of the kinds openai, plugin or offline",
            )
            continue
        if judge.mode == "group" and member.kind != "openai":
            yield error_finding(
                "judge.mode",
                f"{key} is of kind {member.kind}, which scores one completion at a time",
                "set judge.mode to absolute, or take it out of the panel",
                f"{key}.kind",
            )
        yield from _check_one(key, member, today)
    for name, field in JudgeConfig.model_fields.items():
        if name not in PANEL_KEYS and name != "description":
            value, default = getattr(judge, name), field.get_default(call_default_factory=True)
            if value != default:
                yield note_finding(
                    f"judge.{name}",
                    f"judge.{name} has no effect: each judge of the panel has its own",
                    f"set judge.panel.0.{name}, or remove it",
                )


def _check_one(key: str, judge: JudgeSettings, today: date) -> Iterator[Finding]:
    """Findings about one judge; `key` is its dotted key, such as `judge` or `judge.panel.0`."""
    if judge.options and judge.kind != "plugin":
        yield error_finding(
            f"{key}.options", "only a plugin judge accepts options", "remove judge.options"
        )
    yield from check_request(key, judge)
    # Both are written to disk with every kind of judge, so that even an unused one must hold no secret.
    if judge.base_url is not None and (
        problem := base_url_problem(judge.base_url, f"{key}.base_url")
    ):
        yield error_finding(f"{key}.base_url", *problem)
    if judge.api_key_env is not None and not is_variable_name(judge.api_key_env):
        yield error_finding(
            f"{key}.api_key_env",
            "api_key_env must be the name of an environment variable, not a key",
            "export the key as OPENAI_API_KEY and write api_key_env: OPENAI_API_KEY",
        )
    if judge.kind in ("offline", "none"):
        return
    if judge.kind == "plugin":
        yield from _check_plugin(f"{key}.model", plugins.JUDGE_GROUP, judge.model)
        return
    if not judge.model.strip():
        yield error_finding(
            f"{key}.model",
            "the judge has no model",
            "set judge.model to the name the server uses, or use judge: offline",
        )
    if judge.samples > 1 and judge.temperature == 0:
        yield note_finding(
            f"{key}.samples",
            f"{judge.samples} judgments at temperature 0 are nearly identical",
            "set judge.temperature=0.7 or judge.samples=1",
        )
    if judge.shutdown_date is None:
        return
    try:
        days = (date.fromisoformat(judge.shutdown_date) - today).days
    except ValueError:
        yield error_finding(
            f"{key}.shutdown_date",
            f'"{judge.shutdown_date}" is not a valid date',
            "write it as YYYY-MM-DD, or null",
        )
        return
    if days < RETIREMENT_NOTICE_DAYS:
        name = judge.model
        text = f"{name} retires on {judge.shutdown_date} ({format_count(days, 'day')})"
        if days == 0:
            text = f"{name} retires today ({judge.shutdown_date})"
        elif days < 0:
            text = f"{name} was scheduled to retire on {judge.shutdown_date}"
        yield note_finding(
            f"{key}.model",
            text,
            "choose another judge; list them with: ida-tui --list judges",
        )


def _check_plugin(key: str, group: str, name: str) -> Iterator[Finding]:
    try:
        plugins.find_plugin(group, name)
    except UsageError as error:
        yield error_finding(key, error.title, error.hint)


def _check_rubric_column(config: Config) -> Iterator[Finding]:
    """Whether the additional checks of the prompts' rows are texts, and whether a judge reads them."""
    prompts = config.prompts
    rows: Sequence[Prompt] = prompts.prompts
    if prompts.source is not None:
        rows = prompts.rows() if RUBRIC_COLUMN in prompts.column_names() else ()
    if config.judge.kind == "none":
        return
    has_checks = False
    for number, prompt in enumerate(rows):
        value = prompt.columns.get(RUBRIC_COLUMN)
        has_checks = has_checks or bool(prompt.checks)
        items = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(item, str) for item in items):
            yield error_finding(
                "prompts.source" if prompts.source else f"prompts.prompts.{number}.columns",
                f"the column {RUBRIC_COLUMN} of the prompt {quoted(prompt.id)} is neither a text nor a list"
                " of texts",
                "write one check, or a list of checks, for the judge",
            )
            return
    if has_checks and any(member.kind == "offline" for member in config.judge.members):
        yield note_finding(
            "judge",
            f"the offline heuristic does not read the checks in the column {RUBRIC_COLUMN}",
            "choose another judge; list them with: ida-tui --list judges",
        )


def _check_budget(config: Config) -> Iterator[Finding]:
    for number, judge in enumerate(config.judge.members):
        if config.budget is None or judge.kind in ("offline", "none") or judge.price is not None:
            continue
        key = f"judge.panel.{number}.price" if config.judge.kind == "panel" else "judge.price"
        yield error_finding(
            "budget",
            "a budget needs a price, but the judge profile has none",
            f"set {key}={{input: DOLLARS, output: DOLLARS}} per million tokens, or remove budget",
            key,
        )
