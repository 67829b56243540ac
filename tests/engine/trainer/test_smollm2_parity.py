"""Two steps on the weights of SmolLM2: the losses of a script of TRL for the same completions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.rewards.shipped import json_answers
from tests.engine.trainer.trl_script import (
    ReplayingTrainer,
    logged,
    overrides,
    run_ida_tui,
    run_script,
)

SMALL = ("training.num_generations=4", "training.max_completion_length=24")
"""Settings of a run that takes seconds on two cores."""
REWARDS = """
import json

from ida_tui.rewards.shipped import json_answers


def fields(completions, completion_ids, answer, **columns):
    with open("drawn.jsonl", "a") as file:
        file.write(json.dumps(completion_ids) + "\\n")
    return json_answers.fields([chat[0]["content"] for chat in completions], answer)
"""


def test_losses_on_real_weights_are_those_of_trl(
    smollm2: str, unpacked_smollm2: Path, tmp_path: Path
) -> None:
    Path("rewards.py").write_text(REWARDS)
    config = resolve(
        "smollm2-json",
        [*overrides(steps=2, seed=3), *SMALL, "rubric=rewards.py", "device=cpu"],
    ).config

    steps, _ = run_ida_tui(config)
    drawn = [json.loads(line) for line in Path("drawn.jsonl").read_text().splitlines()]
    ReplayingTrainer.drawn = iter(drawn)
    trainer = run_script(
        config,
        [
            lambda completions, answer, **columns: json_answers.fields(
                [chat[0]["content"] for chat in completions], answer
            )
        ],
        lambda prompt: prompt.columns,
        tmp_path / "trl",
        ReplayingTrainer,
        unpacked_smollm2,
    )

    losses = [step.loss for step in steps]
    assert all(losses)
    assert losses == pytest.approx(logged(trainer, "loss"), abs=1e-5)
    assert [step.reward for step in steps] == pytest.approx(logged(trainer, "reward"))
