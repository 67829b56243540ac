"""Number formats that `auto` chooses for a model and a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from ida_tui.config.precision import nearest_supported, resolve_precision
from ida_tui.config.resolve import resolve


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", ["gemma-3-1b", "google/gemma-3-4b-it", "FOLDER"])
def test_gemma_is_never_trained_in_float16(
    method: Literal["lora", "full"], model: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    model = model.replace("FOLDER", str(tmp_path / "mine"))
    config = resolve("quickstart", [f"model={model}", f"training.method={method}"]).config

    recipe = resolve_precision(config, "mps")
    assert (recipe.weights, recipe.fp16, recipe.bf16) == (
        "bfloat16" if method == "lora" else "float32",
        False,
        True,
    )
    assert nearest_supported(config, "mps") is None
    assert resolve_precision(config, "cpu").weights == "float32"


def test_other_models_use_float16_on_metal() -> None:
    config = resolve("quickstart", ["model=Qwen/Qwen3-0.6B"]).config
    assert resolve_precision(config, "mps").weights == "float16"
