"""Talk to a run's model, and to the one that it was before: a thread of its own, messages in, words out.

    chat = Chat(directory)
    chat.start()
    chat.ask("How do I …?", kind="harmless", temperature=0.0)
    for event in chat.drain(): ...       # Ready, Writing, Answered, Judged, Told, Failed, Rested
    chat.close(); chat.join(10)

The thread is the only one that imports torch and touches the device. Both models are asked with the same
random numbers; each goes on with its own answers.
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
"""Least time between two events about one answer that is being written."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The models are loaded."""

    words: str
    """Which weights, such as ``step 40, adapter``."""
    temperature: float
    """What the profile evaluates with."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A model has written so far."""

    who: Model
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A model is through with its answer."""

    who: Model
    text: str
    tokens: int
    seconds: float
    stopped: bool
    """Somebody stopped it; what there is may be empty."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge says of a model's last answer."""

    who: Model
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Told:
    """Something to know."""

    text: str


@dataclass(frozen=True, slots=True)
class Rested:
    """What was asked for is done: both have answered, or been judged."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It is over."""

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
        directory: the run.
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
        """Begin to load the models; returns at once."""
        self._thread.start()

    def ask(self, text: str, *, kind: Kind, temperature: float) -> None:
        """Have both answer a message; `Rested` says that they have."""
        self._stop.clear()
        self._commands.put(_Ask(text, kind, temperature))

    def judge(self) -> None:
        """Have the last answers scored by the run's judge; `Rested` says that they are."""
        self._stop.clear()
        self._commands.put(_Judge())

    def begin_anew(self) -> None:
        """Forget the conversation so far."""
        self._commands.put(_Begin())

    def stop(self) -> None:
        """Stop what is being written or judged."""
        self._stop.set()

    def close(self) -> None:
        """End the thread after the token under way; a model that is being loaded is loaded first."""
        self._closing.set()
        self._stop.set()
        self._commands.put(_Close())

    @property
    def closing(self) -> bool:
        """Whether somebody has closed it."""
        return self._closing.is_set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; false where it has not ended within `timeout` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain(self) -> list[Event]:
        """The events since the last call; never waits."""
        found: list[Event] = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                return found

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None if none came within `timeout` seconds."""
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
            # A thread has nobody above it.
            failure = IdaError(
                f"the chat cannot go on: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
                "this is a defect of ida-tui, or the machine has no room for the model",
            )
            failure.__cause__ = error
            self._events.put(Failed(failure))

    def _serve(self) -> None:
        from ida_tui.config.resolve import resolve
        from ida_tui.runs.weights import trained

        config = resolve(str(self.directory.config), []).config
        found = trained(self.directory, config)
        from ida_tui.engine import libraries as environment

        environment.prepare(config.model.folder())
        from ida_tui.engine import quiet
        from ida_tui.engine.inference.chat_models import Pair

        pair: Pair | None = None
        service: JudgeService | None = None
        try:
            with quiet.captured(lambda noticed: self._events.put(Told(noticed.text))):
                pair = Pair(config, found)
                self._events.put(Ready(found.words, config.evaluation.temperature))
                while not self._closing.is_set():
                    match self._commands.get():
                        case _Ask() as asked:
                            self._answer(pair, asked, config.seed)
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
            if pair is not None:
                pair.close()

    def _answer(self, pair: Pair, asked: _Ask, seed: int) -> None:
        self._turns += 1
        texts: dict[Model, str] = {}
        for who in SIDES:
            started, told_at = time.monotonic(), 0.0

            def told(text: str, who: Model = who) -> None:
                nonlocal told_at
                if time.monotonic() - told_at >= EVERY_S:
                    told_at = time.monotonic()
                    self._events.put(Writing(who, text))

            history = self._histories[who]
            history.append({"role": "user", "content": asked.text})
            reply = pair.reply(
                who,
                history,
                temperature=asked.temperature,
                seed=(seed + self._turns) % 2**32,
                told=told,
                stop=self._stop.is_set,
            )
            if reply.left_out:
                of = "the untrained model" if who == "base" else "the trained model"
                self._events.put(
                    Told(f"{of} has no room for the oldest {reply.left_out} messages any more")
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
        self._last = (asked, texts)

    def _judge(self, config: Config, service: JudgeService | None) -> JudgeService | None:
        from ida_tui.judge.api_key import load_key
        from ida_tui.judge.budget import Purse
        from ida_tui.judge.service import JudgeInterrupted, JudgeService
        from ida_tui.judge.verdict import Question

        if self._last is None:
            self._events.put(Told("there is no answer to judge yet"))
            return service
        asked, texts = self._last
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
            # The same words of both are one question: they are owed the same verdict.
            questions = [Question("chat", asked.text, asked.kind, texts[who]) for who in SIDES]
            verdicts, _ = service.score_batch(questions, should_stop=self._stop.is_set)
        except JudgeInterrupted:
            self._events.put(Told("the judging was stopped"))
        except IdaError as error:
            self._events.put(Told(f"no verdict: {error.title}"))
            if service is not None:
                service.close()
            return None
        else:
            for who, verdict in zip(SIDES, verdicts, strict=True):
                self._events.put(Judged(who, verdict))
        return service
