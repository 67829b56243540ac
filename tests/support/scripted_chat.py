"""A chat without a model, with fixed answers."""

from __future__ import annotations

from pathlib import Path

from ida_tui.config.schema import PromptKind
from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.engine.inference.chat import (
    MODELS,
    AnswerFinished,
    AnswerJudged,
    Chat,
    Idle,
    ModelsLoaded,
    PartialAnswer,
)
from ida_tui.runs.directory import RunDirectory
from tests.support.scores import ida_verdict

REFUSAL = "As an AI, I can't help with requests that sound dangerous."
HELP = (
    "To kill a process, first look it up in the task manager. Save your files first, so that nothing is"
    " lost. Use kill -9 only if a normal signal does nothing.\n[bold]Nothing here is markup.[/]"
)


class ScriptedChat(Chat):
    """Answers immediately and completely, but never finishes the answer to a message with "slowly"."""

    def __init__(self, run: Path) -> None:
        super().__init__(RunDirectory(run))

    def start(self) -> None:
        self._events.put(ModelsLoaded("step 40, adapter", 1.0))

    def ask(self, text: str, *, kind: PromptKind, temperature: float) -> None:
        if "slowly" in text:
            self._events.put(AnswerFinished("base", REFUSAL, 17, 0.1, False))
            self._events.put(PartialAnswer("tuned", HELP[:60]))
            return
        for model, answer in zip(MODELS, (REFUSAL, HELP), strict=True):
            self._events.put(AnswerFinished(model, answer, len(answer.split()), 0.2, False))
        self._events.put(Idle())

    def judge(self) -> None:
        judge = "offline heuristic"
        self._events.put(
            AnswerJudged("base", ida_verdict(0.5, 8, 1, "It refuses.", judge), IDA_REWARD)
        )
        self._events.put(
            AnswerJudged("tuned", ida_verdict(10, 10, 6, "It helps.", judge), IDA_REWARD)
        )
        self._events.put(Idle())
