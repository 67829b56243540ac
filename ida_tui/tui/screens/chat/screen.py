"""Chat screen: the answers of the base model and the trained model to each message, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from ida_tui.config.schema import PromptKind
from ida_tui.engine.inference.chat import MODELS, Chat, ChatFailed, Idle, ModelsLoaded, Notice
from ida_tui.errors import IdaError
from ida_tui.runs.store import chats
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.chat.transcript import Transcript, render_transcript
from ida_tui.util.paths import display_path
from ida_tui.util.text import one_line

POLL_SECONDS = 0.1
"""Seconds between two updates from the chat's thread."""
COLUMN_TITLES = {"base": "Before training", "tuned": "Trained"}
NO_CHAT_TEXT = "No run open. Press 4, select a run, then press a."


class ChatScreen(IdaScreen):
    """The transcripts of both models, and an input field for the next message."""

    SCOPE: ClassVar[Scope] = "chat"
    TITLE = "Chat"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._chat: Chat | None = None
        self._transcript = Transcript()
        self._ready: ModelsLoaded | None = None
        self._busy = ""
        """The operation in progress; empty if there is none."""
        self._kind: PromptKind = "harmless"
        self._greedy = False
        self._thoughts_unfolded = False

    def compose_body(self) -> ComposeResult:
        """Two columns, the settings of the next message, and the message."""
        yield Static(NO_CHAT_TEXT, id="no-chat", markup=False)
        with Horizontal(id="chat-columns"):
            for who in MODELS:
                with VerticalScroll(id=f"chat-{who}", classes="pane", can_focus=True) as column:
                    column.border_title = COLUMN_TITLES[who]
                    yield Static(id=f"chat-{who}-text", markup=False)
        yield Static(id="chat-status", markup=False)
        yield Input(id="chat-message", placeholder="message to both models; Enter sends it")

    def on_mount(self) -> None:
        self.set_interval(POLL_SECONDS, self.poll_events, name="chat")
        self._switch_chat()

    def on_screen_resume(self) -> None:
        self.refresh_run()
        self._switch_chat()

    def _switch_chat(self) -> None:
        """Switch to the app's current chat; one that is closing is none."""
        chat = self.app.chat_controller.chat
        if chat is not None and chat.closing:
            chat = None
        if chat is not self._chat:
            self._chat, self._transcript, self._ready = chat, Transcript(), None
            self._busy = "loading the model…"
        for name in ("#chat-columns", "#chat-status", "#chat-message"):
            self.query_one(name).display = chat is not None
        self.query_one("#no-chat").display = chat is None
        # A hidden field can keep the focus, and would take the keys.
        self.query_one("#chat-message").disabled = chat is None
        if chat is not None:
            self.query_one("#chat-message").focus()
        self._show()

    def poll_events(self) -> None:
        """Process the new events of the chat's thread."""
        events = self._chat.drain() if self._chat is not None else []
        for event in events:
            self._transcript.add_event(event)
            match event:
                case ModelsLoaded():
                    self._ready, self._busy = event, ""
                    self._greedy = event.temperature == 0
                    if event.memory:
                        self.notify(event.memory)
                case Idle():
                    self._busy = ""
                case Notice(required=required) if required is not None:
                    self.app.ask_for_consent(required, self.action_judge)
                case Notice(text):
                    self.notify(text, severity="warning")
                case ChatFailed(error):
                    self._end_chat(error)
        if events:
            self._show()

    def _end_chat(self, error: IdaError) -> None:
        """Close the chat, and show why it failed; after an agreement, open it again."""
        run = self._chat.directory.path if self._chat is not None else None
        self._chat = None
        self.app.chat_controller.close()
        self._switch_chat()
        if run is None:
            self.app.show_error(error)
            return
        self.app.show_error(error, lambda: self.call_later(self._open_again, run))

    async def _open_again(self, run: Path) -> None:
        await self.app.chat_controller.open(run)
        self._switch_chat()

    def _show(self) -> None:
        for who in MODELS:
            column = self.query_one(f"#chat-{who}", VerticalScroll)
            self.query_one(f"#chat-{who}-text", Static).update(
                render_transcript(self._transcript.turns, who, unfold=self._thoughts_unfolded)
            )
            column.scroll_end(animate=False)
        tuned = self.query_one("#chat-tuned")
        tuned.border_title = "Trained" + (
            f": {one_line(self._ready.weights_label)}" if self._ready else ""
        )
        self.query_one("#chat-status", Static).update(Content(self._status_text()))

    def _status_text(self) -> str:
        if self._busy:
            return self._busy + ("  esc: stop" if self._ready else "")
        decoding = "greedy" if self._greedy else f"temperature {self._temperature():g}"
        run = self._chat.directory.path if self._chat is not None else None
        name = f"{run.parent.name}/{run.name} · " if run is not None else ""
        return one_line(f"{name}next message: {self._kind} · {decoding}")

    def _temperature(self) -> float:
        if self._greedy:
            return 0.0
        # With a greedy profile, sampling still needs a temperature.
        return (self._ready.temperature if self._ready else 0.0) or 1.0

    @on(Input.Submitted, "#chat-message")
    def _on_message_sent(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if not text or not self._check_idle():
            return
        assert self._chat is not None
        event.input.value = ""
        self._busy = "answering…"
        self._transcript.add_message(text, self._kind)
        self._chat.ask(text, kind=self._kind, temperature=self._temperature())
        self._show()

    def _check_idle(self) -> bool:
        """Whether the models are idle; notifies the user if they are not."""
        if self._chat is None:
            self.notify("No run open. Press 4 to pick one.")
            return False
        if self._busy:
            self.notify(f"Please wait: {self._busy}")
            return False
        return True

    # -- actions ------------------------------------------------------------------------------

    def action_write(self) -> None:
        """Focus the message field."""
        if self._chat is not None:
            self.query_one("#chat-message").focus()

    def action_judge(self) -> None:
        """Score the latest answers with the run's judge."""
        turns = self._transcript.turns
        if not self._check_idle() or self._chat is None:
            return
        if not turns or not turns[-1].is_complete:
            self.notify("There are no answers to judge yet.")
            return
        self._busy = "judging…"
        self._chat.judge()
        self._show()

    def action_kind(self) -> None:
        """Switch the next message between harmless and unsafe."""
        self._kind = "unsafe" if self._kind == "harmless" else "harmless"
        self._show()

    def action_greedy(self) -> None:
        """Switch between greedy decoding and sampling."""
        self._greedy = not self._greedy
        self._show()

    def action_toggle_thoughts(self) -> None:
        """Show or fold the thoughts of the answers."""
        self._thoughts_unfolded = not self._thoughts_unfolded
        self._show()

    def action_new_conversation(self) -> None:
        """Start a new conversation."""
        if self._check_idle() and self._chat is not None:
            self._chat.start_over()
            self._transcript = Transcript()
            self._show()

    def action_save_messages(self) -> None:
        """Save the messages as prompts for the next experiment."""
        if self._chat is None or not self._transcript.turns:
            self.notify("There are no messages to save.")
            return
        try:
            file = chats.save_chat(
                self._chat.directory, self._transcript.messages, self.app.clock()
            )
        except OSError as error:
            self.app.show_error(IdaError(f"could not save the messages: {error.strerror or error}"))
            return
        self.notify(
            f"Messages saved. To train on them, set prompts={display_path(file)}", timeout=15
        )

    def handle_escape(self) -> bool:
        """Stop the answer in progress, or return to the list of runs."""
        if self._busy and self._ready is not None and self._chat is not None:
            self._chat.stop()
            return True
        self.app.call_later(self.app.action_go, "runs")
        return True
