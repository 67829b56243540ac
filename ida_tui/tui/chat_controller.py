"""Controller of the chat: loads the models of one run, and frees them before a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.runs.directory import RunDirectory

if TYPE_CHECKING:
    from ida_tui.engine.inference.chat import Chat
    from ida_tui.tui.app import IdaApp

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the chat's thread to end: enough for one token, not for loading a large model."""
STILL_LOADING = "The chat is still loading its model. Try again in a moment."


class ChatController:
    """Opens and closes the only chat of the app."""

    def __init__(self, app: IdaApp) -> None:
        self._app = app
        self.chat: Chat | None = None
        """The chat whose models are in memory."""

    async def open(self, path: Path) -> None:
        """Chat with the model of the run in this directory, unless the app is training."""
        if self._app.run_view is not None and self._app.run_view.is_live:
            self._app.notify("Chat is unavailable while a run is training.", severity="warning")
            return
        if self.chat is None or self.chat.closing or self.chat.directory.path != path:
            if not self.close():
                self._app.notify(STILL_LOADING)
                return
            from ida_tui.engine.process.chat import ProcessChat

            self.chat = ProcessChat(RunDirectory(path))
            self.chat.start()
        await self._app.action_go("chat")

    def close(self) -> bool:
        """Close the chat, if one is open. Returns False if its thread did not end in time."""
        if self.chat is None:
            return True
        self.chat.close()
        if not self.chat.join(CLOSE_TIMEOUT_S):
            return False
        self.chat = None
        return True
