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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.config.conversation import Context, system_context
from ida_tui.config.schema import Config, PromptKind
from ida_tui.errors import IdaError, missing_library_error
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.evaluations import ComparedModel
from ida_tui.util.thoughts import answer_of

if TYPE_CHECKING:
    from ida_tui.config.trust.consent import ConsentRequired
    from ida_tui.engine.inference.chat_models import ChatModels
    from ida_tui.judge.service import JudgeService
    from ida_tui.judge.verdict import Verdict
    from ida_tui.rewards.functions import RewardFunctions
    from ida_tui.runs.store.judge_costs import JudgeCosts

MODELS: tuple[ComparedModel, ComparedModel] = ("base", "tuned")
PARTIAL_INTERVAL_S = 0.05
"""Least time between two `PartialAnswer` events of one answer."""


@dataclass(frozen=True, slots=True)
class ModelsLoaded:
    """The models are loaded."""

    weights_label: str
    """The weights in use, such as `step 40, adapter`."""
    temperature: float
    """The sampling temperature of the profile's evaluation."""
    memory: str = ""
    """The memory plan of the chat, on one line."""


@dataclass(frozen=True, slots=True)
class PartialAnswer:
    """The partial text of an answer that is being generated."""

    model: ComparedModel
    text: str


@dataclass(frozen=True, slots=True)
class AnswerFinished:
    """A model has finished its answer."""

    model: ComparedModel
    text: str
    tokens: int
    seconds: float
    stopped: bool
    """Whether the user stopped it; the text may be empty then."""
    cut_off: bool = False
    """Whether it reached the profile's limit of tokens."""


