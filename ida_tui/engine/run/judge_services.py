"""Judge services of one training run: started when the run starts or changes its judge, closed at its end."""

from __future__ import annotations

from collections.abc import Callable

from ida_tui.config.schema import Config
from ida_tui.events import types as ev
from ida_tui.judge.budget import Budget
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.runs.store.judge_costs import JudgeCosts


class JudgeServices:
    """Starts and closes the judge services of a run.

    Args:
        emit: receives the events of the judges; also called on their threads.
        costs: records what the judges cost.
        should_stop: polled while a plugin loads.
    """

    def __init__(
        self,
        emit: Callable[[ev.Event], object],
        costs: JudgeCosts,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._emit = emit
        self._costs = costs
        self._should_stop = should_stop
        self._services: list[JudgeService] = []

    def start(self, config: Config, key: str | None) -> JudgeService:
        """Close the current service and start the judge of a profile.

        Args:
            config: the resolved profile.
            key: the judge's API key, or null if it needs none.
        """
        self.close()
        service = JudgeService(
            config.judge,
            config.rubric,
            config.prompts,
            key=key,
            options=JudgeServiceOptions(
                budget=Budget(config.budget, self._costs.spent, self._costs),
                on_event=self._emit,
                should_stop=self._should_stop,
            ),
        )
        service.start()
        self._services.append(service)
        if config.judge.kind != "none":
            self._emit(ev.Noticed(level="info", source="judge", text=_start_message(service)))
        if config.rubric.is_ida and service.formula.name != "r_ida" and not config.rubric.reward:
            text = (
                f"the reward is {service.formula.name} ({service.formula.description}), shown as"
                f" {config.rubric.reward_name}"
            )
            self._emit(ev.Noticed(level="warning", source="judge", text=text))
        return service

    @property
    def current(self) -> JudgeService:
        """The service that was started last."""
        return self._services[-1]

    def close(self) -> None:
        """Close every service; pending judge calls are canceled."""
        for service in self._services:
            service.close()
        self._services.clear()


def _start_message(service: JudgeService) -> str:
    """One line for the log: the judge, and whether its verdicts are cached."""
    if service.label == ev.OFFLINE_JUDGE:
        return f"Judge: {ev.OFFLINE_JUDGE} (no calls, so nothing to cache)"
    return service.cache_status
