"""What a person should know of a machine before trusting a run on it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ida_tui.config import profiles
from ida_tui.config.model_files import hub_cache
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import DeviceName
from ida_tui.engine import libraries as environment
from ida_tui.errors import IdaError
from ida_tui.planning.preview import key_source
from ida_tui.system.memory_limit import room
from ida_tui.util.paths import shown_path

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "openai", "textual", "psutil")
LITTLE_DISK_GB = 10.0
NETWORK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; nothing in it is secret."""

    about: str
    verdict: Literal["good", "note", "bad"]
    text: str
    fix: str = ""


def examine(*, folder: Path, judge: str | None = None) -> list[Finding]:
    """Look at the system, the libraries, the device, the disk, keys and, if asked, a judge.

    Args:
        folder: the working directory, whose `.env` may hold keys.
        judge: a judge profile whose endpoint is asked for an answer; None asks nobody.

    Raises:
        UsageError: there is no such judge.
    """
    config = resolve("quickstart", [f"judge={judge}"]).config if judge else None
    environment.prepare(None)
    from ida_tui.engine.device import device

    chosen = device.available()[0]
    findings = [_system(), _memory(), _versions(), *_known(chosen, metadata.version("torch"))]
    findings += [*_device(chosen), _disk(folder), _hub(), network(), *_keys()]
    if config is not None:
        findings.append(_judge(config, folder))
    return findings


def known_bad(system: str, device: str, torch_version: str) -> tuple[str, str] | None:
    """What is publicly known against a combination: bad or a note, and why; None where nothing is.

    Args:
        system: as `sys.platform`.
        device: where the model would train.
        torch_version: of the installed torch.
    """
    version = tuple(int(part) for part in torch_version.split("+")[0].split(".")[:2])
    if system != "darwin" or device != "mps":
        return None
    if version <= (2, 10):
        return "bad", f"torch {torch_version} corrupts attention while decoding on Metal"
    if version < (2, 14):
        return (
            "note",
            f"torch {torch_version} decodes half precision 6 to 8 times too slowly on Metal",
        )
    return None


def _system() -> Finding:
    chip = _chip() or platform.processor() or platform.machine()
    return Finding(
        "system",
        "good",
        f"{platform.system()} {platform.release()}, {chip}, {os.cpu_count()} processors, Python"
        f" {platform.python_version()}",
    )


def _chip() -> str:
    """The processor's own name, such as Apple M4 Pro; empty where the system does not say."""
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return told.stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def _memory() -> Finding:
    here = room()
    free = (here.total - here.used) / 1e9
    return Finding("memory", "good", f"{here.total / 1e9:.1f} GB, {free:.1f} GB of it free")


def _versions() -> Finding:
    found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return Finding("libraries", "good", found)


def _known(device: DeviceName, torch_version: str) -> Iterator[Finding]:
    known = known_bad(sys.platform, device, torch_version)
    if known is not None:
        verdict, text = known
        yield Finding(
            "versions", "bad" if verdict == "bad" else "note", text, "install torch 2.14 or newer"
        )


def _device(device: DeviceName) -> Iterator[Finding]:
    from ida_tui.engine.diagnostics import selftest

    results = selftest.run(device)
    seconds = sum(result.seconds for result in results)
    wrong = [result for result in results if result.problem]
    for result in wrong:
        yield Finding(
            "device",
            "bad",
            f"{device}: {result.name}: {result.problem}",
            "device=cpu trains without it",
        )
    if not wrong:
        names = ", ".join(result.name for result in results)
        yield Finding(
            "device", "good", f"{device} computes what the CPU computes ({seconds:.1f} s: {names})"
        )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    verdict: Literal["good", "note"] = "good" if free >= LITTLE_DISK_GB else "note"
    fix = "" if verdict == "good" else "set output_dir and HF_HOME to a larger disk"
    return Finding("disk", verdict, f"{free:.0f} GB free here", fix)


def _hub() -> Finding:
    cache = hub_cache()
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = " · HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Finding("models", "good", f"{models} downloaded, in {shown_path(cache)}{offline}")


def network() -> Finding:
    """Whether the hub that models come from can be reached; models that are here need none."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding("network", "good", "not tried: HF_HUB_OFFLINE is set")
    hub = urlsplit(constants.ENDPOINT)
    place = hub.hostname or "", hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection(place, timeout=NETWORK_TIMEOUT_S).close()
    except OSError as error:
        return Finding(
            "network",
            "note",
            f"{place[0]} cannot be reached: {error.strerror or error}",
            "models that are here already, and model=embedded, need no network",
        )
    return Finding("network", "good", f"{place[0]} can be reached")


def _keys() -> Iterator[Finding]:
    """Which judges' keys are there; never what they are."""
    seen: dict[str, str] = {}
    for name in profiles.names("judges"):
        judge = resolve("quickstart", [f"judge={name}"], verify=False).config.judge
        if judge.kind == "openai" and judge.api_key_env:
            seen[judge.api_key_env] = key_source(judge)
    for name, source in sorted(seen.items()):
        if source:
            yield Finding("key", "good", f"{name} is set ({source})")
        else:
            yield Finding("key", "note", f"{name} is not set", f"export {name}=… or a line in .env")


def _judge(config: object, folder: Path) -> Finding:
    from ida_tui.config.schema import Config
    from ida_tui.judge.api_key import load_key
    from ida_tui.judge.calibration.anchors import sample_prompts
    from ida_tui.judge.service import JudgeService

    assert isinstance(config, Config)
    name = config.judge.name or config.judge.model
    try:
        key = load_key(config.judge, dotenv_dir=folder)
        with JudgeService(config.judge, config.rubric, sample_prompts(), key=key) as service:
            fault = service.look().result()
    except IdaError as error:
        return Finding("judge", "bad", f"{name}: {error.title}", error.hint.splitlines()[0])
    if fault is not None:
        return Finding("judge", "bad", f"{name}: {fault.text}", f"ida-tui judge check {name}")
    return Finding("judge", "good", f"{name} answers")
