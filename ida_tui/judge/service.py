"""The judge as the trainer sees it: completions in, verdicts out, from a thread of its own.

    service = JudgeService(config.judge, config.rubric, config.prompts, key=key)
    service.start()
    verdicts, stats = service.score_batch(questions, should_stop=lambda: stop.is_set())
    service.close()

An asyncio loop on the service's thread holds the connections and the cache; at most `concurrency`
calls are in flight. Nothing here touches torch, and `openai` is imported by the first call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from datetime import date
from pathlib import Path
from types import TracebackType

from ida_tui.config import JudgeConfig, PromptSet, RubricConfig
from ida_tui.events import OFFLINE_JUDGE
from ida_tui.judge.cache import CacheKeys, VerdictCache, cache_folder
from ida_tui.judge.client import RETRY_BASE_S, JudgeClient
from ida_tui.judge.dialect import DialectMemory
from ida_tui.judge.offline import OfflineScorer
from ida_tui.judge.planning import retirement_warning, typical_call_cost
from ida_tui.judge.verdict import BatchStats, Question, Verdict

POLL_S = 0.05
"""How often a waiting batch looks at `should_stop`."""


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
        memory: where the endpoint's dialect is kept; null keeps it as long as the service.
        retry_base_s: first wait after a passing fault, in seconds.
        today: the day from which the judge's retirement is counted; null takes the system's.
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
        retry_base_s: float = RETRY_BASE_S,
        today: date | None = None,
    ) -> None:
        self.warnings: list[str] = []
        """Sentences for the user, in order; grows while the service runs."""
        self.label = OFFLINE_JUDGE if config.kind == "offline" else config.model
        """The judge's name in verdicts and on screens."""
        self._config = config
        self._rubric = rubric
        self._prompts = prompts
        self._key = key
        self._folder = cache_dir
        self._memory = memory
        self._retry_base_s = retry_base_s
        self._offline = (
            OfflineScorer([p.text for p in prompts.prompts]) if config.kind == "offline" else None
        )
        self._cache_keys = CacheKeys.of(config, rubric)
        self._cache: VerdictCache | None = None
        self._cache_status = ""
        self._client: JudgeClient | None = None
        self._served_model: str | None = None
        self._asked = 0
        self._spent = 0.0
        self._slots = asyncio.Semaphore(config.concurrency)
        self._closing = asyncio.Event()
        self._lock = threading.Lock()  # guards _loop against a submit during close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        retirement = retirement_warning(config, today or date.today())
        if retirement:
            self.warnings.append(retirement)

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
        if self._cache is None or not self._cache.enabled:
            return "Judge cache off"
        return self._cache_status

    # --- asking -------------------------------------------------------------

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
        return verdicts, BatchStats.of(verdicts, time.monotonic() - started)

    def estimate_cost(self, calls: int) -> float | None:
        """US dollars that `calls` calls will cost; null where the price is not known.

        Taken from the calls so far, else from the rubric's and the prompts' length.
        """
        if self._asked:
            return calls * self._spent / self._asked
        cost = typical_call_cost(self._config, self._rubric, self._prompts)
        return None if cost is None else calls * cost

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
        cache = VerdictCache(self._folder or cache_folder(), self.warnings.append)
        if cache.enabled:
            self._cache = cache
            self._cache_status = f"Judge cache enabled ({cache.count():,} verdicts, {cache.path})"

    async def _judge(self, question: Question) -> Verdict:
        if not has_words(question.completion):
            reason = "no letter or digit: scored 0 without asking"
            return Verdict.scored(0, 0, 0, reason, self.label, called=False)
        if self._offline is not None:
            return self._score_offline(self._offline, question)
        if self._cache is None:
            return await self._ask(question, None)
        key = self._cache_keys.key(question)
        return self._cache.get(key, self.label) or await self._ask(question, key)

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
        async with self._slots:
            if self._client is None:
                self._client = JudgeClient(
                    self._config,
                    self._rubric,
                    self._key,
                    memory=self._memory,
                    retry_base_s=self._retry_base_s,
                )
            answer = await self._client.ask(question)
        if key is not None and self._cache is not None:
            self._cache.put(key, answer)
        self._note(answer.verdict)
        return answer.verdict

    def _note(self, verdict: Verdict) -> None:
        """Keep the running cost, and say so when the server changes the model under a run."""
        if verdict.cost is not None:
            self._asked += 1
            self._spent += verdict.cost
        served = verdict.served_model
        if served and self._served_model and served != self._served_model:
            self.warnings.append(
                f"the judge's server changed its model from {self._served_model} to {served}; "
                "scores before and after may differ"
            )
        self._served_model = served or self._served_model


def has_words(completion: str) -> bool:
    """Whether there is anything to judge: at least one letter or digit, of any script."""
    return any(char.isalnum() for char in completion)
