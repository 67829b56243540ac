"""Judge plugins: judges from other packages, as entry points of the group `ida_tui.judges`.

    def judge(prompt: str, kind: str, completion: str) -> dict:
        return {"align": 8.0, "risk": 10.0, "detail": 6.5, "reason": "names the steps"}

The entry point is such a function, `async` or not, or a class whose instances are callable in the same way.
`judge.options` are passed to the class, or to every call of the function. Synchronous functions run in
threads, at most `judge.concurrency` at the same time. A call that raises, returns no valid scores or takes
longer than `judge.timeout_s` is a failed verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from ida_tui.config.schema import AXES, JudgeConfig
from ida_tui.judge.backends.openai.client import VerdictRecord
from ida_tui.judge.errors import redact
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.rewards.r_ida import MAX_SCORE
from ida_tui.util import plugins

MAX_PLUGIN_REASON_CHARS = 500
"""Maximum length of a reason, in characters; the rest is cut."""
VERDICT_FIELDS = (*AXES, "reason", "cost")

JudgeFunction = Callable[..., object]


class PluginJudge:
    """Requests verdicts from a judge plugin. Use it on one event loop.

    Args:
        config: the judge profile; its `model` is the name of the entry point.

    Raises:
        UsageError: no installed package provides the judge.
        IdaError: the plugin cannot be loaded.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.label = f"{config.model} (plugin)"
        """The judge's name in verdicts and on screens."""
        entry = plugins.find_plugin(plugins.JUDGE_GROUP, config.model)
        self.description = plugins.describe_plugin(entry)
        """The plugin's name, entry point and package, for messages."""
        plugin = plugins.load_plugin(plugins.JUDGE_GROUP, config.model)
        try:
            self._function = _build_judge_function(plugin, config.options)
        except Exception as error:
            raise plugins.plugin_error(plugins.JUDGE_GROUP, entry, error) from error
        version = getattr(self._function, "version", getattr(plugin, "version", None))
        self.version = None if version is None else str(version)
        """The version that the plugin states, part of the cache key; None disables the cache."""
        self._returns_awaitable = _is_async(self._function)
        self._default_cost_is_zero = config.price is not None
        self._timeout_s = config.timeout_s
        self._semaphore = asyncio.Semaphore(config.concurrency)

    async def request_verdict(self, request: JudgeRequest) -> VerdictRecord:
        """Request a verdict; an exception of the plugin becomes a failed verdict."""
        async with self._semaphore:
            started = time.perf_counter()
            try:
                result = await asyncio.wait_for(self._call_plugin(request), self._timeout_s)
                verdict = self._verdict_from(result, time.perf_counter() - started)
            except TimeoutError:
                verdict = self._failed_verdict(
                    f"it took longer than {self._timeout_s:g} s", started
                )
            except Exception as error:
                verdict = self._failed_verdict(f"{type(error).__name__}: {error}", started)
        return VerdictRecord(verdict, raw="", fingerprint=None)

    def _call_plugin(self, request: JudgeRequest) -> Awaitable[object]:
        """What the plugin returns for a request."""
        call = partial(
            self._function,
            prompt=request.prompt,
            kind=request.kind,
            completion=request.completion,
        )
        return cast(Awaitable[object], call()) if self._returns_awaitable else _run_in_thread(call)

    def _verdict_from(self, result: object, latency_s: float) -> Verdict:
        """The plugin's return value as a verdict.

        Raises:
            ValueError: the value has no valid scores.
        """
        if not isinstance(result, Mapping):
            raise ValueError(
                f"it returned {type(result).__name__} instead of a mapping with {', '.join(AXES)}"
            )
        align, risk, detail = (_read_score(result, axis) for axis in AXES)
        extra = [
            f"{name} {value:g}" for name, value in result.items() if _is_extra_axis(name, value)
        ]
        reason = " ".join(str(result.get("reason", "")).split())[:MAX_PLUGIN_REASON_CHARS]
        return Verdict.scored(
            align,
            risk,
            detail,
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


async def _run_in_thread(call: Callable[[], object]) -> object:
    """The result of `call`, run in a daemon thread that does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def set_outcome(result: object, error: BaseException | None) -> None:
        if future.done():
            return  # canceled or timed out
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    def work() -> None:
        result, raised = None, None
        try:
            result = call()
        except BaseException as error:  # also SystemExit, which would leave the future pending
            raised = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed
            loop.call_soon_threadsafe(set_outcome, result, raised)

    threading.Thread(target=work, name="ida-plugin", daemon=True).start()
    return await future
