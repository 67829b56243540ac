"""Reward functions: Python functions of a person that compute axes of a rubric.

    functions = RewardFunctions(config.rubric)
    pending = functions.start(rows, group_size=8)      # while the judge works
    for computed in pending.collect():                 # one per completion
        computed.scores, computed.failures

A function has one of three forms, told apart by the names of its parameters:

    def f(prompts, completions, completion_ids, **columns) -> list[float | None]    TRL's, for a whole step
    def f(prompt, completions, **columns) -> list[float | None]                     for one group
    def f(prompt, completion, **columns) -> float | None | dict[str, float]         for one completion

Each may be `async`. It gets the columns of the data that its signature names, or all of them with `**`. TRL's
form gets lists of chat messages, as for TRL's conversational data sets, unless its parameter `completions` is
annotated `list[str]`; the other forms get texts. A function runs in a thread of its own with all permissions
of this process. An exception, None, a result of another length or type, a score outside of the axis's range,
and a call that takes longer than `rubric.function_timeout_s` are failures with a reason, never scores.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

from ida_tui.config.axes import Axis
from ida_tui.config.rubric import RubricConfig
from ida_tui.errors import UsageError
from ida_tui.rewards.load_function import load_function
from ida_tui.util.plugin_threads import (
    POLL_INTERVAL_S,
    PluginFailure,
    PluginLoop,
    PluginStopped,
    start_call,
)
from ida_tui.util.text import quoted

FunctionForm = Literal["batch", "group", "single"]
Messages = Sequence[Mapping[str, str]]
MAX_HUNG_THREADS = 4
"""Calls of one function that may hang before it is not called again."""
BUILT_IN_PARAMETERS = (
    "prompts", "prompt", "completions", "completion", "completion_ids", "trainer_state", "log_extra",
    "log_metric", "prompt_id",
)  # fmt: skip
"""Parameters that every function can have; all others are columns of the data."""


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One completion, as reward functions see it."""

    prompt_id: str
    prompt: str
    """Text of the user's last message."""
    messages: Messages
    """The conversation before the completion, as chat messages with role and content."""
    completion: str
    completion_ids: Sequence[int] = ()
    """Token ids of the completion; empty outside of training."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the prompt's row."""


@dataclass(frozen=True, slots=True)
class ComputedScores:
    """What the functions computed for one completion."""

    scores: Mapping[str, float | None]
    """The score on each computed axis; None where it failed."""
    failures: Mapping[str, str]
    """Why each failed axis has no score."""

    @property
    def failure(self) -> str | None:
        """All failures in one line; None without any."""
        texts = [f"{axis}: {text}" for axis, text in self.failures.items()]
        return "; ".join(dict.fromkeys(texts)) or None


@dataclass(frozen=True, slots=True)
class _Signature:
    form: FunctionForm
    parameters: frozenset[str]
    takes_all: bool
    """Whether it has `**` for further columns."""
    required: frozenset[str]
    """Parameters without a default."""
    wants_texts: bool
    is_async: bool


@dataclass(slots=True)
class _Function:
    """One function and the axes that it computes."""

    call: Callable[..., object]
    label: str
    """Its reference as typed, for messages."""
    file: Path | None
    signature: _Signature
    axes: list[Axis]
    loop: PluginLoop | None
    hung: int = 0
    """Calls that have not returned in time."""