@dataclass(frozen=True, slots=True)
class AnswerJudged:
    """The judge's verdict on a model's last answer."""

    model: ComparedModel
    verdict: Verdict
    reward_name: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the user."""

    text: str
    required: ConsentRequired | None = None
    """What the user has to agree to before the judge can be used."""


@dataclass(frozen=True, slots=True)
class Idle:
    """The request is done: both models have answered, or both answers are judged."""


@dataclass(frozen=True, slots=True)
class ChatFailed:
    """The chat has ended with an error."""

    error: IdaError


ChatEvent = (
    ModelsLoaded | PartialAnswer | AnswerFinished | AnswerJudged | Notice | Idle | ChatFailed
)


@dataclass(frozen=True, slots=True)
class _AskCommand:
    text: str
    kind: PromptKind
    temperature: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """The latest message, with the answer of each model and the messages before it."""

    command: _AskCommand
    texts: dict[ComparedModel, str]
    contexts: dict[ComparedModel, Context]


@dataclass(frozen=True, slots=True)
class _JudgeCommand:
    pass


@dataclass(frozen=True, slots=True)
class _ResetCommand:
    pass


@dataclass(frozen=True, slots=True)
class _CloseCommand:
    pass


class Chat:
    """One conversation with both models of a run.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: RunDirectory, overrides: Sequence[str] = ()) -> None:
        self.directory = directory
        self._overrides = list(overrides)
        self._commands: queue.SimpleQueue[
            _AskCommand | _JudgeCommand | _ResetCommand | _CloseCommand
        ] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[ChatEvent] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="ida-chat", daemon=True)
        self._histories: dict[ComparedModel, Context] = {"base": (), "tuned": ()}
        self._last_turn: _Turn | None = None
        self._turn_count = 0
        self._functions: RewardFunctions | None = None

    def start(self) -> None:
        """Start loading the models; returns immediately."""
        self._thread.start()

    def ask(self, text: str, *, kind: PromptKind, temperature: float) -> None:
        """Have both models answer a message; `Idle` follows when they are done."""
        self._stop.clear()
        self._commands.put(_AskCommand(text, kind, temperature))

    def judge(self) -> None:
        """Have the run's judge score the last answers; `Idle` follows when it is done."""
        self._stop.clear()
        self._commands.put(_JudgeCommand())

    def start_over(self) -> None:
        """Start a new conversation."""
        self._commands.put(_ResetCommand())

    def stop(self) -> None:
        """Stop the answers or the judging in progress."""
        self._stop.set()

    def close(self) -> None:
        """End the thread after the current token; a model that is loading finishes loading first."""
        self._closing.set()
        self._stop.set()
        self._commands.put(_CloseCommand())

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; returns false if it has not ended within `timeout` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain(self) -> list[ChatEvent]:
        """The events since the last call; does not block."""
        events: list[ChatEvent] = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except queue.Empty:
                return events

    def next_event(self, timeout: float) -> ChatEvent | None:
        """The next event, or None if there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def _notify(self, text: str) -> None:
        self._events.put(Notice(text))

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._process_commands()
        except IdaError as error:
            self._events.put(ChatFailed(error))
        except ModuleNotFoundError as error:
            self._events.put(ChatFailed(missing_library_error(error)))
        except Exception as error:
            # Nothing catches the exceptions of a thread: report them as an event.
            failure = IdaError(
                f"the chat failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
                "this is a bug in ida-tui, or the model does not fit into memory",
            )
            failure.__cause__ = error
            self._events.put(ChatFailed(failure))

    def _process_commands(self) -> None:
        from ida_tui.config.resolve import resolve
        from ida_tui.runs.weights import find_weights

        config = resolve(str(self.directory.config), self._overrides, uses=("code",)).config
        weights = find_weights(self.directory, config)
        from ida_tui.engine import libraries

        libraries.set_library_defaults(config.model.folder())
        from ida_tui.planning.hub_download import require_model_here

        require_model_here(
            config.model,
            lambda text: self._events.put(Notice(text)),
            stop_requested=self._closing.is_set,
        )
        from ida_tui.engine.inference.chat_models import ChatModels
        from ida_tui.runs.store.judge_costs import JudgeCosts

        models: ChatModels | None = None
        service: JudgeService | None = None
        costs = JudgeCosts(self.directory, "chat", earlier=weights.state.judge.cost)
        try:
            with libraries.capture_library_output(
                lambda notice: self._events.put(Notice(notice.text))
            ):
                models = ChatModels(config, weights)
                self._events.put(
                    ModelsLoaded(weights.label, config.evaluation.temperature, models.memory_text)
                )
                while not self._closing.is_set():
                    match self._commands.get():
                        case _AskCommand() as command:
                            self._generate_answers(models, command, config.seed)
                            self._events.put(Idle())
                        case _JudgeCommand():
                            service = self._judge_answers(config, service, costs)
                            self._events.put(Idle())
                        case _ResetCommand():
                            self._histories = {"base": (), "tuned": ()}
                            self._last_turn = None
                        case _CloseCommand():
                            return
        finally:
            if service is not None:
                service.close()
            costs.close()
            if models is not None:
                models.close()

    def _generate_answers(self, models: ChatModels, command: _AskCommand, seed: int) -> None:
        self._turn_count += 1
        texts: dict[ComparedModel, str] = {}
        contexts: dict[ComparedModel, Context] = {}
        for model in MODELS:
            started, sent_at = time.monotonic(), 0.0

            def on_text(text: str, model: ComparedModel = model) -> None:
                nonlocal sent_at
                if time.monotonic() - sent_at >= PARTIAL_INTERVAL_S:
                    sent_at = time.monotonic()
                    self._events.put(PartialAnswer(model, text))

            earlier = self._histories[model]
            reply = models.reply(
                model,
                command.text,
                earlier,
                temperature=command.temperature,
                seed=(seed + self._turn_count) % 2**32,
                on_text=on_text,
                should_stop=self._stop.is_set,
            )
            if reply.omitted_messages:
                name = "base" if model == "base" else "trained"
                self._events.put(
                    Notice(
                        f"the oldest {reply.omitted_messages} messages no longer fit into the {name} model's"
                        " context; the model does not see them"
                    )
                )
            if reply.text:
                # A model does not see its earlier thoughts, as in its own chat template.
                answer = answer_of(reply.text)
                self._histories[model] = (*earlier, ("user", command.text), ("assistant", answer))
            contexts[model] = earlier
            texts[model] = reply.text
            self._events.put(
                AnswerFinished(
                    model,
                    reply.text,
                    reply.tokens,
                    round(time.monotonic() - started, 3),
                    self._stop.is_set(),
                    reply.cut_off,
                )
            )
        self._last_turn = _Turn(command, texts, contexts)

    def _judge_answers(
        self, config: Config, service: JudgeService | None, costs: JudgeCosts
    ) -> JudgeService | None:
        from ida_tui.config.resolve import resolve
        from ida_tui.config.trust.consent import ConsentRequired
        from ida_tui.engine.inference.chat_scores import load_functions, with_computed
        from ida_tui.judge.api_key import load_api_key
        from ida_tui.judge.budget import Budget
        from ida_tui.judge.errors import JudgeInterrupted
        from ida_tui.judge.service import JudgeService, JudgeServiceOptions
        from ida_tui.judge.verdict import JudgeRequest

        if self._last_turn is None:
            self._events.put(Notice("there is no answer to judge yet"))
            return service
        turn = self._last_turn
        system = system_context(config.prompts.system)
        try:
            if service is None:
                # The chat does not need the judge, so that its key is asked for only here.
                # It is read again: an agreement holds for the address that is in the file then.
                config = resolve(
                    str(self.directory.config), self._overrides, uses=("judge", "functions")
                ).config
                self._functions = load_functions(config, self._notify)
                service = JudgeService(
                    config.judge,
                    config.rubric,
                    config.prompts,
                    key=load_api_key(config.judge, dotenv_dir=Path.cwd()),
                    options=JudgeServiceOptions(budget=Budget(config.budget, costs.spent, costs)),
                )
                service.start()
                service.probe_endpoint().result()
            # Identical answers are one judge request, so they get the same verdict.
            requests = [
                JudgeRequest(
                    "chat",
                    turn.command.text,
                    turn.command.kind,
                    turn.texts[model],
                    context=(*system, *turn.contexts[model]),
                )
                for model in MODELS
            ]
            verdicts, _ = service.score_batch(requests, should_stop=self._stop.is_set)
            if self._functions is not None:
                verdicts = with_computed(
                    verdicts, requests, self._functions, service.formula, self._stop.is_set
                )
        except JudgeInterrupted:
            self._events.put(Notice("judging was stopped"))
        except IdaError as error:
            required = error if isinstance(error, ConsentRequired) else None
            words = f"; {error.hint.splitlines()[0]}" if required else ""
            text = f"the answers cannot be scored: {error.title}{words}"
            self._events.put(Notice(text, required))
            if service is not None:
                service.close()
            return None
        else:
            for model, verdict in zip(MODELS, verdicts, strict=True):
                self._events.put(AnswerJudged(model, verdict, config.rubric.reward_name))
        return service
