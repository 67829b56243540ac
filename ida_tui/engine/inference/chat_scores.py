"""Computed scores of the answers of a chat, as far as a typed message has what the functions need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ida_tui.config.conversation import chat_messages
from ida_tui.config.schema import Config
from ida_tui.judge.errors import JudgeInterrupted
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.rewards.formulas import Formula
from ida_tui.rewards.functions import RewardFunctions, RewardRow
from ida_tui.util.plugin_threads import PluginStopped


def load_functions(config: Config, notify: Callable[[str], object]) -> RewardFunctions | None:
    """The functions that a typed message is enough for; None without any.

    Args:
        config: the run's profile.
        notify: receives why an axis is not shown.

    Raises:
        IdaError: a function cannot be imported.
    """
    if not config.rubric.computed_axes:
        return None
    functions = RewardFunctions(config.rubric)
    for axes, reason in functions.leave_out_all_but_texts():
        notify(f"{axes} is not shown: {reason}, which a message in the chat does not have")
    return functions


def with_computed(
    verdicts: Sequence[Verdict],
    requests: Sequence[JudgeRequest],
    functions: RewardFunctions,
    formula: Formula,
    should_stop: Callable[[], bool],
) -> list[Verdict]:
    """The verdicts on answers to one message, with the scores that functions compute.

    Raises:
        JudgeInterrupted: `should_stop` returned true.
    """
    rows = [
        RewardRow(r.prompt_id, r.prompt, chat_messages(r.prompt, r.context), r.completion)
        for r in requests
    ]
    try:
        computed = functions.compute(rows, group_size=len(rows), should_stop=should_stop)
    except PluginStopped:
        raise JudgeInterrupted from None
    return [
        verdict.with_computed(scores, formula)
        for verdict, scores in zip(verdicts, computed, strict=True)
    ]
