"""Training of any Qwen3-like model from a local folder: with an adapter or with all weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.engine.model.adapter_targets import check_adapter_targets
from ida_tui.errors import UsageError

SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=2",
    "training.max_completion_length=12",
)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_with_a_different_shape_trains_from_a_local_path(
    method: str, random_qwen3: Path, ida_tui_here: Any
) -> None:
    done = ida_tui_here(
        "--run", *SHORT, f"model={random_qwen3}", f"training.method={method}", "--json"
    )

    assert done.code == 0, done.err
    started = next(e for e in done.events if e["type"] == "RunStarted")
    steps = [e for e in done.events if e["type"] == "StepFinished"]
    assert (started["trainable_params"] == started["params"]) == (method == "full")
    assert [step["step"] for step in steps] == [1, 2]
    assert all(math.isfinite(step["loss"]) for step in steps)
    folder = Path("outputs/quickstart/latest") / ("adapter" if method == "lora" else "model")
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (folder / weights).is_file()


@pytest.mark.parametrize(
    ("targets", "title"),
    [
        (["q_proj", "q_prj"], 'the model has no layer named "q_prj"'),
        (["lm_head"], "the output layer lm_head cannot have an adapter"),
        (["self_attn"], "self_attn is not a single layer"),
        ([], "lora.target_modules is empty"),
    ],
)
def test_an_adapter_on_layers_that_it_cannot_train_is_refused_before_the_model_is_loaded(
    targets: list[str], title: str
) -> None:
    config = resolve("quickstart", [f"lora.target_modules={json.dumps(targets)}"]).config
    with pytest.raises(UsageError) as refused:
        check_adapter_targets(config)
    assert title in refused.value.title
    assert "q_proj" in refused.value.hint


def test_an_adapter_on_named_layers_is_accepted() -> None:
    check_adapter_targets(resolve("quickstart", ['lora.target_modules=["q_proj"]']).config)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_nan_weights_end_the_run_before_the_first_step_and_are_never_saved(
    method: str, random_qwen3: Path, tmp_path: Path, ida_tui_here: Any
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in random_qwen3.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    done = ida_tui_here("--run", *SHORT, f"model={broken}", f"training.method={method}", "--json")

    assert done.code == 1
    ended = done.events[-1]
    assert ended["type"] == "RunEnded"
    assert "are damaged: model.norm.weight has values that are NaN" in str(ended["message"])
    assert "Traceback" not in done.err
    run = Path("outputs/quickstart/latest")
    assert not (run / "logs" / "crash.txt").exists()
    assert list(run.glob("checkpoints/checkpoint-*")) == []


def test_a_learning_rate_that_destroys_the_weights_ends_the_run_and_keeps_the_last_good_checkpoint(
    ida_tui_here: Any,
) -> None:
    done = ida_tui_here(
        "--run",
        *SHORT,
        "training.method=full",
        "training.learning_rate=1e9",
        "training.max_steps=6",
        "training.temperature=2.0",
        "training.max_completion_length=32",
        "training.save_steps=1",
        "--json",
    )

    assert done.code == 1
    assert "not finite" in str(done.events[-1]["message"])
    for checkpoint in Path("outputs/quickstart/latest/checkpoints").glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert all(math.isfinite(entry.get("loss", 0)) for entry in state["log_history"])
