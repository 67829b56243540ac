"""The change of the weights: reported for every step, and a warning when a run changed nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ida_tui.config import embedded
from ida_tui.engine.trainer.weight_delta import WeightDelta
from tests.support.judge_server import Judge, ScriptedJudge
from tests.support.metal import simulated_metal

SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=16",
)
HEADLINE = "✗ Nothing was learned: the weights did not move"


def finished_steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "StepFinished"]


def test_a_step_reports_how_far_the_weights_are_from_their_start(ida_tui_here: Any) -> None:
    done = ida_tui_here("--run", *SHORT, "--json")
    last = finished_steps(done.events)[-1]
    saved = load_file("outputs/quickstart/latest/adapter/adapter_model.safetensors")
    norm = torch.stack([tensor.double().square().sum() for tensor in saved.values()]).sum().sqrt()
    assert last["weight_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert last["model_change"] == pytest.approx(
        change_of_merged_model(Path("outputs/quickstart/latest/adapter")), rel=1e-4
    )
    # lora_B starts at zero, so the largest change is at least its largest entry.
    largest_b = max(float(t.abs().max()) for name, t in saved.items() if "lora_B" in name)
    assert last["largest_change"] >= largest_b > 0
    assert (last["non_finite"], last["loss_scale"]) == (0, None)


def change_of_merged_model(adapter: Path) -> float:
    """Relative L2 norm of the weights with this adapter merged, minus the base model's."""
    base = AutoModelForCausalLM.from_pretrained(embedded.model_folder(), dtype=torch.float32)
    start = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    merged = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    change = [weight.detach() - start[name] for name, weight in merged.named_parameters()]
    return norm(change) / norm(list(start.values()))


def norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())


class TwoLayers(torch.nn.Module):
    """An embedding and a linear layer of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = torch.nn.Embedding(50, 24), torch.nn.Linear(24, 40)

    def dense(self) -> list[torch.Tensor]:
        """The weights with the adapters added."""
        weights = []
        for layer in (self.embedding, self.linear):
            delta = layer.get_delta_weight("default") if hasattr(layer, "get_delta_weight") else 0
            weights.append((layer.weight + delta).detach().clone())
        return weights


def with_adapter(model: TwoLayers) -> Any:
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["embedding", "linear"])
    return peft.get_peft_model(model, settings)  # type: ignore[arg-type]


def move(model: Any, size: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)


@pytest.mark.parametrize("start_size", [0.0, 0.3], ids=["new adapter", "trained adapter"])
@pytest.mark.parametrize("size", [0.1, 1e-5])
def test_the_change_of_a_model_with_an_adapter_equals_that_of_its_dense_weights(
    start_size: float, size: float
) -> None:
    model = with_adapter(layers := TwoLayers())
    if start_size:
        move(model, start_size)
    start, delta = layers.dense(), WeightDelta(model)
    move(model, size)
    change = [now.double() - then for now, then in zip(layers.dense(), start, strict=True)]
    weights = [layers.embedding.weight, layers.linear.weight, layers.linear.bias]
    expected = norm(change) / norm([weight.detach() for weight in weights])
    # The dense difference of a tiny change is itself only good to the rounding of the weights.
    assert delta.change().model == pytest.approx(expected, rel=1e-5 if size > 1e-3 else 1e-2)


def test_an_adapter_whose_product_is_zero_has_moved_but_its_model_has_not() -> None:
    model = with_adapter(TwoLayers())
    delta = WeightDelta(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_embedding_B" in name:
                parameter.mul_(0.5)
    change = delta.change()
    assert change.relative > 0
    assert change.model == 0


def test_the_change_of_all_weights_is_relative_to_the_norm_of_the_model() -> None:
    model = torch.nn.Linear(300, 500)
    delta = WeightDelta(model)
    start = norm([p.detach() for p in model.parameters()])
    with torch.no_grad():
        change = 0.01 * torch.randn_like(model.weight)
        model.weight += change
    assert delta.change().model == pytest.approx(norm([change]) / start, rel=0.01)


def test_a_single_weight_that_moved_is_the_largest_change() -> None:
    model = torch.nn.Linear(3, 2)
    delta = WeightDelta(model)
    with torch.no_grad():
        model.weight[1, 2] += 0.5
    change = delta.change()
    assert change.largest == pytest.approx(0.5)
    assert change.relative > 0


def test_a_judge_that_gives_equal_scores_leaves_the_weights_unchanged_and_the_summary_says_so(
    ida_tui_here: Any,
) -> None:
    with ScriptedJudge(rule=lambda *_: Judge(5, 5, 5)) as server:
        done = ida_tui_here(
            "--run", *SHORT, "judge=gpt-4o-mini", f"judge.base_url={server.base_url}",
            OPENAI_API_KEY="sk-test-0123456789",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert HEADLINE in done.out
    assert "Every group had zero variance" in done.out
    assert "✓ Training complete" not in done.out


def test_updates_skipped_by_the_scaler_are_counted_per_step_and_in_the_summary(
    ida_tui_here: Any,
) -> None:
    large_steps = (
        *SHORT,
        "training.per_device_train_batch_size=32",
        "training.max_completion_length=48",
    )
    with simulated_metal(scale=2.0**40):
        done = ida_tui_here("--run", *large_steps)
        again = ida_tui_here("--run", *large_steps, "--json")
    assert done.code == 0, done.err
    assert HEADLINE in done.out
    assert "Every update overflowed" in done.out
    assert "scaler         skipped 2 of 2 steps" in done.out
    steps = finished_steps(again.events)
    assert [step["skipped"] for step in steps] == [True, True]
    assert [step["loss_scale"] for step in steps] == [2.0**39, 2.0**38]
    assert all(step["non_finite"] > 0 for step in steps)
