"""A scripted OpenAI-compatible judge server on loopback, without a model or a network.

    with ScriptedJudge() as judge:            # every completion gets the scores of `verdict_for`
        config = JudgeConfig(kind="openai", model="scripted", base_url=judge.base_url)

    with ScriptedJudge([Status(429, retry_after="0"), Text("not JSON")]) as judge:
        ...                                   # the first two calls misbehave, the rest are judged

To start it manually: python -m tests.support.judge_server --port 9000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from tests.support.patience import PATIENCE_S

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
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores on axes other than the shipped ones."""


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
    """Answer with this body, which need not be a chat completion."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filtered:
    """Answer 200 with an empty message that a content filter stopped."""


@dataclass(frozen=True)
class Reset:
    """Close the connection without a reply."""


@dataclass(frozen=True)
class Stall:
    """Wait for this time, or until the server stops, then judge."""

    seconds: float


@dataclass(frozen=True)
class Hold:
    """Wait until `release` is set, then judge."""

    release: threading.Event


@dataclass(frozen=True)
class Wire:
    """Write these bytes to the connection, part by part, until they end or the client leaves."""

    parts: Iterable[bytes]
    interval_s: float = 0.0
    """Wait before every part but the first; stopping the server ends it."""


Behavior = Judge | Status | Text | Refusal | Filtered | Reset | Stall | Raw | Hold | Wire
Rule = Callable[[Mapping[str, Any]], Behavior | None]
"""Returns the behavior for a request body; None leaves the call to the script."""


class Gate:
    """A rule that judges this many calls and holds the later ones until it is opened.

    A run whose step waits at the gate cannot end before a test has done what it has to.

    Args:
        calls: number of calls that are judged at once.
        rule: the behavior for these calls.
    """

    def __init__(self, calls: int, rule: Rule = lambda body: None) -> None:
        self._calls, self._rule = calls, rule
        self._opened = threading.Event()

    def __call__(self, body: Mapping[str, Any]) -> Behavior | None:
        self._calls -= 1
        return self._rule(body) if self._calls >= 0 else Hold(self._opened)

    def open(self) -> None:
        """Judge the calls that are held, and all later ones."""
        self.allow(sys.maxsize)

    def allow(self, calls: int) -> None:
        """Judge the calls that are held and this many of the later ones."""
        held, self._opened = self._opened, threading.Event()
        self._calls = calls
        held.set()


def verdict_for(completion: str, axes: Sequence[str] = IDA_AXIS_NAMES) -> dict[str, float | str]:
    """The scores of a completion: half points derived from its hash, the same on every machine."""
    digest = hashlib.sha256(completion.encode("utf-8", "replace")).digest()
    scores = {axis: byte % 21 / 2 for axis, byte in zip(axes, digest, strict=False)}
    return {**scores, "reason": f"scripted {digest.hex()[:6]}"}


def axes_in(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes that a judge request asks for; the shipped ones if it has no schema."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    verdict = schema.get("$defs", {}).get("verdict", schema)
    axes = tuple(name for name in verdict.get("properties", ()) if name != "reason")
    return axes or IDA_AXIS_NAMES


def completion_in(body: Mapping[str, Any]) -> str:
    """The completion in a judge request; empty if there is none."""
    user = str(body["messages"][-1]["content"])
    match = re.search(r"^<answer (\w+)>\n(.*)\n</answer \1>$", user, re.MULTILINE)
    return str(json.loads(match.group(2))) if match else ""


def group_in(body: Mapping[str, Any]) -> dict[str, str]:
    """The completions in a request for a whole group, by label; empty in a request for one completion."""
    user = str(body["messages"][-1]["content"])
    blocks = re.findall(r"^<([A-Z]+) [0-9a-f]{8}> (.*)$", user, re.MULTILINE)
    return {label: str(json.loads(text)) for label, text in blocks}


class ScriptedJudge:
    """An OpenAI-compatible server for tests, on 127.0.0.1 and a free port.

    Args:
        script: behaviors of the first calls, in order of arrival; later calls are judged.
        rule: called before the script for every call, e.g. to refuse some requests always.
        delay_s: delay before every reply, in seconds; stopping the server ends the delay.
        port: port to listen on; 0 selects a free port.
        models: a behavior in place of the list of models.
        stray: a reply at every other address in place of status 404.
    """

    def __init__(
        self,
        script: Iterable[Behavior] = (),
        *,
        rule: Rule | None = None,
        delay_s: float = 0.0,
        port: int = 0,
        models: Status | Wire | None = None,
        stray: Raw | None = None,
    ) -> None:
        self.stray = stray
        """A reply at every other address."""
        self.paths: list[str] = []
        """Paths of the chat completion requests, with their parameters."""
        self.models = models
        """A behavior in place of the list of models."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the chat completion requests, in order of arrival."""
        self.authorizations: list[str] = []
        """Their Authorization headers."""
        self.headers: list[Message] = []
        """All of their headers."""
        self.max_open_calls = 0
        """Largest number of calls that were open at the same time."""
        self.wire_bytes = 0
        """Bytes that `Wire` has written."""
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
    def overrides(self) -> tuple[str, ...]:
        """Overrides of a profile that make this server its judge, without a key, anchors and a cache."""
        return (
            "judge.kind=openai", f"judge.model={MODEL}", f"judge.base_url={self.base_url}",
            "judge.api_key_env=null", "judge.anchor_every=0", "judge.cache=false",
            f"judge.timeout_s={PATIENCE_S}",
        )  # fmt: skip

    @property
    def calls(self) -> int:
        """Number of chat completion requests so far."""
        return len(self.requests)

    def wait_for_calls(self, calls: int, timeout: float = PATIENCE_S) -> bool:
        """Wait until that many calls have arrived."""
        with self.arrived:
            return self.arrived.wait_for(lambda: self.calls >= calls, timeout)

    def start(self) -> ScriptedJudge:
        """Start serving."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> ScriptedJudge:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def enter(self, body: dict[str, Any], headers: Message) -> Behavior:
        """Record an arriving call and return its behavior."""
        with self.arrived:
            self.requests.append(body)
            self.authorizations.append(headers.get("Authorization", ""))
            self.headers.append(headers)
            self._open += 1
            self.max_open_calls = max(self.max_open_calls, self._open)
            behavior = self._rule(body) if self._rule else None
            if behavior is None:
                behavior = self._script.pop(0) if self._script else Judge()
            self.arrived.notify_all()
            return behavior

    @property
    def is_stopping(self) -> bool:
        """Whether the server stops."""
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        """Wait; stopping the server ends the wait."""
        self._stopping.wait(seconds)

    def leave(self) -> None:
        """Wait for the delay, then record the end of the call."""
        if self._delay_s:
            self._stopping.wait(self._delay_s)
        with self.arrived:
            self._open -= 1


def _verdict(completion: str, axes: Sequence[str], behavior: Judge) -> dict[str, float | str]:
    """The verdict on one completion."""
    verdict = verdict_for(completion, axes)
    for axis in axes:
        given = behavior.scores.get(axis, getattr(behavior, axis, None))
        verdict[axis] = verdict[axis] if given is None else given
    verdict["reason"] = f"{verdict['reason']} by {behavior.model}"
    return verdict


def _completion(
    body: Mapping[str, Any], behavior: Judge | Text | Refusal | Filtered
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    finish_reason, model = "stop", MODEL
    if isinstance(behavior, Judge):
        group, axes = group_in(body), axes_in(body)
        verdicts = {label: _verdict(text, axes, behavior) for label, text in group.items()}
        content: object = {"ranking": list(group), "verdicts": verdicts}
        if not group:
            content = _verdict(completion_in(body), axes, behavior)
        message["content"], model = json.dumps(content), behavior.model
    elif isinstance(behavior, Text):
        message["content"], finish_reason = behavior.content, behavior.finish_reason
    elif isinstance(behavior, Filtered):
        finish_reason = "content_filter"
    else:
        message["refusal"] = behavior.text
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
            self.path = urlsplit(self.path).path  # a proxy gets the whole address
            if self.path == "/v1/models" and isinstance(judge.models, Wire):
                self._write(judge.models)
            elif self.path == "/v1/models" and judge.models is not None:
                self._send(judge.models.status, {"error": {"message": judge.models.message}})
            elif self.path == "/v1/models":
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            else:
                self._send(404, {"error": {"message": f"no route {self.path}"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            # A proxy gets the whole address.
            if urlsplit(self.path).path != "/v1/chat/completions":
                if judge.stray is not None:
                    self._send_text(judge.stray.status, judge.stray.body, judge.stray.headers)
                    return
                self._send(404, {"error": {"message": f"no route {self.path}"}})
                return
            judge.paths.append(self.path)
            behavior = judge.enter(body, self.headers)
            if isinstance(behavior, Hold):
                behavior.release.wait(PATIENCE_S)
                behavior = Judge()
            elif isinstance(behavior, Stall):
                judge.wait(behavior.seconds)
                behavior = Judge()
            judge.leave()
            if isinstance(behavior, Reset):
                # RST in place of FIN, like a crashed server or a proxy.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            elif isinstance(behavior, Status):
                error = {
                    "message": behavior.message,
                    "type": behavior.code or "error",
                    "code": behavior.code,
                    "param": behavior.param,
                }
                headers = (
                    {} if behavior.retry_after is None else {"Retry-After": behavior.retry_after}
                )
                self._send(behavior.status, {"error": error}, headers)
            elif isinstance(behavior, Raw):
                self._send_text(behavior.status, behavior.body, behavior.headers)
            elif isinstance(behavior, Wire):
                self._write(behavior)
            else:
                self._send(200, _completion(body, behavior))

        def _write(self, wire: Wire) -> None:
            self.close_connection = True
            try:
                for number, part in enumerate(wire.parts):
                    if number and wire.interval_s:
                        judge.wait(wire.interval_s)
                    if judge.is_stopping:
                        return
                    self.wfile.write(part)
                    judge.wire_bytes += len(part)
            except OSError:
                pass  # the client left

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
                self.close_connection = True  # the client canceled the call

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing, to keep the output of a test clean."""

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
