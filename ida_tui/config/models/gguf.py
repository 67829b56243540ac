"""Facts about the model in a GGUF file, and why it cannot be trained, from its header alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ida_tui.config.models.gguf_header import (
    BLOCKS,
    MAX_HEADER_BYTES,
    GgufError,
    GgufHeader,
    read_header,
)
from ida_tui.util.paths import cache_folder
from ida_tui.util.safe_files import open_regular
from ida_tui.util.text import one_line

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""Architectures that can be unpacked: decoders without experts that transformers reads from GGUF files."""
LARGE_MODEL = 2_000_000_000
"""From this parameter count on, unpacked weights are stored in 16 bits."""
FORMAT_VERSION = "1"
"""Version of the unpacked folders; a change makes all files be unpacked again."""
SOURCE_FILE = "source.json"
"""File of an unpacked folder with the name, the size and the digest of the GGUF file."""
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_TENSOR_PATTERN = re.compile(
    r"(token_embd|output_norm|output|rope_freqs|blk\.\d+\.[\w.]+)\.(weight|bias)"
)
_PART_PATTERN = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
SPLITTINGS = (
    "gpt-2", "smollm", "starcoder", "refact", "command-r", "exaone", "llama3", "llama-v3", "llama-bpe",
    "falcon3", "tekken", "qwen2", "deepseek-r1-qwen",
)  # fmt: skip
"""Ways to split text before its bytes are merged, `tokenizer.ggml.pre`, that are rebuilt exactly."""
ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of factors of the rotary frequencies, which is no weight."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """The model in a GGUF file."""

    file: Path
    size: int
    """Size of the file in bytes."""
    architecture: str
    settings: dict[str, object]
    """Its layer sizes, named as in config.json."""
    parameters: int
    stored_dtype: str
    """Data type of the unpacked matrices; vectors are float32."""
    quantization: str
    """Tensor type that most of its weights have, such as `Q4_K`."""
    chat_template: str
    licence: str

    @property
    def unpacked_bytes(self) -> int:
        """Size of the unpacked weights."""
        return self.parameters * (4 if self.stored_dtype == "float32" else 2)


def read_model(file: Path) -> GgufModel:
    """The model in a GGUF file.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
        GgufError: it is no GGUF file, is damaged, or contains no model that can be unpacked.
    """
    header = read_header(file)
    if problem := _unusable(file, header):
        raise GgufError(problem)
    weights = [tensor for tensor in header.tensors if tensor.name != ROPE_FACTORS]
    parameters = sum(tensor.values for tensor in weights)
    matrices = [tensor for tensor in weights if len(tensor.shape) > 1]
    by_type: dict[str, int] = {}
    for tensor in matrices:
        name = BLOCKS[tensor.type][0]
        by_type[name] = by_type.get(name, 0) + tensor.values
    return GgufModel(
        file=file,
        size=header.size,
        architecture=_text(header, "general.architecture"),
        settings=_settings(header),
        parameters=parameters,
        stored_dtype=_stored_dtype(by_type.keys(), parameters),
        quantization=max(by_type, key=by_type.__getitem__),
        chat_template=_text(header, "tokenizer.chat_template"),
        licence=one_line(_text(header, "general.license")),
    )


def unpacked_folder(file: Path) -> Path:
    """The folder in the cache that holds, or will hold, the unpacked model of a GGUF file.

    Its name is the file's fingerprint, so that copies of one file share a folder.

    Raises:
        OSError: the file cannot be read.
        GgufError: it is no GGUF file, or damaged.
    """
    return cache_folder() / "models" / f"{fingerprint(file)}-{FORMAT_VERSION}"


def fingerprint(file: Path) -> str:
    """A digest of a GGUF file's header, its size and samples of its weights: 16 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
        GgufError: it is no GGUF file, or damaged.
    """
    real = Path(os.path.realpath(file))
    status = real.stat()
    return _fingerprint(real, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _fingerprint(file: Path, size: int, _modified: int) -> str:
    tensors = read_header(file).tensors
    start = min((tensor.start for tensor in tensors), default=0)
    digest = hashlib.sha256(str(size).encode())
    with open_regular(file) as stream:
        digest.update(stream.read(min(start, MAX_HEADER_BYTES)))
        for sample in range(_SAMPLES):
            stream.seek(start + (size - start) * sample // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _unusable(file: Path, header: GgufHeader) -> str:
    """Why the file contains no model that can be unpacked, as a predicate; empty if it does."""
    architecture = _text(header, "general.architecture")
    kind = _text(header, "general.type") or "model"
    parts = header.metadata.get("split.count", 0)
    named = _PART_PATTERN.search(file.name)
    if (isinstance(parts, int) and parts > 1) or (named and int(named[2]) > 1):
        return "is one part of several; join them first: llama-gguf-split --merge FIRST-PART.gguf OUT.gguf"
    if kind == "mmproj" or architecture == "clip":
        return "is the image part of a model, not the model"
    if kind == "adapter":
        return "is an adapter, not a model"
    if architecture not in ARCHITECTURES:
        shown = architecture[:40] or "none"
        known = ", ".join(ARCHITECTURES)
        return f"has the architecture {shown}, which cannot be read from GGUF ({known} can)"
    if header.metadata.get(f"{architecture}.expert_count"):
        return "is a mixture of experts, which cannot be read from GGUF"
    if header.unknown_types:
        types = ", ".join(map(str, header.unknown_types))
        return f"contains tensors of the type {types}, which cannot be unpacked"
    if not any(len(tensor.shape) > 1 for tensor in header.tensors):
        return "contains no weights"
    if not header.lengths.get("tokenizer.ggml.tokens"):
        return "contains no vocabulary"
    unknown = [t.name for t in header.tensors if not _TENSOR_PATTERN.fullmatch(t.name)]
    if unknown:
        return f"contains the unknown tensor {unknown[0]}"
    if _text(header, f"{architecture}.rope.scaling.type") not in ("", "none"):
        return "stretches its context (rope.scaling), which cannot be read from GGUF"
    if problem := _tokenizer_problem(header):
        return problem
    required = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
    for key in required:
        value = header.metadata.get(f"{architecture}.{key}")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 32:
            return f"lacks a usable {architecture}.{key}"
    layers = {
        tensor.name.split(".")[1] for tensor in header.tensors if tensor.name.startswith("blk.")
    }
    if len(layers) != header.metadata[f"{architecture}.block_count"]:
        return f"contains {len(layers)} layers, but its metadata names another number"
    return ""


def _tokenizer_problem(header: GgufHeader) -> str:
    kind = _text(header, "tokenizer.ggml.model")
    splitting = _text(header, "tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        return f"has a tokenizer of the unknown kind {kind[:40] or 'none'}"
    if kind == "gpt2" and splitting not in SPLITTINGS:
        shown = splitting[:40] or "none"
        return f"has a tokenizer that splits text in an unknown way ({shown})"
    return ""


def _settings(header: GgufHeader) -> dict[str, object]:
    architecture = _text(header, "general.architecture")

    def size(key: str) -> object:
        return header.metadata.get(f"{architecture}.{key}")

    names = {tensor.name for tensor in header.tensors}
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    return {
        "model_type": architecture,
        "hidden_size": size("embedding_length"),
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": size("attention.head_count"),
        "num_key_value_heads": size("attention.head_count_kv"),
        "head_dim": size("attention.key_length"),
        "vocab_size": embedding.shape[0] if embedding else header.lengths["tokenizer.ggml.tokens"],
        "max_position_embeddings": size("context_length"),
        "tie_word_embeddings": "output.weight" not in names,
    }


def _stored_dtype(types: Collection[str], parameters: int) -> str:
    if set(types) in ({"F16"}, {"BF16"}):
        return "float16" if "F16" in types else "bfloat16"
    return "float32" if parameters < LARGE_MODEL else "float16"


def _text(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key)
    return value if isinstance(value, str) else ""
