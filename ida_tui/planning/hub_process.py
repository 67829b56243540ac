"""Process that asks the Hugging Face Hub about a model and downloads its files.

It is a process of its own, so that a download ends at once when the user stops it, and so that an access
token reaches no other code. It reads one request as JSON from standard input, and writes JSON lines to
standard output: the bytes that it has so far, then the answer or the error. It ends when its input closes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ida_tui.util.safe_files import locked_file

CHUNK_BYTES = 1 << 18
"""Bytes that are read from the network at once; as many can be lost when the download is cut off."""
PARALLEL_FILES = 4
REPORT_INTERVAL_S = 0.5
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
_ERROR_KINDS = {
    "GatedRepoError": "gated",
    "RevisionNotFoundError": "revision",
    "RepositoryNotFoundError": "missing",
    "RemoteEntryNotFoundError": "file",
    "EntryNotFoundError": "file",
}


def main() -> None:
    """Answer the request on standard input."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        ask = request.pop("ask")
        answer = _describe(**request) if ask == "describe" else _fetch(**request)
    except Exception as error:
        answer = {"error": _error_kind(error), "text": " ".join(str(error).split())[:300]}
    _write(answer)


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


_output_lock = threading.Lock()


def _write(line: Mapping[str, Any]) -> None:
    with _output_lock:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _error_kind(error: BaseException) -> str:
    """What kind of failure an exception of the library is; it may be the cause of another one."""
    following: BaseException | None = error
    while following is not None:
        for kind in type(following).__mro__:
            if kind.__name__ in _ERROR_KINDS:
                return _ERROR_KINDS[kind.__name__]
        response = getattr(following, "response", None)
        status = getattr(response, "status_code", None)
        if status in (401, 403):
            return "gated" if status == 403 else "missing"
        if status is not None:
            return "server"
        following = following.__cause__
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return "disk"
    if isinstance(error, _DamagedDownload):
        return "damaged"
    return "network"


class _DamagedDownload(Exception):
    """A file whose bytes are not those that the Hub announced."""


def _describe(repo: str, revision: str | None, timeout: float) -> dict[str, Any]:
    """Commit, files with sizes, and the base model of a repository."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, timeout=timeout, files_metadata=True)
    base = getattr(info.card_data, "base_model", None)
    tensors = getattr(info, "safetensors", None)
    return {
        "commit": info.sha or "",
        "files": {file.rfilename: file.size or 0 for file in info.siblings or ()},
        "base_model": base[0] if isinstance(base, list) and base else base,
        "parameters": getattr(tensors, "total", None),
    }


def _fetch(repo: str, revision: str | None, files: dict[str, int]) -> dict[str, Any]:
    """Download the files of a repository into the cache; the larger ones continue where they stopped."""
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    done, received = dict.fromkeys(files, 0), dict.fromkeys(files, 0)
    finished = threading.Event()

    def progress() -> dict[str, Any]:
        return {"done": sum(done.values()), "received": sum(received.values())}

    def report() -> None:
        while not finished.wait(REPORT_INTERVAL_S):
            _write(progress())

    def fetch(name: str) -> None:
        def advance(size: int, new: int) -> None:
            done[name] = size
            received[name] += new

        _fetch_file(repo, revision, name, advance)
        done[name] = files[name]

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            for task in [pool.submit(fetch, name) for name in files]:
                try:
                    task.result()
                except Exception:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    finally:
        finished.set()
        reporter.join()
    return {**progress(), "complete": True}


def _fetch_file(
    repo: str, revision: str | None, name: str, advance: Callable[[int, int], object]
) -> None:
    from huggingface_hub import hf_hub_download

    if name.endswith(".safetensors"):
        _complete_blob(repo, revision, name, advance)
    # Links the file into the snapshot; the library downloads what is missing.
    hf_hub_download(repo, name, revision=revision)


def _complete_blob(
    repo: str, revision: str | None, name: str, advance: Callable[[int, int], object]
) -> None:
    """Download a file into the cache's folder of contents, from the byte at which it stopped before.

    The library itself starts a file again from its first byte.
    """
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name

    url = hf_hub_url(repo, name, revision=revision)
    headers = HfApi()._build_hf_headers()
    metadata = get_hf_file_metadata(url)
    if not metadata.etag or metadata.size is None or "/" in metadata.etag:
        return
    blobs = (
        Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    )
    blob = blobs / metadata.etag
    blobs.mkdir(parents=True, exist_ok=True)
    if urlsplit(metadata.location)[:2] != urlsplit(url)[:2]:
        # A file of the Hub may lie on another host; its address carries a signature, and the token is
        # for the Hub alone.
        headers.pop("authorization", None)
    partial = blob.with_name(f"{blob.name}.ida-tui.incomplete")
    with locked_file(partial) as file:
        if blob.exists():
            partial.unlink(missing_ok=True)
            return
        have = file.seek(0, os.SEEK_END)
        if have > metadata.size:
            have = file.truncate(0)
            file.seek(0)
        counted = _CountedFile(file, advance)
        advance(have, 0)
        http_get(
            metadata.location,
            counted,  # type: ignore[arg-type]
            resume_size=have,
            headers=headers,
            expected_size=metadata.size,
        )
        if have and len(metadata.etag) == 64 and _sha256(file) != metadata.etag:
            partial.unlink(missing_ok=True)
            raise _DamagedDownload(f"{name} is damaged")
        partial.replace(blob)


class _CountedFile:
    """A file that reports its length after every write, and how many bytes are new."""

    def __init__(self, file: IO[bytes], advance: Callable[[int, int], object]) -> None:
        self._file = file
        self._advance = advance

    def write(self, chunk: bytes) -> int:
        """Write all bytes."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._advance(self._file.tell(), len(chunk))
        return len(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
