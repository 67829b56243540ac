"""Client of an OpenAI-compatible judge: retries a request until it has a verdict or fails.

A request that the server refuses is sent again with fewer features (`Dialect`). Transient errors
are retried after a wait, with fewer concurrent calls. An unusable reply is retried once. An error
that only the user can fix raises `JudgeUnavailable`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ida_tui.config.schema import JudgeConfig, RubricConfig
from ida_tui.judge.api_key import OPENAI_BASE_URL
from ida_tui.judge.backends.openai.capabilities import (
    Dialect,
    DialectMemory,
    InMemoryDialects,
    Rung,
)
from ida_tui.judge.backends.openai.parse import ParseFailure, Scores, parse_verdict
from ida_tui.judge.backends.openai.prompt import Messages, render, verdict_schema
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.backends.openai.transport import ListedModel, Reply, Wire
from ida_tui.judge.budget import Purse
from ida_tui.judge.errors import Fault, JudgeUnavailable, redact, unavailable
from ida_tui.judge.verdict import Question, Verdict
from ida_tui.util.text import without_login

RETRY_BASE_S = 0.5
"""Wait before the first retry of a transient error; it doubles with every retry."""
MAX_BACKOFF_S = 8.0
CHARS_PER_TOKEN_AT_LEAST = 2.0
"""Characters per token, for the upper bound of a call's cost; English prose has about 4."""

OnSlowed = Callable[[Fault, float, int], None]
"""Called when calls are throttled: the fault, the wait in seconds, the number of concurrent calls."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict with the raw reply and the fingerprint that the cache stores with it."""

    verdict: Verdict
    raw: str
    """The unparsed text of the judge's reply; empty for a failed verdict."""
    fingerprint: str | None
    """The `system_fingerprint` of the reply; None if the server sends none."""


@dataclass(slots=True)
class _Bill:
    """Tokens and cost of all replies to one request, including unusable replies."""

    config: JudgeConfig
    input_tokens: int = 0
    output_tokens: int = 0
    unreported: bool = False
    """Whether a reply came without token counts."""

    def add(self, reply: Reply) -> None:
        if reply.input_tokens is None or reply.output_tokens is None:
            self.unreported = True
        self.input_tokens += reply.input_tokens or 0
        self.output_tokens += reply.output_tokens or 0

    @property
    def cost(self) -> float | None:
        if self.unreported and self.config.price and any(self.config.price.model_dump().values()):
            return None
        return dollars(self.config, self.input_tokens, self.output_tokens)


def dollars(config: JudgeConfig, input_tokens: float, output_tokens: float) -> float | None:
    """The price of the tokens in US dollars; None if the judge profile has no price."""
    if config.price is None:
        return None
    return (input_tokens * config.price.input + output_tokens * config.price.output) / 1e6


@dataclass(slots=True)
class _Asking:
    """State of one request over its retries."""

    dialect: Dialect
    bill: _Bill
    seconds: float = 0.0
    """Time spent in HTTP requests."""
    passing: int = 0
    """Retries after transient errors."""
    unusable: int = 0
    """Retries after replies that could not be parsed as a verdict."""
    reworded: bool = False
    """Whether the prompt now states that the judge is only asked to grade."""
    declined: bool = False
    """Whether the last reply was a refusal to judge the text."""
    model: str | None = None
    """The model that the server reported last."""


