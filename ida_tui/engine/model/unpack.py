"""Models of GGUF files, unpacked once into a folder that transformers loads like any other.

Reading a GGUF file anew for every command would take longer than training a step, and its tokenizer must be
completed anyway. The weights are unpacked one tensor at a time, so a large model needs no more memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from ida_tui.config.model_files import find_damaged_weights
from ida_tui.config.models import gguf
from ida_tui.config.models.gguf_header import GgufHeader, Tensor, read_header
from ida_tui.errors import IdaError
from ida_tui.util.format import format_count, format_size
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import locked_file

WEIGHTS_FILE = "model.safetensors"
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
"""Control tokens that end an answer, even if the file does not name them so."""
_CONTROL = 3
_MODEL_TYPES = {"gemma3": "gemma3_text"}
"""Architecture → `model_type` of transformers, where they differ."""
_GEMMA_27B_LAYERS = (46, 62)
"""Layers of Gemma 2 27B and Gemma 3 27B, whose queries are scaled by another size than the head's."""
_DIGITS_SPLIT = ("smollm", "starcoder", "refact", "command-r", "exaone")
"""Splittings that separate every digit before GPT-2's; transformers takes them for GPT-2's."""
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken")
"""Splittings with which a word that is a token needs no merges."""
_COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Splittings of composed characters (NFC)."""


def unpack(file: Path) -> Path:
    """The folder with the unpacked model of a GGUF file; unpack it first if it is not there or damaged.

    Raises:
        IdaError: the file cannot be unpacked, or the disk is too full.
    """
    folder = gguf.unpacked_folder(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(folder.with_name(f".{folder.name}.lock")):
            if not (folder / WEIGHTS_FILE).is_file() or find_damaged_weights(folder):
                _unpack_into(folder, file)
    except OSError as error:
        if error.errno is None:  # transformers raises it for what a file contains
            raise
        raise IdaError(
            f"{file.name} could not be unpacked into {display_path(folder.parent)}: {error.strerror}",
            "make room there, or set IDA_TUI_CACHE_DIR to another folder that can be written to",
        ) from None
    return folder


def _unpack_into(folder: Path, file: Path) -> None:
    """Replace a folder by the unpacked model of a GGUF file."""
    shutil.rmtree(folder, ignore_errors=True)
    model = gguf.read_model(file)
    free = shutil.disk_usage(folder.parent).free
    if free < 1.1 * model.unpacked_bytes:
        raise IdaError(
            f"{file.name} needs {format_size(model.unpacked_bytes)} of disk space to be unpacked,"
            f" but {display_path(folder.parent)} has {format_size(free)}",
            "free up space, or set IDA_TUI_CACHE_DIR to a folder on another disk",
        )
    # Its name is the same in every process, so that what a killed one has left is removed.
    writing = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir()
        _write_model(model, read_header(file), writing)
        writing.replace(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _write_model(model: gguf.GgufModel, header: GgufHeader, folder: Path) -> None:
    settings = _config_settings(model, header)
    config = AutoConfig.for_model(**settings)
    config.dtype = getattr(torch, model.stored_dtype)
    with torch.device("meta"):
        structure = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(structure).__name__]
    config.save_pretrained(folder)
    tokenizer, end_tokens = _tokenizer(model.file, header)
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_tokens,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    _write_weights(model, header, structure, settings, folder / WEIGHTS_FILE)
    with open(model.file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    facts = {"file": model.file.name, "size": model.size, "sha256": digest}
    text = json.dumps(facts, indent=2) + "\n"
    (folder / gguf.SOURCE_FILE).write_text(text, encoding="utf-8")


def _config_settings(model: gguf.GgufModel, header: GgufHeader) -> dict[str, Any]:
    """The contents of config.json, from the metadata of the file."""
    from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING

    architecture, metadata = model.architecture, header.metadata
    names = GGUF_CONFIG_MAPPING[architecture]
    told = {
        name: metadata[f"{architecture}.{key}"]
        for key, name in names.items()
        if name is not None and f"{architecture}.{key}" in metadata
    }
    tokens = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    settings = {
        **GGUF_CONFIG_DEFAULTS_MAPPING.get(architecture, {}),
        **{name: _shortest(value) for name, value in told.items()},
        **{name: value for name, value in model.settings.items() if value is not None},
        **tokens,
        "model_type": _MODEL_TYPES.get(architecture, architecture),
    }
    if architecture.startswith("gemma"):
        settings["query_pre_attn_scalar"] = _query_scale(settings)
    if (factors := _rope_scaling(model.file, header, settings)) is not None:
        settings["rope_parameters"] = factors
    return settings


def _query_scale(settings: Mapping[str, Any]) -> int:
    """What Gemma divides its queries by the root of; the file does not say it."""
    if settings["num_hidden_layers"] in _GEMMA_27B_LAYERS:
        return int(settings["hidden_size"] // settings["num_attention_heads"])
    return int(settings["head_dim"])


def _shortest(value: Any) -> Any:
    """A float32 number as the shortest decimal number that it stands for, such as 1e-05."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


# -- weights --------------------------------------------------------------------------------------


