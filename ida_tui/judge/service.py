"""Judge service: requests verdicts on a background thread for the trainer and the commands.

    service = JudgeService(config.judge, config.rubric, config.prompts, key=key)
    service.start()
    future = service.submit(request)           # returns immediately, from any thread
    verdicts, stats = service.score_batch(requests, should_stop=lambda: stop.is_set())
    service.close()

An asyncio loop on the service's thread owns the connections and the cache. At most `concurrency` calls
run at the same time, fewer while the judge is overloaded. This module does not import torch; `openai`
is imported by the first call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ida_tui.config.schema import Config, JudgeConfig, JudgeKey, PromptSet, RubricConfig
from ida_tui.events import types as ev
from ida_tui.judge.budget import Budget
from ida_tui.judge.collect import collect, split_future
from ida_tui.judge.errors import JudgeInterrupted, RequestFault
from ida_tui.judge.panel import build_scorer
from ida_tui.judge.scorer import JudgeServiceOptions as JudgeServiceOptions
from ida_tui.judge.scorer import Scorer
from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict
from ida_tui.rewards.formulas import Formula, rubric_formula
from ida_tui.util.plugin_threads import PluginStopped

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the replies of paid calls when a service closes."""
DEFAULT_OPTIONS = JudgeServiceOptions()


def scoring_of(
    config: Config, *, should_stop: Callable[[], bool] = lambda: False
) -> tuple[str, dict[str, str]]:
    """The label of a run's judge, and what its scores depend on, without starting a service.

    Raises:
        IdaError: the judge plugin cannot be used.
        JudgeInterrupted: `should_stop` returned true while the plugin loaded.
    """
    scorer = build_scorer(
        config.judge,
        config.rubric,
        config.prompts,
        key=None,
        budget=Budget(),
        options=JudgeServiceOptions(should_stop=should_stop),
        warn=lambda text: None,
    )
    return scorer.label, scorer.scoring


