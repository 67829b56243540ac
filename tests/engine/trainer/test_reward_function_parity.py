"""A file of TRL reward functions trains here as in a script of TRL: rewards, losses and final weights."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from tests.engine.trainer.trl_script import (
    ReplayingTrainer,
    logged,
    overrides,
    run_ida_tui,
    run_script,
)

STEPS = 2
REWARDS = '''
import json


def mentions(completions, topic, **kwargs):
    """Share of the letters of the topic that the answer has, in eighths."""
    texts = [completion[0]["content"].lower() for completion in completions]
    return [sum(letter in text for letter in t[:8]) / 8 for text, t in zip(texts, topic, strict=True)]


def compact(completion_ids, trainer_state, **kwargs):
    """Up to 1 for few tokens, in eighths; the second step pays twice."""
    with open(__file__ + ".ids", "a") as file:
        file.write(json.dumps(completion_ids) + "\\n")
    pay = 1 + trainer_state.global_step
    return [pay * max(0, 8 - len(ids) // 4) / 8 for ids in completion_ids]
'''


@dataclass
class Trained:
    """Rewards and losses of each step, and the adapter."""

    rewards: list[float]
    losses: list[float]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    file = tmp_path_factory.mktemp("rewards") / "rewards.py"
    file.write_text(REWARDS)
    config = resolve(
        "quickstart", [*overrides(steps=STEPS, seed=5), f"rubric={file}"], verify=False
    ).config
    prompts = [
        prompt.model_copy(update={"columns": {"topic": prompt.text.rpartition(" ")[2]}})
        for prompt in config.prompts.prompts
    ]
    prompt_set = config.prompts.model_copy(update={"prompts": prompts})
    return config.model_copy(
        update={"prompts": prompt_set, "output_dir": str(file.parent / "outputs")}
    )


def rewards_file(config: Config) -> Path:
    return Path(config.rubric.axes["mentions"].function.rpartition(":")[0])


def with_trl(config: Config, trainer_class: type[GRPOTrainer]) -> Trained:
    """What a script of TRL gives that imports the same file."""
    path = rewards_file(config)
    spec = importlib.util.spec_from_file_location("rewards_of_the_script", path)
    assert spec is not None
    assert spec.loader is not None
    rewards: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rewards)
    trainer = run_script(
        config,
        [rewards.mentions, rewards.compact],
        lambda prompt: prompt.columns,
        Path(config.output_dir) / "trl",
        trainer_class,
    )
    weights = {n: t.clone() for n, t in trainer.model.state_dict().items() if "lora_" in n}
    return Trained(logged(trainer, "reward"), logged(trainer, "loss"), weights)


def with_ida_tui(config: Config) -> Trained:
    steps, directory = run_ida_tui(config)
    base = AutoModelForCausalLM.from_pretrained(embedded.model_folder(), dtype=torch.float32)
    weights = PeftModel.from_pretrained(base, directory / "adapter").state_dict()
    return Trained(
        [step.reward for step in steps if step.reward is not None],
        [step.loss for step in steps if step.loss is not None],
        {name: tensor for name, tensor in weights.items() if "lora_" in name},
    )


def relative_difference(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> float:
    """Relative L2 norm of the difference, over all weights."""
    difference = sum(((weights[n] - e) ** 2).sum().item() for n, e in expected.items())
    return math.sqrt(difference / sum((e**2).sum().item() for e in expected.values()))


@pytest.mark.parametrize(("engine", "tolerance"), [("plain", 0.0), ("fast", 1e-5)])
def test_a_file_of_trl_reward_functions_trains_as_in_a_script_of_trl(
    config: Config, engine: str, tolerance: float
) -> None:
    ids = rewards_file(config).with_suffix(".py.ids")
    ids.unlink(missing_ok=True)
    trained = with_ida_tui(config.model_copy(update={"engine": engine}))
    # The fast engine draws other random numbers, so that TRL gets its completions.
    ReplayingTrainer.drawn = iter([json.loads(line) for line in ids.read_text().splitlines()])
    expected = with_trl(config, GRPOTrainer if engine == "plain" else ReplayingTrainer)

    assert len(expected.rewards) == STEPS
    assert trained.rewards == pytest.approx(expected.rewards, abs=tolerance)
    assert trained.losses == pytest.approx(expected.losses, abs=tolerance)
    assert all(loss != 0 for loss in trained.losses)
    assert trained.weights.keys() == expected.weights.keys()
    assert relative_difference(trained.weights, expected.weights) <= tolerance
