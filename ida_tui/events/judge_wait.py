"""Wait of the trainer for its judge in the newest rollouts, and the setting that would shorten it most.

The seconds that a setting would save come from the run's own calls, replayed with that setting. A setting
whose effect the calls do not show is not proposed. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from statistics import fmean

from ida_tui.events import types as ev
from ida_tui.events.judge_replay import OpenCalls, duration, replay
from ida_tui.events.state import RunState
from ida_tui.events.values import JudgeCall, JudgeTraffic
from ida_tui.util.format import format_clock, format_count, format_duration, format_percent
from ida_tui.util.statistics import fit_line

MIN_ROLLOUTS = 3
"""Fewest rollouts with judge calls for a proposal; the first one also learns what the server can do."""
MIN_SHARE = 0.1
"""Smallest share of the steps' time that a setting must save to be proposed."""
MAX_SLOTS = 256
"""Largest `judge.concurrency`."""
REASON_TOKENS = 50
"""Tokens of a reason at most, which has at most 25 words."""
AXIS_TOKENS = 12
"""Tokens of one axis in a verdict at most: its name, its score and punctuation."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A setting that would shorten the wait."""

    setting: str
    """Such as `judge.concurrency=16`."""
    saved_s: float | None
    """Seconds that it would save in one rollout; None if the calls do not show how many."""
    reason: str
    """Why, or on what condition; the end of a sentence."""


@dataclass(frozen=True, slots=True)
class JudgeWait:
    """Wait for the judge in the newest rollouts, and the best remedy."""

    rollouts: int
    waited_s: float
    """Seconds in all of them in which the trainer only waited for the judge."""
    steps: int
    """Number of steps that these rollouts were for."""
    steps_s: float
    """Seconds that these steps took."""
    judge: str
    """The slowest judge of a panel; empty for a single judge."""
    slots: int
    """Calls to it at the same time, as the profile has it."""
    full: float
    """Share of the wait in which all of them were open, from 0 to 1."""
    throttled: bool
    """Whether its server rejected calls."""
    remedy: Remedy | None

    @property
    def text(self) -> str:
        """A sentence for the report and the end of a run, without a period."""
        calls = "its one call was" if self.slots == 1 else f"all {self.slots} parallel calls were"
        parts = [
            f"the trainer waited {_seconds_text(self.waited_s)} for"
            f" {f'the judge {self.judge}' if self.judge else 'the judge'} in the last"
            f" {format_count(self.steps, 'step')}, {format_percent(self.waited_s / self.steps_s)} of"
            " their time",
            f"{calls} open for {format_percent(self.full)} of the wait",
        ]
        if self.throttled:
            parts.append("its server rejected calls, so it takes no more at a time")
        if (remedy := self.remedy) is not None:
            saved = ""
            if remedy.saved_s is not None:
                saved = f" would save about {_seconds_text(self.rollouts * remedy.saved_s)}"
            parts.append(f"{remedy.setting}{saved} {remedy.reason}")
        return "; ".join(parts)

    @property
    def short_text(self) -> str:
        """The remedy in about 30 characters."""
        name = f"{self.judge}: " if self.judge else ""
        if self.remedy is None:
            return f"{name}server takes no more calls"
        key, _, value = self.remedy.setting.partition("=")
        setting = f"{key.rpartition('.')[2]}={value}"
        if self.remedy.saved_s is None:
            return f"{name}server full, try {setting}"
        saved_s = self.remedy.saved_s * self.rollouts / self.steps
        return f"{name}{setting}: −{format_clock(saved_s)}/step"


def judge_wait(state: RunState) -> JudgeWait | None:
    """The wait for the judge in the newest rollouts; None if no setting would shorten their steps enough."""
    finished = state.steps[-1].step if state.steps else 0
    rollouts = [
        _Rollout(batch)
        for batch in state.judge.recent
        if batch.step <= finished and any(part.calls for part in batch.traffic)
    ]
    if len(rollouts) < MIN_ROLLOUTS:
        return None
    waited_s = sum(rollout.waited_s for rollout in rollouts)
    steps, steps_s = _steps_since(state, rollouts[0].step)
    least_s = MIN_SHARE * steps_s
    if steps_s <= 0 or waited_s <= 0 or waited_s < least_s:
        return None
    panel = max((rollout.panel for rollout in rollouts), key=len)
    generations = state.run.generations if state.run else 1
    judge = _Judge(rollouts, _slowest(rollouts), generations, len(state.axes), panel)
    throttled, count = state.judge.throttled, len(rollouts)
    remedies = [
        remedy
        for remedy in judge.remedies(throttled)
        if remedy.saved_s is not None and remedy.saved_s * count >= least_s
    ]
    best = max(remedies, key=lambda remedy: remedy.saved_s or 0.0, default=None)
    if best is None and not throttled:
        return None
    return JudgeWait(
        rollouts=count,
        waited_s=waited_s,
        steps=steps,
        steps_s=steps_s,
        judge=judge.name if panel else "",
        slots=judge.slots,
        full=judge.full,
        throttled=throttled,
        remedy=best or judge.fewer_calls(),
    )


