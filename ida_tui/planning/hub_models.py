"""Models of the Hugging Face Hub before their download: files, sizes, and the reasons not to download them.

The Hub is asked by `hub_process` only: `--list` and browsing in the app ask nothing, and neither does a start
with a model that is complete on this machine.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ida_tui.config.model_files import hub_cache, inspect_model, read_config_json
from ida_tui.config.packed_weights import packed_weights_problem
from ida_tui.config.schema import ModelConfig
from ida_tui.config.trust.endpoint import is_local
from ida_tui.errors import ExitCode, IdaError
from ida_tui.planning import hub_process
from ida_tui.util.text import one_line, quoted

DESCRIBE_TIMEOUT_S = 10.0
"""Longest wait for the Hub's answer about a model."""
SETTINGS_TIMEOUT_S = 60.0
"""Longest wait for the small files of `--check`."""
MAX_SMALL_BYTES = 200_000_000
"""Size up to which a file that is no weight file is downloaded, such as tokenizer.json."""
TOKEN_VARIABLE = "HF_TOKEN"
_OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
_OFFLINE_HERE_VARIABLE = "IDA_TUI_HUB_OFFLINE"
"""Set if ida-tui, and not the user, has set `HF_HUB_OFFLINE`; processes that it starts inherit both."""
_TRUE = ("1", "ON", "YES", "TRUE")
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)
"""Files that a plan reads."""
_SMALL_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
_PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_SHARD_PATTERN = re.compile(r"^(?!consolidated).*-\d+-of-\d+\.safetensors$")
"""Names of the weight files of a model with an index; it may also have a single one."""
_POLL_S = 0.2


class HubUnreachable(IdaError):
    """The Hub could not be asked: there is no network, or it is switched off."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model's repository on the Hub."""

    path: str
    """The id, such as `org/name`."""
    revision: str | None
    files: Mapping[str, int] = field(default_factory=dict)
    """Name of each file → size in bytes."""
    base_model: str = ""
    """Id of the model that it was made from; empty if its authors do not say."""
    parameters: int | None = None

    def weight_files(self) -> dict[str, int]:
        """The weight files to download, with their sizes; no second copy in another format or precision."""
        names = [name for name in self.files if name.endswith(".safetensors") and "/" not in name]
        if "model.safetensors.index.json" in self.files:
            names = [name for name in names if _SHARD_PATTERN.search(name)] or names
        if "model.safetensors" in names:
            names = ["model.safetensors"]
        return {name: self.files[name] for name in sorted(names)}

    def small_files(self, *, with_code: bool) -> dict[str, int]:
        """Configuration, tokenizer and templates to download, with their sizes.

        Args:
            with_code: whether the model's Python code is wanted, too.
        """
        suffixes = (*_SMALL_SUFFIXES, ".py") if with_code else _SMALL_SUFFIXES
        return {
            name: size
            for name, size in sorted(self.files.items())
            if size <= MAX_SMALL_BYTES
            and (
                ("/" not in name and name.endswith(suffixes))
                or (name.startswith("additional_chat_templates/") and name.endswith(".jinja"))
            )
        }

    def setting_files(self) -> dict[str, int]:
        """The files that a plan reads, with their sizes."""
        return {
            name: self.files[name]
            for name in _SETTINGS
            if self.files.get(name, MAX_SMALL_BYTES + 1) <= MAX_SMALL_BYTES
        }


_known: dict[tuple[str, str | None], HubModel] = {}
"""The repositories that this process has asked for."""


def needs_download(model: ModelConfig) -> bool:
    """Whether a model is one of the Hub, and not complete on this machine."""
    files = inspect_model(model)
    return files.location == "hub" or (files.location == "cache" and not files.complete)


def known_hub_model(model: ModelConfig) -> HubModel | None:
    """What this process already knows of a model's repository; None if it has not asked the Hub."""
    return _known.get((model.path, model.revision))


def find_hub_model(
    model: ModelConfig, *, stop_requested: Callable[[], bool] = lambda: False
) -> HubModel:
    """Ask the Hub for a model's files, once in this process.

    Raises:
        HubUnreachable: the Hub cannot be reached, or is switched off (HF_HUB_OFFLINE).
        IdaError: there is no such model, or it has no weights that ida-tui reads.
    """
    key = (model.path, model.revision)
    if key not in _known:
        answer = ask_hub(
            model,
            {"ask": "describe", "timeout": DESCRIBE_TIMEOUT_S},
            stop_requested=stop_requested,
            timeout=3 * DESCRIBE_TIMEOUT_S,
        )
        found = HubModel(
            model.path,
            model.revision,
            {str(name): int(size) for name, size in answer["files"].items()},
            one_line(str(answer.get("base_model") or "")),
            answer.get("parameters"),
        )
        require_loadable(found)
        _known[key] = found
    return _known[key]


