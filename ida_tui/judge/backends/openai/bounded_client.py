"""HTTP client for servers that are not trusted: it bounds a reply, follows no redirect and keeps no cookie.

Import it only when a request is sent, because it imports `httpx2`.
"""

from __future__ import annotations

import http.cookiejar
from collections.abc import Mapping
from typing import Any

import httpx2

MAX_REPLY_BYTES = 256 * 1024
"""Largest body of a reply, both as received and decompressed. The largest verdict has a few kB."""
MAX_HEADERS = 100
"""Largest number of headers in a reply; `h11` limits their size to 100 kB."""
_KEPT_HEADERS = (b"retry-after", b"retry-after-ms", b"location")
"""Headers that are read later. The encoding of the text is always UTF-8, whatever the server states."""


class UnacceptableReply(httpx2.RequestError):
    """A reply that is too large or not valid; its text says why."""


class BoundedClient(httpx2.AsyncClient):
    """An HTTP client that reads replies of at most `MAX_REPLY_BYTES`; the rest is not received.

    Args:
        headers: headers of every request.
        params: parameters in the address of every request.
        timeout: timeouts of the parts of a call.
        proxy: address of the proxy; None connects directly, whatever the environment names.
        use_environment: use the certificates that environment variables name.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str | int | float | bool],
        timeout: httpx2.Timeout,
        proxy: str | None,
        use_environment: bool,
    ) -> None:
        no_cookies = http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
        super().__init__(
            headers=headers,
            params=params,
            timeout=timeout,
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
        try:
            response = await super().send(
                request, **options | {"stream": True, "follow_redirects": False}
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
