"""Chat with the models of a run in a process of its own, behind the interface of `Chat`."""

from __future__ import annotations

from ida_tui.config.schema import PromptKind
from ida_tui.engine.inference.chat import Chat, ChatFailed
from ida_tui.engine.process.engine import EngineProcess
from ida_tui.engine.process.messages import Ask, ChatEnded, ChatRequest, NewChatEvent, StartChat
from ida_tui.errors import IdaError


class ProcessChat(Chat):
    """One conversation in a process of its own. The thread of the chat only reads what that process sends."""

    _engine: EngineProcess | None = None

    def start(self) -> None:
        """Start the process, which loads the models; returns immediately."""
        try:
            self._engine = EngineProcess("chat")
        except IdaError as error:
            self._events.put(ChatFailed(error))
            return
        self._engine.send(StartChat(self.directory, tuple(self._overrides)))
        self._thread.start()

    def ask(self, text: str, *, kind: PromptKind, temperature: float) -> None:
        """Have both models answer a message; `Idle` follows when they are done."""
        self._send(Ask(text, kind, temperature))

    def judge(self) -> None:
        """Have the run's judge score the last answers; `Idle` follows when it is done."""
        self._send("judge")

    def start_over(self) -> None:
        """Start a new conversation."""
        self._send("start_over")

    def stop(self) -> None:
        """Stop the answers or the judging in progress."""
        self._send("stop")

    def close(self) -> None:
        """End the process after the current token; a model that is loading finishes loading first."""
        self._closing.set()
        self._send("close")

    def _send(self, message: ChatRequest | Ask) -> None:
        if self._engine is not None:
            self._engine.send(message)

    # -- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        engine = self._engine
        assert engine is not None
        try:
            while not isinstance(message := engine.receive(), ChatEnded):
                assert isinstance(message, NewChatEvent)
                self._events.put(message.event)
        except (EOFError, OSError):
            how = engine.how_it_ended()
            if not self._closing.is_set():
                hint = "the model may not fit into memory; close other programs, then open the chat again"
                self._events.put(ChatFailed(IdaError(f"the chat failed: {how}", hint)))
        engine.close()
        engine.how_it_ended()  # its memory is free
