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
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from ida_tui.config.prompts import texts_of
from ida_tui.config.schema import Config, JudgeConfig, PromptSet, RubricConfig
from ida_tui.events import types as ev
from ida_tui.judge.api_key import host_of
from ida_tui.judge.backends.offline.heuristic import UNKNOWN_LANGUAGE_FAILURE, OfflineScorer
from ida_tui.judge.backends.openai.client import (
    RETRY_BASE_S,
    JudgeClient,
    VerdictRecord,
    endpoint_key,
)
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.backends.plugin import PluginJudge
from ida_tui.judge.budget import Budget, PaidReply
from ida_tui.judge.cache.key import CacheKeyBuilder, scoring_parts
from ida_tui.judge.cache.store import VerdictCache
from ida_tui.judge.collect import collect
from ida_tui.judge.errors import JudgeInterrupted, RequestFault
from ida_tui.judge.estimate import retirement_warning
from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict
from ida_tui.rewards.formulas import Formula, rubric_formula
from ida_tui.util.paths import cache_folder
from ida_tui.util.plugin_threads import PluginStopped
from ida_tui.util.text import is_blank
from ida_tui.util.thoughts import split_thought

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the replies of paid calls when a service closes."""


@dataclass(frozen=True, slots=True)
class JudgeServiceOptions:
    """Optional settings of a judge service."""

    cache_dir: Path | None = None
    """The cache folder; None uses `cache_folder()`."""
    budget: Budget | None = None
    """The budget; None is unlimited."""
    on_event: Callable[[ev.Event], object] = lambda event: None
    """Receives warnings and slowdowns as events, on the service's thread; must not block."""
    retry_base_s: float = RETRY_BASE_S
    """Wait before the first retry of a transient error, in seconds."""
    today: date | None = None
    """The date for the judge's retirement warning; None uses the current date."""
    should_stop: Callable[[], bool] = lambda: False
    """Polled while a plugin loads."""


DEFAULT_OPTIONS = JudgeServiceOptions()


def scoring_of(
    config: Config, *, should_stop: Callable[[], bool] = lambda: False
) -> tuple[str, dict[str, str]]:
    """The label of a run's judge, and what its scores depend on, without starting a service.

    Raises:
        IdaError: the judge plugin cannot be used.
        JudgeInterrupted: `should_stop` returned true while the plugin loaded.
    """
    plugin = _load_plugin(config.judge, config.rubric, should_stop)
    label = _judge_label(config.judge)
    version = plugin.version if plugin is not None else None
    parts = scoring_parts(config.judge, config.rubric, config.prompts, version)
    return plugin.label if plugin is not None else label, parts


def _judge_label(config: JudgeConfig) -> str:
    """The judge's name in verdicts and on screens; empty if nothing is judged."""
    return {"offline": ev.OFFLINE_JUDGE, "none": ""}.get(config.kind, config.model)


def _load_plugin(
    config: JudgeConfig, rubric: RubricConfig, should_stop: Callable[[], bool]
) -> PluginJudge | None:
    """The judge plugin of a profile; None for another kind of judge."""
    if config.kind != "plugin":
        return None
    try:
        return PluginJudge(config, tuple(rubric.judged_axes), should_stop=should_stop)
    except PluginStopped:
        raise JudgeInterrupted from None


