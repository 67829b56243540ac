"""Parity with plain TRL on the CPU: the same losses and the same final weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from ida_tui.rewards.r_ida import r_ida
from tests.engine.trainer.trl_script import logged, overrides, run_ida_tui, run_script


def plain_trl(config: Config, output: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the weights of the same training in a script of TRL."""
    scorer = OfflineScorer([prompt.text for prompt in config.prompts.prompts])

    def reward(completions, prompt_text, kind, **_):  # type: ignore[no-untyped-def]
        scores = [
            scorer.score(p, k, c[-1]["content"])
            for p, k, c in zip(prompt_text, kind, completions, strict=True)
        ]
        return [r_ida(s.align, s.risk, s.detail) for s in scores]

    trainer = run_script(
        config, [reward], lambda p: {"prompt_text": p.text, "kind": p.kind}, output
    )
    return logged(trainer, "loss"), dict(trainer.model.state_dict())


@pytest.mark.parametrize(
    ("method", "beta", "iterations"),
    [("lora", 0.0, 1), ("lora", 0.04, 1), ("full", 0.04, 1), ("lora", 0.0, 2), ("full", 0.04, 3)],
)
def test_the_plain_engine_gives_the_losses_and_weights_of_plain_trl(
    method: str, beta: float, iterations: int, tmp_path: Path
) -> None:
    settings = f"{{method: {method}, beta: {beta}, num_iterations: {iterations}}}"
    common = overrides(steps=4, seed=11)
    config = resolve("quickstart", ["engine=plain", *common, f"training={settings}"]).config

    expected_losses, expected_weights = plain_trl(config, tmp_path / "trl")
    steps, directory = run_ida_tui(config)

    losses = [step.loss for step in steps]
    assert losses == expected_losses
    assert any(loss != 0 for loss in losses)
    base = AutoModelForCausalLM.from_pretrained(
        embedded.model_folder() if method == "lora" else directory / "model", dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, directory / "adapter") if method == "lora" else base
    weights = model.state_dict()
    trained = [name for name in expected_weights if method == "full" or "lora_" in name]
    assert trained
    for name in trained:
        assert torch.equal(weights[name], expected_weights[name]), name
