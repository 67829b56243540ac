"""Messages about a run: where they are sent, and about what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ida_tui.config.section import Section

NotifyEvent = Literal["alert", "pause", "end"]


class NotifyConfig(Section):
    """Messages about a run: where they are sent, and about what."""

    events: list[NotifyEvent] = ["alert", "pause", "end"]  # noqa: RUF012 - pydantic copies it
    """What to report: an alert, a pause, the end of the run. One cause is one message."""
    webhook: str | None = None
    """Address that gets each message by POST: https, or http on this machine. `$NAME` in it is filled from
    the environment or .env when a message is sent; a secret must not stand here itself."""
    desktop: bool = False
    """Show each message on the desktop of this machine, with osascript or notify-send."""
    command: Annotated[list[str], Field(max_length=100)] = Field(default_factory=list)
    """Program and its arguments, without a shell; it gets each message as JSON on its standard input, and its
    text as `IDA_TUI_TEXT`."""

    @property
    def sends_messages(self) -> bool:
        """Whether a message goes anywhere."""
        return bool(self.events) and (
            self.webhook is not None or self.desktop or bool(self.command)
        )