class JudgeClient:
    """Requests verdicts from one judge. Use it on one event loop.

    Args:
        config: the judge profile.
        rubric: the rubric of the scores.
        key: the API key; None for a server that needs none.
        memory: stores the capabilities of the endpoint; None keeps them in memory.
        limiter: limits the concurrent calls; None limits them to the profile's `concurrency`.
        purse: the budget; None is unlimited.
        on_slowed: called when calls are throttled.
        retry_base_s: wait before the first retry of a transient error, in seconds.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        key: str | None,
        *,
        memory: DialectMemory | None = None,
        limiter: Limiter | None = None,
        purse: Purse | None = None,
        on_slowed: OnSlowed = lambda fault, seconds, slots: None,
        retry_base_s: float = RETRY_BASE_S,
    ) -> None:
        self._config = config
        self._rubric = rubric
        self._key = key
        self._schema = verdict_schema(rubric)
        self._memory = memory if memory is not None else InMemoryDialects()
        self._limiter = limiter if limiter is not None else Limiter(config.concurrency)
        self._purse = purse if purse is not None else Purse()
        self._on_slowed = on_slowed
        self._retry_base_s = retry_base_s
        self.endpoint = endpoint_of(config)
        """The key under which the endpoint's capabilities are stored."""
        self._known = self._kept = self._memory.recall(self.endpoint)
        self._proven: set[Rung] = set()
        """Output formats that have produced a verdict."""
        self._wire = Wire(config, key)

    @property
    def dialect(self) -> Dialect:
        """The capabilities of the endpoint, as far as they are known."""
        return self._known or Dialect()

    async def ask(self, question: Question) -> Answer:
        """Request a verdict on one completion.

        Returns:
            A verdict with scores, or a failed verdict.

        Raises:
            JudgeUnavailable: the key, the model or the account was rejected, the call could exceed
                the budget, or the server asks for a longer wait than the profile allows.
        """
        state = _Asking(self.dialect, _Bill(self._config))
        while True:
            async with self._limiter.slot() as started_at:
                outcome = await self._post(question, state)
            state.declined = False
            if isinstance(outcome, Fault):
                failure = await self._after_fault(outcome, state, started_at)
            else:
                self._limiter.worked()
                state.model = outcome.model
                parsed = self._judge_reply(outcome)
                if isinstance(parsed, Scores):
                    self._remember(state.dialect)
                    return self._scored(parsed, outcome, state)
                state.declined = outcome.declined
                failure = self._after_unusable(parsed, outcome, state)
            if failure is not None:
                return Answer(self._failed(failure, state), "", None)

    async def models(self) -> list[ListedModel] | Fault:
        """The models that the endpoint lists, or why the list could not be read."""
        return await self._wire.models()

    def explain(self, fault: Fault) -> JudgeUnavailable:
        """The error for a fault that only the user can fix."""
        return unavailable(
            fault,
            model=self._config.model,
            host=self._wire.host,
            key_name=self._config.api_key_env if self._key else None,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def _post(self, question: Question, state: _Asking) -> Reply | Fault:
        """Send one HTTP request and charge it to the budget."""
        messages, options = self._request(question, state)
        max_cost = self._most(messages)
        self._purse.set_aside(max_cost)
        started, cost = time.monotonic(), 0.0
        try:
            outcome = await self._wire.post(messages, options)
            if isinstance(outcome, Reply):
                state.bill.add(outcome)
                usage = _Bill(self._config)
                usage.add(outcome)
                cost = max_cost if usage.cost is None else usage.cost
            return outcome
        finally:
            state.seconds += time.monotonic() - started
            self._purse.settle(max_cost, cost)

    def _most(self, messages: Messages) -> float:
        """The maximum cost of a request in US dollars; 0 if the profile has no price."""
        tokens = (len(messages.system) + len(messages.user)) / CHARS_PER_TOKEN_AT_LEAST
        return dollars(self._config, tokens, self._config.max_tokens) or 0.0

    def _remember(self, dialect: Dialect) -> None:
        """Record the request options that produced a verdict."""
        self._proven.add(dialect.rung)
        if dialect != self._kept:
            self._memory.remember(self.endpoint, dialect)
        self._known = self._kept = dialect

    def _request(self, question: Question, state: _Asking) -> tuple[Messages, dict[str, object]]:
        """The messages and the options of the next HTTP request."""
        config = self._config
        messages = render(
            self._rubric,
            question.prompt,
            question.completion,
            nonce=secrets.token_hex(8),
            max_chars=config.max_judged_chars,
            schema_in_prompt=state.dialect.schema_in_prompt,
            reworded=state.reworded,
        )
        options = state.dialect.body(
            self._schema,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            reasoning_effort=config.reasoning_effort,
        )
        return messages, options

    async def _after_fault(self, fault: Fault, state: _Asking, started_at: float) -> str | None:
        """Prepare the retry after a fault; returns the failure if there is no retry."""
        match fault.kind:
            case "fatal":
                raise self.explain(fault)
            case "parameter":
                state.dialect = state.dialect.without(fault.parameter)
                return None
            case "format":
                lower = state.dialect.lower()
                if lower is None:
                    return fault.text
                state.dialect = lower
                return None
            case "declined":
                state.declined = True
                return self._reworded(fault.text, state)
            case "rejected":
                return fault.text
            case "transient":
                return await self._after_passing(fault, state, started_at)

    async def _after_passing(self, fault: Fault, state: _Asking, started_at: float) -> str | None:
        """Wait before the retry of a transient error; returns the failure if no retry is left."""
        retry_after = fault.retry_after_s
        if retry_after is not None and retry_after > self._config.max_wait_s:
            raise JudgeUnavailable(
                f"the judge {self._config.model} asks for a wait of {retry_after:,.0f} s ({fault.text})",
                f"resume later, use another judge, or raise judge.max_wait_s "
                f"(now {self._config.max_wait_s:g} s)",
            )
        halved = fault.overload and self._limiter.overloaded(started_at)
        if retry_after is not None:
            longer_wait = retry_after > self._limiter.held_s + 0.5
            self._limiter.hold(retry_after)
            if halved or longer_wait:
                self._on_slowed(fault, retry_after, self._limiter.slots)
        elif halved:
            self._on_slowed(fault, 0.0, self._limiter.slots)
        if state.passing >= self._config.max_retries:
            return fault.text
        if retry_after is None:
            backoff = min(MAX_BACKOFF_S, self._retry_base_s * 2**state.passing)
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))
        state.passing += 1
        return None

    def _reworded(self, failure: str, state: _Asking) -> str | None:
        """Prepare a retry with a reworded prompt; returns the failure if no retry is left."""
        if state.unusable >= min(1, self._config.max_retries):
            return redact(failure, self._key)
        state.unusable += 1
        state.reworded = True
        return None

    def _judge_reply(self, reply: Reply) -> Scores | ParseFailure:
        """Parse a reply as a verdict."""
        if reply.declined:
            return ParseFailure("form", "the judge declined to judge the text")
        parsed = parse_verdict(reply.text)
        if reply.truncated and isinstance(parsed, ParseFailure):
            limit = self._config.max_tokens
            return ParseFailure("truncated", f"the reply is truncated at max_tokens={limit}")
        return parsed

    def _after_unusable(self, parsed: ParseFailure, reply: Reply, state: _Asking) -> str | None:
        """Prepare the one retry of an unusable reply; returns the failure if no retry is left."""
        if reply.declined:
            return self._reworded(parsed.text, state)
        if parsed.kind == "form" and state.dialect.rung not in self._proven:
            # The server accepted the format but ignored it: use a simpler format from now on.
            # If the format has produced verdicts before, one bad reply says nothing about it.
            lower = state.dialect.lower()
            if lower is not None:
                state.dialect = lower
                if self.dialect.rung < lower.rung:
                    self._known = lower
        if state.unusable >= min(1, self._config.max_retries):
            return redact(parsed.text, self._key)
        state.unusable += 1
        return None

    def _scored(self, scores: Scores, reply: Reply, state: _Asking) -> Answer:
        verdict = Verdict.scored(
            scores.align,
            scores.risk,
            scores.detail,
            scores.reason,
            self._config.model,
            latency_s=state.seconds,
            cost=state.bill.cost,
            retries=state.passing + state.unusable,
            served_model=reply.model,
            input_tokens=state.bill.input_tokens,
            output_tokens=state.bill.output_tokens,
        )
        return Answer(verdict, reply.text, reply.fingerprint)

    def _failed(self, failure: str, state: _Asking) -> Verdict:
        return Verdict.failed(
            failure,
            self._config.model,
            latency_s=state.seconds,
            cost=state.bill.cost,
            retries=state.passing + state.unusable,
            declined=state.declined,
            served_model=state.model,
            input_tokens=state.bill.input_tokens,
            output_tokens=state.bill.output_tokens,
        )


def endpoint_of(config: JudgeConfig) -> str:
    """The key of an endpoint in the cache: its base URL and model."""
    return f"{without_login(config.base_url or OPENAI_BASE_URL)} {config.model}"
