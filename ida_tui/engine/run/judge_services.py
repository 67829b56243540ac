"""The judge services of one run: one after the other, as pauses are answered, and closed together."""

from __future__ import annotations

from collections.abc import Callable

from ida_tui.config.schema import Config
from ida_tui.events import types as ev
from ida_tui.judge.budget import Purse
from ida_tui.judge.service import JudgeService


class Judges:
    """Starts judges and closes them.

    Args:
        emit: takes what they have to say; called on their threads too.
    """

    def __init__(self, emit: Callable[[ev.Event], object]) -> None:
        self._emit = emit
        self._services: list[JudgeService] = []

    def start(self, config: Config, key: str | None, *, spent: float | None) -> JudgeService:
        """The judge of a profile, running; the one before it is closed.

        Args:
            config: the resolved profile.
            key: the judge's API key, where it needs one.
            spent: what the run's judges have cost so far, in US dollars; null where not known.
        """
        self.close()
        service = JudgeService(
            config.judge,
            config.rubric,
            config.prompts,
            key=key,
            purse=Purse(config.budget, spent or 0.0),
            tell=self._emit,
        )
        service.start()
        self._services.append(service)
        self._emit(ev.Noticed(level="info", source="judge", text=_opening(service)))
        if service.formula is not None:
            text = f"the reward is {service.formula.name} ({service.formula.words}), shown as R_IDA"
            self._emit(ev.Noticed(level="warning", source="judge", text=text))
        return service

    @property
    def current(self) -> JudgeService:
        """The judge that was started last."""
        return self._services[-1]

    def close(self) -> None:
        """Close every judge; what is in flight is given up."""
        for service in self._services:
            service.close()
        self._services.clear()


def _opening(service: JudgeService) -> str:
    """One line on who scores, and whether verdicts are kept."""
    if service.label == ev.OFFLINE_JUDGE:
        return f"Judge: {ev.OFFLINE_JUDGE} (no calls, so nothing to cache)"
    return service.cache_status
