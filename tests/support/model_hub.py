"""A local server for the Hugging Face hub calls that download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class Request:
    """One request that the server received."""

    method: str
    path: str
    range: str
    token: str


@dataclass(slots=True)
class ModelHub:
    """State of the server."""

    models: dict[str, dict[str, bytes]]
    """Id of a model → name of each file → content."""
    url: str = ""
    storage_url: str = ""
    """Another address of the same server, which sends the weight files, as the Hub's storage does."""
    gated: dict[str, str] = field(default_factory=dict)
    """Id of a gated model → the token that may read its files."""
    base_models: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of a weight file after which the server stops sending."""
    is_cut: threading.Event = field(default_factory=threading.Event)
    """Set when so many bytes are sent."""
    may_end: threading.Event = field(default_factory=threading.Event)
    """A cut connection stays open until this is set."""
    requests: list[Request] = field(default_factory=list)

    def file_requests(self, name: str) -> list[Request]:
        """The requests for the content of a file."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(f"/{name}")]


@contextmanager
def model_hub(models: Mapping[str, Mapping[str, bytes]]) -> Iterator[ModelHub]:
    """A hub on free ports of 127.0.0.1 with some models, running inside the block."""
    hub = ModelHub({name: dict(files) for name, files in models.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer_request(with_body=False)

        def do_GET(self) -> None:
            self._answer_request(with_body=True)

        def _answer_request(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), token))
            name = next((name for name in hub.models if f"/{name}" in path), "")
            if not name:
                self._json(401, {"error": "Repository not found"}, "RepoNotFound")
            elif path.startswith("/api/"):
                self._describe(name, path)
            elif path.startswith("/storage/"):
                self._send_content(hub.models[name][path.rpartition("/")[2]])
            elif hub.gated.get(name, token) != token:
                self._json(
                    401 if not token else 403, {"error": "Access is restricted"}, "GatedRepo"
                )
            else:
                self._resolve(name, path.partition("/resolve/")[2].partition("/")[2], with_body)

        def _describe(self, name: str, path: str) -> None:
            files = hub.models[name]
            if path.rpartition("/revision/")[2] not in (path, "main", COMMIT):
                self._json(404, {"error": "Invalid rev id"}, "RevisionNotFound")
                return
            card = {"base_model": hub.base_models[name]} if name in hub.base_models else {}
            siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
            self._json(200, {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [],
                             "private": False, "gated": False, "disabled": False,
                             "cardData": card})  # fmt: skip

        def _resolve(self, name: str, file: str, with_body: bool) -> None:
            data = hub.models[name].get(file)
            if data is None:
                self._json(404, {"error": "Entry not found"}, "EntryNotFound")
                return
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            if file.endswith(".safetensors"):
                headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
                headers["X-Linked-Size"] = str(len(data))
                headers["Location"] = f"{hub.storage_url}/storage/{name}/{file}"
                self._head(302, 0, headers)
                return
            self._head(200, len(data), headers)
            if with_body:
                self.wfile.write(data)

        def _send_content(self, data: bytes) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self._head(206 if start else 200, len(data) - start, headers if start else {})
            with suppress(OSError):
                if hub.cut_after is None:
                    self.wfile.write(data[start:])
                    return
                self.wfile.write(data[start : hub.cut_after])
                hub.is_cut.set()
                hub.may_end.wait()
            self.close_connection = True

        def _json(self, status: int, body: Any, code: str = "") -> None:
            data = json.dumps(body).encode()
            self._head(status, len(data), {"X-Error-Code": code} if code else {})
            if self.command == "GET":
                self.wfile.write(data)

        def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.may_end.set()
        for server in servers:
            server.shutdown()
            server.server_close()
