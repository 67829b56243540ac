"""Transcript of a chat with the base model and the trained model, built from the chat's events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.content import Content

from ida_tui.config.schema import PromptKind
from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.engine.inference.chat import (
    MODELS,
    AnswerFinished,
    AnswerJudged,
    ChatEvent,
    PartialAnswer,
)
from ida_tui.judge.verdict import Verdict
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.tui.widgets.thought import thought_line
from ida_tui.util.format import format_count, format_general, format_number
from ida_tui.util.text import multiple_lines, one_line
from ida_tui.util.thoughts import CompletionParts, split_thought


@dataclass(slots=True)
class Turn:
    """One message and the answers of both models so far."""

    message: str
    kind: PromptKind
    texts: dict[ComparedModel, str] = field(default_factory=dict)
    answers: dict[ComparedModel, AnswerFinished] = field(default_factory=dict)
    verdicts: dict[ComparedModel, Verdict] = field(default_factory=dict)
    reward_name: str = IDA_REWARD

    @property
    def is_complete(self) -> bool:
        """Whether both models have answered."""
        return len(self.answers) == len(MODELS)


@dataclass(slots=True)
class Transcript:
    """The turns of a conversation, oldest first."""

    turns: list[Turn] = field(default_factory=list)

    def add_message(self, message: str, kind: PromptKind) -> None:
        """Append a new message."""
        self.turns.append(Turn(message, kind))

    def add_event(self, event: ChatEvent) -> None:
        """Add an answer or a verdict to the last message."""
        if not self.turns:
            return
        last = self.turns[-1]
        match event:
            case PartialAnswer():
                last.texts[event.model] = event.text
            case AnswerFinished():
                last.texts[event.model] = event.text
                last.answers[event.model] = event
            case AnswerJudged():
                last.verdicts[event.model] = event.verdict
                last.reward_name = event.reward_name

    @property
    def messages(self) -> list[tuple[str, PromptKind]]:
        """The messages with their prompt kinds."""
        return [(turn.message, turn.kind) for turn in self.turns]


def render_transcript(
    turns: Sequence[Turn], model: ComparedModel, *, unfold: bool = False
) -> Content:
    """The messages and one model's answers as styled text; the thoughts of the answers only if `unfold`."""
    parts: list[Content] = []
    for turn in turns:
        mark = "›" if turn.kind == "harmless" else "› (unsafe)"
        parts.append(Content.styled(f"{mark} {one_line(turn.message)}", "bold"))
        answer = turn.answers.get(model)
        completion = split_thought(turn.texts.get(model, ""))
        parts += _render_thought(completion, unfold=unfold)
        text = multiple_lines(completion.answer)
        if answer is None:
            parts.append(Content(f"{text}…"))
        else:
            parts.append(Content(text) if text else Content.styled("(empty answer)", "dim"))
            stopped = " · stopped" if answer.stopped else " · cut off" if answer.cut_off else ""
            stats = f"{format_count(answer.tokens, 'token')}, {answer.seconds:.1f} s{stopped}"
            parts.append(Content.styled(stats, "dim"))
        if model in turn.verdicts:
            parts += _render_verdict(turn.verdicts[model], turn.reward_name)
        parts.append(Content(""))
    return Content("\n").join(parts)


def _render_thought(completion: CompletionParts, *, unfold: bool) -> list[Content]:
    """The line that stands for a thought, and the thought if `unfold`; nothing without a thought."""
    if not (completion.thought or completion.unfinished):
        return []
    lines = [thought_line(unfold=unfold)]
    if unfold:
        lines.append(Content.styled(multiple_lines(completion.thought), "dim"))
    return lines


def _render_verdict(verdict: Verdict, reward: str) -> list[Content]:
    scores = " ".join(
        f"{axis} {format_general(score)}" for axis, score in verdict.known_scores.items()
    )
    if verdict.failure is not None:
        failed = f"{'failed verdict' if verdict.judge else 'no reward'}: {verdict.failure}"
        known = [Content(scores)] if scores else []
        return [*known, Content.styled(one_line(failed), "$text-warning")]
    lines = [
        Content.assemble((f"{reward} {format_number(verdict.reward)}", "bold"), f"  {scores}"),
        Content.styled(one_line(verdict.judge), "dim"),
    ]
    if verdict.reason:
        lines.append(Content.styled(one_line(verdict.reason), "dim"))
    return lines
