"""What a model's files on this machine tell, without torch; nothing is fetched.

`weights` says what is known of a model, and `unusable` why a path cannot be one's. Only JSON and the
headers of weight files are read.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.config import embedded
from ida_tui.config.schema import ModelConfig
from ida_tui.util.paths import expanded, is_file, is_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder of the Llama family, from its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    head_norms: bool
    """Whether queries and keys are normalised (Qwen3)."""

    @property
    def q(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head

    @property
    def kv(self) -> int:
        """Width of all keys, or of all values, of a token."""
        return self.kv_heads * self.head

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear parts, by the names that adapters know them by."""
        h, i = self.hidden, self.intermediate
        return {
            "q_proj": (h, self.q),
            "k_proj": (h, self.kv),
            "v_proj": (h, self.kv),
            "o_proj": (self.q, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }

    def parameters(self) -> int:
        """Parameters of the whole model; biases are left out."""
        norms = 2 * self.hidden + (2 * self.head if self.head_norms else 0)
        layer = sum(inputs * outputs for inputs, outputs in self.linears().values()) + norms
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden
        return self.layers * layer + ends

    def adapter_parameters(self, rank: int, target_modules: str | list[str]) -> int:
        """Parameters of a LoRA adapter on these parts of every layer."""
        linears = self.linears()
        names = linears if target_modules == "all-linear" else target_modules
        wanted = [linears[name] for name in names if name in linears]
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in wanted)


@dataclass(frozen=True, slots=True)
class Weights:
    """What can be seen of a model's files on this machine."""

    place: Literal["embedded", "folder", "cache", "hub"]
    """Ships with the program, a local folder, the Hugging Face cache, or only on the hub."""
    folder: Path | None = None
    complete: bool = False
    """Configuration and at least one weight file are there."""
    parameters: int | None = None
    """As published, else counted from the headers of the weight files; None is not known."""
    context_length: int | None = None
    vocab_size: int | None = None
    size_gb: float | None = None
    """Of the weight files on this machine."""
    shape: Shape | None = None
    """As the model's config.json says, else as its profile does."""
    stored: str = ""
    """Number format of the weight files, such as ``bfloat16``; empty where config.json does not say."""


def weights(model: ModelConfig) -> Weights:
    """Look at a model's folder, or at its place in the Hugging Face cache. Never raises."""
    place: Literal["embedded", "folder", "cache", "hub"] = "hub"
    folder: Path | None = None
    if model.path == "embedded":
        place, folder = "embedded", embedded.path()
    elif is_folder(expanded(model.path)):
        place, folder = "folder", expanded(model.path)
    elif (cached := _cached(model)) is not None:
        place, folder = "cache", cached
    if folder is None:
        published = _shape(model.shape) if model.shape else None
        return Weights(place, None, False, model.parameters, model.context_length, shape=published)
    found = read_config_json(folder)
    settings = found if isinstance(found, dict) else {}
    files = _glob(folder, "*.safetensors")  # pickled weights are never read
    return Weights(
        place=place,
        folder=folder,
        complete=isinstance(found, dict) and bool(files),
        parameters=model.parameters or _count_parameters(folder, settings),
        context_length=model.context_length or _whole(settings.get("max_position_embeddings")),
        vocab_size=_whole(settings.get("vocab_size")),
        size_gb=sum(_size(f) for f in files) / 1e9 if files else None,
        shape=_shape(settings),
        stored=str(settings.get("dtype") or settings.get("torch_dtype") or ""),
    )


def unusable(path: str) -> tuple[str, str] | None:
    """Why a model cannot be at this path, and what to do about it; None if it can be."""
    if not path.strip():
        return "the model has no path", "set it to a folder or a Hugging Face id"
    if path == "embedded":
        return None
    folder = expanded(path)
    if is_folder(folder):
        found = read_config_json(folder)
        if isinstance(found, dict):
            return None
        if is_file(folder / "adapter_config.json"):
            return (
                f"{path} holds an adapter, not a model",
                "name the base model here; an adapter alone cannot be trained from",
            )
        return (
            f"{path} is not a usable model folder: {found}",
            "name the folder that holds config.json, the tokenizer and *.safetensors",
        )
    if is_file(folder):
        return f"{path} is a file", "name the model's folder, not a file in it"
    if not _HUB_ID.fullmatch(path) or path.count("/") > 1:
        return (
            f"there is no folder {path}",
            "check the path; a Hugging Face id looks like org/name, such as Qwen/Qwen3-0.6B",
        )
    return None


def read_config_json(folder: Path) -> dict[str, object] | str:
    """A model folder's config.json (its text part, where it has one), or why it cannot be read."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it has no config.json"
    except OSError as error:
        return f"its config.json cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError):
        return "its config.json is not valid JSON"
    if not isinstance(settings, dict):
        return "its config.json is not a JSON object"
    text = settings.get("text_config")
    return {**settings, **text} if isinstance(text, dict) else settings


def hub_cache() -> Path:
    """The folder that Hugging Face libraries keep downloads in, as their variables say."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expanded(os.environ[name])
    home = os.environ.get("HF_HOME")
    if not home:
        home = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return expanded(home) / "hub"


def _cached(model: ModelConfig) -> Path | None:
    if not _HUB_ID.fullmatch(model.path):
        return None
    repository = hub_cache() / f"models--{model.path.replace('/', '--')}"
    revision = model.revision or "main"
    try:
        revision = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        if model.revision is None:
            return max(_glob(repository, "snapshots/*"), key=_changed, default=None)
    snapshot = repository / "snapshots" / revision
    return snapshot if is_folder(snapshot) else None


def _count_parameters(folder: Path, settings: dict[str, object]) -> int | None:
    # A tied output layer may be stored beside the embedding it shares.
    uncounted = {"__metadata__"} | (
        {"lm_head.weight"} if settings.get("tie_word_embeddings") else set()
    )
    total = 0
    for file in _glob(folder, "*.safetensors"):
        try:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, 100_000_000)))
            total += sum(math.prod(t["shape"]) for k, t in header.items() if k not in uncounted)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
    return total or None


def _shape(settings: Mapping[str, object]) -> Shape | None:
    """The sizes in a config.json; None where one is missing or the model has experts."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    )
    sizes = [_whole(settings.get(name)) for name in names]
    hidden, intermediate, layers, heads, vocabulary = sizes
    if not (hidden and intermediate and layers and heads and vocabulary):
        return None
    if settings.get("num_experts") or settings.get("num_local_experts"):
        return None
    return Shape(
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=_whole(settings.get("num_key_value_heads")) or heads,
        head=_whole(settings.get("head_dim")) or hidden // heads,
        vocabulary=vocabulary,
        tied=bool(settings.get("tie_word_embeddings", False)),
        head_norms=settings.get("model_type") == "qwen3",
    )


def _whole(value: object) -> int | None:
    """A size as a model can have one; None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, int) and whole and 0 < value < 10**12 else None


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