def fetch_settings(model: ModelConfig) -> HubModel | None:
    """Find a model on the Hub and download what a plan reads of it, a few kilobytes.

    Returns:
        The repository; None if the model is already on this machine, or is not one of the Hub.

    Raises:
        IdaError: see `find_hub_model`; or the model's license must be accepted first.
    """
    if not needs_download(model):
        return None
    found = find_hub_model(model)
    ask_hub(model, fetch_request(found.setting_files()), timeout=SETTINGS_TIMEOUT_S)
    require_unpacked(model, found)
    return found


def require_unpacked(model: ModelConfig, found: HubModel) -> None:
    """Refuse packed weights, once the model's configuration is on this machine.

    Raises:
        IdaError: training cannot use the weights.
    """
    folder = inspect_model(model).folder
    settings = read_config_json(folder) if folder is not None else ""
    if folder is None or not isinstance(settings, dict):
        return
    if problem := packed_weights_problem(folder, settings, model.path, unpacked=found.base_model):
        raise IdaError(*problem, where="model.path")


def fetch_request(files: Mapping[str, int]) -> dict[str, Any]:
    """The request to download files."""
    return {"ask": "fetch", "files": dict(files)}


def ask_hub(
    model: ModelConfig,
    request: Mapping[str, Any],
    *,
    on_bytes: Callable[[int, int], object] = lambda done, received: None,
    stop_requested: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Send a request about a model to a process of its own, and wait for the answer.

    Args:
        model: the model.
        request: what to ask; see `hub_process`.
        on_bytes: receives the number of bytes that are here so far, and how many of them arrived since the
            request; about twice a second.
        stop_requested: asked several times a second; true ends the process.
        timeout: seconds after which to give up; None waits for as long as bytes may arrive.

    Raises:
        HubUnreachable: the Hub cannot be reached, or is switched off (HF_HUB_OFFLINE).
        IdaError: the Hub refuses, the disk is full, or a stop was requested (exit code 130).
    """
    if is_switched_off():
        raise HubUnreachable(
            f"{model.path} is not on this machine, and {_OFFLINE_VARIABLE} switches downloads off",
            f"unset {_OFFLINE_VARIABLE}, or use model=embedded, which needs no download",
        )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", hub_process.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_child_environment(),
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other one
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read(stream: Any = process.stdout) -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, name="ida-hub", daemon=True)
    reader.start()
    waited = 0.0
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(
                json.dumps({"repo": model.path, "revision": model.revision, **request}) + "\n"
            )
            process.stdin.flush()
        while True:
            if stop_requested():
                raise IdaError("stopped while the model was downloaded", code=ExitCode.INTERRUPTED)
            try:
                line = lines.get(timeout=_POLL_S)
            except queue.Empty:
                waited += _POLL_S
                if timeout is not None and waited > timeout:
                    raise _unreachable(model, "it does not answer") from None
                continue
            answer = json.loads(line) if line else {"error": "network", "text": "no answer"}
            if "error" in answer:
                raise hub_error(model, str(answer["error"]), one_line(str(answer["text"])))
            if set(answer) != {"done", "received"}:
                return dict(answer)
            on_bytes(int(answer["done"]), int(answer["received"]))
    finally:
        process.kill()
        process.wait()
        reader.join()
        with suppress(BrokenPipeError):  # of a request that was not read
            process.stdin.close()
        process.stdout.close()


def is_switched_off() -> bool:
    """Whether the user has switched the Hub off, in the environment."""
    names = ["TRANSFORMERS_OFFLINE"]
    if _OFFLINE_HERE_VARIABLE not in os.environ:
        names.append(_OFFLINE_VARIABLE)
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def switch_off_here() -> None:
    """Keep the libraries of this process from asking the Hub; `hub_process` still may."""
    if _OFFLINE_VARIABLE not in os.environ:
        os.environ[_OFFLINE_VARIABLE] = os.environ[_OFFLINE_HERE_VARIABLE] = "1"


def hub_token(folder: Path) -> str:
    """The access token in `.env` of a folder; empty if there is none, or the environment has one.

    It is sent to no other host than the Hub's, and to that only through HTTPS or on this machine.
    """
    if os.environ.get(TOKEN_VARIABLE):
        return ""  # the library reads it
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if urlsplit(address).scheme != "https" and not is_local(address):
        return ""
    try:
        token = dotenv_values(folder / ".env", interpolate=False).get(TOKEN_VARIABLE) or ""
    except (OSError, UnicodeDecodeError):
        return ""
    token = token.strip()
    return token if token.isascii() and token.isprintable() and " " not in token else ""


def _child_environment() -> dict[str, str]:
    environment = dict(os.environ)
    if _OFFLINE_HERE_VARIABLE in environment:
        environment.pop(_OFFLINE_VARIABLE, None)
    environment |= {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_CACHE": str(hub_cache()),
    }
    # A download by the other protocol starts again from the first byte when it is cut off.
    environment.setdefault("HF_HUB_DISABLE_XET", "1")
    if token := hub_token(Path.cwd()):
        environment[TOKEN_VARIABLE] = token
    return environment


def require_loadable(found: HubModel) -> None:
    """Refuse a repository without weights that ida-tui reads.

    Raises:
        IdaError: its weights are in another format, or it has none.
    """
    if found.weight_files() and "config.json" in found.files:
        return
    names = sorted(name for name in found.files if "/" not in name)
    unpacked = f", such as {found.base_model}" if found.base_model else ""
    if gguf := [name for name in names if name.endswith(".gguf")]:
        shown = ", ".join(gguf[:3]) + (", …" if len(gguf) > 3 else "")
        file = shlex.quote(one_line(gguf[0]))  # a stranger chose the name
        raise IdaError(
            f"{found.path} has only GGUF files: {one_line(shown)}",
            f"take the model in safetensors{unpacked}: model=ORG/NAME\n"
            f"or name one file: hf download {found.path} {file} --local-dir .\n"
            f"then: model.path={file}",
            where="model.path",
        )
    if "adapter_config.json" in names:
        raise IdaError(
            f"{found.path} is an adapter, not a model",
            f"take its base model{unpacked}; training cannot start from an adapter alone",
            where="model.path",
        )
    if any(name.endswith(_PICKLED_SUFFIXES) for name in names):
        raise IdaError(
            f"{found.path} has no weights in safetensors; pickled weights can run code, so they are not read",
            "choose a model with *.safetensors files",
            where="model.path",
        )
    raise IdaError(
        f"{found.path} is not a language model that transformers can load: it has no"
        f" {'weights (*.safetensors)' if 'config.json' in found.files else 'config.json'}",
        f"choose the transformers version of the model{unpacked}",
        where="model.path",
    )


def hub_error(model: ModelConfig, kind: str, text: str) -> IdaError:
    """The error to show for a failure in `hub_process`."""
    name, where = model.path, "model.path"
    sign_in = f"then: hf auth login   (or {TOKEN_VARIABLE}=hf_… in .env)"
    if kind == "gated":
        return IdaError(
            f"{name} is gated: its authors ask you to accept its license first",
            f"accept the license at https://huggingface.co/{name}\n{sign_in}",
            where=where,
        )
    if kind == "missing":
        return IdaError(
            f"there is no model {quoted(name)} on the Hugging Face Hub that you may read",
            f"check the name, which is org/name; if it is private or gated, ask for access there,\n{sign_in}",
            where=where,
        )
    if kind == "revision":
        return IdaError(
            f"{name} has no revision {quoted(model.revision)}",
            "write a branch, a tag or a commit of it, or remove model.revision",
            where="model.revision",
        )
    if kind == "disk":
        return IdaError(
            f"{name} could not be written to {hub_cache()}: {text}",
            "free up space there, make the folder writable, or set HF_HOME to another one; the download"
            " continues where it stopped",
        )
    if kind in ("damaged", "file"):
        return IdaError(
            f"{name} could not be downloaded: {text}",
            "start again; if it happens again, the files on the Hub are at fault",
        )
    return _unreachable(model, text)


def _unreachable(model: ModelConfig, text: str) -> HubUnreachable:
    return HubUnreachable(
        f"could not download {model.path} from the Hugging Face Hub: {text}",
        "check the network and start again: a download continues where it stopped;\n"
        "model=embedded needs no download",
    )
