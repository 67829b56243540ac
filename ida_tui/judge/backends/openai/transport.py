"""HTTP transport to a judge: one request, answered by a `ServerReply` or a `RequestFault`, without retries.

It uses the openai client with its retries disabled, because they repeat requests that cannot succeed (no
credit) or that need different options (a refused response format). A server is not trusted: the time of a
call is limited as a whole, and `BoundedClient` limits the reply and sends no headers but those given to it.
No secret is left in what `Transport` returns. Only `Transport` imports `openai`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from ida_tui.config.schema import JudgeConfig
from ida_tui.config.trust.endpoint import normalize_base_url
from ida_tui.judge.api_key import (
    OPENAI_BASE_URL,
    host_of,
    is_local,
    load_headers,
    require_usable_proxy,
)
from ida_tui.judge.backends.openai.capabilities import BASE_PATH, Capabilities
from ida_tui.judge.backends.openai.error_response import classify_response
from ida_tui.judge.backends.openai.prompt import JudgeMessages
from ida_tui.judge.backends.openai.reply import ServerReply, parse_reply
from ida_tui.judge.errors import UNTRUSTED_CERTIFICATE, RequestFault, redact
from ida_tui.util.secrets import SecretFilter

if TYPE_CHECKING:
    import openai

RawResponse = Any
"""The openai client's raw response, with the `http_response` in it."""
CONNECT_TIMEOUT_S = 5.0
LIST_MODELS_TIMEOUT_S = 5.0
_OPENAI_HEADERS = {
    "OpenAI-Organization": "OPENAI_ORG_ID",
    "OpenAI-Project": "OPENAI_PROJECT_ID",
}
"""Headers for OpenAI's own servers, each with its environment variable."""
_VERSION_IN_PATH = re.compile(r"/v\d")
_WRONG_PATH = re.compile(
    r"unexpected endpoint|no such (?:endpoint|route)|(?:endpoint|route|page|path|url)\b.{0,40}\bnot found"
    r"|web page|not a chat completion",
    re.IGNORECASE,
)
"""Words in a reply with status 200 of a server that knows no such address."""


class ListedModel(BaseModel):
    """One model in an endpoint's list."""

    id: str
    shutdown_date: str | None = None
    """The date on which the provider retires the model; None if unknown."""


class _ModelList(BaseModel):
    data: list[ListedModel] = []


