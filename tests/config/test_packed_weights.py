"""Packed weights, recognized by config.json or by the names and data types of the tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config import embedded
from ida_tui.config.model_files import inspect_model, model_problem
from ida_tui.config.packed_weights import INDEX_FILE, packed_weights_problem
from ida_tui.config.schema import ModelConfig


@pytest.mark.parametrize(
    ("settings", "packing"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "for MLX (4 bits)"),
        ({"quantization_config": {"group_size": 64, "bits": 8}}, "for MLX (8 bits)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "with GPTQ (4 bits)"),
        ({"quantization_config": {"quant_method": "awq", "w_bit": 4}}, "with AWQ (4 bits)"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "with bitsandbytes (4 bits)",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "with FP8"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            "with compressed-tensors",
        ),
        ({"quantization_config": {"quant_method": "new\x1b[31m"}}, "with new?[31m"),
        ({"quantization_config": None}, ""),
        ({}, ""),
    ],
)
def test_config_json_says_how_the_weights_are_packed(
    settings: dict[str, Any], packing: str, tmp_path: Path
) -> None:
    problem = packed_weights_problem(tmp_path, settings, "org/x", unpacked="org/y")

    if not packing:
        assert problem is None
        return
    assert problem is not None
    assert f"are packed {packing}," in problem[0]
    assert "org/y" in problem[1]


@pytest.mark.parametrize(
    ("tensors", "packing"),
    [
        ({"a.weight": "U32", "a.scales": "BF16", "a.biases": "BF16"}, "for MLX"),
        ({"a.qweight": "I32", "a.qzeros": "I32"}, "with GPTQ or AWQ"),
        ({"a.weight": "U8", "a.weight.quant_state.bitsandbytes__nf4": "U8"}, "with bitsandbytes"),
        ({"a.weight": "F8_E4M3"}, "with FP8"),
        ({"a.weight": "I8"}, "as whole numbers"),
        ({"a.weight": "F16", "a.position_ids": "I64"}, ""),
        ({"a.weight": "BF16", "a.bias": "BF16", "a.scales": "BF16"}, ""),
    ],
)
def test_tensors_show_packed_weights_where_config_json_does_not(
    tensors: dict[str, str], packing: str, tmp_path: Path
) -> None:
    header = {
        name: {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
        for name, dtype in tensors.items()
    }
    data = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)

    problem = packed_weights_problem(tmp_path, {}, "x")

    assert (problem is not None) == bool(packing)
    assert packing in (problem or ("",))[0]


def test_a_local_folder_with_packed_weights_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(embedded.model_folder(), folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization": {"bits": 4}}))

    problem = model_problem(ModelConfig(path=str(folder)))

    assert problem is not None
    assert "packed for MLX (4 bits)" in problem[0]


def test_a_model_is_complete_only_with_every_weight_file_of_its_index(tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(embedded.model_folder(), folder)
    first = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / first)
    weight_map = {"a": first, "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    assert not inspect_model(ModelConfig(path=str(folder))).complete

    shutil.copy(folder / first, folder / weight_map["b"])
    assert inspect_model(ModelConfig(path=str(folder))).complete


def test_parameters_are_not_counted_from_a_part_of_the_weight_files(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    shutil.copytree(embedded.model_folder(), folder)
    weight_map = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))

    assert inspect_model(ModelConfig(path=str(folder))).parameters is None


def model_folder(tmp_path: Path, *names: str) -> Path:
    """The embedded model without its weights, and with further empty files."""
    folder = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), folder)
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).touch()
    return folder


def test_a_folder_that_lacks_a_part_of_its_weights_is_refused_by_the_part(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    table = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "part-2.safetensors"}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": table}))

    problem = model_problem(ModelConfig(path=str(folder)))
    assert problem is not None
    assert "lacks 2 weight files that its index names" in problem[0]
    assert "model-00001-of-00002.safetensors" in problem[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytorch_model.bin", "only pickled weights"),
        ("adapter_config.json", "an adapter (adapter_config.json) beside the model"),
    ],
)
def test_a_folder_with_pickled_weights_or_an_adapter_is_refused(
    name: str, text: str, tmp_path: Path
) -> None:
    problem = model_problem(ModelConfig(path=str(model_folder(tmp_path, name))))
    assert problem is not None
    assert text in problem[0]
