"""A run judged by a real model server: killed while it is judged, or left by its server, and resumed.

A proxy stands between the run and the server. It counts the calls and holds one of them, so that a kill comes
in the middle of a step's judging on every machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

LATEST = Path("outputs/quickstart/latest")
WEIGHTS = LATEST / "adapter/adapter_model.safetensors"
TWO_STEPS = (
    "judge.max_tokens=64", "judge.max_retries=0", "judge.concurrency=1", "judge.anchor_every=0",
    "evaluation.enabled=false", "training.max_steps=2", "training.save_steps=1",
    "training.num_generations=2", "training.per_device_train_batch_size=2",
    "training.max_completion_length=12",
)  # fmt: skip
"""Overrides of the quickstart for a run with two completions in each of two steps."""
COMPLETIONS = 4


class ModelServer(Protocol):
    """A model server in a process of its own."""

    base_url: str

    def kill(self) -> None:
        """Kill it with SIGKILL."""


class ServerProxy:
    """A proxy on 127.0.0.1 that passes requests on to a model server and counts its answers.

    Args:
        base_url: the server.
    """

    def __init__(self, base_url: str) -> None:
        self.server_url = base_url
        """Where requests go; a test may change it."""
        self.answered = 0
        """Chat completions that the server has answered with status 200."""
        self.hold_from: int | None = None
        """Number of answers after which the next call is held until `release`."""
        self.held = threading.Event()
        """Set while a call is held."""
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def base_url(self) -> str:
        """Root of the API, ending in /v1."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def release(self) -> None:
        """Pass the held call on, and all later ones."""
        self.hold_from = None
        self.held.clear()
        released, self._released = self._released, threading.Event()
        released.set()

    def wait_if_held(self) -> None:
        """Wait at a call that is to be held."""
        if self.hold_from is not None and self.answered >= self.hold_from:
            released = self._released
            self.held.set()
            released.wait(PATIENCE_S)

    def __enter__(self) -> ServerProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: ServerProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            proxy.wait_if_held()
            self._pass_on(body)

        def _pass_on(self, body: bytes | None) -> None:
            """Answer as the server does; break the connection off if the server does not answer."""
            self.close_connection = True
            if body is not None and self._client_has_left():
                return
            target = urlsplit(proxy.server_url)
            server = http.client.HTTPConnection(target.hostname or "", target.port, PATIENCE_S)
            try:
                server.request(self.command, self.path, body, {"Content-Type": "application/json"})
                reply = server.getresponse()
                answer = reply.read()
            except (OSError, http.client.HTTPException):
                return
            finally:
                server.close()
            proxy.answered += body is not None and reply.status == 200
            with contextlib.suppress(OSError):
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def _client_has_left(self) -> bool:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing."""

    return Handler


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of a run."""

    scored: list[dict[str, Any]]
    failed: list[dict[str, Any]]


def verdicts_of_run() -> Verdicts:
    """The verdicts in the events of the newest run, with each completion once."""
    events = _scored_events()
    places = {(event["step"], event["group"], event["index"]) for event in events}
    assert len(places) == len(events) == COMPLETIONS
    return Verdicts(
        [event for event in events if event["failure"] is None],
        [event for event in events if event["failure"] is not None],
    )


def _scored_events() -> list[dict[str, Any]]:
    lines = (LATEST / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == "CompletionScored"]


def survive_two_kills(
    proxy: ServerProxy, doomed: ModelServer, overrides: Sequence[str], ida_tui: Callable[..., Any]
) -> Verdicts:
    """Kill the server of a run in its first step and the run in its second, resume it after both.

    Args:
        proxy: passes on to the server that is there in the end.
        doomed: the server that is killed.
        overrides: of the quickstart, with the proxy as the judge's server.
        ida_tui: runs a command to its end.

    Returns:
        The verdicts of the run.
    """
    final_url, proxy.server_url = proxy.server_url, doomed.base_url
    proxy.hold_from = 1
    with _started("--run", "quickstart", *overrides) as process:
        assert proxy.held.wait(PATIENCE_S)
        doomed.kill()
        proxy.release()
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, out
    assert "ida-tui resume outputs/quickstart/" in out

    proxy.server_url, proxy.hold_from = final_url, 3
    tolerant = ("resume", "quickstart", "judge.max_unscored=1")
    with _started(*tolerant) as process:
        assert proxy.held.wait(PATIENCE_S)
        owner = json.loads((LATEST / "owner.json").read_text(encoding="utf-8"))
        os.kill(owner["pid"], signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    proxy.release()
    assert {event["step"] for event in _scored_events()} == {1}

    resumed = ida_tui(*tolerant)
    assert resumed.code == 0, resumed.err
    return verdicts_of_run()


@contextmanager
def _started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ida-tui` in another process."""
    process = subprocess.Popen(
        [*prepared_python(), "-m", "ida_tui", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