class _Rollout:
    """The judge calls of one rollout."""

    def __init__(self, batch: ev.JudgeBatchFinished) -> None:
        self.step = batch.step
        self.waited_s = batch.exposed_s
        self.panel = tuple(member.name for member in batch.members)
        """The judges of the panel, in its order; empty without one."""
        self.parts = {part.judge: part for part in batch.traffic if part.calls}
        self._ends = {name: replay(part.calls, _slots(part)) for name, part in self.parts.items()}
        self.ends_s = max(call.answered_s for part in self.parts.values() for call in part.calls)
        """When the last verdict arrived, on the clock of the calls."""
        self.waits_from_s = self.ends_s - batch.exposed_s
        """When the trainer began to wait, on the clock of the calls."""

    def end_of(self, judge: str) -> float:
        """When the judge's last call ends in a replay with nothing changed; 0 without calls."""
        return self._ends.get(judge, 0.0)

    def saved_s(self, judge: str, end_s: float) -> float:
        """Seconds that the trainer would not wait if this judge's last call ended at `end_s`."""
        before = max(self._ends.values())
        after = max(end_s, *(end for name, end in self._ends.items() if name != judge), 0.0)
        return min(self.waited_s, max(0.0, before - max(after, self.waits_from_s)))


class _Judge:
    """The calls to one judge over the rollouts, and what would shorten them.

    Args:
        rollouts: at least one.
        name: the judge, which has calls in at least one of them.
        generations: completions per prompt.
        axes: number of axes of a verdict.
        panel: the judges of the panel that it belongs to; empty without one.
    """

    def __init__(
        self,
        rollouts: Sequence[_Rollout],
        name: str,
        generations: int,
        axes: int,
        panel: Sequence[str],
    ) -> None:
        self.name = name
        self._rollouts = [rollout for rollout in rollouts if name in rollout.parts]
        self._parts = [rollout.parts[name] for rollout in self._rollouts]
        self._open = [OpenCalls(part.calls) for part in self._parts]
        self._prefix = f"judge.panel.{panel.index(name)}." if name in panel else "judge."
        newest = self._parts[-1]
        self.slots = _slots(newest)
        self._group = max(1, generations) if newest.mode == "absolute" and not panel else 1
        verdicts = max(1, generations) if newest.mode == "group" else 1
        self._needed_tokens = verdicts * (REASON_TOKENS + AXIS_TOKENS * axes)
        calls = [call for part in self._parts for call in part.calls]
        self._replies = [
            (float(call.output_tokens), duration(call))
            for call in calls
            if call.output_tokens is not None
        ]
        self._by_tokens = fit_line(self._replies)

    @property
    def full(self) -> float:
        """Share of the wait in which all of its slots are in use."""
        waited_s = sum(rollout.waited_s for rollout in self._rollouts)
        busy_s = sum(
            rollout.waited_s
            * calls.share_at_least(self.slots, rollout.waits_from_s, rollout.ends_s)
            for rollout, calls in zip(self._rollouts, self._open, strict=True)
        )
        return busy_s / waited_s if waited_s else 0.0

    def remedies(self, throttled: bool) -> Iterator[Remedy]:
        """Settings whose effect the calls show."""
        if not throttled and self.slots < MAX_SLOTS:
            slots = min(MAX_SLOTS, 2 * self.slots)
            yield Remedy(
                f"{self._prefix}concurrency={slots}",
                self.saved_by_slots(slots),
                f"if its server answers {slots} calls at a time as fast",
            )
        if (shorter := self._shorter_replies()) is not None:
            yield shorter
        if (grouped := self._grouped()) is not None:
            yield grouped

    def saved_by_slots(self, slots: int) -> float:
        """Seconds per rollout that this number of slots would save.

        If the run's calls take longer the more of them are open, so do those of the replay, and as much
        as the calls allow.
        """
        line = fit_line(
            [
                (calls.beside(call), duration(call))
                for part, calls in zip(self._parts, self._open, strict=True)
                for call in part.calls
            ]
        )
        if line is not None and line.rises:
            line = line.steepest
        ratio = slots / self.slots

        def seconds(calls: OpenCalls, call: JudgeCall) -> float:
            if line is None or not line.rises:
                return duration(call)
            count = calls.beside(call)
            now, then = line.at(count), line.at(count * ratio)
            return duration(call) * (min(ratio, then / now) if now > 0 else ratio)

        return self._mean_saved(
            replay(part.calls, slots, partial(seconds, calls))
            for part, calls in zip(self._parts, self._open, strict=True)
        )

    def fewer_calls(self) -> Remedy | None:
        """One call for each group, if that is possible: fewer calls, by an unknown number of seconds."""
        if self._group == 1:
            return None
        calls = sum(len(part.calls) for part in self._parts) / len(self._parts)
        return Remedy(
            "judge.mode=group",
            None,
            f"makes about {calls / self._group:.0f} calls, not {calls:.0f}",
        )

    def _shorter_replies(self) -> Remedy | None:
        """Replies of the length that a verdict needs, if the time of a call depends on its tokens."""
        line = self._by_tokens
        if line is None or not line.rises:
            return None
        tokens = fmean(tokens for tokens, _ in self._replies)
        if tokens <= self._needed_tokens:
            return None

        def seconds(call: JudgeCall) -> float:
            excess = max(0, (call.output_tokens or 0) - self._needed_tokens)
            return max(0.0, duration(call) - line.slope * excess)

        share = line.slope * tokens / fmean(seconds for _, seconds in self._replies)
        return Remedy(
            f"{self._prefix}reasoning_effort=none",
            self._mean_saved(replay(part.calls, self.slots, seconds) for part in self._parts),
            f"or another way to turn its thought off: {tokens:.0f} tokens a reply, where"
            f" {self._needed_tokens} are enough, take {format_percent(min(1.0, share))} of a call",
        )

    def _grouped(self) -> Remedy | None:
        """One call for each group: sent when all completions have ended, with the tokens of all verdicts."""
        line = self._by_tokens
        if line is None or self._group == 1:
            return None
        tokens = fmean(tokens for tokens, _ in self._replies)
        longer_s = max(0.0, line.steepest.slope) * tokens * (self._group - 1)
        length = fmean(seconds for _, seconds in self._replies) + longer_s

        def end(part: JudgeTraffic) -> float:
            ready = max(call.requested_s for call in part.calls)
            count = -(-len(part.calls) // self._group)
            return replay([JudgeCall(ready, ready, ready + length)] * count, self.slots)

        before = sum(len(part.calls) for part in self._parts) / len(self._parts)
        return Remedy(
            "judge.mode=group",
            self._mean_saved(map(end, self._parts)),
            f"with about {before / self._group:.0f} calls a step in place of {before:.0f}",
        )

    def _mean_saved(self, ends: Iterable[float]) -> float:
        """Seconds saved per rollout if the judge's last calls ended then."""
        return fmean(
            rollout.saved_s(self.name, end)
            for rollout, end in zip(self._rollouts, ends, strict=True)
        )


def _slots(part: JudgeTraffic) -> int:
    return min(MAX_SLOTS, max(1, part.slots))


def _slowest(rollouts: Sequence[_Rollout]) -> str:
    """The judge whose calls end last, on average."""
    names = dict.fromkeys(name for rollout in rollouts for name in rollout.parts)
    return max(names, key=lambda name: sum(rollout.end_of(name) for rollout in rollouts))


def _steps_since(state: RunState, first: int) -> tuple[int, float]:
    """Number of the finished steps from `first` on, and the seconds that they took."""
    finished = (state.steps[position] for position in range(len(state.steps) - 1, -1, -1))
    seconds = [
        sum(step.seconds.values()) for step in takewhile(lambda step: step.step >= first, finished)
    ]
    return len(seconds), sum(seconds)


def _seconds_text(seconds: float) -> str:
    return format_clock(seconds) if seconds < 10 else format_duration(seconds)
