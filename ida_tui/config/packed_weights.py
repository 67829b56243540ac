"""Recognition of models whose weights are packed into few bits for inference, which training cannot use.

`config.json` says so, or the names and data types of the tensors do; the weights themselves are not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ida_tui.config.trust.model_safety import MAX_CONFIG_BYTES, Problem
from ida_tui.util.safe_files import open_regular, read_bytes
from ida_tui.util.text import one_line, parse_json

MAX_HEADER_BYTES = 100_000_000
"""Longest header of a weight file that is read; the format allows no longer one."""
INDEX_FILE = "model.safetensors.index.json"
"""Names the weight file of each tensor in a model of several weight files."""
_METHOD_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "quanto": "quanto",
    "torchao": "torchao",
    "modelopt": "ModelOpt",
}
_TENSOR_ENDS = (
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".qweight", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "FP8 or compressed-tensors"),
    ("_proj_blocks", "MXFP4"),
)
"""End of a tensor's name that only one way of packing uses, and its name."""


def packed_weights_problem(
    folder: Path, settings: Mapping[str, object], path: str, *, unpacked: str = ""
) -> Problem | None:
    """Why the weights of a model cannot be trained; None if they are not packed.

    Args:
        folder: the model's folder; its weights may still be missing.
        settings: its config.json.
        path: how the user names the model.
        unpacked: id of the model that it was made from, if it is known.
    """
    packing = _packing_in_settings(settings) or _packing_in_tensors(folder)
    if not packing:
        return None
    source = f", such as {one_line(unpacked)}" if unpacked else " from which it was made"
    return (
        f"the weights of {path} are packed {packing}, and training needs them unpacked",
        f"take the unpacked model (bfloat16, float16 or float32){source}",
    )


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a *.safetensors file: name → data type, shape and position.

    Raises:
        OSError: the file cannot be read.
        ValueError: the header is damaged.
    """
    with open_regular(Path(os.path.realpath(file))) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop("__metadata__", None)
    return {str(name): tensor for name, tensor in header.items() if isinstance(tensor, dict)}


def missing_weight_files(folder: Path) -> list[str]:
    """The weight files that the index of a model names and that its folder lacks; empty without an index."""
    return sorted(
        name
        for name in set(_indexed_tensors(folder).values())
        if Path(name).name == name and not (folder / name).is_file()
    )


def _packing_in_settings(settings: Mapping[str, object]) -> str:
    """How the weights are packed, as `for MLX (4 bits)` or `with GPTQ`; empty if they are not."""
    quantization = settings.get("quantization")
    packing = settings.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization.get("bits"):
        return f"for MLX{_bits(quantization)}"
    if not isinstance(packing, Mapping) or not packing:
        return ""
    method = str(packing.get("quant_method") or "")
    if not method and packing.get("group_size") and packing.get("bits"):
        return f"for MLX{_bits(packing)}"
    name = _METHOD_NAMES.get(method.lower(), one_line(method[:40]) or "an unnamed method")
    return f"with {name}{_bits(packing)}"


def _bits(packing: Mapping[str, object]) -> str:
    bits = packing.get("bits") or packing.get("w_bit")
    if packing.get("load_in_4bit") is True:
        bits = 4
    elif packing.get("load_in_8bit") is True:
        bits = 8
    return f" ({bits} bits)" if type(bits) is int else ""


def _packing_in_tensors(folder: Path) -> str:
    """How the weights are packed, from the names and data types of the tensors; empty if they are not."""
    names: set[str] = set(_indexed_tensors(folder))
    integers = False
    for file in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(file)
        except (OSError, ValueError, RecursionError):
            continue  # reported as damaged
        names |= header.keys()
        if any(str(tensor.get("dtype", "")).startswith("F8") for tensor in header.values()):
            return "with FP8"
        integers = integers or any(
            name.endswith(".weight") and str(tensor.get("dtype", "")).startswith(("I", "U"))
            for name, tensor in header.items()
        )
    return _packing_in_names(names) or ("as whole numbers" if integers else "")


def _packing_in_names(names: Iterable[str]) -> str:
    names = set(names)
    for name in names:
        stem = name.removesuffix(".scales")
        if stem != name and {f"{stem}.biases", f"{stem}.weight"} <= names:
            return "for MLX"
        for end, packing in _TENSOR_ENDS:
            if name.endswith(end):
                return f"with {packing}"
    return ""


def _indexed_tensors(folder: Path) -> dict[str, str]:
    """Tensor → weight file, from a model's index; empty without one."""
    try:
        index = parse_json(
            read_bytes(Path(os.path.realpath(folder / INDEX_FILE)), MAX_CONFIG_BYTES)
        )
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
    except (OSError, ValueError):
        return {}
    if not isinstance(weight_map, dict):
        return {}
    return {str(name): file for name, file in weight_map.items() if isinstance(file, str)}
