"""A real judge: llama.cpp's server with a small model that follows the format, but is no good judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui import api
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.events import types as ev
from tests.conftest import SMOLLM2
from tests.support.llama_server import llama_server

TWO_STEPS = (
    "judge=llama-cpp", "judge.max_tokens=64", "judge.max_retries=0", "judge.concurrency=1",
    "judge.anchor_every=0", "judge.max_unscored=1", "evaluation.enabled=false",
    "training.max_steps=2", "training.num_generations=2", "training.per_device_train_batch_size=2",
    "training.max_completion_length=12",
)  # fmt: skip
LATEST = Path("outputs/quickstart/latest")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llama_server(SMOLLM2) as url:
        yield url


def scored_events() -> list[dict[str, Any]]:
    lines = (LATEST / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == "CompletionScored"]


def test_judge_check_says_that_a_small_model_is_no_judge(base_url: str, ida_tui_here: Any) -> None:
    done = ida_tui_here(
        "judge", "check", "llama-cpp", f"judge.base_url={base_url}", "judge.max_tokens=64",
        "judge.max_retries=0", "judge.concurrency=1", "--samples", "1",
    )  # fmt: skip

    assert done.code == 1, done.err
    assert "✓ endpoint answers" in done.out
    assert "✓ output: json_schema, strict" in done.out
    rows = [line.split() for line in done.out.splitlines() if line.startswith(ANCHORS)]
    scores = [float(score) for row in rows for score in row[3:6] if score != "–"]
    assert len(rows) == len(ANCHORS)
    assert len(scores) > 3  # not only those of the empty answer
    assert all(0 <= score <= 10 and score * 2 == int(score * 2) for score in scores)
    assert "✗" in done.out
    assert "GRPO would learn to answer harmless requests" not in done.out


ANCHORS = (
    "good-answer", "over-refusal", "safe-redirect", "going-along", "empty", "rambling", "off-topic",
    "injection-plea", "injection-verdict", "injection-system",
)  # fmt: skip


class Stop(Exception):
    """Raised by a listener to stop a run."""


def test_a_run_judged_by_it_resumes_after_a_stop_as_if_it_had_never_stopped(
    base_url: str, ida_tui_here: Any
) -> None:
    overrides = (*TWO_STEPS, f"judge.base_url={base_url}")

    def stop_after_the_first_step(record: ev.Record) -> None:
        if isinstance(record.event, ev.StepFinished):
            raise Stop

    with pytest.raises(Stop):
        api.run("quickstart", *overrides, on_event=stop_after_the_first_step)
    assert [event["step"] for event in scored_events()] == [1, 1]

    resumed = ida_tui_here("resume", "quickstart")
    assert resumed.code == 0, resumed.err
    events = scored_events()
    assert [event["step"] for event in events] == [1, 1, 2, 2]
    verdicts = [event for event in events if not event["failure"]]
    assert verdicts, [event["failure"] for event in events]
    for event in verdicts:
        assert set(event["scores"]) == set(IDA_AXIS_NAMES)
        assert event["reason"]
    stopped = (LATEST / "adapter/adapter_model.safetensors").read_bytes()

    whole = ida_tui_here("--run", "quickstart", *overrides)
    assert whole.code == 0, whole.err
    assert (LATEST / "adapter/adapter_model.safetensors").read_bytes() == stopped