class Transport:
    """A connection pool to one endpoint. Use it from one event loop only.

    Args:
        config: the judge profile; without a base_url, the endpoint is OpenAI's.
        key: the API key; None sends none.
        other_secrets: those of other judges of a panel, which one server may know.

    Raises:
        JudgeUnavailable: the proxy that the environment names cannot be used, or a header has no value.
    """

    def __init__(
        self, config: JudgeConfig, key: str | None, other_secrets: Sequence[str | None] = ()
    ) -> None:
        import httpx2
        import openai

        from ida_tui.judge.backends.openai.bounded_client import BoundedClient, UnacceptableReply

        # OPENAI_LOG would have the client log requests.
        logging.getLogger("openai").setLevel(logging.WARNING)
        self._openai, self._httpx = openai, httpx2
        self._unacceptable_reply = UnacceptableReply
        self._config = config
        self._base_url = normalize_base_url(config.base_url or OPENAI_BASE_URL)
        self.host = host_of(self._base_url)
        self._proxy = require_usable_proxy(self._base_url)
        own_headers = load_headers(config, dotenv_dir=Path.cwd())
        others = filter(None, other_secrets)
        self._secrets = SecretFilter([key or "", *own_headers.secrets, *others])
        headers = {"Accept": "application/json", "User-Agent": "ida-tui"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if self.host == "api.openai.com" or self.host.endswith(".api.openai.com"):
            values = {name: os.environ.get(v, "").strip() for name, v in _OPENAI_HEADERS.items()}
            headers |= {name: value for name, value in values.items() if value.isascii() and value}
        replaced = {name.lower() for name in own_headers.values}
        headers = {name: value for name, value in headers.items() if name.lower() not in replaced}
        self._client = openai.AsyncOpenAI(
            api_key=key
            or "none",  # the client wants one; `BoundedClient` sends the headers above instead
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            http_client=BoundedClient(
                headers={**headers, **own_headers.values},
                params=dict(config.extra_query),
                proxy=self._proxy.url if self._proxy else None,
                # Certificates of the environment are not for a server on this machine.
                use_environment=not is_local(self._base_url),
            ),
        )

    async def post(
        self,
        messages: JudgeMessages,
        options: Mapping[str, object],
        capabilities: Capabilities,
    ) -> ServerReply | RequestFault:
        """Send one chat completion request; `options` is the body without model and messages."""
        client = self._client_for(capabilities)
        chat: Any = messages.as_chat(system_role=capabilities.system_role)
        outcome = await self._answer(
            client.chat.completions.with_raw_response.create(
                model=self._config.model, messages=chat, extra_body=dict(options)
            ),
            self._config.timeout_s,
        )
        if isinstance(outcome, RequestFault):
            return self._clean_fault(outcome)
        status, text, headers = outcome
        own = self._config.extra_body
        if status >= 300:
            fault = classify_response(status, text, headers, options, None, own)
        else:
            reply = parse_reply(text, None, options, own)
            if isinstance(reply, ServerReply):
                return self._clean_reply(reply)
            fault = reply
        if self._is_wrong_path(status, fault, capabilities):
            fault = replace(fault, kind="refused", features=frozenset((BASE_PATH,)))
        return self._clean_fault(fault)

    async def list_models(self, capabilities: Capabilities) -> list[ListedModel] | RequestFault:
        """The models listed at `/models`, a free request that also tests the key."""
        client = self._client_for(capabilities)
        timeout_s = min(LIST_MODELS_TIMEOUT_S, self._config.timeout_s)
        outcome = await self._answer(client.models.with_raw_response.list(), timeout_s)
        if isinstance(outcome, RequestFault):
            return self._clean_fault(outcome)
        status, text, headers = outcome
        if status >= 300:
            return self._clean_fault(classify_response(status, text, headers, (), None))
        try:
            return _ModelList.model_validate_json(text).data
        except ValidationError:
            return RequestFault("rejected", "could not read the list of models")

    async def answers_at_fallback(self) -> bool:
        """Whether the server lists models with /v1 after the address of the profile; free."""
        if not self._may_append_path():
            return False
        capabilities = Capabilities(refused=frozenset((BASE_PATH,)))
        return isinstance(await self.list_models(capabilities), list)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _client_for(self, capabilities: Capabilities) -> openai.AsyncOpenAI:
        """The client of the endpoint's address, with the same connections for each."""
        if not capabilities.path:
            return self._client
        return self._client.with_options(base_url=self._base_url + capabilities.path)

    async def _answer(
        self, call: Awaitable[RawResponse], timeout_s: float
    ) -> tuple[int, str, Mapping[str, str]] | RequestFault:
        """The status, text and headers of one response, or why there is none."""
        try:
            async with asyncio.timeout(timeout_s):
                http = (await call).http_response
        except self._openai.APIStatusError as error:
            http = error.response
        except TimeoutError:
            text = f"no response from {self.host} within {timeout_s:g} s"
            return RequestFault("transient", text, overload=True, unanswered=True)
        except self._openai.APITimeoutError:  # the connection alone has a timeout of its own
            text = f"no connection to {self._place} within {CONNECT_TIMEOUT_S:g} s"
            return RequestFault("transient", text, overload=True)
        except (self._openai.OpenAIError, OSError, ValueError, RuntimeError) as error:
            return self._connection_fault(error)
        return http.status_code, http.text, http.headers

    @property
    def _place(self) -> str:
        """The host, with its port where the address has one, and the proxy on the way to it."""
        port = urlsplit(self._base_url).port
        place = f"{self.host}:{port}" if port else self.host
        return f"{place} through the proxy {self._proxy.label}" if self._proxy else place

    def _connection_fault(self, error: Exception) -> RequestFault:
        """The fault of a call without a usable reply."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, self._unacceptable_reply):
                return RequestFault("rejected", f"{self.host}: {cause}", unanswered=True)
            if isinstance(cause, ssl.SSLCertVerificationError):
                return RequestFault("fatal", cause.verify_message, code=UNTRUSTED_CERTIFICATE)
            if isinstance(cause, ssl.SSLError):
                reason = (cause.reason or "error").lower().replace("_", " ")
                return RequestFault("transient", f"no TLS connection to {self._place}: {reason}")
        for cause in causes:
            if isinstance(cause, self._httpx.ProxyError):
                answer = redact(str(cause), None)
                text = f"could not connect to {self._place}: it answered {answer}"
                return RequestFault("transient", text)
        if any(isinstance(cause, self._httpx.ConnectError) for cause in causes):
            remedy = "" if self._proxy else f": check that a server runs at {self._base_url}"
            return RequestFault("transient", f"could not connect to {self._place}{remedy}")
        return RequestFault("transient", f"the connection to {self._place} broke off")

    def _is_wrong_path(self, status: int, fault: RequestFault, capabilities: Capabilities) -> bool:
        """Whether the address lacks /v1, by the first response."""
        if capabilities.path or not self._may_append_path():
            return False
        if status in (404, 405):
            return "model" not in fault.text.lower()
        return status == 200 and _WRONG_PATH.search(fault.text) is not None

    def _may_append_path(self) -> bool:
        return _VERSION_IN_PATH.search(urlsplit(self._base_url).path) is None

    def _clean_fault(self, fault: RequestFault) -> RequestFault:
        return replace(
            fault, text=self._secrets.remove(fault.text), code=self._secrets.remove(fault.code)
        )

    def _clean_reply(self, reply: ServerReply) -> ServerReply:
        """The reply without secrets that the server repeats."""
        return replace(
            reply,
            text=self._secrets.remove(reply.text),
            thought=self._secrets.remove(reply.thought),
            model=reply.model and self._secrets.remove(reply.model),
            fingerprint=reply.fingerprint and self._secrets.remove(reply.fingerprint),
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the last one first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
