"""An OpenAI-compatible server for a GGUF model: llama.cpp's own, from the package xllamacpp.

    uv run python scripts/serve_gguf.py MODEL --port 8080

MODEL is a file or a name, as `model.path` takes it: `ollama:llama3.2:1b`, `package:NAME/FILE`. The server
listens on this machine only, prints its address when the model is loaded, and runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ida_tui.config.models.source import find_source


def start(model: Path, *, port: int, context: int, parallel: int, threads: int) -> Any:
    """Load a model and serve it on 127.0.0.1; returns the server, which stops when it is deleted.

    Args:
        model: the GGUF file.
        port: port to listen on; 0 selects a free one.
        context: tokens of a prompt and its answer, of each parallel call.
        parallel: calls that are answered at the same time.
        threads: threads that compute.

    Raises:
        RuntimeError: the file is no model that llama.cpp knows, or the port is taken.
        ImportError: xllamacpp is not installed.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = parallel, context * parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.cors_origins = "http://127.0.0.1"  # no web page elsewhere may read its answers
    return xllamacpp.Server(params)


def main() -> None:
    """Serve until Ctrl-C, SIGTERM or, with --until-eof, the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--port", type=int, default=8080, help="0 selects a free port")
    parser.add_argument("--context", type=int, default=4096, help="tokens of a call")
    parser.add_argument("--parallel", type=int, default=2, help="calls at the same time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--until-eof", action="store_true", help="also stop when standard input ends"
    )
    options = parser.parse_args()
    source = find_source(options.model)
    if source.kind != "gguf" or source.place is None:
        parser.error("\n".join(source.problem or (f"{options.model} is not a GGUF file",)))
    try:
        server = start(
            source.place,
            port=options.port,
            context=options.context,
            parallel=options.parallel,
            threads=options.threads,
        )
    except ImportError:
        sys.exit("✗ the package xllamacpp is not installed\n  uv sync --group llama-cpp")
    except RuntimeError:
        sys.exit(
            "✗ the server did not start, for the reason that llama.cpp printed above\n"
            "  if the port is in use, choose another one: --port 8081"
        )
    print(f"{server.listening_address}/v1", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.until_eof:
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    stop.wait()


if __name__ == "__main__":
    main()
