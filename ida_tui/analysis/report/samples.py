"""Completions shown in a report, grouped under headings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ida_tui.analysis.report.load import ReportInputs
from ida_tui.analysis.report.select import LAST_STEPS
from ida_tui.config.conversation import context_lines
from ida_tui.config.scoring.axes import format_score
from ida_tui.events.state import Completion, RunState
from ida_tui.events.types import CompletionScored
from ida_tui.util.format import UNKNOWN, format_number, format_signed
from ida_tui.util.thoughts import split_thought

MAX_CHARACTERS = 4_000
"""Maximum characters of a completion to show; completions.jsonl has the full text."""


class CompletionSample(NamedTuple):
    """One completion with its scores, as text."""

    position: str
    """Position in the run: step, group and completion."""
    prompt: str
    kind: str
    text: str
    scores: str
    advantage: str
    reason: str
    judge: str
    cut: str
    """How the text is cut; empty if it is complete."""
    context: tuple[str, ...] = ()
    """The messages before the prompt, with their roles."""
    thought: str = ""
    """Its thought; empty if it has none."""
    thought_label: str = ""
    """Heading of the thought, such as `thought, 120 tokens`."""


class SampleList(NamedTuple):
    """A titled list of completions, with the selection criterion."""

    title: str
    about: str
    samples: tuple[CompletionSample, ...]


class SamplePair(NamedTuple):
    """An early and a late completion of the same prompt."""

    prompt: str
    kind: str
    first: CompletionSample
    last: CompletionSample
    context: tuple[str, ...] = ()
    """The messages before the prompt, with their roles."""


def sample_lists(inputs: ReportInputs) -> Iterator[SampleList]:
    """The lists of best and worst completions; empty lists are omitted."""
    selected = inputs.selected
    since = inputs.run.state.scored_since_step
    where = f"since step {since + 1}" if since else "of the run"
    for title, about, completions in (
        ("Best", f"The highest rewards {where}, from different prompts where possible.", selected.best),
        ("Worst", f"The lowest rewards {where}, from different prompts where possible.", selected.worst),
        ("Worst on unsafe prompts", "The lowest rewards on prompts that the model should decline.",
         selected.worst_unsafe),
        ("Worst in the last steps", f"The lowest rewards of the last {LAST_STEPS} steps, except"
         " those above.", selected.worst_in_last_steps),
    ):  # fmt: skip
        if completions:
            yield SampleList(
                title, about, tuple(_make_sample(inputs, completion) for completion in completions)
            )


def sample_pairs(inputs: ReportInputs) -> list[SamplePair]:
    """The first and last completions of the same prompts."""
    return [
        SamplePair(
            pair.first.finished.prompt,
            inputs.extras.prompt_kinds.get(pair.first.finished.prompt_id, ""),
            _make_sample(inputs, pair.first),
            _make_sample(inputs, pair.last),
            tuple(context_lines(pair.last.finished.context)),
        )
        for pair in inputs.selected.pairs
    ]


def no_samples_reason(inputs: ReportInputs) -> str:
    """The reason why there are no completions to show; empty if there are some."""
    if inputs.selected.scored:
        return ""
    if since := inputs.run.state.scored_since_step:
        return f"No completion has a score since the scoring changed after step {since}."
    if inputs.selected.unscored:
        return "No completion has a score."
    return "No completion was judged."


def _make_sample(inputs: ReportInputs, completion: Completion) -> CompletionSample:
    finished, scored = completion.finished, completion.scored
    assert scored is not None
    parts, cut = split_thought(finished.text), []
    text = parts.answer
    if len(text) > MAX_CHARACTERS:
        cut.append(f"first {MAX_CHARACTERS:,} of {len(text):,} characters shown")
        text = text[:MAX_CHARACTERS]
    if not finished.ended:
        where = "in its thought, " if parts.unfinished else ""
        cut.append(f"truncated {where}at the maximum length, {finished.tokens} tokens")
    return CompletionSample(
        position=f"step {finished.step}, group {finished.group}, completion {finished.index}",
        prompt=finished.prompt,
        kind=inputs.extras.prompt_kinds.get(finished.prompt_id, ""),
        text=text,
        scores=_format_scores(inputs.run.state, scored),
        advantage=UNKNOWN if scored.advantage is None else format_signed(scored.advantage, 2),
        reason=scored.reason,
        judge=scored.judge,
        cut="; ".join(cut),
        context=tuple(context_lines(finished.context)),
        thought=parts.thought[:MAX_CHARACTERS],
        thought_label=f"thought, {finished.thought_tokens} tokens" if parts.thought else "",
    )


def _format_scores(state: RunState, scored: CompletionScored) -> str:
    scores = " · ".join(
        f"{axis.name} {format_score(scored.scores.get(axis.name), axis)}" for axis in state.axes
    )
    return f"{scores} → {state.reward_name} {format_number(scored.reward)}"