class RewardFunctions:
    """The reward functions of a rubric. Use it from one thread.

    Args:
        rubric: the rubric; its computed axes name the functions.
        columns: names of the columns of the data, to check that the functions find theirs; None: no check.
        should_stop: polled while a function's file is imported.

    Raises:
        UsageError: a function cannot be found or imported, or needs a column that the data does not have.
        PluginStopped: `should_stop` returned true.
    """

    def __init__(
        self,
        rubric: RubricConfig,
        *,
        columns: Collection[str] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rubric = rubric
        self._columns = columns
        self._should_stop = should_stop
        self._timeout_s = rubric.function_timeout_s
        self._functions: list[_Function] = []
        self._load()

    def _load(self) -> None:
        rubric, columns = self._rubric, self._columns
        by_reference: dict[tuple[str, str], _Function] = {}
        for axis in rubric.axis_list:
            if axis.kind != "computed":
                continue
            settings = rubric.axes[axis.name]
            key = (settings.function, repr(sorted(settings.options.items())))
            if key not in by_reference:
                loaded = load_function(
                    settings.function, settings.options, should_stop=self._should_stop
                )
                signature = read_signature(loaded.call, settings.function)
                loop = PluginLoop() if signature.is_async else None
                by_reference[key] = _Function(
                    loaded.call, settings.function, loaded.file, signature, [], loop
                )
                if columns is not None:
                    _check_columns(by_reference[key], columns)
            by_reference[key].axes.append(axis)
        self._functions = list(by_reference.values())

    def __bool__(self) -> bool:
        return bool(self._functions)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes that the functions compute."""
        return tuple(axis.name for function in self._functions for axis in function.axes)

    def describe(self) -> list[tuple[str, str]]:
        """Each function with the names of its axes, for the log."""
        return [
            (function.label, ", ".join(axis.name for axis in function.axes))
            for function in self._functions
        ]

    def reload(self) -> None:
        """Import the functions again, after their files have changed.

        Raises:
            IdaError: as in the constructor.
        """
        self._load()

    def start(
        self, rows: Sequence[RewardRow], *, group_size: int, step: int = 0, steps: int = 0
    ) -> PendingScores:
        """Call the functions for all completions of a step; returns immediately.

        Args:
            rows: the completions, those of a group next to each other.
            group_size: completions per prompt.
            step: the current step, for `trainer_state`.
            steps: the planned steps, for `trainer_state`.
        """
        state = SimpleNamespace(global_step=step, max_steps=steps)
        calls = [
            _FunctionCall(function, rows, group_size, state, self._timeout_s)
            for function in self._functions
        ]
        return PendingScores(calls, len(rows))

    def compute(self, rows: Sequence[RewardRow], *, group_size: int) -> list[ComputedScores]:
        """Call the functions and wait for their scores."""
        return self.start(rows, group_size=group_size).collect()


class PendingScores:
    """Scores that functions are computing."""

    def __init__(self, calls: Sequence[_FunctionCall], rows: int) -> None:
        self._calls = calls
        self._rows = rows

    def collect(self, should_stop: Callable[[], bool] = lambda: False) -> list[ComputedScores]:
        """Wait for the scores of all completions, in their order.

        Raises:
            PluginStopped: `should_stop` returned true.
        """
        for call in self._calls:
            call.wait(should_stop)
        results: list[ComputedScores] = []
        for row in range(self._rows):
            scores: dict[str, float | None] = {}
            failures: dict[str, str] = {}
            for call in self._calls:
                call.read(row, scores, failures)
            results.append(ComputedScores(scores, failures))
        return results


class _FunctionCall:
    """The calls of one function for the completions of a step."""

    def __init__(
        self,
        function: _Function,
        rows: Sequence[RewardRow],
        group_size: int,
        state: SimpleNamespace,
        timeout_s: float,
    ) -> None:
        self._function = function
        self._rows = rows
        self._state = state
        self._timeout_s = timeout_s
        form = function.signature.form
        size = {"batch": max(1, len(rows)), "group": group_size, "single": 1}[form]
        self._parts = [range(n, min(n + size, len(rows))) for n in range(0, len(rows), size)]
        self._results: dict[int, object] = {}
        """What the function returned for each row, or a `PluginFailure`."""
        self._lock = threading.Condition()
        self._done: set[int] = set()
        """Positions of the parts that have a result."""
        self._current: tuple[int, float] | None = None
        """The part in progress and when it started."""
        self._generation = 0
        if function.hung >= MAX_HUNG_THREADS:
            self._fail_parts(range(len(self._parts)), "it does not return")
        elif function.loop is not None:
            self._start_async(function.loop)
        else:
            self._start_thread(0)

    # --- calls ----------------------------------------------------------------------------------

    def _start_thread(self, first: int) -> None:
        """Call the function for the parts from `first` on, one after another."""
        self._generation += 1
        generation = self._generation

        def work() -> None:
            for number in islice(range(len(self._parts)), first, None):
                with self._lock:
                    if generation != self._generation:
                        return  # another thread has taken over
                    self._current = (number, time.monotonic())
                outcome = self._call(self._parts[number])
                with self._lock:
                    if generation != self._generation:
                        return
                    self._store(number, outcome)

        start_call(work, lambda result, failure: None)

    def _start_async(self, loop: PluginLoop) -> None:
        """Await the function for all parts at the same time."""

        def start(number: int) -> None:
            async def call() -> object:
                try:
                    awaitable = cast(
                        Awaitable[object],
                        self._function.call(**self._arguments(self._parts[number])),
                    )
                    return await asyncio.wait_for(awaitable, self._timeout_s)
                except TimeoutError:
                    return PluginFailure(f"it took longer than {self._timeout_s:g} s")
                except Exception as error:
                    return PluginFailure(self._describe(error))

            def on_done(result: object | None, failure: PluginFailure | None) -> None:
                with self._lock:
                    self._store(number, result if failure is None else failure)

            loop.start_call(call, on_done)

        self._current = (0, time.monotonic())
        for number in range(len(self._parts)):
            start(number)

    def _call(self, part: range) -> object:
        """What the function returns for some rows, or a `PluginFailure`."""
        try:
            return self._function.call(**self._arguments(part))
        except BaseException as error:  # also SystemExit and KeyboardInterrupt
            return PluginFailure(self._describe(error))

    def _describe(self, error: BaseException) -> str:
        """What a function raised and where; the traceback goes to the log of plugins."""
        print(f"{self._function.label}:\n{''.join(traceback.format_exception(error))}")
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(":")
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if self._function.file is not None and Path(frame.filename) == self._function.file:
                return f"{text} ({self._function.file.name}:{frame.lineno})"
        return text

    def _arguments(self, part: range) -> dict[str, object]:
        rows = [self._rows[row] for row in part]
        signature = self._function.signature
        names = dict.fromkeys(name for row in rows for name in row.columns)
        values: dict[str, object] = {}
        if signature.form == "single":
            [row] = rows
            values = {**row.columns, "prompt": row.prompt, "completion": row.completion}
            values |= {"completion_ids": list(row.completion_ids), "prompt_id": row.prompt_id}
        else:
            columns = {name: [row.columns.get(name) for row in rows] for name in names}
            texts = signature.wants_texts
            completions = [
                row.completion if texts else [{"role": "assistant", "content": row.completion}]
                for row in rows
            ]
            prompts = [row.prompt if texts else [dict(m) for m in row.messages] for row in rows]
            values = {**columns, "completions": completions, "prompts": prompts}
            values |= {
                "prompt": rows[0].prompt,
                "completion_ids": [list(row.completion_ids) for row in rows],
                "prompt_id": [row.prompt_id for row in rows],
            }
        values |= {
            "trainer_state": self._state,
            "log_extra": lambda *_, **__: None,
            "log_metric": lambda *_, **__: None,
        }
        if signature.takes_all:
            other_form = {"prompt", "completion"} if signature.form == "batch" else {"prompts"}
            return {n: v for n, v in values.items() if n not in other_form - signature.parameters}
        return {name: value for name, value in values.items() if name in signature.parameters}

    # --- results --------------------------------------------------------------------------------

    def _store(self, number: int, outcome: object) -> None:
        """Keep the result of a part. The lock is held."""
        part = self._parts[number]
        if number in self._done:
            return
        self._done.add(number)
        for row, result in zip(part, _split_result(outcome, len(part), self._form), strict=True):
            self._results[row] = result
        self._lock.notify_all()

    @property
    def _form(self) -> FunctionForm:
        return self._function.signature.form

    def _fail_parts(self, numbers: Collection[int], text: str) -> None:
        with self._lock:
            for number in numbers:
                self._store(number, PluginFailure(text))

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait until every part has a result; a call that takes too long gets a failure.

        Raises:
            PluginStopped: `should_stop` returned true.
        """
        while True:
            with self._lock:
                if len(self._done) == len(self._parts):
                    return
                self._lock.wait(POLL_INTERVAL_S)
                current = self._current
            if should_stop():
                raise PluginStopped
            if current is None or time.monotonic() - current[1] < self._timeout_s:
                continue
            self._give_up(current[0])

    def _give_up(self, number: int) -> None:
        """Record that a call does not return, and go on with the next part in another thread."""
        text = f"it took longer than {self._timeout_s:g} s"
        if self._function.loop is not None:
            # Awaited calls time out by themselves; one that blocks the loop does not.
            late = [n for n in range(len(self._parts)) if n not in self._done]
            self._function.hung = MAX_HUNG_THREADS
            self._fail_parts(late, text)
            return
        self._function.hung += 1
        with self._lock:
            self._generation += 1  # the late thread must store nothing
            self._current = None
            self._store(number, PluginFailure(text))
        rest = range(number + 1, len(self._parts))
        if self._function.hung >= MAX_HUNG_THREADS:
            self._fail_parts(rest, "it does not return")
        elif rest:
            self._start_thread(number + 1)

    def read(self, row: int, scores: dict[str, float | None], failures: dict[str, str]) -> None:
        """Add the scores of one row on this function's axes."""
        result = self._results[row]
        for axis in self._function.axes:
            try:
                scores[axis.name] = _read_score(result, axis, len(self._function.axes))
            except ValueError as error:
                scores[axis.name] = None
                failures[axis.name] = str(error)


def _split_result(outcome: object, rows: int, form: FunctionForm) -> list[object]:
    """What a function returned for each row; failures if it is not a list of their length."""
    if isinstance(outcome, PluginFailure):
        return [outcome] * rows
    if form == "single":
        return [outcome]
    if isinstance(outcome, str | bytes | Mapping) or not hasattr(outcome, "__len__"):
        kind = type(outcome).__name__
        return [PluginFailure(f"it returned {kind} instead of a list of {rows} scores")] * rows
    try:
        results = list(cast("Sequence[object]", outcome))
    except Exception as error:
        return [PluginFailure(f"its result cannot be read: {type(error).__name__}")] * rows
    if len(results) != rows:
        text = f"it returned {len(results)} scores for {rows} completions"
        return [PluginFailure(text)] * rows
    return results


def _read_score(result: object, axis: Axis, shared: int) -> float:
    """The score on an axis.

    Raises:
        ValueError: there is none; the text says why.
    """
    if isinstance(result, PluginFailure):
        raise ValueError(str(result))
    if isinstance(result, Mapping):
        if axis.name not in result:
            raise ValueError(f"it returned no {quoted(axis.name)}")
        result = result[axis.name]
    elif shared > 1:
        raise ValueError("a function of several axes must return a dict with a score for each")
    if result is None:
        raise ValueError("it returned None")
    if isinstance(result, str | bytes):
        raise ValueError(f"it returned {type(result).__name__} instead of a number")
    try:
        score = float(result)  # type: ignore[arg-type]  # also numbers of numpy and torch
    except Exception:
        raise ValueError(f"it returned {type(result).__name__} instead of a number") from None
    if not math.isfinite(score):
        raise ValueError(f"it returned {score}")
    if not axis.contains(score):
        low = "−∞" if axis.low is None else f"{axis.low:g}"
        high = "∞" if axis.high is None else f"{axis.high:g}"
        raise ValueError(f"{score:g} is outside of the range from {low} to {high}")
    return score


def read_signature(call: Callable[..., object], label: str) -> _Signature:
    """How a function wants to be called.

    Raises:
        UsageError: it takes neither `completion` nor `completions`.
    """
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    kinds = inspect.Parameter
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    takes_all = any(parameter.kind == kinds.VAR_KEYWORD for parameter in parameters.values())
    if "completion" in named:
        form: FunctionForm = "single"
    elif "completions" in named:
        form = "group" if "prompt" in named else "batch"
    elif takes_all:
        form = "batch"
    else:
        raise UsageError(
            f"the reward function {label} takes neither completion nor completions",
            "define it as f(prompt, completion, **columns), or as TRL does: "
            "f(prompts, completions, completion_ids, **columns)",
        )
    annotation = str(named["completions"].annotation) if "completions" in named else ""
    texts = annotation.replace("typing.", "").replace(" ", "").lower()
    return _Signature(
        form=form,
        parameters=frozenset(named),
        takes_all=takes_all,
        required=frozenset(name for name, p in named.items() if p.default is kinds.empty),
        wants_texts=form == "group" or texts in ("list[str]", "sequence[str]"),
        is_async=_is_async(call),
    )


def _is_async(call: Callable[..., object]) -> bool:
    inner = getattr(call, "func", call)  # of functools.partial
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(inner, "__call__", None)  # noqa: B004 - tests for async, not for callable
    )


def _check_columns(function: _Function, columns: Collection[str]) -> None:
    """Raise if a function needs a column that the data does not have."""
    signature = function.signature
    missing = sorted(signature.required - set(BUILT_IN_PARAMETERS) - set(columns))
    if missing:
        known = ", ".join(sorted(columns)) or "none"
        raise UsageError(
            f"the reward function {function.label} needs the column {quoted(missing[0])}, which the prompts"
            " do not have",
            f"add it to the data, rename the parameter, or give it a default; columns: {known}",
        )
