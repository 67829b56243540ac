"""Runs of several processes under torchrun: their events, their ranks and their weights."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ida_tui.config.resolve import resolve
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from tests.support.judge_server import Behavior, Judge, completion_in
from tests.support.prepared import prepared_python

Events = list[dict[str, Any]]
ADAPTER, MODEL = "adapter/adapter_model.safetensors", "model/model.safetensors"


@contextmanager
def processes(*arguments: str, folder: Path, number: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Runs `torchrun` in the background; its stdout is a pipe of events."""
    with subprocess.Popen(
        [
            *(*prepared_python(), "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(number), "--no-python"),
            *(*prepared_python(), "-m", "ida_tui", *arguments),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr.txt").open("a"),
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as launcher:
        try:
            yield launcher
        finally:
            launcher.terminate()


def read_events(
    launcher: subprocess.Popen[str], until: Callable[[dict[str, Any]], bool] | None = None
) -> Events:
    """The events up to the first one that matches `until`, or to the end."""
    assert launcher.stdout is not None
    events = []
    for line in launcher.stdout:
        events.append(json.loads(line))
        if until is not None and until(events[-1]):
            break
    return events


def events_of_type(events: Events, name: str) -> Events:
    return [event for event in events if event["type"] == name]


def step(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["type"] == "StepFinished" and event["step"] == number


def rank(number: int, folder: Path) -> psutil.Process:
    """The process of this rank of a run in this folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RANK") == str(number) and process.cwd() == str(folder):
                return process
    raise AssertionError(f"no process of rank {number}")


def latest(folder: Path) -> Path:
    return (folder / "outputs" / "quickstart" / "latest").resolve()


def relative_distance(reference: Path, other: Path, weights: str = ADAPTER) -> float:
    """L2 distance between two adapters or models, relative to the norm of the first."""
    from safetensors.torch import load_file

    reference_weights, other_weights = (load_file(run / weights) for run in (reference, other))
    assert reference_weights.keys() == other_weights.keys()
    squared_distance = sum(
        float((reference_weights[name] - other_weights[name]).square().sum())
        for name in reference_weights
    )
    return (
        squared_distance
        / sum(float(tensor.square().sum()) for tensor in reference_weights.values())
    ) ** 0.5


def completion_texts(events: Events) -> dict[tuple[int, int, int], str]:
    finished = events_of_type(events, "CompletionFinished")
    return {(event["step"], event["group"], event["index"]): event["text"] for event in finished}


def offline_scores(body: Mapping[str, Any]) -> Behavior:
    """The scores that the offline judge gives."""
    prompts = resolve("quickstart").config.prompts.prompts
    user = body["messages"][-1]["content"]
    prompt = next(p for p in prompts if json.dumps(p.text, ensure_ascii=False) in user)
    score = OfflineScorer([p.text for p in prompts]).score(
        prompt.text, prompt.kind, completion_in(body)
    )
    return Judge(score.align, score.risk, score.detail)
