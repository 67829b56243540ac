"""A real model server on loopback whose random model cannot judge: nothing is scored or learned."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import PATIENCE_S


@pytest.fixture(scope="module")
def server(random_qwen3: Path) -> Iterator[str]:
    """The base_url of `transformers serve` with a tiny random model."""
    with socket.socket() as unused_socket:
        unused_socket.bind(("127.0.0.1", 0))
        port = unused_socket.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(random_qwen3)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "info"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if "Uvicorn running" in line:
            break
    else:
        pytest.fail(f"the server did not start: {''.join(output)}")
    # Keeps reading its output, so that the server never blocks on a full pipe.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(timeout=PATIENCE_S)


def test_a_model_that_cannot_judge_pauses_the_run_before_anything_is_scored(
    server: str, random_qwen3: Path, ida_tui_here: Any
) -> None:
    done = ida_tui_here(
        "--run",
        "quickstart",
        "judge=transformers-serve",
        f"judge.base_url={server}",
        f"judge.model={random_qwen3}",
        "judge.max_tokens=24",
        "evaluation.enabled=false",
        "training.num_generations=4",
        "training.per_device_train_batch_size=8",
        "training.max_completion_length=16",
    )

    assert done.code == 3, done.err
    assert "ida-tui resume outputs/quickstart/" in done.out
    path = Path("outputs/quickstart/latest/events.jsonl")
    events = [json.loads(line) for line in path.open(encoding="utf-8")]
    kinds = [event["type"] for event in events]
    assert kinds.count("CompletionFinished") == 8
    assert "StepFinished" not in kinds
    assert "CompletionScored" not in kinds
    [paused] = [event for event in events if event["type"] == "RunPaused"]
    assert "8 of 8 verdicts failed" in paused["reason"]
    progress = [e for e in events if e["type"] == "JudgeProgressed"]
    assert progress[-1]["answered"] == progress[-1]["asked"] == 8


def test_judge_check_reports_that_the_model_cannot_judge(
    server: str, random_qwen3: Path, ida_tui_here: Any
) -> None:
    done = ida_tui_here(
        "judge",
        "check",
        "transformers-serve",
        f"judge.base_url={server}",
        f"judge.model={random_qwen3}",
        "judge.max_tokens=24",
        "--samples",
        "1",
    )

    assert done.code == 1, done.err
    assert "✗ 1 of 10 verdicts have scores" in done.out  # the empty answer needs no judge call
    assert "GRPO would learn nothing" in done.out
