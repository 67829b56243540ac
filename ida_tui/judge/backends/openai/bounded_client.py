"""HTTP client for servers that are not trusted: it bounds a reply, follows no redirect and keeps no cookie.

Import it only when a request is sent, because it imports `openai`.
"""

from __future__ import annotations

import http.cookiejar
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

MAX_REPLY_BYTES = 256 * 1024
"""Largest body of a reply, both as received and decompressed. The largest verdict has a few kB."""
MAX_HEADERS = 100
"""Largest number of headers in a reply; `h11` limits their size to 100 kB."""
_KEPT_HEADERS = (b"retry-after", b"retry-after-ms", b"location")
"""Headers that are read later. The encoding of the text is always UTF-8, whatever the server states."""
_SENT_HEADERS = (
    b"host", b"accept-encoding", b"connection", b"content-length", b"content-type", b"transfer-encoding",
)  # fmt: skip
"""Headers of a request that are not given to the client, but made for it."""


class UnacceptableReply(httpx2.RequestError):
    """A reply that is too large or not valid; its text says why."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that reads replies of at most `MAX_REPLY_BYTES`; the rest is not received.

    Args:
        headers: headers of every request. It sends no others: the openai client adds some from variables of
            the environment, which are meant for OpenAI and not for another server.
        params: parameters in the address of every request.
        proxy: address of the proxy; None connects directly, whatever the environment names.
        use_environment: use the certificates that environment variables name.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str | int | float | bool],
        proxy: str | None,
        use_environment: bool,
    ) -> None:
        self.own_headers = httpx2.Headers(headers)
        no_cookies = http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
        super().__init__(
            params=params,
            transport=httpx2.AsyncHTTPTransport(
                trust_env=use_environment,
                proxy=proxy,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            ),
            follow_redirects=False,
            cookies=http.cookiejar.CookieJar(no_cookies),
        )

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read the reply.

        Raises:
            UnacceptableReply: the reply is too large, or not valid.
            RequestError: the connection failed.
        """
        made = [
            (name, value) for name, value in request.headers.raw if name.lower() in _SENT_HEADERS
        ]
        sent = httpx2.Request(
            request.method,
            request.url,
            headers=made + self.own_headers.raw,
            stream=request.stream,
            extensions=request.extensions,
        )
        try:
            response = await super().send(
                sent, **options | {"stream": True, "follow_redirects": False}
            )
            try:
                content = await _read_body(response)
            finally:
                await response.aclose()
        except (ValueError, RuntimeError, httpx2.InvalidURL, httpx2.DecodingError) as error:
            text = f"the reply is not valid HTTP ({type(error).__name__})"
            raise UnacceptableReply(text) from error
        headers = [
            (name, value) for name, value in response.headers.raw if name.lower() in _KEPT_HEADERS
        ]
        return httpx2.Response(
            response.status_code, headers=headers, content=content, request=request
        )


async def _read_body(response: httpx2.Response) -> bytes:
    """The decompressed body of a reply.

    Raises:
        UnacceptableReply: the reply exceeds a limit.
    """
    if len(response.headers.raw) > MAX_HEADERS:
        raise UnacceptableReply(f"the reply has more than {MAX_HEADERS} headers")
    # Nested compression multiplies the work of each received byte.
    if "," in response.headers.get("content-encoding", ""):
        raise UnacceptableReply("the reply is compressed more than once")
    body = bytearray()
    # The decoders return at most 1 MiB at once, whatever the ratio of the compression.
    async for part in response.aiter_bytes():
        body += part
        if max(len(body), response.num_bytes_downloaded) > MAX_REPLY_BYTES:
            raise UnacceptableReply(f"the reply is larger than {MAX_REPLY_BYTES // 1024} kB")
    return bytes(body)
