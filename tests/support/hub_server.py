"""A local server for the Hugging Face hub calls that an upload makes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """State of the server: the requests that it received.

    Args:
        token: the access token that is accepted.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.url = ""
        self.created: list[dict[str, Any]] = []
        """Bodies of the requests to create a repository."""
        self.files: dict[str, bytes] = {}
        """Uploaded files, by path."""


@contextmanager
def hub(token: str) -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1, running inside the block."""
    state = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {state.token}":
                self._answer(401, {"error": "Invalid username or password."})
            elif self.path == "/api/validate-yaml":
                self._answer(200, {"errors": [], "warnings": []})
            elif self.path == "/api/repos/create":
                state.created.append(json.loads(body))
                self._answer(200, {"url": f"{state.url}/me/mine", "id": "me/mine"})
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
                self._answer(200, {"files": files})
            elif "/commit/" in self.path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        state.files[entry["value"]["path"]] = content
                commit = {"commitUrl": f"{state.url}/me/mine/commit/1", "commitOid": "1"}
                self._answer(200, commit)
            else:
                self._answer(404, {"error": self.path})

        def do_GET(self) -> None:
            self._answer(200, {"id": "me/mine", "sha": "0", "siblings": []})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
