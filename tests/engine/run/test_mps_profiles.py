"""The mps profiles end to end in Metal's number formats, simulated on the CPU with the embedded model."""

from __future__ import annotations

from typing import Any

from tests.support.judge_server import ScriptedJudge
from tests.support.metal import simulated_metal

EMBEDDED = ("model=embedded", "judge=offline", "device=cpu", "training.max_completion_length=64")
"""Overrides of the profile. An adapter on a 0.9 M model needs larger steps than one on a 4 B model."""
RATE = "training.learning_rate=2e-3"


def test_an_mps_profile_raises_r_ida_under_autocast_and_a_scaler(ida_tui_here: Any) -> None:
    with simulated_metal() as scalers:
        done = ida_tui_here("--run", "oblit-1-mps", *EMBEDDED, RATE, "--json")

    assert done.code == 0, done.err
    ended = done.events[-1]
    assert ended["reward_last"] > 2 * ended["reward_first"]
    assert scalers[0].get_scale() >= 1.0
    started = next(event for event in done.events if event["type"] == "RunStarted")
    assert started["dtype"] == "float16"
    assert "fp16 autocast with a gradient scaler, adamw_torch" in started["precision"]


def test_dev_mps_with_its_own_judge_moves_the_weights_in_both_steps(
    ida_tui_here: Any,
) -> None:
    """Keeps the profile's learning rate; the judge is a local HTTP server."""
    with simulated_metal(), ScriptedJudge() as server:
        url = f"judge.base_url={server.base_url}"
        settings = [item for item in EMBEDDED if item != "judge=offline"]
        key = {"OPENAI_API_KEY": "sk-test-0123456789"}
        done = ida_tui_here("--run", "dev-mps", *settings, url, "--json", **key)

    assert done.code == 0, done.err
    steps = [event for event in done.events if event["type"] == "StepFinished"]
    assert [step["skipped"] for step in steps] == [False, False]
    assert steps[1]["weight_delta"] > steps[0]["weight_delta"] > 0
