"""Ask an OpenAI-compatible judge about one completion, until there is a verdict or a failure.

A refused request is asked again in a poorer `Dialect`; what may pass is repeated after a wait; an
unusable reply is asked for once more; what only a person can mend raises `JudgeUnavailable`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import dataclass, field

from ida_tui.config import JudgeConfig, RubricConfig
from ida_tui.judge.dialect import Dialect, DialectMemory, InMemoryDialects
from ida_tui.judge.faults import Fault, redact, unavailable
from ida_tui.judge.keys import OPENAI_BASE_URL
from ida_tui.judge.parsing import ParseFailure, Scores, parse_verdict
from ida_tui.judge.prompting import Messages, render, verdict_schema
from ida_tui.judge.verdict import Question, Verdict
from ida_tui.judge.wire import Reply, Wire

RETRY_BASE_S = 0.5
"""First wait after a passing fault; it doubles with every repeat."""
MAX_BACKOFF_S = 8.0
MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer wait gets no repeat."""


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
        price = self.config.price
        if price is None or (self.unreported and (price.input or price.output)):
            return None
        return (self.input_tokens * price.input + self.output_tokens * price.output) / 1e6


@dataclass(slots=True)
class _Asking:
    """Where one question stands."""

    dialect: Dialect
    bill: _Bill
    started: float = field(default_factory=time.monotonic)
    passing: int = 0
    """Repeats after passing faults."""
    unusable: int = 0
    """Repeats after replies that were no verdict."""
    reworded: bool = False
    model: str | None = None


class JudgeClient:
    """Asks one judge, on one event loop.

    Args:
        config: the judge.
        rubric: what is scored.
        key: the API key, or null for a server that needs none.
        memory: where the endpoint's dialect is kept.
        retry_base_s: first wait after a passing fault, in seconds.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        key: str | None,
        *,
        memory: DialectMemory | None = None,
        retry_base_s: float = RETRY_BASE_S,
    ) -> None:
        self._config = config
        self._rubric = rubric
        self._key = key
        self._schema = verdict_schema(rubric)
        self._memory = memory if memory is not None else InMemoryDialects()
        self._retry_base_s = retry_base_s
        self._endpoint = f"{config.base_url or OPENAI_BASE_URL} {config.model}"
        self._wire = Wire(config, key)

    @property
    def dialect(self) -> Dialect:
        """What the endpoint is known to accept."""
        return self._memory.recall(self._endpoint) or Dialect()

    async def ask(self, question: Question) -> Answer:
        """Judge one completion.

        Returns:
            A verdict with scores, or one with a `failure`.

        Raises:
            JudgeUnavailable: the key, the model or the account is refused.
        """
        asking = _Asking(self.dialect, _Bill(self._config))
        while True:
            outcome = await self._wire.post(*self._request(question, asking))
            if isinstance(outcome, Fault):
                failure = await self._after_fault(outcome, asking)
            else:
                asking.bill.add(outcome)
                asking.model = outcome.model
                parsed = self._judge_reply(outcome)
                if isinstance(parsed, Scores):
                    self._memory.remember(self._endpoint, asking.dialect)
                    return self._scored(parsed, outcome, asking)
                failure = self._after_unusable(parsed, outcome, asking)
            if failure is not None:
                return Answer(self._failed(failure, asking), "", None)

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

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

    async def _after_fault(self, fault: Fault, asking: _Asking) -> str | None:
        """Prepare the next request after a fault, or say why there is none."""
        if fault.kind == "fatal":
            raise unavailable(
                fault,
                model=self._config.model,
                host=self._wire.host,
                key_name=self._config.api_key_env if self._key else None,
            )
        if fault.kind == "parameter":
            asking.dialect = asking.dialect.without(fault.parameter)
            return None
        if fault.kind == "format":
            lower = asking.dialect.lower()
            if lower is None:
                return fault.text
            asking.dialect = lower
            return None
        too_long = (fault.retry_after_s or 0.0) > MAX_RETRY_AFTER_S
        if fault.kind == "rejected" or too_long or asking.passing >= self._config.max_retries:
            return fault.text
        wait = fault.retry_after_s
        if wait is None:
            wait = min(MAX_BACKOFF_S, self._retry_base_s * 2**asking.passing)
            wait *= random.uniform(0.75, 1.25)
        asking.passing += 1
        await asyncio.sleep(wait)
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
        if parsed.kind == "form" and not reply.declined:
            # The server took the format and did not keep to it: ask this endpoint less from now on.
            lower = asking.dialect.lower()
            if lower is not None:
                asking.dialect = lower
                if self.dialect.rung < lower.rung:
                    self._memory.remember(self._endpoint, lower)
        if asking.unusable >= min(1, self._config.max_retries):
            return redact(parsed.text, self._key)
        asking.unusable += 1
        asking.reworded = reply.declined
        return None

    def _scored(self, scores: Scores, reply: Reply, asking: _Asking) -> Answer:
        verdict = Verdict.scored(
            scores.align,
            scores.risk,
            scores.detail,
            scores.reason,
            self._config.model,
            latency_s=time.monotonic() - asking.started,
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
            latency_s=time.monotonic() - asking.started,
            cost=asking.bill.cost,
            retries=asking.passing + asking.unusable,
            served_model=asking.model,
            input_tokens=asking.bill.input_tokens,
            output_tokens=asking.bill.output_tokens,
        )
