"""Printed header of `ida-tui judge check`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from ida_tui.config.schema import Config, JudgeConfig
from ida_tui.config.trust.endpoint import endpoint_source
from ida_tui.judge.api_key import host_of
from ida_tui.judge.estimate import retirement_warning
from ida_tui.util.text import join_words


def judge_header(config: Config) -> Iterator[str]:
    """The judge, its rubric, and the date until which it is available."""
    judge, rubric = config.judge, config.rubric
    source = _source(judge)
    if judge.kind == "panel":
        source = f"{judge.panel_score} of {join_words([_source(m) for m in judge.members])}"
    yield (
        f"judge {judge.name or judge.model} ({source}), rubric {rubric.name}"
        f" v{rubric.version} [{rubric.digest()}]"
    )
    for member in judge.members:
        if member.shutdown_date and retirement_warning(member, date.today()) is None:
            name = f"{member.model} is " if judge.kind == "panel" else ""
            yield f"✓ {name}available until {member.shutdown_date}"


def _source(judge: JudgeConfig) -> str:
    """Where one judge runs."""
    if judge.kind == "offline":
        return "built in"
    if judge.kind == "plugin":
        return f"the plugin {judge.model}"
    return f"{judge.model} at {host_of(judge.base_url)}{endpoint_source(judge.base_url)}"
