"""Adapters of other kinds: their change of the model, memory, checkpoints, export and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ida_tui
from ida_tui.config.model_files import inspect_model
from ida_tui.config.resolve import resolve
from ida_tui.engine.model.adapter_targets import check_adapter_targets
from ida_tui.errors import UsageError
from ida_tui.events.types import Noticed
from ida_tui.planning.adapter_size import adapter_parameters
from ida_tui.runs.log.reader import read_events
from tests.engine.model.test_weight_change import change_of_merged_model
from tests.engine.trainer.test_num_iterations import copy_until

SHORT = (
    "quickstart", "evaluation.enabled=false", "training.max_steps=2", "training.save_steps=1",
    "training.num_generations=4", "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=1", "training.max_completion_length=12",
    "training.learning_rate=1e-2", "training.loss_type=grpo",
)  # fmt: skip
KINDS = {
    "dora": ("lora.use_dora=true", "lora.modules_to_save=[norm]"),
    "rslora": ("lora.use_rslora=true", "lora.rank_pattern={q_proj: 4, 'layers.0.mlp.*': 2}",
               "lora.alpha_pattern={v_proj: 5}", "lora.exclude_modules=[layers.1.mlp.down_proj]",
               "lora.init_lora_weights=orthogonal", "training.importance_sampling_level=sequence"),
    "parameters": ("lora.target_modules=[o_proj]", "lora.target_parameters=[q_proj.weight]"),
}  # fmt: skip
CARD = {
    "dora": "DoRA, r 16, alpha 32, norm in full",
    "rslora": "LoRA, r 16, alpha 32, rsLoRA, other ranks or alphas for some layers",
    "parameters": "LoRA, r 16, alpha 32",
}
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_adapter_of_another_kind_is_measured_planned_resumed_and_exported(
    kind: str, ida_tui_here: Any
) -> None:
    run = ida_tui.run(*SHORT, *KINDS[kind])
    assert run.exit_code == 0, run.state.ended
    last = list(run.steps)[-1]
    assert last.model_change == pytest.approx(
        change_of_merged_model(run.directory / "adapter"), rel=1e-3
    )

    events = [record.event for record in read_events(run.directory / "events.jsonl")]
    texts = [event.text for event in events if isinstance(event, Noticed)]
    by_trl = [text for text in texts if text.startswith("TRL's code samples; only scoring is fast")]
    assert len(by_trl) == (kind != "rslora")

    shape = inspect_model(run.config.model).shape
    assert shape is not None
    assert run.state.run is not None
    assert run.state.run.trainable_params == adapter_parameters(shape, run.config.lora)
    assert run.state.run.params == shape.parameter_count()

    killed = copy_until(run.directory, 1, 2, Path("killed"))
    resumed = ida_tui.run(str(killed), resume=True)
    assert resumed.exit_code == 0, resumed.state.ended
    assert (killed / WEIGHTS).read_bytes() == (run.directory / WEIGHTS).read_bytes()

    done = ida_tui_here("export", "quickstart", "--merged", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["logits_difference"] < 1e-4
    card = (Path(result["folder"]) / "README.md").read_text(encoding="utf-8")
    assert f"| method | {CARD[kind]} |" in card
    assert ("| loss | grpo, ratios of each sequence |" in card) == (kind == "rslora")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("modules_to_save=[nrom]", 'no layer named "nrom"'),
        ("exclude_modules=[down_prj]", 'no layer named "down_prj"'),
        ("target_parameters=[q_proj.wieght]", 'no parameter named "q_proj.wieght"'),
        ("rank_pattern={q_prj: 4}", '"q_prj" matches no layer with an adapter'),
        ("exclude_modules=[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]",
         "leave no layer for an adapter"),
        ("modules_to_save=[rotary_emb]", "rotary_emb has no weights to train"),
    ],
)  # fmt: skip
def test_a_name_that_the_model_does_not_have_is_refused_before_it_is_loaded(
    setting: str, message: str
) -> None:
    config = resolve("quickstart", [f"lora.{setting}"]).config
    with pytest.raises(UsageError) as caught:
        check_adapter_targets(config)
    assert message in str(caught.value)
    assert (caught.value.where or "").startswith("lora.")
