"""Simulated judge of the step benchmark: the same latencies for every trainer."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ida_tui.engine.bench.cases import BenchCase


class SimulatedJudge:
    """Simulated judge: a thread pool that takes 0.5 to 1.5 s per completion, the same for every trainer."""

    def __init__(self, case: BenchCase, *, judge_early: bool) -> None:
        self._case, self._judge_early = case, judge_early
        self._pool = ThreadPoolExecutor(case.slots)
        self._pending: dict[int, Future[float]] = {}
        self.judge_s: list[float] = []
        self.exposed_s: list[float] = []

    def begin_step(self, step: int, rows: Any) -> None:
        """Called when a rollout starts."""
        self._step, self._pending = step, {}

    def completion_ended(self, row: int, text: str) -> None:
        """Called when a completion is finished; TRL's trainers only report all of them at the end."""
        if self._judge_early:
            self._pending[row] = self._pool.submit(self._judge, row)

    def wait_for_rewards(self, rows: int) -> list[float]:
        """Rewards of every completion of the step; waits for them."""
        started = time.perf_counter()
        for row in range(rows):
            if row not in self._pending:
                self._pending[row] = self._pool.submit(self._judge, row)
        rewards = [self._pending[row].result() for row in range(rows)]
        self.exposed_s.append(time.perf_counter() - started)
        # The time that judging alone would take with these slots.
        latencies = [self._latency(row) for row in range(rows)]
        slot_seconds = [0.0] * self._case.slots
        for latency in latencies:
            soonest = min(range(len(slot_seconds)), key=slot_seconds.__getitem__)
            slot_seconds[soonest] += latency
        self.judge_s.append(max(slot_seconds))
        return rewards

    def collect_verdicts(self, texts: list[str], group_size: int, token_ids: object = ()) -> Any:
        """Verdicts and figures of the step, as `RewardCollector` returns them."""
        from ida_tui.judge import BatchStats, Verdict
        from ida_tui.rewards.formulas import IDA_FORMULAS

        r_ida = IDA_FORMULAS["r_ida"]
        verdicts = [
            Verdict.scored({"align": score, "risk": 8.0, "detail": 6.0}, "", "slow").with_reward(
                r_ida
            )
            for score in self.wait_for_rewards(len(texts))
        ]
        return verdicts, BatchStats.from_verdicts(
            verdicts, self.judge_s[-1], exposed_s=self.exposed_s[-1]
        )

    def after_step(self, step: int) -> None:
        """Called when a step is finished."""

    def _latency(self, row: int) -> float:
        return random.Random(f"{self._case.name} {self._step} {row}").uniform(0.5, 1.5)

    def _judge(self, row: int) -> float:
        time.sleep(self._latency(row))
        return random.Random(f"{self._step} {row}").uniform(1, 9)
