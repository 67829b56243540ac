"""A local server for the Hugging Face hub calls that read a dataset."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def dataset_hub(datasets: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """The address of a hub on a free port of 127.0.0.1 with some datasets, running inside the block.

    Args:
        datasets: id of a dataset, such as `org/name` → path in its repository → content.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._file(with_body=False)

        def do_GET(self) -> None:
            path, name, files = self._find()
            base = f"/api/datasets/{name}"
            if name and path in (base, f"{base}/revision/{COMMIT}", f"{base}/revision/main"):
                siblings = [{"rfilename": file} for file in files]
                self._json(200, {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [],
                                 "private": False, "gated": False, "disabled": False})  # fmt: skip
            elif path.startswith(f"{base}/tree/"):
                folder = path.removeprefix(f"{base}/tree/{COMMIT}").strip("/")
                entries = [_entry(file, files) for file in files if file.startswith(folder)]
                self._json(200, entries)
            elif "/resolve/" in path:
                self._file(with_body=True)
            else:
                self._json(404, {"error": "Repository not found"}, "RepoNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, _, files = self._find()
            if "/paths-info/" in self.path:
                paths = json.loads(body)["paths"]
                self._json(200, [_entry(path, files) for path in paths if path in files])
            else:
                self._json(404, {"error": self.path})

        def _find(self) -> tuple[str, str, Mapping[str, bytes]]:
            """The path of the request, and the dataset that it names with its files."""
            path = unquote(urlsplit(self.path).path)
            name = next((name for name in datasets if f"/{name}" in path), "")
            return path, name, datasets.get(name, {})

        def _file(self, *, with_body: bool) -> None:
            path, _, files = self._find()
            file = path.rpartition(f"/resolve/{COMMIT}/")[2]
            if file not in files:
                self._json(404, {"error": "Entry not found"}, "EntryNotFound", with_body=with_body)
                return
            content = files[file]
            first, last = 0, len(content) - 1
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last = int(start or 0), min(last, int(end or last))
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if with_body:
                self.wfile.write(content[first : last + 1])

        def _json(self, status: int, body: Any, code: str = "", *, with_body: bool = True) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _entry(path: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    oid = hashlib.sha1(files[path]).hexdigest()
    return {"type": "file", "oid": oid, "size": len(files[path]), "path": path}
