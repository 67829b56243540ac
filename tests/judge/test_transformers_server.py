"""A real judge: `transformers serve` on loopback, with models that cannot judge or give one verdict only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python
from tests.support.real_judge import (
    COMPLETIONS,
    TWO_STEPS,
    WEIGHTS,
    ServerProxy,
    survive_two_kills,
)
from tests.support.verdict_model import save_verdict_model

SCORES = {"align": 7.5, "risk": 9.0, "detail": 6.0}
REASON = "It answers."


@dataclass(frozen=True)
class TransformersServer:
    """A server that runs, and serves every local model that a request names."""

    base_url: str
    process: subprocess.Popen[str]
    reader: threading.Thread
    """Reads its output until it has ended."""

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.reader.join(PATIENCE_S)


@contextmanager
def transformers_server() -> Iterator[TransformersServer]:
    """Serve for the length of the block."""
    with socket.socket() as unused_socket:
        unused_socket.bind(("127.0.0.1", 0))
        port = unused_socket.getsockname()[1]
    process = subprocess.Popen(
        [
            *(*prepared_python(), "-m", "transformers.cli.transformers", "serve"),
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
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    try:
        yield TransformersServer(f"http://127.0.0.1:{port}/v1", process, reader)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base_url of a server."""
    with transformers_server() as running:
        yield running.base_url


@pytest.fixture(scope="module")
def verdict_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives the same valid verdict to every request."""
    folder = tmp_path_factory.mktemp("verdict-model")
    save_verdict_model(folder, json.dumps({**SCORES, "reason": REASON}))
    return folder


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


def test_judge_check_reports_that_a_model_cannot_judge(
    server: str, random_qwen3: Path, ida_tui: Any
) -> None:
    done = ida_tui(
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


def test_judge_check_reports_that_a_judge_gives_every_answer_the_same_scores(
    server: str, verdict_model: Path, ida_tui_here: Any
) -> None:
    done = ida_tui_here(
        "judge", "check", "transformers-serve", f"judge.base_url={server}",
        f"judge.model={verdict_model}", "--samples", "1",
    )  # fmt: skip

    assert done.code == 1, done.err
    assert "✓ 10 of 10 verdicts have scores" in done.out
    assert "✗ an answer pays" in done.out


def test_a_run_survives_the_death_of_its_server_and_its_own(
    server: str, verdict_model: Path, ida_tui: Any
) -> None:
    with ServerProxy(server) as proxy, transformers_server() as doomed:
        overrides = (
            "judge=transformers-serve", f"judge.base_url={proxy.base_url}",
            f"judge.model={verdict_model}", *TWO_STEPS,
        )  # fmt: skip
        verdicts = survive_two_kills(proxy, doomed, overrides, ida_tui)

        assert not verdicts.failed
        assert all(event["scores"] == SCORES for event in verdicts.scored)
        assert all(event["reason"] == REASON for event in verdicts.scored)
        answered = proxy.answered
        assert answered == COMPLETIONS
        weights = WEIGHTS.read_bytes()
        assert ida_tui("--run", "quickstart", *overrides).code == 0
        assert WEIGHTS.read_bytes() == weights  # as if nothing had been killed
        assert proxy.answered == answered  # all verdicts come from the cache
