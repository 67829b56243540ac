"""Messages of a training run to the receivers that its profile names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.secrets import Secrets
from ida_tui.events import types as ev
from ida_tui.events.notifications.channels import Channel, open_channels
from ida_tui.events.notifications.messages import MessageWriter
from ida_tui.events.notifications.notifier import Notifier
from ida_tui.runs.directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Receivers:
    """The receivers of a run's messages, opened before the run starts."""

    channels: Sequence[Channel]
    secrets: tuple[str, ...]
    """The secrets in their addresses."""

    @classmethod
    def from_config(cls, config: Config) -> Receivers:
        """The receivers that a profile names.

        Raises:
            UsageError: one cannot be used.
        """
        return cls(*open_channels(config.notify))

    def notifier(
        self,
        config: Config,
        directory: RunDirectory,
        notify: Callable[[ev.Noticed], object],
        secrets: Secrets,
        control: RunControl,
        has_screen: bool,
    ) -> Notifier:
        """What sends the messages of one run.

        Args:
            config: the profile.
            directory: the run.
            notify: receives warnings for the log.
            secrets: removed from every message.
            control: requests to stop the run, and whether it runs unattended.
            has_screen: whether a person can decide what to do when the judge is unavailable.
        """
        return Notifier(
            self.channels,
            config.notify.events,
            MessageWriter(
                config.name,
                directory.run_id,
                config.rubric.reward_name,
                pauses_on_alert=config.alerts.on_alert != "tell",
                is_attended=lambda: has_screen and not control.unattended.is_set(),
            ),
            notify,
            undelivered=directory.logs / "notify.txt",
            redact=secrets.redact,
            stop_requested=control.stop.is_set,
        )
