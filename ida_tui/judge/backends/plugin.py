"""Judge plugins: judges from other packages, as entry points of the group `ida_tui.judges`.

    def judge(prompt: str, kind: str, completion: str) -> dict:
        return {"align": 8.0, "risk": 10.0, "detail": 6.5, "reason": "names the steps"}

The entry point is such a function, `async` or not, or a class whose instances are callable in the same way.
`judge.options` are passed to the class, or to every call of the function. A plugin runs on threads of its
own, asynchronous functions on one event loop, at most `judge.concurrency` calls at the same time. A
function with a parameter `context` also gets the messages before the prompt, as a list of roles and texts;
one with a parameter `rubric` gets the additional checks of the prompt's row, as a list of texts, unless an
option has that name. A call that raises anything, returns no valid scores or takes longer than
`judge.timeout_s` is a failed verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import cast

from ida_tui.config.schema import JudgeConfig
from ida_tui.judge.backends.openai.request import VerdictRecord
from ida_tui.judge.errors import redact
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.rewards.r_ida import MAX_SCORE
from ida_tui.util import plugins
from ida_tui.util.plugin_threads import PluginFailure, PluginLoop, start_call

MAX_PLUGIN_REASON_CHARS = 500
"""Maximum length of a reason, in characters; the rest is cut."""
VERDICT_FIELDS = ("reason", "cost")

JudgeFunction = Callable[..., object]


class PluginJudge:
    """Requests verdicts from a judge plugin. Use it on one event loop.

    Args:
        config: the judge profile; its `model` is the name of the entry point.
        axes: the judged axes.
        should_stop: polled while the plugin loads.

    Raises:
        UsageError: no installed package provides the judge.
        IdaError: the plugin cannot be loaded.
        PluginStopped: `should_stop` returned true.
    """

    def __init__(
        self,
        config: JudgeConfig,
        axes: Sequence[str],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._axes = axes
        self.label = f"{config.model} (plugin)"
        """The judge's name in verdicts and on screens."""
        entry = plugins.find_plugin(plugins.JUDGE_GROUP, config.model)
        self.description = plugins.describe_plugin(entry)
        """The plugin's name, entry point and package, for messages."""
        self._function, self.version, is_async = plugins.load_plugin(
            plugins.JUDGE_GROUP,
            config.model,
            partial(_build_judge, options=config.options),
            should_stop=should_stop,
        )
        self._takes_checks = "rubric" not in config.options and _has_parameter(
            self._function, "rubric"
        )
        self._takes_context = _has_parameter(self._function, "context")
        self._plugin_loop = PluginLoop() if is_async else None
        self._default_cost_is_zero = config.price is not None
        self._timeout_s = config.timeout_s
        self._concurrency = config.concurrency
        self._semaphore = asyncio.Semaphore(config.concurrency)
        self._late_calls = 0
        """Calls that have not returned after their timeout."""

    async def request_verdict(self, request: JudgeRequest) -> VerdictRecord:
        """Request a verdict; whatever the plugin raises becomes a failed verdict."""
        async with self._semaphore:
            started = time.perf_counter()
            try:
                verdict = await self._call_plugin(request, started)
            except PluginFailure as failure:
                verdict = self._failed_verdict(str(failure), started)
        return VerdictRecord(verdict, raw="", fingerprint=None)

    async def _call_plugin(self, request: JudgeRequest, started: float) -> Verdict:
        """The plugin's verdict.

        Raises:
            PluginFailure: the plugin failed, or did not return in time.
        """
        if self._late_calls >= self._concurrency:
            calls = "1 call takes" if self._late_calls == 1 else f"{self._late_calls} calls take"
            raise PluginFailure(f"it does not return: {calls} longer than {self._timeout_s:g} s")
        arguments: dict[str, object] = {
            "prompt": request.prompt,
            "kind": request.kind,
            "completion": request.completion,
        }
        if self._takes_checks:
            arguments["rubric"] = list(request.checks)
        if self._takes_context:
            arguments["context"] = [list(message) for message in request.context]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Verdict] = loop.create_future()

        def set_outcome(verdict: Verdict | None, failure: PluginFailure | None) -> None:
            if future.done():  # timed out or canceled
                self._late_calls -= 1
            elif failure is not None:
                future.set_exception(failure)
            elif verdict is not None:
                future.set_result(verdict)

        def on_done(verdict: Verdict | None, failure: PluginFailure | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed
                loop.call_soon_threadsafe(set_outcome, verdict, failure)

        def judge() -> Verdict:
            result = self._function(**arguments)
            return self._verdict_from(result, time.perf_counter() - started)

        async def judge_async() -> Verdict:
            result = await cast(Awaitable[object], self._function(**arguments))
            return self._verdict_from(result, time.perf_counter() - started)

        if self._plugin_loop is None:
            start_call(judge, on_done)
            cancel: Callable[[], object] = lambda: None  # noqa: E731
        else:
            cancel = self._plugin_loop.start_call(judge_async, on_done)
        try:
            return await asyncio.wait_for(future, self._timeout_s)
        except TimeoutError:
            raise PluginFailure(f"it took longer than {self._timeout_s:g} s") from None
        finally:
            if future.cancelled():
                self._late_calls += 1
                cancel()

    def _verdict_from(self, result: object, latency_s: float) -> Verdict:
        """The plugin's return value as a verdict.

        Raises:
            ValueError: the value has no valid scores.
        """
        if not isinstance(result, Mapping):
            raise ValueError(
                f"it returned {type(result).__name__} instead of a mapping with "
                f"{', '.join(self._axes)}"
            )
        scores = {axis: _read_score(result, axis) for axis in self._axes}
        extra = [
            f"{name} {value:g}"
            for name, value in result.items()
            if name not in scores and _is_extra_axis(name, value)
        ]
        reason = " ".join(str(result.get("reason", "")).split())[:MAX_PLUGIN_REASON_CHARS]
        return Verdict.scored(
            scores,
            f"{reason} [{', '.join(extra)}]".strip() if extra else reason,
            self.label,
            latency_s=latency_s,
            cost=self._cost(result),
        )

    def _cost(self, result: Mapping[str, object]) -> float | None:
        """US dollars that the plugin reports; else 0 if the profile has a price, None if it has none."""
        cost = result.get("cost")
        if isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0:
            return float(cost)
        return 0.0 if self._default_cost_is_zero else None

    def _failed_verdict(self, reason: str, started: float) -> Verdict:
        return Verdict.failed(
            redact(f"the plugin {self.description} failed: {reason}", None),
            self.label,
            latency_s=time.perf_counter() - started,
            cost=0.0 if self._default_cost_is_zero else None,
        )


def _build_judge(
    plugin: object, options: Mapping[str, object]
) -> tuple[JudgeFunction, str | None, bool]:
    """The callable judge of a plugin, its version, and whether it is asynchronous."""
    function = _build_judge_function(plugin, options)
    version = getattr(function, "version", getattr(plugin, "version", None))
    return function, None if version is None else str(version), _is_async(function)


def _build_judge_function(plugin: object, options: Mapping[str, object]) -> JudgeFunction:
    """The callable judge of a plugin, with its options applied.

    Raises:
        TypeError: the plugin is not callable. The constructor of its class may raise anything else.
    """
    if isinstance(plugin, type):
        instance = plugin(**options)
        if not callable(instance):
            raise TypeError(f"an instance of {plugin.__name__} is not callable")
        return cast(JudgeFunction, instance)
    if not callable(plugin):
        raise TypeError(f"{type(plugin).__name__} is not callable")
    return partial(plugin, **options) if options else plugin


def _is_async(judge: JudgeFunction) -> bool:
    judge = judge.func if isinstance(judge, partial) else judge
    return inspect.iscoroutinefunction(judge) or inspect.iscoroutinefunction(
        getattr(judge, "__call__", None)  # noqa: B004 - tests for async, not for callable
    )


def _has_parameter(judge: JudgeFunction, name: str) -> bool:
    try:
        return name in inspect.signature(judge).parameters
    except (TypeError, ValueError):
        return False  # a callable without a signature


def _read_score(result: Mapping[str, object], axis: str) -> float:
    score = result.get(axis)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"it returned no number for {axis}")
    if not 0 <= score <= MAX_SCORE:  # NaN fails every comparison
        raise ValueError(f"{axis} must be between 0 and 10, not {score:g}")
    return float(score)


def _is_extra_axis(name: object, value: object) -> bool:
    """Whether an item is an additional axis, which is shown with the reason but not rewarded."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(name, str) and name not in VERDICT_FIELDS and is_number
