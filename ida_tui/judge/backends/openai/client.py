"""Client of an OpenAI-compatible judge: retries each request until it gets a verdict or gives up.

A request that the server refuses is sent again with fewer features (`Discovery`). Transient errors
are retried after a wait, with fewer concurrent calls. An unusable reply is retried once. An error
that only the user can fix raises `JudgeUnavailable`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ida_tui.config.schema import JudgeConfig, RubricConfig
from ida_tui.judge.api_key import OPENAI_BASE_URL, is_local
from ida_tui.judge.backends.openai.capabilities import (
    Capabilities,
    CapabilityStore,
    InMemoryCapabilityStore,
    OutputFormat,
)
from ida_tui.judge.backends.openai.context_limit import ContextLimit, least_tokens
from ida_tui.judge.backends.openai.discovery import LEAD_S, Discovery, Turn
from ida_tui.judge.backends.openai.first_verdict import FirstVerdict
from ida_tui.judge.backends.openai.group import (
    ParsedGroup,
    group_schema,
    parse_group,
    render_group_messages,
)
from ida_tui.judge.backends.openai.notices import (
    cut_failure,
    cut_notice,
    no_verdict_notice,
    thought_notice,
)
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure, parse_verdict
from ida_tui.judge.backends.openai.prompt import JudgeMessages, render_messages, verdict_schema
from ida_tui.judge.backends.openai.rate_limit import Limiter
from ida_tui.judge.backends.openai.reply import ServerReply
from ida_tui.judge.backends.openai.request import (
    Question,
    RequestState,
    UsageTotals,
    VerdictRecord,
    token_cost,
)
from ida_tui.judge.backends.openai.transport import ListedModel, Transport
from ida_tui.judge.budget import Budget, PaidReply
from ida_tui.judge.errors import JudgeUnavailable, RequestFault, redact, unavailable_error
from ida_tui.judge.verdict import JudgeRequest
from ida_tui.util.text import strip_credentials

RETRY_BASE_S = 0.5
"""Wait before the first retry of a transient error; it doubles with every retry."""
MAX_BACKOFF_S = 8.0
MIN_CHARS_PER_TOKEN = 2.0
"""Characters per token, for the upper bound of a call's cost; English prose has about 4."""

T = TypeVar("T")
OnThrottled = Callable[[RequestFault, float, int], None]
"""Called when calls are throttled: the fault, the wait in seconds, the number of concurrent calls."""


