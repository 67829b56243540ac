"""A judge from another package: an entry point of the group ``ida_tui.judges``.

    def judge(prompt: str, kind: str, completion: str) -> dict:
        return {"align": 8.0, "risk": 10.0, "detail": 6.5, "reason": "names the steps"}

The entry point is such a function, `async` or not, or a class whose instances are called so; `judge.options`
are passed to the class, or to every call. Functions are called on threads of their own, at most
`judge.concurrency` at once. Whatever goes wrong in one (an exception, no verdict, a score that is none, more
than `judge.timeout_s`) is a verdict without scores.
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
from ida_tui.judge.backends.openai.client import Answer
from ida_tui.judge.errors import redact
from ida_tui.judge.verdict import Question, Verdict
from ida_tui.rewards.r_ida import HIGHEST
from ida_tui.util import plugins

LONGEST_REASON = 500
"""Characters that are kept of a reason."""
KNOWN = (*AXES, "reason", "cost")

Judge = Callable[..., object]


class PluginJudge:
    """Asks a judge of another package, on one event loop.

    Args:
        config: the judge; its `model` is the name of the entry point.

    Raises:
        UsageError: no installed package offers it.
        IdaError: it cannot be loaded.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.label = f"{config.model} (plugin)"
        """Its name in verdicts and on screens."""
        entry = plugins.find(plugins.JUDGES, config.model)
        self.words = plugins.words(entry)
        offered = plugins.load(plugins.JUDGES, config.model)
        try:
            self._judge = _made(offered, config.options)
        except Exception as error:
            raise plugins.broken(plugins.JUDGES, entry, error) from error
        version = getattr(self._judge, "version", getattr(offered, "version", None))
        self.version = None if version is None else str(version)
        """What its verdicts depend on beside the question; None where it does not say: nothing is kept."""
        self._waits = _is_async(self._judge)
        self._free = config.price is not None
        self._timeout_s = config.timeout_s
        self._turns = asyncio.Semaphore(config.concurrency)

    async def ask(self, question: Question) -> Answer:
        """One verdict; with a `failure` where the plugin gave none. Never raises what the plugin raised."""
        async with self._turns:
            started = time.perf_counter()
            try:
                said = await asyncio.wait_for(self._said(question), self._timeout_s)
                verdict = self._verdict(said, time.perf_counter() - started)
            except TimeoutError:
                verdict = self._failed(f"it took longer than {self._timeout_s:g} s", started)
            except Exception as error:
                verdict = self._failed(f"{type(error).__name__}: {error}", started)
        return Answer(verdict, raw="", fingerprint=None)

    def _said(self, question: Question) -> Awaitable[object]:
        call = partial(
            self._judge,
            prompt=question.prompt,
            kind=question.kind,
            completion=question.completion,
        )
        return cast(Awaitable[object], call()) if self._waits else _on_a_thread(call)

    def _verdict(self, said: object, latency_s: float) -> Verdict:
        """What it said, as a verdict.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(said, Mapping):
            raise ValueError(
                f"it gave {type(said).__name__} in place of a mapping with {', '.join(AXES)}"
            )
        align, risk, detail = (_score(said, axis) for axis in AXES)
        more = [f"{name} {value:g}" for name, value in said.items() if _is_extra(name, value)]
        reason = " ".join(str(said.get("reason", "")).split())[:LONGEST_REASON]
        return Verdict.scored(
            align,
            risk,
            detail,
            f"{reason} [{', '.join(more)}]".strip() if more else reason,
            self.label,
            latency_s=latency_s,
            cost=self._cost(said),
        )

    def _cost(self, said: Mapping[str, object]) -> float | None:
        """US dollars, where it tells them; otherwise not known, unless the profile states a price."""
        cost = said.get("cost")
        if isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0:
            return float(cost)
        return 0.0 if self._free else None

    def _failed(self, why: str, started: float) -> Verdict:
        return Verdict.failed(
            redact(f"the plugin {self.words} failed: {why}", None),
            self.label,
            latency_s=time.perf_counter() - started,
            cost=0.0 if self._free else None,
        )


def _made(offered: object, options: Mapping[str, object]) -> Judge:
    """The function that judges.

    Raises:
        TypeError: what is offered cannot be called; or whatever its class raises.
    """
    if isinstance(offered, type):
        made = offered(**options)
        if not callable(made):
            raise TypeError(f"an instance of {offered.__name__} cannot be called")
        return cast(Judge, made)
    if not callable(offered):
        raise TypeError(f"{type(offered).__name__} cannot be called")
    return partial(offered, **options) if options else offered


def _is_async(judge: Judge) -> bool:
    judge = judge.func if isinstance(judge, partial) else judge
    return inspect.iscoroutinefunction(judge) or inspect.iscoroutinefunction(
        getattr(judge, "__call__", None)  # noqa: B004 - whether it waits, not whether it is there
    )


def _score(said: Mapping[str, object], axis: str) -> float:
    score = said.get(axis)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"it gave no number for {axis}")
    if not 0 <= score <= HIGHEST:  # nor is NaN
        raise ValueError(f"{axis} is {score:g}, which is not within 0 to 10")
    return float(score)


def _is_extra(name: object, value: object) -> bool:
    """An axis beyond the three: it is told with the reason, and is no part of the reward."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(name, str) and name not in KNOWN and number


async def _on_a_thread(call: Callable[[], object]) -> object:
    """What a function returns, from a thread that nobody has to wait for when the process ends."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def settle(said: object, error: BaseException | None) -> None:
        if answered.done():
            return  # given up meanwhile
        if error is None:
            answered.set_result(said)
        else:
            answered.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    def work() -> None:
        said, raised = None, None
        try:
            said = call()
        except (
            BaseException
        ) as error:  # also SystemExit: it must not look like an answer that never came
            raised = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed
            loop.call_soon_threadsafe(settle, said, raised)

    threading.Thread(target=work, name="ida-plugin", daemon=True).start()
    return await answered
