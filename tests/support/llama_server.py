"""llama.cpp's own server on loopback, in a process of its own, with a GGUF model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

SCRIPT = Path(__file__).parents[2] / "scripts" / "serve_gguf.py"


@dataclass(frozen=True)
class LlamaServer:
    """A server that runs."""

    base_url: str
    """Root of the API, ending in /v1."""
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def llama_server(model: Path | str, *, context: int = 2048) -> Iterator[str]:
    """As `llama_process`, but gives the base_url alone."""
    with llama_process(model, context=context) as server:
        yield server.base_url


@contextmanager
def llama_process(model: Path | str, *, context: int = 2048) -> Iterator[LlamaServer]:
    """Serve a model for the length of the block.

    Args:
        model: the GGUF file, or a name for it that `model.path` takes.
        context: tokens of a prompt and its answer.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, str(SCRIPT), str(model), "--port", "0", "--parallel", "1"),
                *("--threads", "1", "--context", str(context), "--until-eof"),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        if not (base_url := process.stdout.readline().strip()):
            log.seek(0)
            pytest.fail(f"the server did not start: {log.read()[-2000:]}")
        try:
            yield LlamaServer(base_url, process)
        finally:
            process.stdin.close()  # as it would be if this process died
            process.wait(timeout=PATIENCE_S)
            process.stdout.close()
