"""Chat with a run's trained model and its base model, in a background thread.

    chat = Chat(directory)
    chat.start()
    chat.ask("How do I …?", kind="harmless", temperature=0.0)
    for event in chat.drain(): ...       # ModelsLoaded, PartialAnswer, AnswerFinished, …, Idle
    chat.close(); chat.join(10)

The thread is the only one that imports torch and touches the device. Both models sample with the same seed,
and each continues the conversation with its own answers.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.config.schema import Config, Kind
from ida_tui.errors import IdaError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.evaluations import Model

if TYPE_CHECKING:
    from ida_tui.engine.inference.chat_models import Message, Pair
    from ida_tui.judge.service import JudgeService
    from ida_tui.judge.verdict import Verdict

SIDES: tuple[Model, Model] = ("base", "tuned")
EVERY_S = 0.05
"""Least time between two `PartialAnswer` events of one answer."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The models are loaded."""

    words: str
    """The weights in use, such as ``step 40, adapter``."""
    temperature: float
    """The sampling temperature of the profile's evaluation."""


@dataclass(frozen=True, slots=True)
class Writing:
    """The partial text of an answer that is being generated."""

    who: Model
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A model has finished its answer."""

    who: Model
    text: str
    tokens: int
    seconds: float
    stopped: bool
    """Whether the user stopped it; the text may be empty then."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The judge's verdict on a model's last answer."""

    who: Model
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Told:
    """A message for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Rested:
    """The request is done: both models have answered, or both answers are judged."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The chat has ended with an error."""

    error: IdaError


Event = Ready | Writing | Answered | Judged | Told | Rested | Failed


@dataclass(frozen=True, slots=True)
class _Ask:
    text: str
    kind: Kind
    temperature: float


@dataclass(frozen=True, slots=True)
class _Judge:
    pass


@dataclass(frozen=True, slots=True)
class _Begin:
    pass


@dataclass(frozen=True, slots=True)
class _Close:
    pass


class Chat:
    """One conversation with both models of a run.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._commands: queue.SimpleQueue[_Ask | _Judge | _Begin | _Close] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="ida-chat", daemon=True)
        self._histories: dict[Model, list[Message]] = {"base": [], "tuned": []}
        self._last: tuple[_Ask, dict[Model, str]] | None = None
        self._turns = 0

    def start(self) -> None:
        """Start loading the models; returns immediately."""
        self._thread.start()

    def ask(self, text: str, *, kind: Kind, temperature: float) -> None:
        """Have both models answer a message; `Idle` follows when they are done."""
        self._stop.clear()
        self._commands.put(_Ask(text, kind, temperature))

    def judge(self) -> None:
        """Have the run's judge score the last answers; `Idle` follows when it is done."""
        self._stop.clear()
        self._commands.put(_Judge())

    def begin_anew(self) -> None:
        """Start a new conversation."""
        self._commands.put(_Begin())

    def stop(self) -> None:
        """Stop the answers or the judging in progress."""
        self._stop.set()

    def close(self) -> None:
        """End the thread after the current token; a model that is loading finishes loading first."""
        self._closing.set()
        self._stop.set()
        self._commands.put(_Close())

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; returns false if it has not ended within `timeout` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain(self) -> list[Event]:
        """The events since the last call; does not block."""
        events: list[Event] = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except queue.Empty:
                return events

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._serve()
        except IdaError as error:
            self._events.put(Failed(error))
        except Exception as error:
            # Nothing catches the exceptions of a thread: report them as an event.
            failure = IdaError(
                f"the chat failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
                "this is a bug in ida-tui, or the model does not fit into memory",
            )
            failure.__cause__ = error
            self._events.put(Failed(failure))

    def _serve(self) -> None:
        from ida_tui.config.resolve import resolve
        from ida_tui.runs.weights import trained

        config = resolve(str(self.directory.config), []).config
        weights = trained(self.directory, config)
        from ida_tui.engine import libraries as environment

        environment.prepare(config.model.folder())
        from ida_tui.engine import quiet
        from ida_tui.engine.inference.chat_models import Pair

        models: Pair | None = None
        service: JudgeService | None = None
        try:
            with quiet.captured(lambda notice: self._events.put(Told(notice.text))):
                models = Pair(config, weights)
                self._events.put(Ready(weights.words, config.evaluation.temperature))
                while not self._closing.is_set():
                    match self._commands.get():
                        case _Ask() as question:
                            self._answer(models, question, config.seed)
                            self._events.put(Rested())
                        case _Judge():
                            service = self._judge(config, service)
                            self._events.put(Rested())
                        case _Begin():
                            self._histories = {"base": [], "tuned": []}
                            self._last = None
                        case _Close():
                            return
        finally:
            if service is not None:
                service.close()
            if models is not None:
                models.close()

    def _answer(self, models: Pair, question: _Ask, seed: int) -> None:
        self._turns += 1
        texts: dict[Model, str] = {}
        for who in SIDES:
            started, sent_at = time.monotonic(), 0.0

            def on_text(text: str, who: Model = who) -> None:
                nonlocal sent_at
                if time.monotonic() - sent_at >= EVERY_S:
                    sent_at = time.monotonic()
                    self._events.put(Writing(who, text))

            history = self._histories[who]
            history.append({"role": "user", "content": question.text})
            reply = models.reply(
                who,
                history,
                temperature=question.temperature,
                seed=(seed + self._turns) % 2**32,
                told=on_text,
                stop=self._stop.is_set,
            )
            if reply.left_out:
                name = "base" if who == "base" else "trained"
                self._events.put(
                    Told(
                        f"the oldest {reply.left_out} messages no longer fit into the {name} model's"
                        " context; it does not see them"
                    )
                )
            if reply.text:
                history.append({"role": "assistant", "content": reply.text})
            else:
                history.pop()
            texts[who] = reply.text
            self._events.put(
                Answered(
                    who,
                    reply.text,
                    reply.tokens,
                    round(time.monotonic() - started, 3),
                    self._stop.is_set(),
                )
            )
        self._last = (question, texts)

    def _judge(self, config: Config, service: JudgeService | None) -> JudgeService | None:
        from ida_tui.judge.api_key import load_key
        from ida_tui.judge.budget import Purse
        from ida_tui.judge.service import JudgeInterrupted, JudgeService
        from ida_tui.judge.verdict import Question

        if self._last is None:
            self._events.put(Told("no answer to judge yet"))
            return service
        question, texts = self._last
        try:
            if service is None:
                service = JudgeService(
                    config.judge,
                    config.rubric,
                    config.prompts,
                    key=load_key(config.judge, dotenv_dir=Path.cwd()),
                    purse=Purse(config.budget, 0.0),
                )
                service.start()
                service.look().result()
            # Identical answers are one judge request, so they get the same verdict.
            questions = [
                Question("chat", question.text, question.kind, texts[who]) for who in SIDES
            ]
            verdicts, _ = service.score_batch(questions, should_stop=self._stop.is_set)
        except JudgeInterrupted:
            self._events.put(Told("judging stopped"))
        except IdaError as error:
            self._events.put(Told(f"the judge failed: {error.title}"))
            if service is not None:
                service.close()
            return None
        else:
            for who, verdict in zip(SIDES, verdicts, strict=True):
                self._events.put(Judged(who, verdict))
        return service
