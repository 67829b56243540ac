"""Calls and tokens of a judge check in group mode, beside those that absolute mode would take."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ida_tui.config.schema import JudgeConfig
from ida_tui.config.scoring.rubric import RubricConfig
from ida_tui.judge.backends.openai.group import render_group_messages
from ida_tui.judge.backends.openai.prompt import JudgeMessages, render_messages
from ida_tui.judge.calibration.check import JudgeCheckReport
from ida_tui.judge.estimate import TYPICAL_REPLY_TOKENS
from ida_tui.util.format import format_percent

_NONCE = "0" * 16


@dataclass(frozen=True, slots=True)
class ModeTokens:
    """What the same verdicts take in both modes."""

    calls: int
    tokens: int
    """Input and output tokens of the check, as the server counted them."""
    absolute_calls: int
    absolute_tokens: int
    """An estimate, from the lengths of the requests and the server's tokens per character."""

    def text(self) -> str:
        """Both modes in a line."""
        share = format_percent(self.tokens / self.absolute_tokens)
        return (
            f"group mode: {self.calls:,} calls, {self.tokens:,} tokens; absolute mode:"
            f" {self.absolute_calls:,} calls, about {self.absolute_tokens:,} tokens ({share})"
        )


def mode_tokens(
    judge: JudgeConfig, rubric: RubricConfig, report: JudgeCheckReport
) -> ModeTokens | None:
    """Calls and tokens of both modes; None in absolute mode, or if the server counts no tokens."""
    verdicts = [verdict for scored in report.anchors for verdict in scored.verdicts]
    tokens_in = sum(verdict.input_tokens for verdict in verdicts)
    tokens_out = sum(verdict.output_tokens for verdict in verdicts)
    if judge.mode != "group" or not tokens_in:
        return None
    anchors = [scored.anchor for scored in report.anchors if scored.anchor.answer]
    group_chars = absolute_chars = 0
    for prompt, group in itertools.groupby(
        sorted(anchors, key=lambda a: a.prompt), lambda a: a.prompt
    ):
        answers = [anchor.answer for anchor in group]
        for member in judge.members:
            limit, calls = member.max_judged_chars, report.verdicts_per_anchor * member.samples
            messages = render_group_messages(rubric, prompt, answers, nonce=_NONCE, max_chars=limit)
            group_chars += calls * _characters(messages)
            absolute_chars += calls * sum(
                _characters(render_messages(rubric, prompt, answer, nonce=_NONCE, max_chars=limit))
                for answer in answers
            )
    samples = sum(member.samples for member in judge.members)
    absolute_calls = len(anchors) * report.verdicts_per_anchor * samples
    absolute_in = tokens_in * absolute_chars / group_chars
    return ModeTokens(
        calls=report.stats.calls,
        tokens=tokens_in + tokens_out,
        absolute_calls=absolute_calls,
        absolute_tokens=round(absolute_in + absolute_calls * TYPICAL_REPLY_TOKENS),
    )


def _characters(messages: JudgeMessages) -> int:
    return len(messages.system) + len(messages.user)
