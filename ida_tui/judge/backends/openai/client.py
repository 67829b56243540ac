"""Ask an OpenAI-compatible judge about one completion, until there is a verdict or a failure.

A refused request is asked again in a poorer `Dialect`; what may pass is repeated after a wait, with
fewer calls open; an unusable reply is asked for once more; what only a person can mend raises
`JudgeUnavailable`.
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
"""First wait after a passing fault; it doubles with every repeat."""
MAX_BACKOFF_S = 8.0
CHARS_PER_TOKEN_AT_LEAST = 2.0
"""Fewest characters behind a token, for what a call may cost at most; English prose has about 4."""

OnSlowed = Callable[[Fault, float, int], None]
"""Told when calls are held back: the fault, for how many seconds, and how many may be open then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict together with what the cache keeps beside it."""

    verdict: Verdict
    raw: str
    """The judge's reply as it came; empty on failure."""
    fingerprint: str | None


@dataclass(slots=True)
class _Bill:
    """What the replies to one question cost, whether they could be used or not."""

    config: JudgeConfig
    input_tokens: int = 0
    output_tokens: int = 0
    unreported: bool = False

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
    """US dollars of so many tokens; null where the profile states no price."""
    if config.price is None:
        return None
    return (input_tokens * config.price.input + output_tokens * config.price.output) / 1e6


@dataclass(slots=True)
class _Asking:
    """Where one question stands."""

    dialect: Dialect
    bill: _Bill
    seconds: float = 0.0
    """Spent in requests."""
    passing: int = 0
    """Repeats after passing faults."""
    unusable: int = 0
    """Repeats after replies that were no verdict."""
    reworded: bool = False
    declined: bool = False
    """The last thing that came back was a refusal to look at the text."""
    model: str | None = None


