"""Printed header of `ida-tui judge check`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from ida_tui.config.schema import Config
from ida_tui.judge.api_key import host_of
from ida_tui.judge.estimate import retirement_warning


def judge_header(config: Config) -> Iterator[str]:
    """The judge, its rubric, and the date until which it is available."""
    judge, rubric = config.judge, config.rubric
    if judge.kind == "offline":
        source = "built in"
    elif judge.kind == "plugin":
        source = f"the plugin {judge.model}"
    else:
        source = f"{judge.model} at {host_of(judge.base_url)}"
    yield (
        f"judge {judge.name or judge.model} ({source}), rubric {rubric.name}"
        f" v{rubric.version} [{rubric.digest()}]"
    )
    if judge.shutdown_date and retirement_warning(judge, date.today()) is None:
        yield f"✓ available until {judge.shutdown_date}"
