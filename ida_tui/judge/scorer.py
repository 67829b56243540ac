"""Scorer of one judge: verdicts on completions and groups, from its cache, its server or its plugin.

A scorer belongs to one event loop. `ida_tui.judge.service` runs it on a thread; `ida_tui.judge.panel`
combines several scorers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Protocol

from ida_tui.config.prompts import texts_of
from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.events import types as ev
from ida_tui.judge.api_key import host_of
from ida_tui.judge.backends.offline.heuristic import UNKNOWN_LANGUAGE_FAILURE, OfflineScorer
from ida_tui.judge.backends.openai.client import (
    RETRY_BASE_S,
    JudgeClient,
    endpoint_key,
)
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.backends.openai.request import VerdictRecord
from ida_tui.judge.backends.plugin import PluginJudge
from ida_tui.judge.budget import Budget, PaidReply
from ida_tui.judge.cache.key import CacheKeyBuilder, scoring_parts
from ida_tui.judge.cache.store import VerdictCache
from ida_tui.judge.errors import JudgeInterrupted, RequestFault
from ida_tui.judge.estimate import retirement_warning
from ida_tui.judge.verdict import JudgeRequest, Verdict, share_of_call
from ida_tui.util.format import format_count
from ida_tui.util.paths import cache_folder
from ida_tui.util.plugin_threads import PluginStopped
from ida_tui.util.text import is_blank
from ida_tui.util.thoughts import split_thought


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


class Scorer(Protocol):
    """What a judge service runs: one judge, or a panel of several."""

    label: str
    """The judge's name in verdicts and on screens."""
    scoring: dict[str, str]
    """What its scores depend on."""

    @property
    def cache_status(self) -> str:
        """One line for the log, such as `Judge cache enabled (1,234 verdicts, /path)`."""

    @property
    def slots(self) -> int | None:
        """The current limit of concurrent calls; None for a judge that makes none."""

    @property
    def served_model(self) -> str | None:
        """The model that the server reported last; None if unknown."""

    @property
    def output_format(self) -> str:
        """A description of the endpoint's output format; empty before the first call."""

    def take_traffic(self) -> list[ev.JudgeTraffic]:
        """The calls to each judge since the last time, on any clock of seconds; from any thread."""

    def open(self) -> None:
        """Open the cache, on the thread of the event loop."""

    async def close(self) -> None:
        """Close the connections and the cache."""

    async def probe_endpoint(self) -> RequestFault | None:
        """Test the endpoint and the key without cost."""

    async def score(self, request: JudgeRequest) -> Verdict:
        """A verdict on one completion, without its reward."""

    async def score_group(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts on all completions of one prompt, in their order."""

    def align_group(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts of a group, all from the same judges of a panel."""


class JudgeScorer:
    """Scores completions with one judge. Use it on one event loop.

    Args:
        config: the judge profile; not a panel.
        rubric: the rubric of the scores.
        prompts: the prompts of the run, from which the offline judge builds its IDF table.
        key: the API key; None for a judge that needs none.
        budget: the budget that its calls share.
        options: optional settings.
        warn: receives warnings for the user.
        other_secrets: those of other judges of a panel, which this judge's server may know.

    Raises:
        IdaError: the judge plugin cannot be used.
        JudgeInterrupted: a stop was requested while the plugin loaded.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        prompts: PromptSet,
        *,
        key: str | None,
        budget: Budget,
        options: JudgeServiceOptions,
        warn: Callable[[str], None],
        other_secrets: Sequence[str | None] = (),
    ) -> None:
        self._plugin = _load_plugin(config, rubric, options.should_stop)
        self.label = _judge_label(config) if self._plugin is None else self._plugin.label
        version = self._plugin.version if self._plugin is not None else None
        self.scoring = scoring_parts(config, rubric, prompts, version)
        self._config = config
        self._rubric = rubric
        self._key = key
        self._other_secrets = other_secrets
        self._cache_dir = options.cache_dir
        self._budget = budget
        self._on_event = options.on_event
        self._retry_base_s = options.retry_base_s
        self._warn = warn
        self._offline = (
            OfflineScorer(list(texts_of(prompts.rows()))) if config.kind == "offline" else None
        )
        self._cache_keys = CacheKeyBuilder.for_endpoint(config, rubric)
        self._cache: VerdictCache | None = None
        self._cache_status = ""
        self._client: JudgeClient | None = None
        self._served_model: str | None = None
        self._served_models: set[str | None] = set()
        """Those that the server has reported; one that alternates between them is a warning once."""
        self._limiter = Limiter(config.concurrency)
        self._today = options.today or date.today()
        retirement = retirement_warning(config, self._today)
        if retirement:
            self._warn(retirement)

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

    def take_traffic(self) -> list[ev.JudgeTraffic]:
        """The calls since the last time; empty without any."""
        calls = tuple(self._limiter.take_calls())
        if not calls:
            return []
        mode = self._config.mode if self._config.kind == "openai" else "plugin"
        return [ev.JudgeTraffic(self.label, self._limiter.max_slots, mode, calls)]

    def open(self) -> None:
        """Open the cache, on the thread of the event loop."""
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
            self._cache_status = (
                f"Judge cache enabled ({format_count(cache.count(), 'verdict')}, {cache.path})"
            )

    async def close(self) -> None:
        """Close the connections and the cache."""
        if self._client is not None:
            await self._client.close()
        if self._cache is not None:
            self._cache.close()

    async def score(self, request: JudgeRequest) -> Verdict:
        """A verdict from the offline judge, or the mean of `samples` verdicts of the judge."""
        if self._config.kind == "none":
            return Verdict.scored({}, "", "", calls=0)
        answer = self._without_thought(request)
        if is_blank(answer.completion):
            return self._empty_verdict(request)
        request = answer
        if self._offline is not None:
            return self._score_offline(self._offline, request)
        samples = self._config.samples
        if samples == 1:
            return await self._single_verdict(request)
        first = request.sample_index * samples
        calls = [
            self._single_verdict(replace(request, sample_index=first + n)) for n in range(samples)
        ]
        return Verdict.mean(await asyncio.gather(*calls), first)

    async def score_group(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts on all completions of one prompt, in their order: one call for each of `samples`."""
        if self._config.kind != "openai":
            return list(await asyncio.gather(*map(self.score, requests)))
        answers = [self._without_thought(request) for request in requests]
        rows = [row for row, answer in enumerate(answers) if not is_blank(answer.completion)]
        verdicts = [self._empty_verdict(request) for request in requests]
        if not rows:
            return verdicts
        sent = [answers[row] for row in rows]
        first = min(request.sample_index for request in sent) * self._config.samples
        samples = await asyncio.gather(
            *(self._group_verdicts(sent, first + n) for n in range(self._config.samples))
        )
        for position, row in enumerate(rows):
            verdicts[row] = Verdict.mean([sample[position] for sample in samples], first)
        return verdicts

    def align_group(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts as they are: one judge gave them all."""
        return list(verdicts)

    def _without_thought(self, request: JudgeRequest) -> JudgeRequest:
        """The request without the completion's thought, unless the judge scores it, too."""
        if self._config.include_thoughts:
            return request
        return replace(request, completion=split_thought(request.completion).answer)

    def _empty_verdict(self, request: JudgeRequest) -> Verdict:
        """The verdict on a completion without an answer."""
        unfinished = (
            not self._config.include_thoughts and split_thought(request.completion).unfinished
        )
        what = "cut off in its thought, without an answer" if unfinished else "an empty answer"
        reason = f"{what}: scored 0 without a judge call"
        zeros = dict.fromkeys(self._rubric.judged_axes, 0.0)
        return Verdict.scored(zeros, reason, self.label, calls=0)

    async def _group_verdicts(
        self, requests: Sequence[JudgeRequest], sample_index: int
    ) -> list[Verdict]:
        """The verdicts of one call on a group, from the cache or from the judge."""
        keys = self._cache_keys.build_group(requests, sample_index)
        order = group_order(requests, sample_index)
        places = {row: place for place, row in enumerate(order)}

        def placed(verdict: Verdict, row: int) -> Verdict:
            sample = verdict.as_sample(sample_index, places[row], len(order))
            return replace(verdict, samples=(sample,)) if verdict.has_scores else verdict

        cache = self._cache
        if cache is not None and not any(request.bypass_cache for request in requests):
            cached = [cache.get(key, self.label, self._served_model) for key in keys]
            found = [verdict for verdict in cached if verdict is not None]
            if len(found) == len(requests):
                return [placed(verdict, row) for row, verdict in enumerate(found)]
        records = await self._get_client().request_group([requests[row] for row in order])
        by_row = dict(zip(order, records, strict=True))
        verdicts = []
        for row, key in enumerate(keys):
            record = by_row[row]
            verdict = share_of_call(record.verdict, row, len(requests))
            if cache is not None:
                cache.put(key, replace(record, verdict=verdict))
            verdicts.append(placed(verdict, row))
        self._note_served_model(verdicts[0])
        return verdicts

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
                other_secrets=self._other_secrets,
                store=self._cache,
                limiter=self._limiter,
                budget=self._budget,
                on_throttled=self._on_throttled,
                warn=self._warn,
                retry_base_s=self._retry_base_s,
            )
        return self._client

    async def probe_endpoint(self) -> RequestFault | None:
        """Test the endpoint and the key without cost, as `JudgeService.probe_endpoint`."""
        if self._config.kind != "openai":
            return None
        client = self._get_client()
        models = await client.list_models()
        if isinstance(models, RequestFault):
            if models.kind == "fatal" and models.status in (401, 403, None):
                raise client.unavailable_error(models)
            if models.status is None and models.kind == "transient":
                remedy = "" if "check that" in models.text else "; check that its server is running"
                self._warn(f"the judge {self.label}: {models.text}{remedy}")
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
        if self._served_model and served not in self._served_models:
            self._warn(
                f"the judge's server changed its model from {self._served_model} to {served}; "
                "scores before and after are not comparable"
            )
        self._served_models |= {served, self._served_model}
        self._served_model = served
        if self._cache is not None:
            self._cache.save_served_model(endpoint_key(self._config), served)

    def _on_throttled(self, fault: RequestFault, seconds: float, slots: int) -> None:
        self._on_event(ev.JudgeSlowed(seconds=round(seconds, 3), slots=slots, reason=fault.text))


def group_order(requests: Sequence[JudgeRequest], sample_index: int) -> list[int]:
    """The order in which a judge sees a group: shuffled, and the same for the same group and sample.

    An odd sample has the reverse of the order before it, so that a preference for early or late answers
    cancels in the mean of both.
    """
    even = sample_index - sample_index % 2
    contents = [requests[0].prompt, [request.completion for request in requests], even]
    digest = hashlib.sha256(json.dumps(contents).encode()).digest()
    order = list(range(len(requests)))
    random.Random(digest).shuffle(order)
    return order if even == sample_index else order[::-1]


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
