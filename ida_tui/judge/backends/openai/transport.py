"""HTTP transport to a judge: one request, answered by a `ServerReply` or a `RequestFault`, without retries.

It uses the openai client with its retries disabled, because they repeat requests that cannot succeed
(no credit) or that need different options (a refused response format). A server is not trusted: the time of
a call is limited as a whole, and `BoundedClient` limits the reply. Only `Transport` imports `openai`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError

from ida_tui.config.schema import JudgeConfig
from ida_tui.judge.api_key import OPENAI_BASE_URL, PLACEHOLDER_KEY, host_of, is_local
from ida_tui.judge.backends.openai.error_response import classify_response
from ida_tui.judge.backends.openai.prompt import JudgeMessages
from ida_tui.judge.backends.openai.reply import ServerReply, parse_reply
from ida_tui.judge.errors import UNTRUSTED_CERTIFICATE, RequestFault, redact

CONNECT_TIMEOUT_S = 5.0
LIST_MODELS_TIMEOUT_S = 5.0


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
        key: the API key; None sends a placeholder.
    """

    def __init__(self, config: JudgeConfig, key: str | None) -> None:
        import httpx2
        import openai

        from ida_tui.judge.backends.openai.bounded_client import BoundedClient, UnacceptableReply

        self._openai = openai
        self._connect_errors = (httpx2.ConnectError, httpx2.ProxyError)
        self._unacceptable_reply = UnacceptableReply
        self._key = key
        self._model = config.model
        self._timeout_s = config.timeout_s
        self.host = host_of(config.base_url)
        self._client = openai.AsyncOpenAI(
            api_key=key or PLACEHOLDER_KEY,
            base_url=config.base_url or OPENAI_BASE_URL,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            max_retries=0,
            # Ignore a proxy from the environment for a server on this machine.
            http_client=BoundedClient(use_environment=not is_local(config.base_url)),
        )

    async def post(
        self, messages: JudgeMessages, options: Mapping[str, object]
    ) -> ServerReply | RequestFault:
        """Send one chat completion request; `options` is the body without model and messages."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[
                        {"role": "system", "content": messages.system},
                        {"role": "user", "content": messages.user},
                    ],
                    extra_body=dict(options),
                )
        except TimeoutError:
            return RequestFault(
                "transient",
                f"no response within {self._timeout_s:g} s",
                overload=True,
                unanswered=True,
            )
        except self._openai.APIStatusError as error:
            http = error.response
            return classify_response(http.status_code, http.text, http.headers, options, self._key)
        except self._openai.APITimeoutError:  # the connection alone has a timeout of its own
            text = f"no connection to {self.host} within {CONNECT_TIMEOUT_S:g} s"
            return RequestFault("transient", text, overload=True)
        except self._openai.APIConnectionError as error:
            return self._connection_fault(error)
        except self._openai.OpenAIError as error:
            return RequestFault("rejected", redact(str(error), self._key))
        return parse_reply(response.text, self._key)

    async def list_models(self) -> list[ListedModel] | RequestFault:
        """The models listed at `/models`, a free request that also tests the key."""
        timeout_s = min(LIST_MODELS_TIMEOUT_S, self._timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.models.with_raw_response.list()
            return _ModelList.model_validate_json(response.text).data
        except self._openai.APIStatusError as error:
            http = error.response
            return classify_response(http.status_code, http.text, http.headers, (), self._key)
        except (TimeoutError, self._openai.APITimeoutError):
            return RequestFault("transient", f"no response from {self.host} within {timeout_s:g} s")
        except self._openai.APIConnectionError as error:
            return self._connection_fault(error)
        except (self._openai.OpenAIError, ValidationError):
            return RequestFault("rejected", "could not read the list of models")

    def _connection_fault(self, error: Exception) -> RequestFault:
        """The fault of a call without a usable reply."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, self._unacceptable_reply):
                return RequestFault("rejected", f"{self.host}: {cause}", unanswered=True)
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = redact(cause.verify_message, self._key)
                return RequestFault("fatal", text, code=UNTRUSTED_CERTIFICATE)
            if isinstance(cause, ssl.SSLError):
                reason = (cause.reason or "error").lower().replace("_", " ")
                return RequestFault("transient", f"no TLS connection to {self.host}: {reason}")
        if any(isinstance(cause, self._connect_errors) for cause in causes):
            return RequestFault("transient", f"could not connect to {self.host}")
        return RequestFault("transient", f"the connection to {self.host} broke off")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the last one first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
