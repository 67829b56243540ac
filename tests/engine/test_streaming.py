"""A rollout is told of while it is sampled: its prompts first, then the text of each row as it grows."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from ida_tui.engine import libraries
from tests.support.judge_server import ScriptedJudge, completion_in

SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=24",
)


@pytest.fixture
def events(ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events of two real steps in which every token is told of."""
    import ida_tui.engine.rollout.progress as heartbeat

    monkeypatch.setattr(heartbeat, "EMIT_INTERVAL_S", 0.0)
    done = ida_tui_here("--run", *SHORT, "--json")
    assert done.code == 0, done.err
    return list(done.events)


def test_the_text_of_every_row_grows_to_the_completion(events: list[dict[str, Any]]) -> None:
    for step in (1, 2):
        here = [event for event in events if event.get("step") == step]
        told = [e["texts"] for e in here if e["type"] == "TextGenerated"]
        finished = [e["text"] for e in here if e["type"] == "CompletionFinished"]
        grown = ["".join(texts) for texts in zip(*told, strict=True)]

        assert len(told) > 5
        assert grown == finished
        assert any(texts[row] == "" for texts in told for row in range(8))  # some end early


def test_the_prompts_come_before_the_text_and_are_those_of_the_completions(
    events: list[dict[str, Any]],
) -> None:
    types = [event["type"] for event in events if event.get("step") == 1]
    rollout = next(event for event in events if event["type"] == "RolloutStarted")
    finished = [e for e in events if e["type"] == "CompletionFinished" and e["step"] == 1]

    assert types.index("RolloutStarted") < types.index("TextGenerated")
    assert rollout["prompts"] == [finished[0]["prompt"], finished[4]["prompt"]]
    assert rollout["prompt_ids"] == [finished[0]["prompt_id"], finished[4]["prompt_id"]]
    assert rollout["generations"] == 4
    assert set(rollout["kinds"]) <= {"harmless", "unsafe"}


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_a_completion_is_judged_as_soon_as_it_ends_while_others_are_sampled(
    engine: str, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ida_tui.engine.trainer.reward import RewardCollector

    told: list[str | None] = []
    ended, begin = RewardCollector.completion_ended, RewardCollector.begin_step

    def note(self: RewardCollector, row: int, text: str) -> None:
        told.append(text)
        ended(self, row, text)

    def start(self: RewardCollector, *arguments: Any) -> None:
        told.append(None)
        begin(self, *arguments)

    monkeypatch.setattr(RewardCollector, "completion_ended", note)
    monkeypatch.setattr(RewardCollector, "begin_step", start)
    with ScriptedJudge() as server:
        judged = ("judge=gpt-4o-mini", f"judge.base_url={server.base_url}", f"engine={engine}")
        done = ida_tui_here("--run", *SHORT, "--json", *judged)
        asked = {completion_in(body) for body in server.requests}

    assert done.code == 0, done.err
    finished = [e["text"] for e in done.events if e["type"] == "CompletionFinished"]
    early = [text for text in told if text is not None]
    assert early, "no row was told of before the rollout was over"
    assert set(early) <= set(finished)
    assert asked <= set(finished), "something else than whole completions was asked about"


def test_what_exists_when_training_starts_is_left_alone_by_the_collector_until_it_ends() -> None:
    with libraries.frozen_gc():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
