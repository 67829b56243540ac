"""Costs of a run's judge calls: `judge-costs.jsonl` in the run directory.

Each paid call has two lines, one before it is sent and one with the cost that its reply reports. A call
without the second line may have been answered and charged after its process was killed or its time was up: it
counts with the mean cost of the other calls, and against the budget with its maximum. The training and the
commands on the run share the file and the budget.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ida_tui.events.types import JudgeCost
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import DurableAppender, ends_with_incomplete_line
from ida_tui.util.safe_files import iterate_lines, open_regular
from ida_tui.util.text import parse_json

Payer = Literal["train", "evaluate", "chat", "replay-judge"]
"""What made a call: the training of the run, or a command on it."""
EARLIER_CALL = "train:earlier"
"""Id of the costs of a run that was started before its calls were recorded."""


@dataclass(slots=True)
class _Totals:
    """Sums over recorded calls, in US dollars."""

    known: float = 0.0
    """Cost of the replies that report it."""
    priced: int = 0
    """Number of replies that cost something."""
    unpriced: int = 0
    """Number of replies that do not report a cost."""
    unpriced_max: float = 0.0
    open_calls: dict[str, float] = field(default_factory=dict)
    """Maximum cost of each call without a recorded reply."""

    def add(self, call: str, max_cost: float, cost: float | None) -> None:
        """Add a reply."""
        max_cost = self.open_calls.pop(call, max_cost)
        if cost is None:
            self.unpriced += 1
            self.unpriced_max += max_cost
        else:
            self.known += cost
            self.priced += cost > 0

    def total(self, active: set[str]) -> JudgeCost:
        """The total without the calls that are still under way."""
        lost = [cost for call, cost in self.open_calls.items() if call not in active]
        estimate = len(lost) * self.known / self.priced if self.priced else sum(lost)
        return JudgeCost(self.known + estimate, self.unpriced, len(lost))

    @property
    def spent(self) -> float:
        """The most that the calls can have cost."""
        return self.known + self.unpriced_max + sum(self.open_calls.values())


class JudgeCosts:
    """Records the paid calls of one process, and knows those of earlier ones. Thread-safe.

    Args:
        directory: the run directory.
        payer: what makes the calls.
        earlier: cost of a run that has no record yet, in US dollars; None if unknown.
    """

    def __init__(
        self, directory: RunDirectory, payer: Payer, *, earlier: float | None = 0.0
    ) -> None:
        self._path = directory.judge_costs
        self._payer = payer
        self._lock = threading.Lock()
        self._file: DurableAppender | None = None
        self._active: set[str] = set()
        self._id = f"{payer}:{secrets.token_hex(4)}"
        self._count = 0
        self._totals = _read_totals(directory)
        self._unwritten = ""
        if earlier != 0 and not self._path.exists():
            self._unwritten = json.dumps({"call": EARLIER_CALL, "cost": earlier})
            self._payer_totals("train").add(EARLIER_CALL, 0.0, earlier)

    @property
    def total(self) -> JudgeCost:
        """What the calls of this payer have cost, in this process and earlier ones."""
        with self._lock:
            return self._payer_totals(self._payer).total(self._active)

    @property
    def spent(self) -> float:
        """The most that all recorded calls can have cost, in US dollars."""
        with self._lock:
            return sum(totals.spent for totals in self._totals.values())

    def start(self, max_cost: float) -> str:
        """Record a call before it is sent, and return its id.

        Raises:
            OSError: the write failed.
        """
        with self._lock:
            self._count += 1
            call = f"{self._id}:{self._count}"
            self._write({"call": call, "max": max_cost})
            self._payer_totals(self._payer).open_calls[call] = max_cost
            self._active.add(call)
            return call

    def finish(self, call: str, max_cost: float, cost: float | None) -> None:
        """Record the cost of a call; None if its reply does not report it. `call` is empty if not started.

        Raises:
            OSError: the write failed; the call counts in this process.
        """
        with self._lock:
            self._active.discard(call)
            self._payer_totals(self._payer).add(call, max_cost, cost)
            self._write({"call": call or self._id, "cost": cost})

    def abandon(self, call: str) -> None:
        """Count a call that ended without a reply as one whose cost is unknown."""
        with self._lock:
            self._active.discard(call)

    def recreate(self) -> None:
        """Write the file again after the run directory was removed.

        Raises:
            OSError: the write failed.
        """
        with self._lock:
            if self._file is not None and self._file.is_missing():
                self._file.recreate()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _payer_totals(self, payer: str) -> _Totals:
        return self._totals.setdefault(payer, _Totals())

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self._file = DurableAppender(self._path)
            if ends_with_incomplete_line(self._path):
                self._file.write("", durable=False)
        if self._unwritten:
            self._file.write(self._unwritten, durable=False)
            self._unwritten = ""
        # A written line survives the death of the process; only a power failure could lose it.
        self._file.write(json.dumps(line), durable=False)


def recorded_cost(directory: RunDirectory) -> JudgeCost | None:
    """What the judge calls of a run's training have cost; None if the run has no record."""
    if not directory.judge_costs.exists():
        return None
    return _read_totals(directory).get("train", _Totals()).total(set())


def later_cost(directory: RunDirectory) -> JudgeCost:
    """What the judge calls of commands on the run have cost, such as `evaluate`."""
    later = [t.total(set()) for payer, t in _read_totals(directory).items() if payer != "train"]
    return (
        JudgeCost(*(sum(column) for column in zip(*later, strict=True))) if later else JudgeCost()
    )


def recorded_spending(directory: RunDirectory) -> float:
    """The most that all recorded calls of a run can have cost, in US dollars; 0 without a record."""
    return sum(totals.spent for totals in _read_totals(directory).values())


def _read_totals(directory: RunDirectory) -> dict[str, _Totals]:
    """The totals of each payer."""
    totals: dict[str, _Totals] = {}
    for line in _read_lines(directory):
        call = line["call"]
        payer = totals.setdefault(call.partition(":")[0], _Totals())
        if "max" in line:
            payer.open_calls[call] = line["max"]
        else:
            payer.add(call, 0.0, line["cost"])
    return totals


def _read_lines(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """The valid lines of the file; a damaged line is skipped."""
    try:
        with open_regular(directory.judge_costs) as file:
            for raw in iterate_lines(file):
                line = _parse_line(raw)
                if line is not None:
                    yield line
    except OSError:
        return


def _parse_line(raw: bytes) -> dict[str, Any] | None:
    try:
        line = parse_json(raw)
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("call"), str):
        return None
    if "max" in line:
        return line if _is_amount(line["max"]) else None
    return line if "cost" in line and (line["cost"] is None or _is_amount(line["cost"])) else None


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0
