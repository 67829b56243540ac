"""State of the requests to a judge's server: what is asked, what it has cost, how often it was repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ida_tui.config.schema import JudgeConfig
from ida_tui.judge.backends.openai.capabilities import Capabilities
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure
from ida_tui.judge.backends.openai.prompt import JudgeMessages
from ida_tui.judge.backends.openai.reply import ServerReply
from ida_tui.judge.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """A verdict with the raw reply and the fingerprint that the cache stores with it."""

    verdict: Verdict
    raw: str
    """The unparsed text of the judge's reply; empty for a failed verdict."""
    fingerprint: str | None
    """The `system_fingerprint` of the reply; None if the server sends none."""


@dataclass(slots=True)
class UsageTotals:
    """Tokens and cost of all replies to one request, including unusable replies."""

    config: JudgeConfig
    input_tokens: int = 0
    output_tokens: int = 0
    has_unknown_usage: bool = False
    """Whether a reply came without token counts."""

    def add(self, reply: ServerReply) -> None:
        """Count a reply."""
        if reply.input_tokens is None or reply.output_tokens is None:
            self.has_unknown_usage = True
        self.input_tokens += reply.input_tokens or 0
        self.output_tokens += reply.output_tokens or 0

    @property
    def cost(self) -> float | None:
        """The cost in US dollars; None if it is unknown."""
        if (
            self.has_unknown_usage
            and self.config.price
            and any(self.config.price.model_dump().values())
        ):
            return None
        return token_cost(self.config, self.input_tokens, self.output_tokens)


def token_cost(config: JudgeConfig, input_tokens: float, output_tokens: float) -> float | None:
    """The price of the tokens in US dollars; None if the judge profile has no price."""
    if config.price is None:
        return None
    return (input_tokens * config.price.input + output_tokens * config.price.output) / 1e6


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What one request asks: the verdict on one completion, or those on a group."""

    render: Callable[[str, bool, bool], JudgeMessages]
    """The messages, from a nonce, whether to include the schema, and whether to reword."""
    schema: Mapping[str, object]
    parse: Callable[[ServerReply], T | ParseFailure]
    max_tokens: int
    """Maximum length of the reply."""

    def read(self, reply: ServerReply) -> T | ParseFailure:
        """Parse a reply; the failure says if the judge declined or reached the maximum length."""
        if reply.declined:
            return ParseFailure("form", "the judge declined to judge the text")
        parsed = self.parse(reply)
        if not isinstance(parsed, ParseFailure) or not reply.truncated:
            return parsed
        limit = self.max_tokens
        if parsed.kind == "thought" or not reply.text.strip():
            text = f"the thought used up max_tokens={limit}: raise it, or turn thinking off"
            return ParseFailure("thought", text)
        text = f"the reply is truncated at max_tokens={limit}: raise judge.max_tokens"
        return ParseFailure("truncated", text)


@dataclass(slots=True)
class RequestState:
    """State of one request over its retries."""

    capabilities: Capabilities
    usage: UsageTotals
    seconds: float = 0.0
    """Time spent in HTTP requests."""
    least_tokens: int = 0
    """The number of tokens that the last HTTP request has at least."""
    transient_retries: int = 0
    """Retries after transient errors."""
    invalid_reply_retries: int = 0
    """Retries after replies that could not be parsed as a verdict."""
    reworded: bool = False
    """Whether the prompt now states that the judge is only asked to grade."""
    resends: bool = False
    """Whether the last request was refused and is worth sending with other capabilities."""
    declined: bool = False
    """Whether the last reply was a refusal to judge the text."""
    served_model: str | None = None
    """The model that the server reported last."""

    def scored_verdict(self, parsed: ParsedScores) -> Verdict:
        """The verdict of a reply that was parsed, with the figures of all replies."""
        return Verdict.scored(
            parsed.scores,
            parsed.reason,
            self.usage.config.model,
            latency_s=self.seconds,
            cost=self.usage.cost,
            retries=self.retries,
            served_model=self.served_model,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
        )

    def failed_verdict(self, failure: str) -> Verdict:
        """The failed verdict of a request, with the figures of all replies."""
        return Verdict.failed(
            failure,
            self.usage.config.model,
            latency_s=self.seconds,
            cost=self.usage.cost,
            retries=self.retries,
            declined=self.declined,
            served_model=self.served_model,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
        )

    @property
    def retries(self) -> int:
        """How often the request was repeated."""
        return self.transient_retries + self.invalid_reply_retries