def _write_weights(
    model: gguf.GgufModel, header: GgufHeader, structure: Any, settings: Any, file: Path
) -> None:
    """Write the weights as safetensors, one tensor at a time."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    processor = TENSOR_PROCESSORS.get(model.architecture, TensorProcessor)(config=settings)
    names = _weight_names(model, structure)
    tensors = [tensor for tensor in header.tensors if tensor.name != gguf.ROPE_FACTORS]
    if unknown := [tensor.name for tensor in tensors if tensor.name not in names]:
        count = format_count(len(unknown), "unknown tensor")
        raise ValueError(f"it has {count}, such as {unknown[0]}")
    stored = ["float32" if len(tensor.shape) == 1 else model.stored_dtype for tensor in tensors]
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor, dtype in zip(tensors, stored, strict=True):
        size = tensor.values * getattr(torch, dtype).itemsize
        code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
        span = [position, position + size]
        table[names[tensor.name]] = {"dtype": code, "shape": tensor.shape, "data_offsets": span}
        position += size
    head = json.dumps(table).encode()
    head += b" " * (-len(head) % 8)
    with open(file, "wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for tensor, dtype in zip(tensors, stored, strict=True):
            values = processor.process(
                weights=read_tensor(model.file, tensor), name=tensor.name, tensor_key_mapping=names
            ).weights
            _append(out, values, tensor, getattr(torch, dtype))
        out.flush()
        os.fsync(out.fileno())


def _weight_names(model: gguf.GgufModel, structure: Any) -> dict[str, str]:
    """Name of each tensor in a GGUF file → name of the weight that it is in transformers."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == model.architecture)
    known = get_tensor_name_map(architecture, structure.config.num_hidden_layers)
    names = {}
    for name in structure.state_dict():
        module, _, suffix = name.rpartition(".")
        if (packed := known.get_name(module)) is not None:
            names[f"{packed}.{suffix}"] = name
    return names


def _append(out: BinaryIO, values: np.ndarray, tensor: Tensor, dtype: torch.dtype) -> None:
    converted = torch.from_numpy(np.require(values, requirements=("C", "W"))).to(dtype)
    if tuple(converted.shape) != tensor.shape:
        raise ValueError(f"its tensor {tensor.name} has an unknown layout")
    if not torch.isfinite(converted.sum(dtype=torch.float32)):  # spoiled by any value that is not
        raise ValueError(f"its tensor {tensor.name} contains values that are not finite")
    out.write(converted.view(torch.uint8).numpy().data)


def read_tensor(file: Path, tensor: Tensor) -> np.ndarray:
    """The values of one tensor in float32, unpacked."""
    from gguf import GGMLQuantizationType, dequantize

    packed = np.memmap(file, np.uint8, "r", tensor.start, (tensor.size,))
    rows = packed.reshape(*tensor.shape[:-1], tensor.size // math.prod(tensor.shape[:-1]))
    return np.asarray(dequantize(rows, GGMLQuantizationType(tensor.type)), np.float32)


def _rope_scaling(
    file: Path, header: GgufHeader, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The scaling of Llama 3's rotary frequencies, which the file stores as its result; None without one.

    Raises:
        ValueError: the factors are not Llama 3's.
    """
    stored = next((t for t in header.tensors if t.name == gguf.ROPE_FACTORS), None)
    if stored is None:
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    expected = read_tensor(file, stored).ravel()
    base = settings.get("rope_theta", 10_000.0)
    for factor in (8.0, 32.0):
        scaled = {
            "rope_type": "llama3", "rope_theta": base, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
        config = AutoConfig.for_model(**{**settings, "rope_parameters": scaled})
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        steps = np.arange(0, 2 * len(frequencies), 2) / (2 * len(frequencies))
        factors = 1 / (base**steps * frequencies.numpy())
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-3):
            return scaled
    raise ValueError("it scales rotary frequencies in an unknown way (rope_freqs)")


# -- tokenizer ------------------------------------------------------------------------------------


def _tokenizer(file: Path, header: GgufHeader) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The tokenizer of a GGUF file, and the tokens that end an answer."""
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, vocabulary, settings = get_gguf_tokenizer(str(file))
    backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    _complete_tokenizer(backend, str(vocabulary.get("pre_tokenizer_type") or ""))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{k: v for k, v in settings.items() if v is not None}
    )
    kinds = vocabulary.get("token_type") or ()
    named = [
        i
        for i, (token, kind) in enumerate(zip(vocabulary["tokens"], kinds, strict=False))
        if kind == _CONTROL and token in END_TOKENS
    ]
    told = [header.metadata.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot", "eom")]
    return tokenizer, sorted({*named, *(token for token in told if isinstance(token, int))})


def _complete_tokenizer(backend: Tokenizer, splitting: str) -> None:
    """Give a tokenizer the parts of the original that transformers does not read from GGUF files."""
    if splitting in _DIGITS_SPLIT:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if splitting in _WHOLE_WORDS:
        backend.model.ignore_merges = True
    if splitting in _COMPOSED:
        backend.normalizer = normalizers.NFC()