class JudgeService:
    """Scores completions with one judge.

    Args:
        config: the judge profile.
        rubric: the rubric of the scores.
        prompts: the prompts of the run, from which the offline judge builds its IDF table.
        key: the API key from `load_api_key`; None for a judge that needs none.
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
        key: str | None,
        options: JudgeServiceOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.warnings: list[str] = []
        """Warnings for the user, oldest first; grows while the service runs."""
        self._plugin = _load_plugin(config, rubric, options.should_stop)
        self.label = _judge_label(config)
        """The judge's name in verdicts and on screens."""
        if self._plugin is not None:
            self.label = self._plugin.label
        try:
            self.formula: Formula = rubric_formula(rubric, should_stop=options.should_stop)
            """The formula of the reward."""
        except PluginStopped:
            raise JudgeInterrupted from None
        version = self._plugin.version if self._plugin is not None else None
        self.scoring = scoring_parts(config, rubric, prompts, version)
        """What its scores depend on."""
        self._config = config
        self._rubric = rubric
        self._key = key
        self._cache_dir = options.cache_dir
        self._budget = options.budget if options.budget is not None else Budget()
        self._on_event = options.on_event
        self._retry_base_s = options.retry_base_s
        self._offline = (
            OfflineScorer(list(texts_of(prompts.rows()))) if config.kind == "offline" else None
        )
        self._cache_keys = CacheKeyBuilder.for_endpoint(config, rubric)
        self._cache: VerdictCache | None = None
        self._cache_status = ""
        self._client: JudgeClient | None = None
        self._served_model: str | None = None
        self._limiter = Limiter(config.concurrency)
        self._closing = asyncio.Event()
        self._lock = threading.Lock()  # guards _loop against a submit during close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._today = options.today or date.today()
        retirement = retirement_warning(config, self._today)
        if retirement:
            self._warn(retirement)

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
        if self._plugin is not None and self._plugin.version is None:
            return f"Judge cache off: the plugin {self._plugin.description} has no version"
        if self._cache is None or not self._cache.enabled:
            return "Judge cache off"
        return self._cache_status

    @property
    def slots(self) -> int | None:
        """The current limit of concurrent calls; None for a judge that makes none."""
        return None if self._config.kind in ("offline", "none") else self._limiter.slots

    @property
    def served_model(self) -> str | None:
        """The model that the server reported last; None if unknown."""
        return self._served_model

    @property
    def output_format(self) -> str:
        """A description of the endpoint's output format; empty before the first call."""
        return self._client.capabilities.describe() if self._client is not None else ""

    @property
    def spent(self) -> float:
        """US dollars spent so far, as far as known."""
        return self._budget.spent

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
            return asyncio.run_coroutine_threadsafe(self._probe_endpoint(), self._loop)

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
            self._open_cache()
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
        if self._client is not None:
            await self._client.close()
        if self._cache is not None:
            self._cache.close()

    def _open_cache(self) -> None:
        if self._config.kind in ("offline", "none") or not self._config.cache:
            return
        judge = f"{self._config.model} at {host_of(self._config.base_url)}"
        if self._plugin is not None:
            if self._plugin.version is None:
                return
            judge = f"{self.label} {self._plugin.version}"
            self._cache_keys = CacheKeyBuilder.for_plugin(
                self._config, self._rubric, self._plugin.version
            )
        cache = VerdictCache(self._cache_dir or cache_folder(), self._warn, judge=judge)
        if cache.enabled:
            self._cache = cache
            if self._plugin is None:
                self._served_model = cache.load_served_model(endpoint_key(self._config))
            self._cache_status = f"Judge cache enabled ({cache.count():,} verdicts, {cache.path})"

    async def _judge(self, request: JudgeRequest) -> Verdict:
        return (await self._score(request)).with_reward(self.formula)

    async def _score(self, request: JudgeRequest) -> Verdict:
        """A verdict from the offline judge, or the mean of `samples` verdicts of the judge."""
        if self._config.kind == "none":
            return Verdict.scored({}, "", "", calls=0)
        unfinished = False
        if not self._config.include_thoughts:
            parts = split_thought(request.completion)
            request = replace(request, completion=parts.answer)
            unfinished = parts.unfinished
        if is_blank(request.completion):
            what = "cut off in its thought, without an answer" if unfinished else "an empty answer"
            reason = f"{what}: scored 0 without a judge call"
            zeros = dict.fromkeys(self._rubric.judged_axes, 0.0)
            return Verdict.scored(zeros, reason, self.label, calls=0)
        if self._offline is not None:
            return self._score_offline(self._offline, request)
        samples = self._config.samples
        if samples == 1:
            return await self._single_verdict(request)
        first = request.sample_index * samples
        calls = [
            self._single_verdict(replace(request, sample_index=first + n)) for n in range(samples)
        ]
        return Verdict.mean(await asyncio.gather(*calls))

    async def _single_verdict(self, request: JudgeRequest) -> Verdict:
        """One verdict, from the cache or from the judge."""
        if self._cache is None:
            return await self._request_verdict(request, None)
        key = self._cache_keys.build(request)
        if not request.bypass_cache:
            cached = self._cache.get(key, self.label, self._served_model)
            if cached is not None:
                return cached
        return await self._request_verdict(request, key)

    def _score_offline(self, scorer: OfflineScorer, request: JudgeRequest) -> Verdict:
        started = time.perf_counter()
        score = scorer.score(request.prompt, request.kind, request.completion)
        latency_s = time.perf_counter() - started
        if score is None:
            return Verdict.failed(UNKNOWN_LANGUAGE_FAILURE, self.label, latency_s=latency_s)
        return Verdict.scored(
            score.scores,
            score.reason,
            self.label,
            latency_s=latency_s,
            refusal=score.refusal,
        )

    async def _request_verdict(self, request: JudgeRequest, key: str | None) -> Verdict:
        answer = await (
            self._request_plugin_verdict(request)
            if self._plugin
            else self._get_client().request_verdict(request)
        )
        if key is not None and self._cache is not None:
            self._cache.put(key, answer)
        self._note_served_model(answer.verdict)
        return answer.verdict

    async def _request_plugin_verdict(self, request: JudgeRequest) -> VerdictRecord:
        plugin = self._plugin
        assert plugin is not None

        async def call() -> PaidReply[VerdictRecord]:
            answer = await plugin.request_verdict(request)
            return PaidReply(answer, answer.verdict.cost)

        async with self._limiter.slot():
            return await self._budget.run(None, call)

    def _get_client(self) -> JudgeClient:
        if self._client is None:
            self._client = JudgeClient(
                self._config,
                self._rubric,
                self._key,
                store=self._cache,
                limiter=self._limiter,
                budget=self._budget,
                on_throttled=self._on_throttled,
                retry_base_s=self._retry_base_s,
            )
        return self._client

    async def _probe_endpoint(self) -> RequestFault | None:
        if self._config.kind != "openai":
            return None
        client = self._get_client()
        models = await client.list_models()
        if isinstance(models, RequestFault):
            if models.kind == "fatal" and models.status in (401, 403, None):
                raise client.unavailable_error(models)
            if models.status is None and models.kind == "transient":
                self._warn(
                    f"the judge {self.label}: {models.text}; check that its server is running"
                )
            return models
        listed = next((model for model in models if model.id == self._config.model), None)
        if listed is not None and listed.shutdown_date and not self._config.shutdown_date:
            dated = self._config.model_copy(update={"shutdown_date": listed.shutdown_date})
            retirement = retirement_warning(dated, self._today)
            if retirement:
                self._warn(retirement)
        return None

    def _note_served_model(self, verdict: Verdict) -> None:
        """Record the model that the server reports, and warn if it changed."""
        served = verdict.served_model
        if not served or served == self._served_model:
            return
        if self._served_model:
            self._warn(
                f"the judge's server changed its model from {self._served_model} to {served}; "
                "scores before and after are not comparable"
            )
        self._served_model = served
        if self._cache is not None:
            self._cache.save_served_model(endpoint_key(self._config), served)

    def _on_throttled(self, fault: RequestFault, seconds: float, slots: int) -> None:
        self._on_event(ev.JudgeSlowed(seconds=round(seconds, 3), slots=slots, reason=fault.text))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self._on_event(ev.Noticed(level="warning", source="judge", text=text))
