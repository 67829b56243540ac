"""The dev-mps profile of the quick start, with a judge over real HTTP on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from tests.support.judge_server import ScriptedJudge, Status, verdict_for

KEY = "sk-test-0123456789abcdef"


def dev_mps(ida_tui_here: Any, server: ScriptedJudge, *overrides: str) -> Any:
    return ida_tui_here(
        "--run",
        "dev-mps",
        "model=embedded",
        "device=cpu",
        "judge=gpt-4o-mini",
        f"judge.base_url={server.base_url}",
        *overrides,
        OPENAI_API_KEY=KEY,
    )


def events_of_latest_run() -> list[dict[str, Any]]:
    path = Path("outputs/dev-mps/latest/events.jsonl")
    return [json.loads(line) for line in path.open()]


def test_two_steps_make_eight_calls_and_a_second_run_makes_none(
    ida_tui_here: Any,
) -> None:
    with ScriptedJudge() as server:
        first = dev_mps(ida_tui_here, server)
        calls_of_first = server.calls
        second = dev_mps(ida_tui_here, server)

        assert first.code == 0, first.err
        assert second.code == 0, second.err
        assert calls_of_first == 8
        assert server.calls == 8

    assert "Judge cache enabled" in first.out
    assert "Step 2/2 |" in first.out
    assert "(4 from the cache)" in second.out
    steps = [event for event in events_of_latest_run() if event["type"] == "StepFinished"]
    assert [step["scored"] for step in steps] == [4, 4]


def test_every_verdict_is_stored_with_its_own_completion(ida_tui_here: Any) -> None:
    with ScriptedJudge() as server:
        done = dev_mps(ida_tui_here, server)

    assert done.code == 0, done.err
    lines = Path("outputs/dev-mps/latest/completions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 8
    for row in rows:
        expected = verdict_for(row["text"])
        assert row["scores"] == {axis: expected[axis] for axis in IDA_AXIS_NAMES}


def test_a_failed_verdict_is_shown_and_has_no_reward(
    ida_tui_here: Any,
) -> None:
    with ScriptedJudge([Status(500)]) as server:
        done = dev_mps(ida_tui_here, server, "judge.max_retries=0", "judge.concurrency=1")

    assert done.code == 0, done.err
    failed = [
        event
        for event in events_of_latest_run()
        if event["type"] == "CompletionScored" and event["failure"]
    ]
    assert failed
    assert all(event["reward"] is None and event["advantage"] is None for event in failed)
    assert " failed" in done.out
    assert "scored)" in done.out


def test_a_key_refused_in_the_first_step_ends_the_run_with_exit_code_3(
    ida_tui_here: Any,
) -> None:
    with ScriptedJudge([Status(401, message=f"bad key {KEY}")] * 9) as server:
        done = dev_mps(ida_tui_here, server)

    assert done.code == 3
    assert KEY not in done.out + done.err
    ended = events_of_latest_run()[-1]
    assert (ended["type"], ended["status"]) == ("RunEnded", "judge_unavailable")
    assert "ida-tui resume" in str(ended["hint"])
    # Nothing was learned yet, so a resumed run starts over.
    assert list(Path("outputs/dev-mps/latest/checkpoints").glob("checkpoint-*")) == []


def test_no_file_of_the_run_contains_the_key(ida_tui_here: Any, tmp_path: Path) -> None:
    with ScriptedJudge() as server:
        done = dev_mps(ida_tui_here, server)

    assert done.code == 0, done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "events.jsonl" for path in files)
    assert any(path.suffix == ".sqlite3" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_command_line_of_the_quick_start_works(ida_tui_here: Any) -> None:
    with ScriptedJudge() as server:
        done = ida_tui_here(
            "--run",
            "experiment=dev-mps",
            "model=embedded",
            "device=cpu",
            f"judge.base_url={server.base_url}",
            "training.max_completion_length=8",
        )

    assert done.code == 0, done.err
    assert "✓ Training complete" in done.out
