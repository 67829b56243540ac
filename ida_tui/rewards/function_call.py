"""Calls of one reward function for the completions of a step, with a limit of their time.

A function runs in a thread of its own, one part of the step after another; an async one is awaited for all
parts at the same time. What a call returns after its time is dropped.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from ida_tui.config.scoring.axes import Axis
from ida_tui.rewards.function_results import AxisScores, read_results
from ida_tui.rewards.rows import RewardRow
from ida_tui.rewards.signature import Signature
from ida_tui.util.plugin_output import log_plugin_text
from ida_tui.util.plugin_threads import (
    MAX_FAILURE_CHARS,
    POLL_INTERVAL_S,
    PluginFailure,
    PluginLoop,
    PluginStopped,
    start_call,
)
from ida_tui.util.text import one_line
from ida_tui.util.thoughts import answer_of

MAX_HUNG_CALLS = 4
"""Calls of one function that may hang at the same time before it is not called again."""
LOOP_GRACE_S = 2.0
"""Longest wait for an event loop to report that its calls took too long; after it, the loop is blocked."""


@dataclass(slots=True)
class Function:
    """One function and the axes that it computes."""

    call: Callable[..., object]
    label: str
    """Its reference as printed."""
    file: Path | None
    signature: Signature
    axes: list[Axis]
    loop: PluginLoop | None
    """Where it is awaited; None if it is not async."""
    include_thoughts: bool = False
    """Whether it gets the thoughts of completions, too."""
    hung: set[object] = field(default_factory=set)
    """The calls that have not returned in time and still run. Adding and removing is atomic."""


class FunctionCall:
    """The calls of one function for some completions; the constructor starts them.

    Args:
        function: the function.
        rows: the completions, those of a group next to each other.
        group_size: completions per prompt.
        state: attributes of TRL's `trainer_state`.
        timeout_s: longest time of one call, in seconds.
    """

    def __init__(
        self,
        function: Function,
        rows: Sequence[RewardRow],
        group_size: int,
        state: Mapping[str, object],
        timeout_s: float,
    ) -> None:
        self._function = function
        self._rows = rows
        self._state = state
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self.seconds: float | None = None
        """Time until the last part had a result, in seconds; None before."""
        form = function.signature.form
        size = {"batch": max(1, len(rows)), "group": max(1, group_size), "single": 1}[form]
        self._parts = [range(n, min(n + size, len(rows))) for n in range(0, len(rows), size)]
        self._scores: dict[int, AxisScores] = {}
        self._changed = threading.Condition()
        """Guards the fields below, and the scores."""
        self._done: set[int] = set()
        """Positions of the parts that have a result."""
        self._current: tuple[int, float] | None = None
        """The part in progress and when it started."""
        self._worker = object()
        """The thread whose results count; another one has come too late."""
        if len(function.hung) >= MAX_HUNG_CALLS:
            with self._changed:
                self._fail(range(len(self._parts)), "it does not return")
        elif function.loop is not None:
            self._current = (0, time.monotonic())
            for number in range(len(self._parts)):
                self._start_async(function.loop, number)
        else:
            self._start_thread(0)

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait until every part has a result; a call that takes too long gets a failure.

        Raises:
            PluginStopped: `should_stop` returned true.
        """
        while True:
            with self._changed:
                if len(self._done) == len(self._parts):
                    return
                self._changed.wait(POLL_INTERVAL_S)
                self._give_up_late_calls()
            if should_stop():
                with self._changed:
                    self._worker = object()  # starts no further part
                raise PluginStopped

    def scores(self, row: int) -> AxisScores:
        """The scores of one row on this function's axes, after `wait`."""
        return self._scores[row]

    # --- calls ----------------------------------------------------------------------------------

    def _start_thread(self, first: int) -> None:
        """Call the function for the parts from `first` on, one after another."""
        worker = self._worker = object()

        def work() -> None:
            for number in range(first, len(self._parts)):
                with self._changed:
                    if worker is not self._worker:
                        return
                    self._current = (number, time.monotonic())
                scores = self._call(self._parts[number])
                with self._changed:
                    if worker is not self._worker:
                        self._function.hung.discard(worker)
                        return
                    self._store(number, scores)

        start_call(work, lambda result, failure: None)

    def _call(self, part: range) -> list[AxisScores]:
        """The scores of some rows; also of a function that is async without being declared so."""
        try:
            outcome = self._function.call(**self._arguments(part))
            if inspect.isawaitable(outcome):
                outcome = asyncio.run(_await(outcome))
        except BaseException as error:  # also SystemExit and KeyboardInterrupt
            outcome = PluginFailure(self._describe(error))
        return self._read(outcome, part)

    def _start_async(self, loop: PluginLoop, number: int) -> None:
        """Await the function for one part."""
        part = self._parts[number]

        async def call() -> list[AxisScores]:
            outcome: object
            try:
                awaitable = cast("Awaitable[object]", self._function.call(**self._arguments(part)))
                task = asyncio.ensure_future(awaitable)
                # Unlike wait_for, this does not wait for a task that refuses to be canceled.
                finished, _ = await asyncio.wait({task}, timeout=self._timeout_s)
                if finished:
                    outcome = task.result()
                else:
                    task.add_done_callback(lambda late: late.cancelled() or late.exception())
                    task.cancel()
                    outcome = PluginFailure(self._too_long)
            except BaseException as error:  # also SystemExit and CancelledError
                outcome = PluginFailure(self._describe(error))
            return self._read(outcome, part)

        def on_done(scores: list[AxisScores] | None, failure: PluginFailure | None) -> None:
            with self._changed:
                self._store(number, self._read(failure, part) if scores is None else scores)

        loop.start_call(call, on_done)

    def _arguments(self, part: range) -> dict[str, object]:
        """The arguments of a call, copied: a function may change what it gets."""
        rows = [self._rows[row] for row in part]
        signature = self._function.signature
        columns = [copy.deepcopy(dict(row.columns)) for row in rows]
        completions = [row.completion for row in rows]
        if not self._function.include_thoughts:
            completions = [answer_of(completion) for completion in completions]
        if signature.form == "single":
            [row] = rows
            values: dict[str, object] = {**columns[0], "prompt": row.prompt}
            values |= {"completion": completions[0], "completion_ids": list(row.completion_ids)}
            values |= {"prompt_id": row.prompt_id}
        else:
            names = dict.fromkeys(name for values_of_row in columns for name in values_of_row)
            values = {
                name: [values_of_row.get(name) for values_of_row in columns] for name in names
            }
            texts = signature.wants_texts
            values["completions"] = [
                completion if texts else [{"role": "assistant", "content": completion}]
                for completion in completions
            ]
            values["prompts"] = [
                row.prompt if texts else [dict(m) for m in row.messages] for row in rows
            ]
            values["completion_ids"] = [list(row.completion_ids) for row in rows]
            values["prompt_id"] = [row.prompt_id for row in rows]
            if signature.form == "group":
                values["prompt"] = rows[0].prompt
            else:
                values.pop("prompt", None)
                values.pop("completion", None)
        values["trainer_state"] = SimpleNamespace(**self._state)
        values["log_extra"] = values["log_metric"] = _ignore
        if signature.takes_all:
            return values
        return {name: value for name, value in values.items() if name in signature.parameters}

    def _describe(self, error: BaseException) -> str:
        """What a function raised and where; the traceback goes to the log of plugins."""
        file = self._function.file
        try:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            log = "".join(traceback.format_exception(error))
        except BaseException:  # an error without a text
            text = log = type(error).__name__
        log_plugin_text(f"{self._function.label}:\n{log}\n")
        text = one_line(text)[:MAX_FAILURE_CHARS].removesuffix(":")
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if file is not None and Path(frame.filename) == file:
                return f"{text} ({file.name}:{frame.lineno})"
        return text

    # --- results --------------------------------------------------------------------------------

    @property
    def _too_long(self) -> str:
        return f"it took longer than {self._timeout_s:g} s"

    def _read(self, outcome: object, part: range) -> list[AxisScores]:
        function = self._function
        return read_results(outcome, len(part), function.signature.form, function.axes)

    def _store(self, number: int, scores: Sequence[AxisScores]) -> None:
        """Keep the scores of a part, unless it has some. The lock is held."""
        if number in self._done:
            return
        self._done.add(number)
        self._scores.update(zip(self._parts[number], scores, strict=True))
        if len(self._done) == len(self._parts):
            self.seconds = time.monotonic() - self._started
        self._changed.notify_all()

    def _fail(self, numbers: Iterable[int], text: str) -> None:
        """Give parts without scores a failure. The lock is held."""
        for number in numbers:
            self._store(number, self._read(PluginFailure(text), self._parts[number]))

    def _give_up_late_calls(self) -> None:
        """Record that a call does not return, and go on with the next part. The lock is held."""
        if self._current is None:
            return
        number, started = self._current
        function, waited = self._function, time.monotonic() - started
        if function.loop is not None:
            # Awaited calls report by themselves that they took too long; a blocked loop does not.
            if waited >= self._timeout_s + min(LOOP_GRACE_S, self._timeout_s):
                self._fail(range(len(self._parts)), self._too_long)
                self._replace_loop(function.loop)
            return
        if waited < self._timeout_s or number in self._done:
            return
        function.hung.add(self._worker)
        self._worker, self._current = object(), None
        self._fail([number], self._too_long)
        if len(function.hung) >= MAX_HUNG_CALLS:
            self._fail(range(number + 1, len(self._parts)), "it does not return")
        elif number + 1 < len(self._parts):
            self._start_thread(number + 1)

    def _replace_loop(self, blocked: PluginLoop) -> None:
        hung = self._function.hung
        hung.add(blocked)
        blocked.start_call(_nothing, lambda result, failure: hung.discard(blocked))
        self._function.loop = PluginLoop()


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def _nothing() -> None:
    return None


def _ignore(*_: object, **__: object) -> None:
    """TRL's `log_extra` and `log_metric`: accepted, but what they get is not kept."""
