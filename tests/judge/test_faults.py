"""Runs with a faulty judge over real HTTP: every known kind of fault."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from tests.support.judge_server import (
    MODEL,
    Behavior,
    Filtered,
    Judge,
    Refusal,
    Reset,
    ScriptedJudge,
    Stall,
    Status,
    Text,
    completion_in,
    verdict_for,
)
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

KEY = "no-usual-shape/0123456789abcdef"
STEPS, ROWS = 40, 8
SMALL_RUN = (
    "evaluation.enabled=false",
    "training.num_generations=4",
    f"training.per_device_train_batch_size={ROWS}",
    "training.max_completion_length=16",
    "training.temperature=2",  # nearly all completions differ
)
OUTPUT = Path("outputs/quickstart/latest")
TRUNCATED = Text('{"align": 7, "risk": 8, "det', finish_reason="length")

# Faults on the first call about the n-th completion (temporary faults).
FAULTS_ON_FIRST_CALL: dict[int, Behavior] = {
    6: Status(429, retry_after="1"),
    16: Status(429),
    26: Status(500),
    36: Status(503),
    46: Reset(),
    56: Stall(40),
    66: TRUNCATED,
    76: Judge(risk=11),
    86: Text('{"align": "eight", "risk": 9, "detail": 7, "reason": "in words"}'),
    96: Refusal(),
    106: Filtered(),
}
# Faults on every call about the n-th completion.
FAULTS_ON_EVERY_CALL: dict[int, Behavior] = {
    118: TRUNCATED,
    130: Judge(align=-1),
    142: Text('{"align": 8, "risk": "nine", "detail": 7}'),
    154: Refusal(),
    166: Filtered(),
    178: Status(400, "blocked", code="content_filter"),
}
MODEL_CHANGE_AT = 190
"""From this completion on, in the middle of a group, the server reports another model."""


class FaultyJudge:
    """A server rule that assigns faults to completions in the order in which they arrive."""

    def __init__(self) -> None:
        self.order: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: Mapping[str, Any]) -> Behavior | None:
        text = completion_in(body)
        with self.lock:
            number = self.order.setdefault(text, len(self.order))
            self.calls[text] += 1
            if number in FAULTS_ON_EVERY_CALL:
                return FAULTS_ON_EVERY_CALL[number]
            if number in FAULTS_ON_FIRST_CALL and self.calls[text] == 1:
                return FAULTS_ON_FIRST_CALL[number]
            model_changed = len(self.order) > MODEL_CHANGE_AT
        return Judge(model=f"{MODEL}-2" if model_changed else MODEL)


def arguments(server: ScriptedJudge, steps: int) -> tuple[str, ...]:
    return (
        "--run",
        "quickstart",
        "judge=gpt-4o-mini",
        f"judge.base_url={server.base_url}",
        "judge.api_key_env=JUDGE_KEY",
        "judge.timeout_s=3",
        "judge.cache=false",
        f"training.max_steps={steps}",
        *SMALL_RUN,
    )


def quickstart(
    ida_tui_here: Any, server: ScriptedJudge, *overrides: str, steps: int = STEPS
) -> Any:
    return ida_tui_here(*arguments(server, steps), *overrides, JUDGE_KEY=KEY)


def events(kind: str, folder: Path = Path()) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / OUTPUT / "events.jsonl").open(encoding="utf-8"))
    return [event for event in records if event["type"] == kind]


def completions(folder: Path = Path()) -> list[dict[str, Any]]:
    path = folder / OUTPUT / "completions.jsonl"
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def has_expected_scores(row: dict[str, Any]) -> bool:
    """Whether a row has the server's scores, or 0 on every axis for an empty text."""
    scores, expected = row["scores"], verdict_for(row["text"])
    return scores == {axis: expected[axis] for axis in IDA_AXIS_NAMES} or (
        "empty" in row["reason"] and not any(scores.values())
    )


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of forty steps."""

    code: int
    output: str
    rule: FaultyJudge
    folder: Path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Forty steps with the faulty judge, in a separate process."""
    folder, rule = tmp_path_factory.mktemp("finished-run"), FaultyJudge()
    with ScriptedJudge(rule=rule) as server:
        done = subprocess.run(
            [*prepared_python(), "-m", "ida_tui", *arguments(server, STEPS)],
            cwd=folder,
            env=os.environ | {"JUDGE_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    return FinishedRun(done.returncode, done.stdout + done.stderr, rule, folder)


def test_forty_steps_finish_despite_every_fault(finished_run: FinishedRun) -> None:
    assert finished_run.code == 0, finished_run.output
    assert "Traceback" not in finished_run.output
    steps = events("StepFinished", finished_run.folder)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert len(finished_run.rule.order) > MODEL_CHANGE_AT, "the run must encounter every fault"


def test_every_verdict_is_correct_or_failed_and_no_completion_is_lost(
    finished_run: FinishedRun,
) -> None:
    rows = completions(finished_run.folder)
    assert len(rows) == len(events("CompletionFinished", finished_run.folder)) == STEPS * ROWS
    assert all(has_expected_scores(row) for row in rows if row["failure"] is None)
    unscored = [row for row in rows if row["failure"] is not None]
    always_failing = {
        text for text, number in finished_run.rule.order.items() if number in FAULTS_ON_EVERY_CALL
    }
    assert {row["text"] for row in unscored} == always_failing
    assert all(row["reward"] is None and row["advantage"] is None for row in unscored)


def test_coverage_and_causes_of_faults_are_reported(finished_run: FinishedRun) -> None:
    assert f"({ROWS - 1}/{ROWS} scored)" in finished_run.output
    assert "declined by the judge" in finished_run.output
    assert "The judge is overloaded (HTTP 429" in finished_run.output
    assert f"changed its model from {MODEL} to {MODEL}-2" in finished_run.output


def test_no_group_is_judged_by_two_models(finished_run: FinishedRun) -> None:
    judges: dict[tuple[int, int], set[str]] = {}
    for row in completions(finished_run.folder):
        if " by " in row["reason"]:
            judges.setdefault((row["step"], row["group"]), set()).add(row["reason"].split()[-1])
    assert set.union(*judges.values()) == {MODEL, f"{MODEL}-2"}
    assert [group for group, names in judges.items() if len(names) > 1] == []


class KeyExpires:
    """A server rule that accepts the key for a limited number of calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.renewed = False

    def __call__(self, body: Mapping[str, Any]) -> Behavior | None:
        self.calls -= 1
        return None if self.calls >= 0 or self.renewed else Status(401, f"bad key {KEY}")


def test_an_expired_key_pauses_the_run_and_a_valid_one_resumes_it(ida_tui_here: Any) -> None:
    rule = KeyExpires(calls=STEPS * ROWS // 2)
    with ScriptedJudge(rule=rule) as server:
        paused = quickstart(ida_tui_here, server)
        assert paused.code == 3, paused.err
        assert f"then: ida-tui resume {OUTPUT.resolve()}" in paused.out.replace(
            "outputs/", f"{Path.cwd()}/outputs/"
        )
        stopped_at = events("RunPaused")[0]["step"]
        assert 0 < stopped_at < STEPS
        assert (OUTPUT / f"checkpoints/checkpoint-{stopped_at}/optimizer.pt").is_file()
        assert KEY not in paused.out + paused.err

        rule.renewed = True
        resumed = ida_tui_here("resume", "quickstart", JUDGE_KEY=KEY)

    assert resumed.code == 0, resumed.err
    assert f"✓ Resumed from step {stopped_at}" in resumed.out
    assert [e["step"] for e in events("StepFinished")] == list(range(1, STEPS + 1))
    sequence = [json.loads(line)["seq"] for line in (OUTPUT / "events.jsonl").open()]
    assert sequence == list(range(len(sequence)))
    rows = completions()
    assert len(rows) == STEPS * ROWS
    assert all(has_expected_scores(row) for row in rows)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(
    ida_tui_here: Any,
) -> None:
    adapter = "adapter/adapter_model.safetensors"
    with ScriptedJudge() as server:
        assert quickstart(ida_tui_here, server, steps=10).code == 0
    expected_weights = (OUTPUT / adapter).read_bytes()

    rule = KeyExpires(calls=3 * ROWS + 5)
    with ScriptedJudge(rule=rule) as server:
        assert quickstart(ida_tui_here, server, steps=10).code == 3
        rule.renewed = True
        assert ida_tui_here("resume", "quickstart", JUDGE_KEY=KEY).code == 0

    assert (OUTPUT / adapter).read_bytes() == expected_weights


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda body: Text("what a lovely answer"), "8 of 8 verdicts failed"),
        (lambda body: Status(429, code="insufficient_quota"), "has no credit left"),
        (lambda body: Status(404, "no such model"), "was not found at 127.0.0.1"),
        (lambda body: Status(429, retry_after="7200"), "asks for a wait of 7,200 s"),
    ],
    ids=["garbage", "quota", "model", "wait"],
)
def test_errors_that_need_a_person_pause_the_run_before_the_first_step(
    ida_tui_here: Any, rule: Callable[[Mapping[str, Any]], Behavior], message: str
) -> None:
    with ScriptedJudge(rule=rule) as server:
        done = quickstart(ida_tui_here, server, steps=3)

    assert done.code == 3
    assert message in done.out
    assert "ida-tui resume" in done.out
    assert events("StepFinished") == []
    assert events("RunPaused")[0]["step"] == 0


def test_the_run_pauses_before_the_judge_costs_more_than_the_budget(ida_tui_here: Any) -> None:
    price = "judge.price={input: 1.0, output: 1.0}"
    with ScriptedJudge() as server:
        done = quickstart(ida_tui_here, server, price, "budget=0.05", steps=20)

        assert done.code == 3
        assert "could exceed the judge budget of $0.05" in done.out
        spent = events("RunEnded")[0]["cost"]
        assert 0.02 < spent <= 0.05

        resumed = ida_tui_here("resume", "quickstart", "budget=1", JUDGE_KEY=KEY)
    assert resumed.code == 0, resumed.err
    assert [e["step"] for e in events("StepFinished")] == list(range(1, 21))
    assert events("RunEnded")[-1]["cost"] > 0.05


def test_no_file_of_a_run_contains_the_key(ida_tui_here: Any, tmp_path: Path) -> None:
    rule = KeyExpires(calls=20)
    with ScriptedJudge(rule=rule) as server:
        done = quickstart(ida_tui_here, server, "judge.cache=true", steps=5)
        assert f"Bearer {KEY}" in server.authorizations
    assert done.code == 3
    assert "bad key [key]" in done.out

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"events.jsonl", "judge.sqlite3"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in done.out + done.err
