"""A judge's server that is not trusted: limits of time and size, redirects, cookies and certificates."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import itertools
import json
import shutil
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ida_tui.config.schema import JudgeConfig, PromptSet
from ida_tui.judge.backends.openai.client import JudgeClient
from ida_tui.judge.errors import JudgeUnavailable, RequestFault
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from tests.judge.test_client import KEY, RUBRIC, judge_config, make_request, request_verdicts
from tests.judge.test_parse import GOOD
from tests.support.judge_server import ScriptedJudge, Status, Wire
from tests.support.patience import PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LARGEST_TRANSFER = 8 * 2**20
"""Bytes that a server may hand to the buffers of both sockets before the client has left."""
DEADLINE_S = 0.3


def endless(start: bytes, part: bytes) -> Iterator[bytes]:
    return itertools.chain([start], itertools.repeat(part))


def whole(body: bytes, *headers: bytes) -> Wire:
    """A reply with a length and these headers."""
    head = b"".join(header + b"\r\n" for header in headers)
    return Wire([OK + head + b"Content-Length: %d\r\n\r\n" % len(body) + body])


def completion(content: str = GOOD, **changes: object) -> bytes:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"model": "m", "choices": [choice]} | changes).encode()


# --- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [OK + b"Content-Length: 9999\r\n\r\n", OK + b"X-Slow: ", CHUNKED, b""],
    ids=["body", "headers", "chunks", "status"],
)
def test_a_reply_that_comes_byte_by_byte_ends_at_the_deadline(start: bytes) -> None:
    wire = Wire(endless(start, b"1"), interval_s=0.05)
    with ScriptedJudge([wire]) as judge:
        [verdict] = request_verdicts(judge, timeout_s=DEADLINE_S, max_retries=0)
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert verdict.failure is not None
    if start:  # a reply without a valid first line ends at once
        assert verdict.failure == "no response from 127.0.0.1 within 0.3 s"


@pytest.mark.parametrize("interval_s", [0, 0.05])
def test_endless_interim_responses_end_at_the_deadline(interval_s: float) -> None:
    wire = Wire(itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), interval_s)
    with ScriptedJudge([wire]) as judge:
        [verdict] = request_verdicts(judge, timeout_s=DEADLINE_S, max_retries=0)
    assert verdict.failure == "no response from 127.0.0.1 within 0.3 s"


def test_a_slow_list_of_models_ends_at_the_deadline() -> None:
    wire = Wire(endless(OK + b"Content-Length: 9999\r\n\r\n", b" "), interval_s=0.05)

    async def list_models(judge: ScriptedJudge) -> object:
        client = JudgeClient(judge_config(judge, timeout_s=DEADLINE_S), RUBRIC, KEY)
        try:
            return await client.list_models()
        finally:
            await client.close()

    with ScriptedJudge(models=wire) as judge:
        fault = asyncio.run(list_models(judge))
    assert isinstance(fault, RequestFault)
    assert fault.text == "no response from 127.0.0.1 within 0.3 s"


def test_a_call_that_ended_at_the_deadline_may_have_been_charged(tmp_path: Path) -> None:
    wire = Wire(endless(OK + b"Content-Length: 9999\r\n\r\n", b" "), interval_s=0.05)
    with (
        ScriptedJudge([wire]) as judge,
        JudgeService(
            judge_config(judge, timeout_s=DEADLINE_S, max_retries=0),
            RUBRIC,
            PromptSet(prompts=[]),
            key=KEY,
            options=JudgeServiceOptions(cache_dir=tmp_path),
        ) as service,
    ):
        assert service.submit(make_request()).result(timeout=PATIENCE_S).failure is not None
        assert service.spent > 0


# --- size ----------------------------------------------------------------------------------

BLOCK = b"0" * 65_536
DEFLATE = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
RAW_DEFLATE = DEFLATE.compress(b" " * 2**26) + DEFLATE.flush()


@pytest.mark.parametrize(
    "wire",
    [
        Wire(endless(CHUNKED, b"10000\r\n" + BLOCK + b"\r\n")),
        Wire(endless(OK + b"Connection: close\r\n\r\n", BLOCK)),
        Wire(endless(OK + b"Content-Length: 9000000000\r\n\r\n", BLOCK)),
        Wire(endless(CHUNKED.replace(b"200 OK", b"500 No"), b"10000\r\n" + BLOCK + b"\r\n")),
        whole(gzip.compress(b" " * 2**26), b"Content-Encoding: gzip"),
        whole(zlib.compress(b" " * 2**26), b"Content-Encoding: deflate"),
        whole(RAW_DEFLATE, b"Content-Encoding: deflate"),
    ],
    ids=["chunked", "until closed", "length", "error", "gzip", "deflate", "raw deflate"],
)  # fmt: skip
def test_a_reply_that_is_too_large_is_not_received(wire: Wire) -> None:
    with ScriptedJudge([wire]) as judge:
        [verdict] = request_verdicts(judge)
        assert judge.calls == 1
    assert verdict.failure == "127.0.0.1: the reply is larger than 256 kB"
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert judge.wire_bytes < LARGEST_TRANSFER


@pytest.mark.parametrize(
    ("wire", "failure"),
    [
        (whole(b"", *[b"X-%d: 1" % n for n in range(5000)]), "more than 100 headers"),
        (Wire(endless(OK, b"X-Header: " + BLOCK)), "broke off"),
        (Wire(endless(OK + b"X-Header: ", BLOCK)), "broke off"),
        (Wire(endless(CHUNKED + b"1", b"0" * 1000)), "broke off"),
        (Wire(endless(CHUNKED + b"0\r\n", b"X-Trailer: 1\r\n")), "broke off"),
        (whole(gzip.compress(gzip.compress(b"{}")), b"Content-Encoding: gzip, gzip"), "compressed"),
        (whole(b"no gzip", b"Content-Encoding: gzip"), "not valid HTTP"),
        (whole(bz2.compress(b" " * 2**26), b"Content-Type: text/plain; charset=bz2"), "not a chat"),
        (whole(b"[" * 200_000), "not a chat completion"),
        (Wire([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"]), ""),
        (Wire([b"\x16\x03\x01 no http"]), "broke off"),
    ],
    ids=[
        "many headers", "large headers", "large header", "chunk size", "trailers", "nested gzip",
        "no gzip", "charset", "depth", "upgrade", "garbage",
    ],
)  # fmt: skip
def test_a_reply_in_a_hostile_form_is_a_failed_verdict(wire: Wire, failure: str) -> None:
    with ScriptedJudge(rule=lambda body: wire) as judge:
        [verdict] = request_verdicts(judge, max_retries=0)
    assert verdict.failure is not None
    assert failure in verdict.failure
    assert judge.wire_bytes < LARGEST_TRANSFER


def test_a_compressed_reply_is_read() -> None:
    with ScriptedJudge(
        [whole(gzip.compress(completion()), b"Content-Encoding: gzip"), whole(completion())]
    ) as judge:
        first, second = request_verdicts(judge, "a", "b")
    assert (first.scores["align"], second.scores["align"]) == (7.5, 7.5)


def test_impossible_token_counts_and_long_names_are_not_believed() -> None:
    usage = {"prompt_tokens": -(10**9), "completion_tokens": 10**18}
    body = completion(usage=usage, model="\x1b[2J" + "m" * 100_000, system_fingerprint="f" * 9999)
    with ScriptedJudge([whole(body)]) as judge:
        [verdict] = request_verdicts(judge)
    assert verdict.scores["align"] == 7.5
    assert verdict.cost is None, "the cost is unknown"
    assert verdict.served_model is not None
    assert len(verdict.served_model) == 200
    assert "\x1b" not in verdict.served_model


# --- other hosts ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_that_names_the_other_host(status: int) -> None:
    with ScriptedJudge() as other:
        target = f"{other.base_url}/chat/completions".encode()
        head = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, target)
        with ScriptedJudge(rule=lambda body: Wire([head])) as judge:
            [verdict] = request_verdicts(judge)
            assert judge.calls == 1
        assert (other.calls, other.authorizations) == (0, [])
    assert verdict.failure is not None
    assert f"points to {other.base_url.removesuffix('/v1')}; set judge.base_url" in verdict.failure


@pytest.mark.parametrize(
    ("location", "place"),
    [
        (b"/internal/admin", "its own host"),
        (b"http://user:secret@evil.example/x", "http://evil.example;"),
        (b"//evil.example", "evil.example"),
        (b"http://[evil", ""),
        (b"http://evil.example:99999/", ""),
        (b"file:///etc/passwd", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_no_redirect_is_followed(location: bytes, place: str) -> None:
    head = b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
    with ScriptedJudge(rule=lambda body: Wire([head])) as judge:
        [verdict] = request_verdicts(judge, max_retries=0)
        assert judge.calls == 1
    assert place in (verdict.failure or "")
    assert "secret" not in (verdict.failure or "")
    assert verdict.scores == {}


def test_the_list_of_models_is_not_read_from_another_host() -> None:
    seen: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        head = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n"
        with ScriptedJudge(models=Wire([head % other.server_address[1]])) as judge:

            async def list_models() -> object:
                client = JudgeClient(judge_config(judge), RUBRIC, KEY)
                try:
                    return await client.list_models()
                finally:
                    await client.close()

            fault = asyncio.run(list_models())
        other.shutdown()
    assert isinstance(fault, RequestFault)
    assert "redirects are not followed" in fault.text
    assert seen == []


def test_a_server_cannot_set_cookies() -> None:
    cookie = b"Set-Cookie: id=1; Path=/"
    with ScriptedJudge([whole(completion(), cookie), whole(completion(), cookie)]) as judge:
        assert [v.scores["align"] for v in request_verdicts(judge, "a", "b")] == [7.5, 7.5]
        assert [headers.get("Cookie") for headers in judge.headers] == [None, None]


# --- waits and certificates ------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["31536000", "Fri, 01 Jan 2100 00:00:00 GMT", "9" * 300])
def test_a_wait_of_years_ends_the_judging_at_once(wait: str) -> None:
    with ScriptedJudge([Status(429, "slow down", retry_after=wait)]) as judge:
        with pytest.raises(JudgeUnavailable, match=r"asks for a wait of [\d,]{1,13} s"):
            request_verdicts(judge)
        assert judge.calls == 1


@pytest.fixture
def tls_address(tmp_path: Path) -> Iterator[str]:
    """The address of a server with a certificate that no one has signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class QuietServer(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Print nothing about the connections that the client refused."""

    with QuietServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_a_certificate_that_is_not_trusted_is_named_as_such(
    tls_address: str, tmp_path: Path
) -> None:
    config = JudgeConfig(kind="openai", model="m", base_url=tls_address, max_retries=0)
    options = JudgeServiceOptions(cache_dir=tmp_path)
    with JudgeService(config, RUBRIC, PromptSet(prompts=[]), key=KEY, options=options) as service:
        for future in (service.probe_endpoint(), service.submit(make_request())):
            with pytest.raises(JudgeUnavailable) as caught:
                future.result(timeout=PATIENCE_S)
            assert (
                "the TLS certificate of 127.0.0.1 is not trusted: self-signed" in caught.value.title
            )
            assert "SSL_CERT_FILE" in caught.value.hint


def test_a_server_without_tls_at_an_https_address_is_named_as_such() -> None:
    with ScriptedJudge() as judge:
        address = judge.base_url.replace("http:", "https:")
        [verdict] = request_verdicts(judge, base_url=address, max_retries=0)
    assert verdict.failure is not None
    assert verdict.failure.startswith("no TLS connection to 127.0.0.1:")
