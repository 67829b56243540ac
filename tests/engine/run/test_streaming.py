"""Streaming of a rollout while it is sampled: first its prompts, then the growing text of each row."""

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
    """The events of two real steps, with an event for every token."""
    import ida_tui.engine.rollout.progress as progress

    monkeypatch.setattr(progress, "EMIT_INTERVAL_S", 0.0)
    done = ida_tui_here("--run", *SHORT, "--json")
    assert done.code == 0, done.err
    return list(done.events)


def test_the_text_of_every_row_grows_to_the_completion(events: list[dict[str, Any]]) -> None:
    for step in (1, 2):
        step_events = [event for event in events if event.get("step") == step]
        growing_texts = [e["texts"] for e in step_events if e["type"] == "TextGenerated"]
        finished = [e["text"] for e in step_events if e["type"] == "CompletionFinished"]
        grown = ["".join(texts) for texts in zip(*growing_texts, strict=True)]

        assert len(growing_texts) > 5
        assert grown == finished
        assert any(
            texts[row] == "" for texts in growing_texts for row in range(8)
        )  # some end early


def test_the_prompts_come_before_the_text_and_match_the_completions(
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
def test_a_completion_is_judged_as_soon_as_it_ends(
    engine: str, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ida_tui.engine.trainer.reward import RewardCollector

    collected: list[str | None] = []
    completion_ended, begin_step = RewardCollector.completion_ended, RewardCollector.begin_step

    def record_completion(self: RewardCollector, row: int, text: str) -> None:
        collected.append(text)
        completion_ended(self, row, text)

    def record_begin(self: RewardCollector, *arguments: Any) -> None:
        collected.append(None)
        begin_step(self, *arguments)

    monkeypatch.setattr(RewardCollector, "completion_ended", record_completion)
    monkeypatch.setattr(RewardCollector, "begin_step", record_begin)
    with ScriptedJudge() as server:
        judge_settings = (
            "judge=gpt-4o-mini",
            f"judge.base_url={server.base_url}",
            f"engine={engine}",
        )
        done = ida_tui_here("--run", *SHORT, "--json", *judge_settings)
        judged_texts = {completion_in(body) for body in server.requests}

    assert done.code == 0, done.err
    finished = [e["text"] for e in done.events if e["type"] == "CompletionFinished"]
    early = [text for text in collected if text is not None]
    assert early, "no row was reported before the rollout was over"
    assert set(early) <= set(finished)
    assert judged_texts <= set(finished), (
        "the judge received something other than a full completion"
    )


def test_the_garbage_collector_ignores_existing_objects_during_training() -> None:
    with libraries.frozen_gc():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
