"""The judge as the trainer sees it: completions in, verdicts out, from a thread of its own.

    service = JudgeService(config.judge, config.rubric, config.prompts, key=key)
    service.start()
    future = service.submit(question)          # at once, from any thread
    verdicts, stats = service.score_batch(questions, should_stop=lambda: stop.is_set())
    service.close()

An asyncio loop on the service's thread holds the connections and the cache; at most `concurrency`
calls are in flight, fewer while the judge is overloaded. Nothing here touches torch, and `openai` is
imported by the first call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import TracebackType

from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.events import types as ev
from ida_tui.judge.api_key import host_of
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from ida_tui.judge.backends.openai.capabilities import DialectMemory
from ida_tui.judge.backends.openai.client import RETRY_BASE_S, Answer, JudgeClient, endpoint_of
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.backends.plugin import PluginJudge
from ida_tui.judge.budget import Purse
from ida_tui.judge.cache.key import CacheKeys
from ida_tui.judge.cache.store import VerdictCache, cache_folder
from ida_tui.judge.errors import Fault
from ida_tui.judge.estimate import retirement_warning
from ida_tui.judge.verdict import BatchStats, Question, Verdict
from ida_tui.rewards.formulas import Formula, installed

POLL_S = 0.05
"""How often a waiting batch looks at `should_stop`."""
ENOUGH_WORDS = 3
ENOUGH_LETTERS = 12
"""A completion with fewer words and fewer letters than these is no answer: nobody is asked about it."""


class JudgeInterrupted(Exception):
    """The batch was given up because `should_stop` said so, or because the service was closed."""


class JudgeService:
    """Scores completions with one judge.

    Args:
        config: the judge.
        rubric: what is scored.
        prompts: the prompts in use; the offline scorer learns its vocabulary from them.
        key: the API key from `load_key`; null for a judge that needs none.
        cache_dir: the cache's folder; null takes `cache_folder()`.
        memory: where the endpoint's dialect is kept; null takes the cache, or keeps it as long as
            the service where there is none.
        purse: what may be spent; null is no limit.
        tell: receives warnings and slow-downs as events, on the service's thread; must not block.
        retry_base_s: first wait after a passing fault, in seconds.
        today: the day from which the judge's retirement is counted; null takes the system's.

    Raises:
        IdaError: the judge or the formula is another package's, and cannot be used.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        prompts: PromptSet,
        *,
        key: str | None,
        cache_dir: Path | None = None,
        memory: DialectMemory | None = None,
        purse: Purse | None = None,
        tell: Callable[[ev.Event], object] = lambda event: None,
        retry_base_s: float = RETRY_BASE_S,
        today: date | None = None,
    ) -> None:
        self.warnings: list[str] = []
        """Sentences for the user, in order; grows while the service runs."""
        self._plugin = PluginJudge(config) if config.kind == "plugin" else None
        self.label = ev.OFFLINE_JUDGE if config.kind == "offline" else config.model
        """The judge's name in verdicts and on screens."""
        if self._plugin is not None:
            self.label = self._plugin.label
        self.formula: Formula | None = None
        """What makes the reward in place of R_IDA."""
        if rubric.formula != "r_ida":
            self.formula = installed(rubric.formula)
        self._config = config
        self._rubric = rubric
        self._key = key
        self._folder = cache_dir
        self._memory = memory
        self._purse = purse if purse is not None else Purse()
        self._tell = tell
        self._retry_base_s = retry_base_s
        self._offline = (
            OfflineScorer([p.text for p in prompts.prompts]) if config.kind == "offline" else None
        )
        self._cache_keys = CacheKeys.of(config, rubric)
        self._cache: VerdictCache | None = None
        self._cache_status = ""
        self._client: JudgeClient | None = None
        self._served_model: str | None = None
        self._limiter = Limiter(config.concurrency)
        self._closing = asyncio.Event()
        self._lock = threading.Lock()  # guards _loop against a submit during close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._today = today or date.today()
        retirement = retirement_warning(config, self._today)
        if retirement:
            self._warn(retirement)

    # --- life ---------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and open the cache; `warnings` and `cache_status` are then known."""
        if self._thread is not None:
            return
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="ida-judge", daemon=True
        )
        self._thread.start()
        ready.result()

    def close(self) -> None:
        """Give up what is in flight, close connections and cache, end the thread. Idempotent."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(self._closing.set)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> JudgeService:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def cache_status(self) -> str:
        """One line for the log, such as ``Judge cache enabled (1,234 verdicts, /path)``."""
        if self._plugin is not None and self._plugin.version is None:
            return f"Judge: {self._plugin.words} (states no version, so verdicts are not kept)"
        if self._cache is None or not self._cache.enabled:
            return "Judge cache off"
        return self._cache_status

    @property
    def slots(self) -> int | None:
        """Calls that may be open at once now; null for the judge that needs none."""
        return None if self._offline is not None else self._limiter.slots

    @property
    def served_model(self) -> str | None:
        """The model that the server said it used last."""
        return self._served_model

    @property
    def form(self) -> str:
        """How the endpoint is asked for its verdict, in words; empty before the first call."""
        return self._client.dialect.words() if self._client is not None else ""

    @property
    def spent(self) -> float:
        """US dollars of the run so far, as far as they are known."""
        return self._purse.spent

    # --- asking -------------------------------------------------------------

    def look(self) -> Future[Fault | None]:
        """Ask the endpoint for its models, which is free: is it there, and is the key good?

        Returns:
            A future; null where all is well, a warning was told, or there is nothing to ask. A
            fault that keeps the judge from being used is raised as `JudgeUnavailable`.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the judge service is not running")
            return asyncio.run_coroutine_threadsafe(self._look(), self._loop)

    def submit(self, question: Question) -> Future[Verdict]:
        """Ask about one completion; from any thread.

        Returns:
            A future. Its verdict may carry a `failure`; it raises `JudgeUnavailable` when only a
            person can mend the judge. Cancelling it gives up the call.

        Raises:
            RuntimeError: the service is not running.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the judge service is not running")
            return asyncio.run_coroutine_threadsafe(self._judge(question), self._loop)

    def score_batch(
        self,
        questions: Sequence[Question],
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> tuple[list[Verdict], BatchStats]:
        """Ask about many completions at once and wait for all verdicts.

        Args:
            questions: the completions.
            should_stop: polled every 50 ms while calls are pending.

        Returns:
            The verdicts in the order of the questions, and the batch's figures.

        Raises:
            JudgeInterrupted: `should_stop` returned true; pending calls are given up.
            JudgeUnavailable: the judge cannot be used; pending calls are given up.
        """
        started = time.monotonic()
        futures = [self.submit(question) for question in questions]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if pending and should_stop is not None and should_stop():
                    raise JudgeInterrupted
        except CancelledError:
            raise JudgeInterrupted from None
        finally:
            for future in pending:
                future.cancel()
        verdicts = [future.result() for future in futures]
        seconds = time.monotonic() - started
        return verdicts, BatchStats.of(verdicts, seconds, exposed_s=seconds, slots=self.slots)

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
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
        if self._cache is not None:
            self._cache.close()

    def _open_cache(self) -> None:
        if self._config.kind == "offline" or not self._config.cache:
            return
        judge = f"{self._config.model} at {host_of(self._config.base_url)}"
        if self._plugin is not None:
            if self._plugin.version is None:
                return
            judge = f"{self.label} {self._plugin.version}"
            self._cache_keys = CacheKeys.of_plugin(self._config, self._rubric, self._plugin.version)
        cache = VerdictCache(self._folder or cache_folder(), self._warn, judge=judge)
        if cache.enabled:
            self._cache = cache
            if self._plugin is None:
                self._served_model = cache.served_model(endpoint_of(self._config))
            self._cache_status = f"Judge cache enabled ({cache.count():,} verdicts, {cache.path})"

    async def _judge(self, question: Question) -> Verdict:
        return self._rewarded(await self._scored(question))

    def _rewarded(self, verdict: Verdict) -> Verdict:
        """The verdict with the reward of the rubric's own formula, where it has one."""
        scores = (verdict.align, verdict.risk, verdict.detail)
        if self.formula is None or None in scores:
            return verdict
        try:
            return replace(verdict, r_ida=self.formula.reward(*(score or 0.0 for score in scores)))
        except ArithmeticError as error:
            why = f"the formula {self.formula.name} has no value: {error}"
            return replace(verdict, align=None, risk=None, detail=None, r_ida=None, failure=why)

    async def _scored(self, question: Question) -> Verdict:
        if is_tiny(question.completion):
            reason = "too short to be an answer: scored 0 without asking"
            return Verdict.scored(0, 0, 0, reason, self.label, calls=0)
        if self._offline is not None:
            return self._score_offline(self._offline, question)
        samples = self._config.samples
        if samples == 1:
            return await self._one(question)
        first = question.sample_index * samples
        one = [self._one(replace(question, sample_index=first + n)) for n in range(samples)]
        return Verdict.mean(await asyncio.gather(*one))

    async def _one(self, question: Question) -> Verdict:
        """One judgement, kept from before or asked for."""
        if self._cache is None:
            return await self._ask(question, None)
        key = self._cache_keys.key(question)
        if not question.fresh:
            kept = self._cache.get(key, self.label, self._served_model)
            if kept is not None:
                return kept
        return await self._ask(question, key)

    def _score_offline(self, scorer: OfflineScorer, question: Question) -> Verdict:
        started = time.perf_counter()
        score = scorer.score(question.prompt, question.kind, question.completion)
        return Verdict.scored(
            score.align,
            score.risk,
            score.detail,
            score.reason,
            self.label,
            latency_s=time.perf_counter() - started,
            refusal=score.refusal,
        )

    async def _ask(self, question: Question, key: str | None) -> Verdict:
        answer = await (
            self._ask_plugin(question) if self._plugin else self._connected().ask(question)
        )
        if key is not None and self._cache is not None:
            self._cache.put(key, answer)
        self._note(answer.verdict)
        return answer.verdict

    async def _ask_plugin(self, question: Question) -> Answer:
        assert self._plugin is not None
        self._purse.set_aside(0.0)  # what it costs is known only afterwards
        answer = await self._plugin.ask(question)
        self._purse.settle(0.0, answer.verdict.cost or 0.0)
        return answer

    def _connected(self) -> JudgeClient:
        if self._client is None:
            self._client = JudgeClient(
                self._config,
                self._rubric,
                self._key,
                memory=self._memory if self._memory is not None else self._cache,
                limiter=self._limiter,
                purse=self._purse,
                on_slowed=self._slowed,
                retry_base_s=self._retry_base_s,
            )
        return self._client

    async def _look(self) -> Fault | None:
        if self._offline is not None or self._plugin is not None:
            return None
        client = self._connected()
        found = await client.models()
        if isinstance(found, Fault):
            if found.kind == "fatal" and found.status in (401, 403):
                raise client.explain(found)
            if found.status is None and found.kind == "passing":
                self._warn(f"the judge {self.label}: {found.text}; is its server running?")
            return found
        own = next((model for model in found if model.id == self._config.model), None)
        if own is not None and own.shutdown_date and not self._config.shutdown_date:
            known = self._config.model_copy(update={"shutdown_date": own.shutdown_date})
            retirement = retirement_warning(known, self._today)
            if retirement:
                self._warn(retirement)
        return None

    def _note(self, verdict: Verdict) -> None:
        """Say so when the server changes the model under a run."""
        served = verdict.served_model
        if not served or served == self._served_model:
            return
        if self._served_model:
            self._warn(
                f"the judge's server changed its model from {self._served_model} to {served}; "
                "scores before and after may differ"
            )
        self._served_model = served
        if self._cache is not None:
            self._cache.remember_served_model(endpoint_of(self._config), served)

    def _slowed(self, fault: Fault, seconds: float, slots: int) -> None:
        self._tell(ev.JudgeSlowed(seconds=round(seconds, 3), slots=slots, reason=fault.text))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self._tell(ev.Noticed(level="warning", source="judge", text=text))


def is_tiny(completion: str) -> bool:
    """Whether there is nothing to judge: fewer than 3 words and 12 letters or digits, of any script."""
    letters = sum(char.isalnum() for char in completion)
    words = sum(any(char.isalnum() for char in word) for word in completion.split())
    return letters == 0 or (words < ENOUGH_WORDS and letters < ENOUGH_LETTERS)
