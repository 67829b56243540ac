"""Rows of the completions screen: one completion each, with sorting, search, and text. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ida_tui.config.conversation import Context, context_lines
from ida_tui.config.scoring.axes import IDA_AXES, IDA_REWARD, Axis
from ida_tui.events import types as ev
from ida_tui.events.state import Completion, RunState
from ida_tui.util.format import UNKNOWN, format_count, format_general, format_number, format_signed
from ida_tui.util.statistics import mean_of_known
from ida_tui.util.thoughts import CompletionParts, split_thought

SortOrder = Literal["group", "reward", "advantage"]


class CompletionPosition(NamedTuple):
    """Position of a completion in its step."""

    group: int
    completion: int
    """Index in the group."""


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """One completion: being generated, finished, or judged."""

    step: int
    group: int
    index: int
    prompt_id: str
    prompt: str
    kind: str
    """`harmless` or `unsafe`; empty if unknown."""
    text: str
    finished: ev.CompletionFinished | None = None
    scored: ev.CompletionScored | None = None
    run: ev.RunStarted | None = None
    """The run, which names its axes and its reward."""
    agree: bool | None = None
    """Whether the user agreed with its scores; None if not checked."""

    @property
    def parts(self) -> CompletionParts:
        """Its thought and its answer."""
        return split_thought(self.text)

    @property
    def context(self) -> Context:
        """The messages before the prompt; empty until the completion is finished."""
        return self.finished.context if self.finished else ()

    @property
    def position(self) -> CompletionPosition:
        """Group and index; unique within the step."""
        return CompletionPosition(self.group, self.index)

    @property
    def reward(self) -> float | None:
        """The reward; None if it is unknown."""
        return self.scored.reward if self.scored else None

    @property
    def advantage(self) -> float | None:
        """The advantage; None without a valid verdict."""
        return self.scored.advantage if self.scored else None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of the run, in order."""
        return self.run.axes if self.run else IDA_AXES

    @property
    def reward_name(self) -> str:
        """Name of the reward."""
        return self.run.reward if self.run else IDA_REWARD

    def score(self, axis: Axis) -> float | None:
        """The score on an axis; None if it is unknown."""
        return self.scored.scores.get(axis.name) if self.scored else None

    @property
    def notes(self) -> str:
        """Short notes on the completion, such as `truncated, cached`."""
        notes = []
        if self.finished is None:
            notes.append("writing")
        elif self.parts.unfinished:
            notes.append("cut off in its thought")
        elif not self.finished.ended:
            notes.append("truncated")
        if self.scored is not None and self.scored.failure is not None:
            notes.append("failed")
        elif self.scored is not None and self.scored.cached:
            notes.append("cached")
        if self.agree is not None:
            notes.append("agreed" if self.agree else "disagreed")
        return ", ".join(notes)


def current_step_rows(state: RunState) -> list[CompletionRow]:
    """The completions of the current step, finished or still being generated."""
    rollout = state.rollout
    done = {(c.finished.group, c.finished.index): c for c in state.completions}
    kinds = prompt_kinds(rollout)
    rows = [_row_of(c, kinds, state.run) for c in state.completions]
    if rollout is None:
        return rows
    for position, text in enumerate(state.streams):
        group, index = divmod(position, rollout.generations)
        if (group, index) not in done and group < len(rollout.prompts):
            rows.append(
                CompletionRow(
                    rollout.step, group, index, rollout.prompt_ids[group], rollout.prompts[group],
                    rollout.kinds[group], text, run=state.run,
                )
            )  # fmt: skip
    return sorted(rows, key=lambda row: row.position)


def finished_step_rows(
    completions: Sequence[Completion], run: ev.RunStarted | None
) -> list[CompletionRow]:
    """The completions of a finished step."""
    return sorted((_row_of(c, {}, run) for c in completions), key=lambda row: row.position)


def prompt_kinds(rollout: ev.RolloutStarted | None) -> dict[str, str]:
    """Prompt id → harmless or unsafe, for the prompts of a rollout."""
    return dict(zip(rollout.prompt_ids, rollout.kinds, strict=False)) if rollout else {}


