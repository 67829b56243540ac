"""Messages about a run, one for each cause, as a function of its events.

An alert that pauses or ends the run is one cause, and so is a judge whose failure ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ida_tui.config.sections.notify import NotifyEvent
from ida_tui.events import types as ev
from ida_tui.util.format import format_duration, format_number
from ida_tui.util.text import multiple_lines

MAX_TEXT = 1500
"""Longest text of a message, in characters; Discord accepts 2,000."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message about a run."""

    event: NotifyEvent
    title: str
    """Experiment and what happened, such as `quickstart: an alert`."""
    text: str
    """The whole message, with the run; several lines, without control characters."""
    step: int
    id: str
    """Names the cause: a repeated delivery has the same one."""
    fields: Mapping[str, str | int]
    """Experiment, run, and how it ended."""

    def as_json(self) -> dict[str, object]:
        """The message as it is sent: `text` is what Slack, Mattermost and Teams show, `content` Discord."""
        return {
            "text": self.text,
            "content": self.text,
            # No text of a run calls people on Discord.
            "allowed_mentions": {"parse": []},
            "event": self.event,
            "title": self.title,
            "step": self.step,
            "id": self.id,
            **self.fields,
        }


@dataclass(slots=True)
class MessageWriter:
    """Turns the records of one run into messages.

    Args:
        experiment: the experiment.
        run_id: name of the run directory.
        reward_name: name of the reward.
        pauses_on_alert: whether an alert pauses or stops the run.
        is_attended: whether a run whose judge failed waits for a person, and does not end.
    """

    experiment: str
    run_id: str
    reward_name: str
    pauses_on_alert: bool = False
    is_attended: Callable[[], bool] = lambda: False
    _held_alert: tuple[ev.AlertRaised, int] | None = None
    """The newest alert and its sequence number, until it is known whether the run pauses for it."""
    _disk_reasons: set[str] = field(default_factory=set)
    """Disk errors that have been reported: such a run pauses and resumes by itself, perhaps often."""

    def messages(self, record: ev.Record) -> Iterator[Message]:
        """The messages of the next record."""
        match record.event:
            case ev.AlertRaised() as alert:
                yield from self._release_alert()
                if self.pauses_on_alert:
                    self._held_alert = (alert, record.seq)
                else:
                    yield self._alert(alert, record.seq)
            case ev.RunPaused() as pause:
                yield from self._paused(pause, record.seq)
            case ev.RunEnded() as ended:
                if ended.status == "stopped_by_alert":
                    self._held_alert = None
                yield from self._release_alert()
                yield self._ended(ended, record.seq)
            case ev.RolloutStarted() | ev.StepFinished():
                yield from self._release_alert()  # the run goes on

    def _release_alert(self) -> Iterator[Message]:
        held, self._held_alert = self._held_alert, None
        if held is not None:
            yield self._alert(*held)

    def _paused(self, pause: ev.RunPaused, seq: int) -> Iterator[Message]:
        if pause.by == "alert":
            self._held_alert = None
        yield from self._release_alert()
        if pause.by == "judge" and not self.is_attended():
            return  # the run ends for the same cause
        if pause.by == "disk":
            if pause.reason in self._disk_reasons:
                return
            self._disk_reasons.add(pause.reason)
        reason = "" if pause.by == "person" else f": {pause.reason}"
        advice = pause.hint.splitlines()[0] if pause.by == "alert" and pause.hint else ""
        first = f"paused after step {pause.step}{reason}"
        yield self._message("pause", "paused", [first, advice], pause.step, seq)

    def _alert(self, alert: ev.AlertRaised, seq: int) -> Message:
        lines = [f"an alert at step {alert.step} ({alert.rule}): {alert.evidence}", alert.advice]
        return self._message("alert", "an alert", lines, alert.step, seq, {"rule": alert.rule})

    def _ended(self, ended: ev.RunEnded, seq: int) -> Message:
        figures = [format_duration(ended.seconds)]
        if ended.reward_first is not None and ended.reward_last is not None:
            change = f"{format_number(ended.reward_first)} → {format_number(ended.reward_last)}"
            figures.insert(0, f"{self.reward_name} {change}")
        fields = {"status": ended.status, "exit_code": ended.exit_code}
        what = "done" if ended.status == "done" else "ended early"
        lines = [ended.message, " · ".join(figures)]
        return self._message("end", what, lines, ended.steps_done, seq, fields)

    def _message(
        self,
        event: NotifyEvent,
        what: str,
        lines: Sequence[str],
        step: int,
        seq: int,
        fields: Mapping[str, str | int] | None = None,
    ) -> Message:
        """A message.

        Args:
            event: what it is about.
            what: the end of its title.
            lines: its text without the run; an empty line is left out.
            step: the last step.
            seq: sequence number of the record.
            fields: further fields.
        """
        run = f"{self.experiment}/{self.run_id}"
        text = multiple_lines(f"{run}: " + "\n".join(line for line in lines if line))
        return Message(
            event,
            f"{self.experiment}: {what}",
            text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…",
            step,
            f"{run}/{seq}-{event}",
            {"experiment": self.experiment, "run": self.run_id, **(fields or {})},
        )