class JudgeClient:
    """Requests verdicts from one judge. Use it on one event loop.

    Args:
        config: the judge profile.
        rubric: the rubric of the scores.
        key: the API key; None for a server that needs none.
        other_secrets: those of other judges of a panel.
        store: stores the capabilities of the endpoint; None keeps them in memory.
        limiter: limits the concurrent calls; None limits them to the profile's `concurrency`.
        budget: the budget; None is unlimited.
        on_throttled: called when calls are throttled.
        warn: receives warnings for the user.
        retry_base_s: wait before the first retry of a transient error, in seconds.
        lead_s: longest wait for the first request to an unknown endpoint, in seconds.

    Raises:
        JudgeUnavailable: the proxy cannot be used, or a header of the profile has no value.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: RubricConfig,
        key: str | None,
        *,
        other_secrets: Sequence[str | None] = (),
        store: CapabilityStore | None = None,
        limiter: Limiter | None = None,
        budget: Budget | None = None,
        on_throttled: OnThrottled = lambda fault, seconds, slots: None,
        warn: Callable[[str], object] = lambda text: None,
        retry_base_s: float = RETRY_BASE_S,
        lead_s: float = LEAD_S,
    ) -> None:
        self._config = config
        self._rubric = rubric
        self._key = key
        self._schema = verdict_schema(rubric)
        self._store = store if store is not None else InMemoryCapabilityStore()
        self._limiter = limiter if limiter is not None else Limiter(config.concurrency)
        self._budget = budget if budget is not None else Budget()
        self._on_throttled = on_throttled
        self._warn = warn
        self._warned: set[str] = set()
        self._first_verdict = FirstVerdict()
        self._context = ContextLimit(config.max_tokens)
        self._retry_base_s = retry_base_s
        self.endpoint = endpoint_key(config)
        """The key under which the endpoint's capabilities are stored."""
        self._stored_capabilities = self._store.load_capabilities(self.endpoint)
        self._discovery = Discovery(
            self._stored_capabilities, schema_field=is_local(config.base_url), lead_s=lead_s
        )
        self._path_noted = False
        self._verified_formats: set[OutputFormat] = set()
        """Output formats that have produced a verdict."""
        self._transport = Transport(config, key, other_secrets)

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the endpoint, as far as they are known."""
        return self._discovery.current

    async def request_verdict(self, request: JudgeRequest) -> VerdictRecord:
        """Request a verdict on one completion.

        Returns:
            A verdict with scores, or a failed verdict.

        Raises:
            JudgeUnavailable: the key, the model or the account was rejected, the call could exceed
                the budget, or the server asks for a longer wait than the profile allows.
        """
        config, state = self._config, self._new_state()
        question: Question[ParsedScores] = Question(
            render=lambda nonce, with_schema, reworded: render_messages(
                self._rubric,
                request.prompt,
                request.completion,
                nonce=nonce,
                max_chars=config.max_judged_chars,
                schema_in_prompt=with_schema,
                reworded=reworded,
                context=request.context,
                checks=request.checks,
            ),
            schema=self._schema,
            parse=lambda reply: parse_verdict(
                reply.text,
                tuple(self._rubric.judged_axes),
                thought=reply.thought,
                judged=request.completion,
            ),
            max_tokens=config.max_tokens,
        )
        outcome = await self._ask(question, state)
        if isinstance(outcome, str):
            return VerdictRecord(state.failed_verdict(outcome), "", None)
        parsed, reply = outcome
        raw = reply.text or reply.thought
        return VerdictRecord(state.scored_verdict(parsed), raw, reply.fingerprint)

    async def request_group(self, requests: Sequence[JudgeRequest]) -> list[VerdictRecord]:
        """Request the verdicts on all completions of one prompt in one call.

        Args:
            requests: one request per completion, in the order in which the judge sees them.

        Returns:
            A verdict with scores or a failed verdict for each request, each with the figures of the whole
            call, for `split_verdict`; only the first record has the raw reply.

        Raises:
            JudgeUnavailable: as in `request_verdict`.
        """
        config, state, count = self._config, self._new_state(), len(requests)
        first, axes = requests[0], tuple(self._rubric.judged_axes)
        question: Question[ParsedGroup] = Question(
            render=lambda nonce, with_schema, reworded: render_group_messages(
                self._rubric,
                first.prompt,
                [request.completion for request in requests],
                nonce=nonce,
                max_chars=config.max_judged_chars,
                schema_in_prompt=with_schema,
                reworded=reworded,
                context=first.context,
                checks=first.checks,
            ),
            schema=group_schema(self._rubric, count),
            parse=lambda reply: parse_group(
                reply.text,
                axes,
                count,
                thought=reply.thought,
                judged=[request.completion for request in requests],
            ),
            max_tokens=config.max_tokens * count,
        )
        outcome = await self._ask(question, state)
        if isinstance(outcome, str):
            return [VerdictRecord(state.failed_verdict(outcome), "", None)] * count
        group, reply = outcome
        verdicts = [
            state.failed_verdict(redact(parsed.text, self._key))
            if isinstance(parsed, ParseFailure)
            else state.scored_verdict(parsed)
            for parsed in group.verdicts
        ]
        return [
            VerdictRecord(verdict, "" if number else reply.text or reply.thought, reply.fingerprint)
            for number, verdict in enumerate(verdicts)
        ]

    def _new_state(self) -> RequestState:
        return RequestState(self.capabilities, UsageTotals(self._config))

    async def _ask(self, question: Question[T], state: RequestState) -> tuple[T, ServerReply] | str:
        """Send a request until its reply can be parsed; returns the failure if no retry is left."""
        try:
            return await self._ask_repeatedly(question, state)
        finally:
            self._first_verdict.release(state)

    async def _ask_repeatedly(
        self, question: Question[T], state: RequestState
    ) -> tuple[T, ServerReply] | str:
        """As `_ask`.

        If only a part of a group can be parsed, also after the retry, the better of the two replies counts.
        """
        partial: tuple[T, ServerReply] | None = None
        while True:
            await self._discovery.wait()
            async with self._limiter.slot() as call:
                while (turn := self._discovery.take_turn()) is None:
                    await self._discovery.wait()
                outcome = await self._send(question, state, turn)
                if isinstance(outcome, ServerReply):
                    call.input_tokens = outcome.input_tokens
                    call.output_tokens = outcome.output_tokens
            state.declined = False
            if isinstance(outcome, RequestFault):
                failure = await self._handle_fault(outcome, state, call.started_at)
            else:
                self._limiter.on_success()
                state.served_model = outcome.model
                limit = await self._cut_at(question, outcome, state)
                if limit is not None:
                    return cut_failure(limit)
                parsed = question.read(outcome)
                problem = parsed if isinstance(parsed, ParseFailure) else None
                if isinstance(parsed, ParsedGroup):
                    problem = parsed.failure
                if not isinstance(parsed, ParseFailure):
                    if _scored(parsed):
                        self._first_verdict.note()
                    if problem is None:
                        self._confirm_capabilities(state.capabilities)
                        return parsed, outcome
                    if partial is None or _scored(parsed) > _scored(partial[0]):
                        partial = parsed, outcome
                assert problem is not None
                state.declined = outcome.declined
                failure = await self._handle_invalid_reply(problem, outcome, state)
            if failure is not None:
                if partial is None or not _scored(partial[0]):
                    return failure
                state.declined, state.served_model = False, partial[1].model
                return partial

    async def list_models(self) -> list[ListedModel] | RequestFault:
        """The models that the endpoint lists, or why the list could not be read."""
        models = await self._transport.list_models(self.capabilities)
        if isinstance(models, RequestFault) and not self.capabilities.path:
            wrong_path = models.status in (404, 405) or models.kind == "rejected"
            if wrong_path and await self._transport.answers_at_fallback():
                self._discovery.append_path()
                return await self._transport.list_models(self.capabilities)
        return models

    def unavailable_error(self, fault: RequestFault) -> JudgeUnavailable:
        """The error for a fault that only the user can fix."""
        return unavailable_error(
            fault,
            model=self._config.model,
            host=self._transport.host,
            key_name=self._config.api_key_env if self._key else None,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def _send(
        self, question: Question[T], state: RequestState, turn: Turn
    ) -> ServerReply | RequestFault:
        """Send one HTTP request and charge it to the budget."""
        estimated, _ = self._build_request(question, state, turn.capabilities)
        state.least_tokens = least_tokens(estimated)

        async def call() -> PaidReply[ServerReply | RequestFault]:
            with self._discovery.sending(turn):
                state.capabilities = turn.capabilities
                messages, options = self._build_request(question, state, turn.capabilities)
                started = time.monotonic()
                try:
                    outcome = await self._transport.post(messages, options, turn.capabilities)
                finally:
                    state.seconds += time.monotonic() - started
                if isinstance(outcome, ServerReply):
                    self._discovery.accept(turn)
                elif outcome.kind == "refused":
                    state.resends = self._discovery.refuse(turn, outcome)
            if isinstance(outcome, RequestFault):
                return PaidReply(outcome, 0.0, "unanswered" if outcome.unanswered else "failed")
            state.usage.add(outcome)
            usage = UsageTotals(self._config)
            usage.add(outcome)
            return PaidReply(outcome, usage.cost)

        return await self._budget.run(self._max_cost(estimated, question.max_tokens), call)

    def _max_cost(self, messages: JudgeMessages, max_tokens: int) -> float:
        """The maximum cost of a request in US dollars; 0 if the profile has no price."""
        tokens = (len(messages.system) + len(messages.user)) / MIN_CHARS_PER_TOKEN
        return token_cost(self._config, tokens, max_tokens) or 0.0

    def _confirm_capabilities(self, capabilities: Capabilities) -> None:
        """Record the request options that produced a verdict."""
        self._verified_formats.add(capabilities.output_format)
        if capabilities == self.capabilities and capabilities != self._stored_capabilities:
            self._store.save_capabilities(self.endpoint, capabilities)
            self._stored_capabilities = capabilities
        if capabilities.path and not self._path_noted:
            self._path_noted = True
            address = f"{self._config.base_url}{capabilities.path}"
            self._warn(f"the judge's server answers at {address}: write judge.base_url={address}")

    def _build_request(
        self, question: Question[T], state: RequestState, capabilities: Capabilities
    ) -> tuple[JudgeMessages, dict[str, object]]:
        """The messages and the options of the next HTTP request."""
        messages = question.render(
            secrets.token_hex(8), capabilities.schema_in_prompt, state.reworded
        )
        options = capabilities.request_options(
            question.schema,
            max_tokens=question.max_tokens,
            temperature=self._config.temperature,
            reasoning_effort=self._config.reasoning_effort,
        )
        own = self._config.extra_body
        if own.keys() & {"max_tokens", "max_completion_tokens"}:
            options.pop(capabilities.token_limit_parameter or "", None)
        return messages, {**options, **own}

    async def _handle_fault(
        self, fault: RequestFault, state: RequestState, started_at: float
    ) -> str | None:
        """Prepare the retry after a fault; returns the failure if there is no retry."""
        match fault.kind:
            case "fatal":
                raise self.unavailable_error(fault)
            case "refused":
                if state.resends:
                    return None
                if (fault.status or 0) >= 500:  # a defect of the server after all
                    return await self._handle_transient_fault(fault, state, started_at)
                return self._refusal_text(fault)
            case "declined":
                state.declined = True
                return await self._retry_reworded(fault.text, state)
            case "rejected":
                return fault.text
            case "transient":
                return await self._handle_transient_fault(fault, state, started_at)

    def _refusal_text(self, fault: RequestFault) -> str:
        """Why a request failed that was refused also without everything that it can do without."""
        own = ", ".join(self._config.extra_body)
        return f"{fault.text} (judge.extra_body sends {own})" if own else fault.text

    async def _handle_transient_fault(
        self, fault: RequestFault, state: RequestState, started_at: float
    ) -> str | None:
        """Wait before the retry of a transient error; returns the failure if no retry is left."""
        retry_after = fault.retry_after_s
        if retry_after is not None and retry_after > self._config.max_wait_s:
            raise JudgeUnavailable(
                f"the judge {self._config.model} asks for a wait of {retry_after:,.0f} s ({fault.text})",
                f"resume later, use another judge, or raise judge.max_wait_s "
                f"(now {self._config.max_wait_s:g} s)",
            )
        halved = fault.overload and self._limiter.on_overload(started_at)
        if retry_after is not None:
            longer_wait = retry_after > self._limiter.pause_remaining_s + 0.5
            self._limiter.hold_for(retry_after)
            if halved or longer_wait:
                self._on_throttled(fault, retry_after, self._limiter.slots)
        elif halved:
            self._on_throttled(fault, 0.0, self._limiter.slots)
        if state.transient_retries >= self._config.max_retries:
            return fault.text
        is_defect = (
            fault.in_body or fault.status == 500
        )  # others pass when a server starts or rests
        if is_defect and not await self._first_verdict.may_retry(state):
            return fault.text
        if retry_after is None:
            backoff = min(MAX_BACKOFF_S, self._retry_base_s * 2**state.transient_retries)
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))
        state.transient_retries += 1
        if fault.status == 500 and state.transient_retries == 2:
            self._discovery.try_bare()
        return None

    async def _retry_reworded(self, failure: str, state: RequestState) -> str | None:
        """Prepare a retry with a reworded prompt; returns the failure if no retry is left."""
        if not await self._may_retry(state):
            return redact(failure, self._key)
        state.reworded = True
        return None

    async def _may_retry(self, state: RequestState) -> bool:
        """Count the one retry of an unusable reply, if it is left."""
        if state.invalid_reply_retries >= min(1, self._config.max_retries):
            return False
        if not await self._first_verdict.may_retry(state):
            return False
        state.invalid_reply_retries += 1
        return True

    async def _handle_invalid_reply(
        self, parsed: ParseFailure, reply: ServerReply, state: RequestState
    ) -> str | None:
        """Prepare the one retry of an unusable reply; returns the failure if no retry is left."""
        if reply.declined:
            return await self._retry_reworded(parsed.text, state)
        if parsed.kind == "thought" and reply.truncated:
            self._warn_once("thought", thought_notice(self._config))
            return parsed.text  # the same request would have the same thought
        if parsed.kind == "form" and state.capabilities.output_format not in self._verified_formats:
            # The server accepted the format but ignored it: use a simpler format from now on.
            # If the format has produced verdicts before, one bad reply says nothing about it.
            self._discovery.simplify_format(state.capabilities)
        if await self._may_retry(state):
            return None
        if self._first_verdict.is_out_of_reach:
            notice = no_verdict_notice(self._config.model, parsed.text, reply.text, self._key)
            self._warn_once("no verdict", notice)
        return redact(parsed.text, self._key)

    async def _cut_at(
        self, question: Question[T], reply: ServerReply, state: RequestState
    ) -> int | None:
        """The number of tokens to which the server cut the request; None if it read all of it."""
        if not reply.input_tokens:
            return None
        count, words = reply.input_tokens + reply.cached_tokens, state.least_tokens
        if not await self._context.cuts(count, words, lambda: self._count_longer(question, state)):
            return None
        self._warn_once("context", cut_notice(self._config.model, count, words))
        return count

    async def _count_longer(
        self, question: Question[T], state: RequestState
    ) -> tuple[int, int] | None:
        """The token count of the same request with more text, and the tokens that it has at least."""
        reworded, state.reworded = state.reworded, True
        async with self._limiter.slot():
            outcome = await self._send(question, state, Turn(state.capabilities))
        state.reworded = reworded
        if isinstance(outcome, RequestFault) or not outcome.input_tokens:
            return None
        return outcome.input_tokens + outcome.cached_tokens, state.least_tokens

    def _warn_once(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            self._warn(text)


def _scored(parsed: object) -> int:
    """Number of completions that a parsed reply scores."""
    return parsed.scored if isinstance(parsed, ParsedGroup) else 1


def endpoint_key(config: JudgeConfig) -> str:
    """The key of an endpoint in the cache: its base URL and model."""
    return f"{strip_credentials(config.base_url or OPENAI_BASE_URL)} {config.model}"
