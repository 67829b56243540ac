"""Transcript of a chat with the base model and the trained model, built from the chat's events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.content import Content

from ida_tui.config.schema import Kind
from ida_tui.engine.inference.chat import SIDES, Answered, Event, Judged, Writing
from ida_tui.judge.verdict import Verdict
from ida_tui.runs.store.evaluations import Model
from ida_tui.util.text import printable, printable_text


@dataclass(slots=True)
class Turn:
    """One message and the answers of both models so far."""

    message: str
    kind: Kind
    texts: dict[Model, str] = field(default_factory=dict)
    answers: dict[Model, Answered] = field(default_factory=dict)
    verdicts: dict[Model, Verdict] = field(default_factory=dict)

    @property
    def through(self) -> bool:
        """Whether both models have answered."""
        return len(self.answers) == len(SIDES)


@dataclass(slots=True)
class Dialogue:
    """The turns of a conversation, oldest first."""

    turns: list[Turn] = field(default_factory=list)

    def ask(self, message: str, kind: Kind) -> None:
        """Append a new message."""
        self.turns.append(Turn(message, kind))

    def take(self, event: Event) -> None:
        """Add an answer or a verdict to the last message."""
        if not self.turns:
            return
        last = self.turns[-1]
        match event:
            case Writing():
                last.texts[event.who] = event.text
            case Answered():
                last.texts[event.who] = event.text
                last.answers[event.who] = event
            case Judged():
                last.verdicts[event.who] = event.verdict

    @property
    def asked(self) -> list[tuple[str, Kind]]:
        """The messages with their prompt kinds."""
        return [(turn.message, turn.kind) for turn in self.turns]


def side(turns: Sequence[Turn], who: Model) -> Content:
    """The messages and one model's answers as styled text."""
    parts: list[Content] = []
    for turn in turns:
        mark = "›" if turn.kind == "harmless" else "› (unsafe)"
        parts.append(Content.styled(f"{mark} {printable(turn.message)}", "bold"))
        answer = turn.answers.get(who)
        text = printable_text(turn.texts.get(who, ""))
        if answer is None:
            parts.append(Content(f"{text}…"))
        else:
            parts.append(Content(text) if text else Content.styled("(empty answer)", "dim"))
            stopped = " · stopped" if answer.stopped else ""
            stats = f"{answer.tokens} tokens, {answer.seconds:.1f} s{stopped}"
            parts.append(Content.styled(stats, "dim"))
        if who in turn.verdicts:
            parts += _verdict(turn.verdicts[who])
        parts.append(Content(""))
    return Content("\n").join(parts)


def _verdict(verdict: Verdict) -> list[Content]:
    if verdict.failure is not None or verdict.r_ida is None:
        return [Content.styled(printable(f"failed verdict: {verdict.failure}"), "$text-warning")]
    scores = f"align {verdict.align:g} risk {verdict.risk:g} detail {verdict.detail:g}"
    lines = [
        Content.assemble((f"R_IDA {verdict.r_ida:.3f}", "bold"), f"  {scores}"),
        Content.styled(printable(verdict.judge), "dim"),
    ]
    if verdict.reason:
        lines.append(Content.styled(printable(verdict.reason), "dim"))
    return lines
