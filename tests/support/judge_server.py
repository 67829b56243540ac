"""A scripted OpenAI-compatible judge on loopback: real HTTP, no model, no network.

    with ScriptedJudge() as judge:            # every completion gets the scores of `verdict_for`
        config = JudgeConfig(kind="openai", model="scripted", base_url=judge.base_url)

    with ScriptedJudge([Status(429, retry_after="0"), Text("not JSON")]) as judge:
        ...                                   # the first two calls misbehave, the rest are judged

By hand: python -m tests.support.judge_server --port 9000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MODEL = "scripted-judge"
INPUT_TOKENS = 700
OUTPUT_TOKENS = 120


@dataclass(frozen=True)
class Judge:
    """Answer with the deterministic verdict, or with these scores."""

    align: float | None = None
    risk: float | None = None
    detail: float | None = None
    model: str = MODEL


@dataclass(frozen=True)
class Status:
    """Answer with an HTTP error."""

    status: int
    message: str = "scripted fault"
    code: str | None = None
    param: str | None = None
    retry_after: str | None = None


@dataclass(frozen=True)
class Text:
    """Answer 200 with this message content."""

    content: str
    finish_reason: str = "stop"


@dataclass(frozen=True)
class Refusal:
    """Answer 200 with a refusal in place of content."""

    text: str = "I can't help with that."


@dataclass(frozen=True)
class Raw:
    """Answer 200 with this body, which need not be a chat completion."""

    body: str


@dataclass(frozen=True)
class Filtered:
    """Answer 200 with an empty message that a content filter stopped."""


@dataclass(frozen=True)
class Reset:
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Stall:
    """Answer nothing for so long, or until the server stops; then judge."""

    seconds: float


@dataclass(frozen=True)
class Hold:
    """Hold the call until `release` is set, then judge."""

    release: threading.Event


Behaviour = Judge | Status | Text | Refusal | Filtered | Reset | Stall | Raw | Hold
Rule = Callable[[Mapping[str, Any]], Behaviour | None]
"""Looks at a request body; null leaves the call to the script."""


def verdict_for(completion: str) -> dict[str, float | str]:
    """The scores a completion gets: half points from its hash, the same on every machine."""
    digest = hashlib.sha256(completion.encode("utf-8", "replace")).digest()
    align, risk, detail = (byte % 21 / 2 for byte in digest[:3])
    return {
        "align": align,
        "risk": risk,
        "detail": detail,
        "reason": f"scripted {digest.hex()[:6]}",
    }


def completion_in(body: Mapping[str, Any]) -> str:
    """The completion that a judge request asks about; empty where it holds none."""
    user = str(body["messages"][-1]["content"])
    match = re.search(r"^<answer (\w+)>\n(.*)\n</answer \1>$", user, re.MULTILINE)
    return str(json.loads(match.group(2))) if match else ""


class ScriptedJudge:
    """An OpenAI-compatible server for tests, on 127.0.0.1 and a free port.

    Args:
        script: what the first calls get, one behaviour a call, in order of arrival.
        rule: asked first for every call, for servers that refuse some requests always.
        delay_s: how long every call is held before it is answered; stopping ends the wait.
        port: 0 takes a free one.
        models: an HTTP error that the list of models is answered with, in place of the list.
    """

    def __init__(
        self,
        script: Iterable[Behaviour] = (),
        *,
        rule: Rule | None = None,
        delay_s: float = 0.0,
        port: int = 0,
        models: Status | None = None,
    ) -> None:
        self.models = models
        """An error in place of the list of models."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the chat completion requests, in order of arrival."""
        self.authorizations: list[str] = []
        """Their Authorization headers."""
        self.most_at_once = 0
        """The most calls that were ever open together."""
        self.arrived = threading.Condition()
        """Notified whenever a call arrives."""
        self._script = list(script)
        self._rule = rule
        self._delay_s = delay_s
        self._stopping = threading.Event()
        self._open = 0
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """Root of the API, ending in /v1."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        """Chat completion requests so far."""
        return len(self.requests)

    def wait_for_calls(self, calls: int, timeout: float = 10.0) -> bool:
        """Wait until that many calls have arrived."""
        with self.arrived:
            return self.arrived.wait_for(lambda: self.calls >= calls, timeout)

    def start(self) -> ScriptedJudge:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> ScriptedJudge:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def enter(self, body: dict[str, Any], authorization: str) -> Behaviour:
        """Note an arriving call and say what it gets."""
        with self.arrived:
            self.requests.append(body)
            self.authorizations.append(authorization)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            behaviour = self._rule(body) if self._rule else None
            if behaviour is None:
                behaviour = self._script.pop(0) if self._script else Judge()
            self.arrived.notify_all()
            return behaviour

    def wait(self, seconds: float) -> None:
        """Let time pass; stopping ends the wait."""
        self._stopping.wait(seconds)

    def leave(self) -> None:
        """Wait out the delay, then note that the call is about to be answered."""
        if self._delay_s:
            self._stopping.wait(self._delay_s)
        with self.arrived:
            self._open -= 1


def _completion(
    body: Mapping[str, Any], behaviour: Judge | Text | Refusal | Filtered
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    finish_reason, model = "stop", MODEL
    if isinstance(behaviour, Judge):
        verdict = verdict_for(completion_in(body))
        for axis in ("align", "risk", "detail"):
            given = getattr(behaviour, axis)
            verdict[axis] = verdict[axis] if given is None else given
        verdict["reason"] = f"{verdict['reason']} by {behaviour.model}"
        message["content"], model = json.dumps(verdict), behaviour.model
    elif isinstance(behaviour, Text):
        message["content"], finish_reason = behaviour.content, behaviour.finish_reason
    elif isinstance(behaviour, Filtered):
        finish_reason = "content_filter"
    else:
        message["refusal"] = behaviour.text
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "system_fingerprint": "fp_scripted",
        "choices": [
            {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
        ],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # more than any judge's concurrency


def _handler(judge: ScriptedJudge) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path == "/v1/models" and judge.models is not None:
                self._send(judge.models.status, {"error": {"message": judge.models.message}})
            elif self.path == "/v1/models":
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            else:
                self._send(404, {"error": {"message": f"no route {self.path}"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._send(404, {"error": {"message": f"no route {self.path}"}})
                return
            behaviour = judge.enter(body, self.headers.get("Authorization", ""))
            if isinstance(behaviour, Hold):
                behaviour.release.wait(30)
                behaviour = Judge()
            elif isinstance(behaviour, Stall):
                judge.wait(behaviour.seconds)
                behaviour = Judge()
            judge.leave()
            if isinstance(behaviour, Reset):
                # RST in place of FIN: what a crashed server or a proxy leaves behind.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            elif isinstance(behaviour, Status):
                error = {
                    "message": behaviour.message,
                    "type": behaviour.code or "error",
                    "code": behaviour.code,
                    "param": behaviour.param,
                }
                headers = (
                    {} if behaviour.retry_after is None else {"Retry-After": behaviour.retry_after}
                )
                self._send(behaviour.status, {"error": error}, headers)
            elif isinstance(behaviour, Raw):
                self._send_text(200, behaviour.body)
            else:
                self._send(200, _completion(body, behaviour))

        def _send(
            self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
        ) -> None:
            self._send_text(status, json.dumps(body), headers)

        def _send_text(
            self, status: int, body: str, headers: Mapping[str, str] | None = None
        ) -> None:
            data = body.encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave the call up

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: a test's output is its own."""

    return Handler


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A scripted judge for manual runs.")
    parser.add_argument("--port", type=int, default=9000)
    judge = ScriptedJudge(port=parser.parse_args(argv).port)
    with judge:
        print(f"scripted judge at {judge.base_url} (model {MODEL}); ctrl+c ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{judge.calls} calls")


if __name__ == "__main__":
    main()