class JudgeService:
    """Scores completions with one judge, or with a panel of several.

    Args:
        config: the judge profile.
        rubric: the rubric of the scores.
        prompts: the prompts of the run, from which the offline judge builds its IDF table.
        key: the API key from `load_api_key`, for a panel one for each of its judges; None for a judge that
            needs none.
        options: optional settings.

    Raises:
        IdaError: the judge plugin or the formula plugin cannot be used.
        JudgeInterrupted: a stop was requested while a plugin loaded.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        prompts: PromptSet,
        *,
        key: JudgeKey,
        options: JudgeServiceOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.warnings: list[str] = []
        """Warnings for the user, oldest first; grows while the service runs."""
        self._on_event = options.on_event
        self._budget = options.budget if options.budget is not None else Budget()
        self._scorer: Scorer = build_scorer(
            config,
            rubric,
            prompts,
            key=key,
            budget=self._budget,
            options=options,
            warn=self._warn,
        )
        self.label = self._scorer.label
        """The judge's name in verdicts and on screens."""
        self.scoring = self._scorer.scoring
        """What its scores depend on."""
        self.scores_groups = config.mode == "group" and config.kind != "none"
        """Whether a group is scored in one call, by `submit_group`."""
        try:
            self.formula: Formula = rubric_formula(rubric, should_stop=options.should_stop)
            """The formula of the reward."""
        except PluginStopped:
            raise JudgeInterrupted from None
        self._closing = asyncio.Event()
        self._lock = threading.Lock()  # guards _loop against a submit during close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- start and close ----------------------------------------------------

    def start(self) -> None:
        """Start the thread and open the cache, which sets `warnings` and `cache_status`."""
        if self._thread is not None:
            return
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="ida-judge", daemon=True
        )
        self._thread.start()
        ready.result()

    def close(self) -> None:
        """Cancel pending requests, close the connections and the cache, end the thread. Idempotent.

        Waits for the replies of paid calls that were sent, `CLOSE_TIMEOUT_S` at most, to count their cost.
        """
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(self._closing.set)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> JudgeService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def cache_status(self) -> str:
        """One line for the log, such as `Judge cache enabled (1,234 verdicts, /path)`."""
        return self._scorer.cache_status

    @property
    def slots(self) -> int | None:
        """The current limit of concurrent calls; None for a judge that makes none."""
        return self._scorer.slots

    @property
    def served_model(self) -> str | None:
        """The model that the server reported last; None if unknown."""
        return self._scorer.served_model

    @property
    def output_format(self) -> str:
        """A description of the endpoint's output format; empty before the first call."""
        return self._scorer.output_format

    @property
    def spent(self) -> float:
        """US dollars spent so far, as far as known."""
        return self._budget.spent

    def take_traffic(self) -> tuple[ev.JudgeTraffic, ...]:
        """The calls to each judge since the last time; their clock starts with the first request."""
        traffic = self._scorer.take_traffic()
        start = min((call.requested_s for part in traffic for call in part.calls), default=0.0)
        return tuple(
            part._replace(calls=tuple(_since(start, call) for call in part.calls))
            for part in traffic
        )

    # --- requests -----------------------------------------------------------

    def probe_endpoint(self) -> Future[RequestFault | None]:
        """Test the endpoint and the key by listing the models, which is free.

        Returns:
            A future: None if the endpoint answers or needs no test, else the fault. It raises
            `JudgeUnavailable` if the key is rejected.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the judge service is not running")
            return asyncio.run_coroutine_threadsafe(self._scorer.probe_endpoint(), self._loop)

    def submit(self, request: JudgeRequest) -> Future[Verdict]:
        """Request a verdict on one completion; from any thread.

        Returns:
            A future of the verdict, which may be a failed one. It raises `JudgeUnavailable` if the user
            must fix something. Canceling it cancels the call.

        Raises:
            RuntimeError: the service is not running.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the judge service is not running")
            return asyncio.run_coroutine_threadsafe(self._judge(request), self._loop)

    def submit_group(self, requests: Sequence[JudgeRequest]) -> list[Future[Verdict]]:
        """Request the verdicts on all completions of one prompt together; from any thread.

        Returns:
            A future of each verdict, as from `submit`. Canceling one of them cancels the call of all.

        Raises:
            RuntimeError: the service is not running.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the judge service is not running")
            call = asyncio.run_coroutine_threadsafe(self._judge_group(requests), self._loop)
        return split_future(call, len(requests))

    def align_group(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts of a group, all from the same judges of a panel; unchanged for a single judge."""
        aligned = self._scorer.align_group(verdicts)
        return [verdict.with_reward(self.formula) for verdict in aligned]

    def score_batch(
        self,
        requests: Sequence[JudgeRequest],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[list[Verdict], BatchStats]:
        """Request verdicts on many completions and wait for all of them.

        Args:
            requests: one request per completion.
            should_stop: polled while calls are pending.

        Returns:
            The verdicts in the order of the requests, and the statistics of the batch.

        Raises:
            JudgeInterrupted: `should_stop` returned true; pending calls are canceled.
            JudgeUnavailable: the judge cannot be used; pending calls are canceled.
        """
        started = time.monotonic()
        futures = [self.submit(request) for request in requests]
        verdicts = collect(futures, should_stop=should_stop)
        seconds = time.monotonic() - started
        return verdicts, BatchStats.from_verdicts(
            verdicts, seconds, exposed_s=seconds, slots=self.slots
        )

    # --- on the service's thread ----------------------------------------------

    def _run(self, ready: Future[None]) -> None:
        asyncio.run(self._main(ready))

    async def _main(self, ready: Future[None]) -> None:
        try:
            self._scorer.open()
            self._loop = asyncio.get_running_loop()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._closing.wait()
        requests = asyncio.all_tasks() - {asyncio.current_task()} - self._budget.open_calls
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self._budget.finish_open_calls(CLOSE_TIMEOUT_S)
        await self._scorer.close()

    async def _judge(self, request: JudgeRequest) -> Verdict:
        return (await self._scorer.score(request)).with_reward(self.formula)

    async def _judge_group(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        verdicts = await self._scorer.score_group(requests)
        return [verdict.with_reward(self.formula) for verdict in verdicts]

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self._on_event(ev.Noticed(level="warning", source="judge", text=text))


def _since(start: float, call: ev.JudgeCall) -> ev.JudgeCall:
    """A call with times since `start`, to a tenth of a millisecond."""
    return call._replace(
        requested_s=round(call.requested_s - start, 4),
        sent_s=round(call.sent_s - start, 4),
        answered_s=round(call.answered_s - start, 4),
    )
