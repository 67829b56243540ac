"""Replay of a step's judge calls with other settings: when its last verdict would have arrived."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from ida_tui.events.values import JudgeCall

Duration = Callable[[JudgeCall], float]
"""Seconds that a call takes once it is sent."""


def duration(call: JudgeCall) -> float:
    """Seconds that a call took; not below 0, whatever a file says."""
    return max(0.0, call.answered_s - call.sent_s)


def replay(calls: Sequence[JudgeCall], slots: int, seconds: Duration = duration) -> float:
    """When the last call ends, if each is sent in the order of the requests as soon as a slot is free.

    Args:
        calls: the calls of one judge; a repeated call counts from its own request.
        slots: largest number of open calls; at least 1.
        seconds: how long each call takes.

    Returns:
        Seconds on the clock of the calls; 0 without calls.
    """
    free_at = [float("-inf")] * min(slots, len(calls))
    end = 0.0
    for call in sorted(calls, key=lambda call: call.requested_s):
        ended = max(call.requested_s, heapq.heappop(free_at)) + seconds(call)
        heapq.heappush(free_at, ended)
        end = max(end, ended)
    return end


class OpenCalls:
    """How many calls of one judge are open at each moment.

    Args:
        calls: at least one call.
    """

    def __init__(self, calls: Sequence[JudgeCall]) -> None:
        changes = sorted(
            [(call.sent_s, 1) for call in calls]
            + [(call.sent_s + duration(call), -1) for call in calls]
        )
        self._times = [moment for moment, _ in changes]
        self._counts = list(accumulate(change for _, change in changes))

    def beside(self, call: JudgeCall) -> int:
        """Number of open calls just after a call was sent, itself included.

        Later the number says less about the server: a call that ends late sees others end before it.
        """
        moment = call.sent_s + duration(call) / 10
        return max(1, self._counts[bisect_right(self._times, moment) - 1])

    def share_at_least(self, count: int, since: float, until: float) -> float:
        """Share of a span of time in which at least `count` calls are open, from 0 to 1."""
        if until <= since:
            return 0.0
        busy = 0.0
        for (start, end), open_calls in zip(pairwise(self._times), self._counts, strict=False):
            if open_calls >= count:
                busy += max(0.0, min(end, until) - max(start, since))
        return busy / (until - since)
