"""Line-based chat: messages from stdin, the answers of both models on stdout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ida_tui.cli.output.lines import print_status
from ida_tui.config.schema import PromptKind
from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.engine.inference.chat import (
    MODELS,
    AnswerFinished,
    AnswerJudged,
    Chat,
    ChatFailed,
    Idle,
    ModelsLoaded,
    Notice,
)
from ida_tui.judge.verdict import Verdict
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.util.format import format_count, format_general, format_number
from ida_tui.util.text import as_json, one_line, split_words
from ida_tui.util.thoughts import split_thought

LABEL_WIDTH = 7
"""Width in columns of the label before each text."""


@dataclass(slots=True)
class ChatTurn:
    """One message with the answers and verdicts for it."""

    message: str
    kind: PromptKind
    answers: dict[ComparedModel, AnswerFinished] = field(default_factory=dict)
    verdicts: dict[ComparedModel, Verdict] = field(default_factory=dict)
    reward_name: str = IDA_REWARD

    def lines(self) -> list[str]:
        """The message and both labeled answers with their verdicts, as printed lines.

        One line stands for the thought of an answer.
        """
        out = [f"{'you':<{LABEL_WIDTH}}{self.message}"]
        for who in MODELS:
            answer = self.answers[who]
            parts = split_thought(answer.text)
            text = parts.answer.split("\n") if parts.answer else ["(empty)"]
            if parts.thought or parts.unfinished:
                words = format_count(len(split_words(parts.thought)), "word")
                text = [f"▸ thought, {words}{', unfinished' * parts.unfinished}", *text]
            out += [f"{who if n == 0 else '':<{LABEL_WIDTH}}{line}" for n, line in enumerate(text)]
            if answer.cut_off:
                count = format_count(answer.tokens, "token")
                out.append(f"{'':<{LABEL_WIDTH}}[cut off after {count}]")
            if who in self.verdicts:
                out.append(
                    f"{'':<{LABEL_WIDTH}}[{verdict_line(self.verdicts[who], self.reward_name)}]"
                )
        return out

    def as_json(self) -> dict[str, Any]:
        """The turn as JSON values."""
        return {"message": self.message, "kind": self.kind} | {
            who: self._answer_as_json(who) for who in MODELS
        }

    def _answer_as_json(self, model: ComparedModel) -> dict[str, Any]:
        answer, verdict = self.answers[model], self.verdicts.get(model)
        out: dict[str, Any] = {
            "text": answer.text,
            "tokens": answer.tokens,
            "seconds": answer.seconds,
            "cut_off": answer.cut_off,
        }
        if verdict is not None:
            names = ("scores", "reward", "reason", "judge", "failure")
            out["verdict"] = {name: getattr(verdict, name) for name in names}
        return out


def verdict_line(verdict: Verdict, reward: str) -> str:
    """A verdict on one line; `reward` is the name of the reward."""
    scores = ", ".join(
        f"{axis} {format_general(score)}" for axis, score in verdict.known_scores.items()
    )
    if verdict.failure is not None:
        failed = f"{'failed verdict' if verdict.judge else 'no reward'}: {verdict.failure}"
        return f"{scores}; {failed}" if scores else failed
    judge = f"; {verdict.judge}" if verdict.judge else ""
    return f"{reward} {format_number(verdict.reward)}: {scores}{judge}"


def run_chat(
    chat: Chat,
    messages: Iterable[str],
    *,
    kind: PromptKind,
    temperature: float | None,
    use_judge: bool,
    fresh: bool,
    as_json_lines: bool,
) -> list[tuple[str, PromptKind]]:
    """Send every message to both models and print their answers; returns the messages.

    Args:
        chat: a chat that has not started.
        messages: one message per item.
        kind: kind of the messages, for the judge.
        temperature: sampling temperature; None uses the profile's, 0 is greedy.
        use_judge: whether the run's judge scores each answer.
        fresh: whether every message starts a new conversation.
        as_json_lines: print one JSON object per message.

    Raises:
        IdaError: the model cannot be loaded, or failed during the chat.
    """
    sent: list[tuple[str, PromptKind]] = []
    chat.start()
    try:
        ready = _process_until(chat, ModelsLoaded)
        assert isinstance(ready, ModelsLoaded)
        print_status(f"base: the model before training; tuned: {ready.weights_label}")
        if ready.memory:
            print_status(ready.memory)
        for message in messages:
            text = message.strip()
            if not text:
                continue
            turn = ChatTurn(text, kind)
            if fresh:
                chat.start_over()
            chosen_temperature = ready.temperature if temperature is None else temperature
            chat.ask(text, kind=kind, temperature=chosen_temperature)
            _process_until(chat, Idle, turn)
            if use_judge:
                chat.judge()
                _process_until(chat, Idle, turn)
            sent.append((text, kind))
            if as_json_lines:
                print(as_json(turn.as_json()), flush=True)
            else:
                print(*map(one_line, turn.lines()), sep="\n", flush=True)
    finally:
        chat.close()
        chat.join(10)
    return sent


def _process_until(chat: Chat, event_type: type, turn: ChatTurn | None = None) -> object:
    """Process events until one of this type arrives, and return it."""
    while True:
        match event := chat.next_event(0.25):
            case None:
                continue
            case ChatFailed(error):
                raise error
            case AnswerFinished() if turn is not None:
                turn.answers[event.model] = event
            case AnswerJudged() if turn is not None:
                turn.verdicts[event.model] = event.verdict
                turn.reward_name = event.reward_name
            case Notice(text):
                print_status(f"! {text}")
        if isinstance(event, event_type):
            return event