class JudgeClient:
    """Asks one judge, on one event loop.

    Args:
        config: the judge.
        rubric: what is scored.
        key: the API key, or null for a server that needs none.
        memory: where the endpoint's dialect is kept.
        limiter: how many calls may be open; null makes one from the profile's concurrency.
        purse: what may be spent; null is no limit.
        on_slowed: told when the calls are held back.
        retry_base_s: first wait after a passing fault, in seconds.
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
        """Under which the memory keeps what is known of it."""
        self._known = self._kept = self._memory.recall(self.endpoint)
        self._proven: set[Rung] = set()
        """Formats that brought a verdict."""
        self._wire = Wire(config, key)

    @property
    def dialect(self) -> Dialect:
        """What the endpoint is known to accept."""
        return self._known or Dialect()

    async def ask(self, question: Question) -> Answer:
        """Judge one completion.

        Returns:
            A verdict with scores, or one with a `failure`.

        Raises:
            JudgeUnavailable: the key, the model or the account is refused, the budget would be
                passed, or the server asks for a wait that is longer than the profile allows.
        """
        asking = _Asking(self.dialect, _Bill(self._config))
        while True:
            async with self._limiter.slot() as began:
                outcome = await self._post(question, asking)
            asking.declined = False
            if isinstance(outcome, Fault):
                failure = await self._after_fault(outcome, asking, began)
            else:
                self._limiter.worked()
                asking.model = outcome.model
                parsed = self._judge_reply(outcome)
                if isinstance(parsed, Scores):
                    self._remember(asking.dialect)
                    return self._scored(parsed, outcome, asking)
                asking.declined = outcome.declined
                failure = self._after_unusable(parsed, outcome, asking)
            if failure is not None:
                return Answer(self._failed(failure, asking), "", None)

    async def models(self) -> list[ListedModel] | Fault:
        """What the endpoint lists."""
        return await self._wire.models()

    def explain(self, fault: Fault) -> JudgeUnavailable:
        """The error for a fault that only a person can mend."""
        return unavailable(
            fault,
            model=self._config.model,
            host=self._wire.host,
            key_name=self._config.api_key_env if self._key else None,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def _post(self, question: Question, asking: _Asking) -> Reply | Fault:
        """One request, paid for out of the purse."""
        messages, options = self._request(question, asking)
        most = self._most(messages)
        self._purse.set_aside(most)
        started, cost = time.monotonic(), 0.0
        try:
            outcome = await self._wire.post(messages, options)
            if isinstance(outcome, Reply):
                asking.bill.add(outcome)
                bill = _Bill(self._config)
                bill.add(outcome)
                cost = most if bill.cost is None else bill.cost
            return outcome
        finally:
            asking.seconds += time.monotonic() - started
            self._purse.settle(most, cost)

    def _most(self, messages: Messages) -> float:
        """US dollars that a request costs at most; 0 where no price is known."""
        tokens = (len(messages.system) + len(messages.user)) / CHARS_PER_TOKEN_AT_LEAST
        return dollars(self._config, tokens, self._config.max_tokens) or 0.0

    def _remember(self, dialect: Dialect) -> None:
        self._proven.add(dialect.rung)
        if dialect != self._kept:
            self._memory.remember(self.endpoint, dialect)
        self._known = self._kept = dialect

    def _request(self, question: Question, asking: _Asking) -> tuple[Messages, dict[str, object]]:
        config = self._config
        messages = render(
            self._rubric,
            question.prompt,
            question.completion,
            nonce=secrets.token_hex(8),
            max_chars=config.max_judged_chars,
            schema_in_prompt=asking.dialect.schema_in_prompt,
            reworded=asking.reworded,
        )
        options = asking.dialect.body(
            self._schema,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            reasoning_effort=config.reasoning_effort,
        )
        return messages, options

    async def _after_fault(self, fault: Fault, asking: _Asking, began: float) -> str | None:
        """Prepare the next request after a fault, or say why there is none."""
        match fault.kind:
            case "fatal":
                raise self.explain(fault)
            case "parameter":
                asking.dialect = asking.dialect.without(fault.parameter)
                return None
            case "format":
                lower = asking.dialect.lower()
                if lower is None:
                    return fault.text
                asking.dialect = lower
                return None
            case "declined":
                asking.declined = True
                return self._reworded(fault.text, asking)
            case "rejected":
                return fault.text
            case "passing":
                return await self._after_passing(fault, asking, began)

    async def _after_passing(self, fault: Fault, asking: _Asking, began: float) -> str | None:
        named = fault.retry_after_s
        if named is not None and named > self._config.max_wait_s:
            raise JudgeUnavailable(
                f"the judge {self._config.model} asks to wait {named:,.0f} s ({fault.text})",
                f"go on later, or with another judge; judge.max_wait_s="
                f"{self._config.max_wait_s:g} is the longest wait that is not asked about",
            )
        slowed = fault.overload and self._limiter.overloaded(began)
        if named is not None:
            news = named > self._limiter.held_s + 0.5
            self._limiter.hold(named)
            if slowed or news:
                self._on_slowed(fault, named, self._limiter.slots)
        elif slowed:
            self._on_slowed(fault, 0.0, self._limiter.slots)
        if asking.passing >= self._config.max_retries:
            return fault.text
        if named is None:
            wait = min(MAX_BACKOFF_S, self._retry_base_s * 2**asking.passing)
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
        asking.passing += 1
        return None

    def _reworded(self, failure: str, asking: _Asking) -> str | None:
        """Ask once more in other words after a refusal, or say why not."""
        if asking.unusable >= min(1, self._config.max_retries):
            return redact(failure, self._key)
        asking.unusable += 1
        asking.reworded = True
        return None

    def _judge_reply(self, reply: Reply) -> Scores | ParseFailure:
        if reply.declined:
            return ParseFailure("form", "the judge declined to judge")
        parsed = parse_verdict(reply.text)
        if reply.truncated and isinstance(parsed, ParseFailure):
            limit = self._config.max_tokens
            return ParseFailure("truncated", f"the reply is cut off at max_tokens={limit}")
        return parsed

    def _after_unusable(self, parsed: ParseFailure, reply: Reply, asking: _Asking) -> str | None:
        """Prepare the one repeat that an unusable reply gets, or say why there is none."""
        if reply.declined:
            return self._reworded(parsed.text, asking)
        if parsed.kind == "form" and asking.dialect.rung not in self._proven:
            # The server took the format and did not keep to it: ask this endpoint less from now on.
            # Where the format has brought verdicts, one bad reply is only a bad reply.
            lower = asking.dialect.lower()
            if lower is not None:
                asking.dialect = lower
                if self.dialect.rung < lower.rung:
                    self._known = lower
        if asking.unusable >= min(1, self._config.max_retries):
            return redact(parsed.text, self._key)
        asking.unusable += 1
        return None

    def _scored(self, scores: Scores, reply: Reply, asking: _Asking) -> Answer:
        verdict = Verdict.scored(
            scores.align,
            scores.risk,
            scores.detail,
            scores.reason,
            self._config.model,
            latency_s=asking.seconds,
            cost=asking.bill.cost,
            retries=asking.passing + asking.unusable,
            served_model=reply.model,
            input_tokens=asking.bill.input_tokens,
            output_tokens=asking.bill.output_tokens,
        )
        return Answer(verdict, reply.text, reply.fingerprint)

    def _failed(self, failure: str, asking: _Asking) -> Verdict:
        return Verdict.failed(
            failure,
            self._config.model,
            latency_s=asking.seconds,
            cost=asking.bill.cost,
            retries=asking.passing + asking.unusable,
            declined=asking.declined,
            served_model=asking.model,
            input_tokens=asking.bill.input_tokens,
            output_tokens=asking.bill.output_tokens,
        )


def endpoint_of(config: JudgeConfig) -> str:
    """What an endpoint is remembered by: its address and model."""
    return f"{without_login(config.base_url or OPENAI_BASE_URL)} {config.model}"