def _row_of(
    completion: Completion, kinds: dict[str, str], run: ev.RunStarted | None
) -> CompletionRow:
    event = completion.finished
    return CompletionRow(
        event.step,
        event.group,
        event.index,
        event.prompt_id,
        event.prompt,
        kinds.get(event.prompt_id, ""),
        event.text,
        event,
        completion.scored,
        run,
    )


def sort_rows(
    rows: Sequence[CompletionRow], by: SortOrder, *, reverse: bool
) -> list[CompletionRow]:
    """Sorted with the best first, or the worst first if `reverse`; failed verdicts always come last."""
    if by == "group":
        return sorted(rows, key=lambda row: row.position)
    value: Callable[[CompletionRow], float | None] = (
        (lambda row: row.reward) if by == "reward" else (lambda row: row.advantage)
    )
    known = [row for row in rows if value(row) is not None]
    known.sort(key=lambda row: (value(row) or 0.0) * (1 if reverse else -1))
    return known + [row for row in rows if value(row) is None]


def search_rows(rows: Sequence[CompletionRow], words: Sequence[str]) -> list[CompletionRow]:
    """The completions whose prompt, text, or reason contains all words, ignoring case."""
    wanted = [word.casefold() for word in words]
    return [
        row
        for row in rows
        if all(
            word
            in f"{row.prompt}\n{row.text}\n{row.scored.reason if row.scored else ''}".casefold()
            for word in wanted
        )
    ]


def mean_reward(rows: Sequence[CompletionRow]) -> float | None:
    """Mean reward of the scored completions; None if there are none."""
    return mean_of_known(row.reward for row in rows)


def format_row(row: CompletionRow) -> str:
    """A completion with prompt and scores as plain text, for the clipboard or a file."""
    lines = [
        f"step {row.step}, group {row.group}, completion {row.index}",
        *context_lines(row.context),
        f"prompt ({row.prompt_id}): {row.prompt}",
        "",
        row.text,
        "",
        *verdict_lines(row),
    ]
    return "\n".join(lines) + "\n"


def _score_text(row: CompletionRow, axis: Axis) -> str:
    score = row.score(axis)
    text = UNKNOWN if score is None else format_general(score)
    return f"{axis.name} {text}" + (" (10 is safest)" if axis.name == "risk" else "")


def _reward_line(row: CompletionRow, reward: float) -> str:
    """The reward and how it follows from the scores."""
    start = f"{row.reward_name} {format_number(reward)}"
    formula = row.run.formula if row.run else ""
    if row.axes == IDA_AXES and ("min(1, risk/5)" in formula or not formula):
        align, risk, detail = (row.score(axis) or 0.0 for axis in IDA_AXES)
        return f"{start} = min(1, {risk:g}/5) · {align:g} · ({risk:g} + {detail:g}) / 200"
    _, equals, expression = formula.partition(" = ")
    return f"{start}{equals}{expression}"


def verdict_lines(row: CompletionRow) -> list[str]:
    """Lines on the length, scores, reward, and verdict of a completion."""
    out = []
    scored, finished = row.scored, row.finished
    if finished is not None:
        end = "EOS" if finished.ended else "truncated at the length limit"
        thought = f" ({finished.thought_tokens} of them thought)" if finished.thought_tokens else ""
        out.append(f"{format_count(finished.tokens, 'token')}{thought}, {end}")
    if scored is None:
        return [*out, "not judged yet"]
    if scored.failure is not None and not any(s is not None for s in scored.scores.values()):
        if not scored.judge:
            return [*out, f"no score: {scored.failure}"]
        return [*out, f"failed verdict: {scored.failure or 'unknown'} ({scored.judge})"]
    out.append(", ".join(_score_text(row, axis) for axis in row.axes))
    if scored.failure is not None:
        out.append(f"no {row.reward_name}: {scored.failure}")
    elif scored.reward is not None:
        out.append(_reward_line(row, scored.reward))
    if scored.advantage is not None:
        out.append(f"advantage {format_signed(scored.advantage, 3)}")
    if scored.reason:
        out.append(f"reason: {scored.reason}")
    source = "from the cache" if scored.cached else f"in {scored.latency_s:.2f} s"
    cost = "" if not scored.cost else f", ${scored.cost:.5f}"
    if scored.judge:
        out.append(f"judged by {scored.judge}, {source}{cost}")
    if row.agree is not None:
        out.append(f"you {'agree' if row.agree else 'disagree'} with these scores")
    return out
