"""Inspection of a model's local files, without torch and without downloads.

The module reports sizes, data type and location of a model, and why a path cannot be a model. Only JSON files
and the headers of weight files are read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ida_tui.config.models import gguf
from ida_tui.config.models.gguf_header import GgufError
from ida_tui.config.models.source import HUB_ID_PATTERN, find_source
from ida_tui.config.packed_weights import (
    MAX_HEADER_BYTES,
    missing_weight_files,
    packed_weights_problem,
    read_header,
)
from ida_tui.config.schema import ModelConfig
from ida_tui.config.trust.model_safety import (
    MAX_CONFIG_BYTES,
    Problem,
    folder_template,
    model_folder_problem,
    render_templates_safely,
)
from ida_tui.util.format import format_count
from ida_tui.util.paths import expand_home, is_directory, is_file
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import one_line, parse_json

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Linear layers of the attention; the others belong to the feed-forward block."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Layer sizes of a Llama-family decoder, from its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_embeddings: bool
    """Whether the output layer shares its weights with the embedding."""
    qk_norms: bool
    """Whether queries and keys are normalized (Qwen3)."""

    @property
    def query_width(self) -> int:
        """Total width of the queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Total width of the keys, or of the values, of a token."""
        return self.kv_heads * self.head_dim

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Linear module name, as in `target_modules` → its input and output width, for one layer."""
        h, i = self.hidden, self.intermediate
        return {
            "q_proj": (h, self.query_width),
            "k_proj": (h, self.kv_width),
            "v_proj": (h, self.kv_width),
            "o_proj": (self.query_width, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }

    def parameter_count(self) -> int:
        """Parameter count of the full model, without biases."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norms else 0)
        layer = sum(inputs * outputs for inputs, outputs in self.linear_shapes().values()) + norms
        embeddings = (
            self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2) + self.hidden
        )
        return self.layers * layer + embeddings

    def module_shapes(self) -> dict[str, tuple[int, int]]:
        """Full name of every linear layer and of the embedding → its input and output width."""
        shapes = {"model.embed_tokens": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            for name, shape in self.linear_shapes().items():
                part = "self_attn" if name in ATTENTION_LAYERS else "mlp"
                shapes[f"model.layers.{layer}.{part}.{name}"] = shape
        return shapes


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Local files of a model and the facts read from them."""

    location: Literal["embedded", "folder", "gguf", "cache", "hub"]
    """Shipped with ida-tui, in a local folder or GGUF file, in the Hugging Face cache, or only on the Hub."""
    folder: Path | None = None
    """The folder that libraries load; None until the model is downloaded or unpacked."""
    complete: bool = False
    """Whether config.json and all weight files exist, or a whole GGUF file."""
    parameters: int | None = None
    """Published count, else counted from the headers of the weight files; None if unknown."""
    context_length: int | None = None
    vocab_size: int | None = None
    size_gb: float | None = None
    """Total size of the local weight files, in GB (10^9 bytes)."""
    shape: ModelShape | None = None
    """Layer sizes from config.json, else from the profile."""
    has_experts: bool = False
    """Whether it is a mixture of experts, whose layers `shape` does not describe."""
    has_vision: bool = False
    """Whether it also reads pictures; `shape` and `parameters` before the download leave that part out."""
    stored_dtype: str = ""
    """Data type of the weight files, such as `bfloat16`; empty if config.json does not say."""
    model_type: str = ""
    """The architecture, named as in config.json; empty if it is unknown."""
    gguf: gguf.GgufModel | None = None
    """The model of a GGUF file."""


def inspect_model(model: ModelConfig) -> ModelFiles:
    """The local files of a model: its folder, or its snapshot in the Hugging Face cache. Never raises."""
    source = find_source(model.path)
    if source.kind == "gguf":
        return _inspect_gguf(model, source.place)
    location: Literal["embedded", "folder", "cache", "hub"] = "hub"
    folder = source.place
    if source.kind in ("embedded", "folder"):
        location = source.kind
    elif (cached := _cached_snapshot(model)) is not None:
        location, folder = "cache", cached
    if folder is None:
        published = _parse_shape(model.shape) if model.shape else None
        return ModelFiles(
            location, None, False, model.parameters, model.context_length, shape=published
        )
    config_json = read_config_json(folder)
    settings = config_json if isinstance(config_json, dict) else {}
    files = _glob_sorted(folder, "*.safetensors")  # pickled weights are never read
    complete = isinstance(config_json, dict) and bool(files) and not missing_weight_files(folder)
    return ModelFiles(
        location=location,
        folder=folder,
        complete=complete,
        parameters=model.parameters or (_count_parameters(folder, settings) if complete else None),
        context_length=model.context_length
        or _positive_int(settings.get("max_position_embeddings")),
        vocab_size=_positive_int(settings.get("vocab_size")),
        size_gb=sum(_file_size(f) for f in files) / 1e9 if files else None,
        shape=_parse_shape(settings),
        has_experts=_has_experts(settings),
        has_vision=isinstance(settings.get("vision_config"), dict),
        stored_dtype=str(settings.get("dtype") or settings.get("torch_dtype") or ""),
        model_type=str(settings.get("model_type") or ""),
    )


def overflows_float16(model: ModelConfig) -> bool:
    """Whether the model's activations exceed float16's range, as those of the Gemma family do."""
    kind = inspect_model(model).model_type or model.shape.get("model_type") or Path(model.path).name
    return str(kind).lower().startswith("gemma")


def _inspect_gguf(model: ModelConfig, file: Path | None) -> ModelFiles:
    try:
        found = gguf.read_model(file) if file is not None else None
        folder = gguf.unpacked_folder(file) if file is not None else None
    except (OSError, GgufError):
        found, folder = None, None
    if found is None:
        published = _parse_shape(model.shape) if model.shape else None
        return ModelFiles(
            "gguf", None, False, model.parameters, model.context_length, shape=published
        )
    return ModelFiles(
        location="gguf",
        folder=folder if folder is not None and is_directory(folder) else None,
        complete=True,
        parameters=found.parameters,
        context_length=model.context_length
        or _positive_int(found.settings["max_position_embeddings"]),
        vocab_size=_positive_int(found.settings["vocab_size"]),
        size_gb=found.size / 1e9,
        shape=_parse_shape(found.settings),
        stored_dtype=found.stored_dtype,
        model_type=found.architecture,
        gguf=found,
    )


def model_problem(model: ModelConfig) -> Problem | None:
    """Problem and fix of a model's path or of its local files; None if the model can be used."""
    source = find_source(model.path)
    problem = source.problem or _override_problem(model)
    if problem or source.kind == "embedded":
        return problem
    if source.kind == "gguf" and source.place is not None:
        return _gguf_problem(source.place, model.path)
    if source.kind == "folder" and source.place is not None:
        problem = _folder_problem(source.place, model.path)
        if problem:
            return problem
    local = source.place or _cached_snapshot(model)
    if local is None:
        return None
    if problem := model_folder_problem(local, [hub_cache()]):
        return problem
    settings = read_config_json(local)
    if isinstance(settings, dict) and (
        problem := packed_weights_problem(local, settings, model.path)
    ):
        return problem
    if damage := find_damaged_weights(local):
        return f"the model in {model.path} cannot be loaded: {damage}", "copy or download it again"
    if isinstance(settings, dict) and is_file(local / "adapter_config.json"):
        return (
            f"{model.path} contains an adapter (adapter_config.json) beside the model",
            "merge the two, or copy the model's own files into a folder without the adapter",
        )
    return _weights_problem(local, model.path) if source.kind == "folder" else None


def _weights_problem(folder: Path, path: str) -> Problem | None:
    """Why a folder lacks weights that can be read; a download may still bring those of the Hub."""
    if missing := missing_weight_files(folder):
        count = format_count(len(missing), "weight file")
        return (
            f"{path} lacks {count} that its index names, such as {one_line(missing[0])}",
            "copy or download the model again",
        )
    if not _glob_sorted(folder, "*.safetensors") and _glob_sorted(folder, "*.bin"):
        return (
            f"{path} has only pickled weights (*.bin); they can run code, so they are not read",
            "take the model with *.safetensors files, or convert it where you trust it, with the\n"
            "save_pretrained method of transformers",
        )
    return None


def _gguf_problem(file: Path, shown: str) -> Problem | None:
    try:
        found = gguf.read_model(file)
    except OSError as error:
        return f"{shown} cannot be read: {error.strerror or error}", "check the file's permissions"
    except GgufError as error:
        return f"{shown} {error}", "choose another file, or the model's original: model=ORG/NAME"
    if find_spec("gguf") is None:
        return (
            "a GGUF file needs the package gguf, which is not installed",
            "uv sync --extra gguf\nor pip install gguf",
        )
    if found.chat_template:
        problem = render_templates_safely((found.chat_template,)).problem
        if problem:
            return f"the chat template in {shown} {problem}", "use another copy of the model"
    return None


def _override_problem(model: ModelConfig) -> Problem | None:
    if model.chat_template is None:
        return None
    if not model.chat_template.strip():
        return "model.chat_template is empty", "give it a template, or remove it"
    problem = render_templates_safely((model.chat_template,)).problem
    return (
        (f"the template in model.chat_template {problem}", "use another template")
        if problem
        else None
    )


def chat_template_of(model: ModelConfig) -> str:
    """The chat template of a model on this machine; empty if it has none or is not here."""
    if model.chat_template is not None:
        return model.chat_template
    files = inspect_model(model)
    if files.gguf is not None:
        return files.gguf.chat_template
    return folder_template(files.folder) if files.folder is not None else ""


def _folder_problem(folder: Path, path: str) -> Problem | None:
    settings = read_config_json(folder)
    if isinstance(settings, dict):
        return None
    if is_file(folder / "adapter_config.json"):
        return (
            f"{path} contains an adapter, not a model",
            "set the path to the base model; training cannot start from an adapter alone",
        )
    files = [file.name for file in _glob_sorted(folder, "*.gguf")]
    if files:
        return (
            f"{path} contains no model folder, but GGUF files",
            f"name the file: model.path={path.rstrip('/')}/{files[0]}",
        )
    return (
        f"{path} is not a usable model folder: {settings}",
        "set the path to a folder with config.json, the tokenizer and *.safetensors",
    )


def read_config_json(folder: Path) -> dict[str, object] | str:
    """A model folder's config.json, with its `text_config` merged in, or an error message."""
    try:
        settings = parse_json(_read(folder / "config.json", MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return "config.json is missing"
    except OSError as error:
        return f"could not read config.json: {error.strerror or error}"
    except ValueError:
        return "config.json is not valid JSON"
    if not isinstance(settings, dict):
        return "config.json is not a JSON object"
    text = settings.get("text_config")
    return {**settings, **text} if isinstance(text, dict) else settings


def find_damaged_weights(folder: Path) -> str:
    """Name and damage of the first *.safetensors file that is not whole; empty if all are.

    Only the header of each file is read: it says how long the file must be.
    """
    for file in _glob_sorted(folder, "*.safetensors"):
        try:
            with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                length = int.from_bytes(stream.read(8), "little")
                if not 2 <= length <= size - 8:
                    return f"{file.name} is empty or truncated"
                header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
            header.pop("__metadata__", None)
            spans = sorted(tuple(tensor["data_offsets"]) for tensor in header.values())
            expected = 8 + length + max((end for _, end in spans), default=0)
            if size != expected:
                return f"{file.name} has {size:,} bytes, but must have {expected:,}"
            starts = [0, *(end for _, end in spans[:-1])]
            if any(
                end < begin or begin != start
                for (begin, end), start in zip(spans, starts, strict=False)
            ):
                return f"{file.name} is damaged: its tensors overlap or have gaps between them"
        except OSError as error:
            return f"{file.name} cannot be read: {error.strerror or error}"
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return f"{file.name} is damaged: its header cannot be read"
    return ""


def hub_cache() -> Path:
    """The download cache of the Hugging Face libraries, according to their environment variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expand_home(os.environ[name])
    home = os.environ.get("HF_HOME")
    if not home:
        home = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return expand_home(home) / "hub"


def _cached_snapshot(model: ModelConfig) -> Path | None:
    if not HUB_ID_PATTERN.fullmatch(model.path):
        return None
    repository = hub_cache() / f"models--{model.path.replace('/', '--')}"
    revision = model.revision or "main"
    try:
        revision = _read(repository / "refs" / revision, 1000).decode("utf-8").strip()
    except (OSError, ValueError):
        if model.revision is None:
            return max(_glob_sorted(repository, "snapshots/*"), key=_modified_at, default=None)
    snapshot = repository / "snapshots" / revision
    return snapshot if is_directory(snapshot) else None


def _count_parameters(folder: Path, settings: dict[str, object]) -> int | None:
    # A tied output layer may also be stored separately from the embedding.
    uncounted = {"lm_head.weight"} if settings.get("tie_word_embeddings") else set()
    total = 0
    for file in _glob_sorted(folder, "*.safetensors"):
        try:
            header = read_header(file)
            total += sum(math.prod(t["shape"]) for k, t in header.items() if k not in uncounted)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
    return total or None


def _parse_shape(settings: Mapping[str, object]) -> ModelShape | None:
    """The layer sizes in a config.json; None if one is missing or the model has experts."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    )
    sizes = [_positive_int(settings.get(name)) for name in names]
    hidden, intermediate, layers, heads, vocabulary = sizes
    if not (hidden and intermediate and layers and heads and vocabulary):
        return None
    if _has_experts(settings):
        return None
    return ModelShape(
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=_positive_int(settings.get("num_key_value_heads")) or heads,
        head_dim=_positive_int(settings.get("head_dim")) or hidden // heads,
        vocabulary=vocabulary,
        tied_embeddings=bool(settings.get("tie_word_embeddings", False)),
        qk_norms=settings.get("model_type") == "qwen3",
    )


def _has_experts(settings: Mapping[str, object]) -> bool:
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(settings.get(name) for name in names)


def _read(file: Path, limit: int) -> bytes:
    """The contents of a regular file, also through a link: the hub cache consists of links.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `limit` bytes.
    """
    return read_bytes(Path(os.path.realpath(file)), limit)


def _positive_int(value: object) -> int | None:
    """The value if it is a plausible positive integer, else None."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, int) and is_integer and 0 < value < 10**12 else None


def _glob_sorted(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
