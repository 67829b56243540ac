"""Small GGUF files, written by the official package from models of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from ida_tui.config import embedded

CONTROL, NORMAL = 3, 1
NAMES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
}


def write_gguf(
    file: Path,
    folder: Path | None = None,
    *,
    architecture: str = "qwen3",
    quantization: str = "F32",
    change: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
    tensors: Mapping[str, np.ndarray] | None = None,
    template: str | None = None,
) -> Path:
    """Write a model folder with a byte-level tokenizer as a GGUF file.

    Args:
        file: the file to write.
        folder: the model; None is the embedded one.
        architecture: its name in GGUF.
        quantization: the type of its matrices.
        change: adds further metadata.
        tensors: further tensors.
        template: the chat template; None is the folder's.
    """
    folder = folder or embedded.model_folder()
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("model")
    writer.add_license("apache-2.0")
    for key, name in NAMES.items():
        if config.get(name) is not None:
            writer.add_uint32(f"{architecture}.{key}", config[name])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    _add_tokenizer(writer, folder, config)
    writer.add_chat_template(template or (folder / "chat_template.jinja").read_text())
    change(writer)
    kind = gguf.GGMLQuantizationType[quantization]
    for name, values in {**_weights(folder, architecture, config), **(tensors or {})}.items():
        packed = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: Mapping[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {
        **tokenizer["model"]["vocab"],
        **{t["content"]: t["id"] for t in tokenizer["added_tokens"]},
    }
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control = {t["content"] for t in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in control else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def _weights(folder: Path, architecture: str, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    known = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        config["num_hidden_layers"],
    )
    weights = {}
    for name, values in load_file(folder / "model.safetensors").items():
        module, _, suffix = name.rpartition(".")
        values = values.astype(np.float32)
        if architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            values = _interleaved(values, config["head_dim"])
        if architecture.startswith("gemma") and module.endswith("norm"):
            values = values + 1
        weights[f"{known.get_name(module)}.{suffix}"] = values
    return weights


def _interleaved(values: np.ndarray, head: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary embedding, which pairs neighbors."""
    heads = values.shape[0] // head
    return values.reshape(heads, 2, head // 2, -1).swapaxes(1, 2).reshape(values.shape)
