"""Checks of the machine before a run: system, libraries, device, disk, network, keys and judge."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from ida_tui.config import profiles
from ida_tui.config.model_files import hub_cache
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import DeviceName
from ida_tui.config.trust.endpoint import base_url_problem, environment_endpoint, host_of
from ida_tui.engine import libraries
from ida_tui.errors import IdaError
from ida_tui.planning.preview import key_source
from ida_tui.system.memory_limit import memory_limit
from ida_tui.system.processors import processor_name, usable_processors
from ida_tui.util.finding import Finding, Severity
from ida_tui.util.paths import display_path

REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "openai",
    "textual",
    "psutil",
)
REPORTED_EXTRAS = ("bitsandbytes",)
"""Packages that are reported where they are installed."""
MIN_FREE_DISK_GB = 10.0
NETWORK_TIMEOUT_S = 3.0


def run_doctor(*, folder: Path, judge: str | None = None) -> list[Finding]:
    """Check the system, the libraries, the device, the disk, the keys and, on request, a judge.

    Args:
        folder: the working directory, whose `.env` may hold keys.
        judge: name of a judge profile whose endpoint is called; None calls no judge.

    Raises:
        UsageError: there is no judge profile with this name.
    """
    config = resolve("quickstart", [f"judge={judge}"]).config if judge else None
    libraries.set_library_defaults(None)
    from ida_tui.engine.device import device

    device_name = device.available_devices()[0]
    findings = [
        _check_system(),
        _check_memory(),
        _check_versions(),
        *_check_known_defects(device_name, metadata.version("torch")),
    ]
    findings += [
        *_check_device(device_name),
        *_check_threads(device_name),
        _check_disk(folder),
        _check_model_cache(),
        check_network(),
        *_check_keys(),
    ]
    if config is not None:
        findings.append(_check_judge(config, folder))
    return findings


def known_defect(system: str, device: str, torch_version: str) -> tuple[Severity, str] | None:
    """Publicly known defect of a torch version on a device: severity and text; None if none.

    Args:
        system: the value of `sys.platform`.
        device: the device to train on.
        torch_version: the installed version of torch.
    """
    version = tuple(int(part) for part in torch_version.split("+")[0].split(".")[:2])
    if system != "darwin" or device != "mps":
        return None
    if version <= (2, 10):
        return "error", f"torch {torch_version} corrupts attention while decoding on Metal"
    if version < (2, 14):
        return (
            "note",
            f"torch {torch_version} decodes half precision 6 to 8 times too slowly on Metal",
        )
    return None


def _check_system() -> Finding:
    chip = processor_name() or platform.processor() or platform.machine()
    processors = f"{os.cpu_count()} processors"
    if usable_processors() != os.cpu_count():
        processors += f" ({usable_processors()} for this process)"
    return Finding(
        "good",
        "system",
        f"{platform.system()} {platform.release()}, {chip}, {processors}, Python"
        f" {platform.python_version()}",
    )


def _check_memory() -> Finding:
    limit = memory_limit()
    free = (limit.total - limit.used) / 1e9
    return Finding("good", "memory", f"{limit.total / 1e9:.1f} GB, {free:.1f} GB free")


def _check_versions() -> Finding:
    extras = [name for name in REPORTED_EXTRAS if find_spec(name) is not None]
    names = (*REPORTED_PACKAGES, *extras)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Finding("good", "libraries", versions)


def _check_known_defects(device: DeviceName, torch_version: str) -> Iterator[Finding]:
    defect = known_defect(sys.platform, device, torch_version)
    if defect is not None:
        severity, text = defect
        yield Finding(severity, "versions", text, "Install torch 2.14 or newer")


def _check_device(device: DeviceName) -> Iterator[Finding]:
    from ida_tui.engine.diagnostics import selftest

    results = selftest.run_self_test(device)
    seconds = sum(result.seconds for result in results)
    failed = [result for result in results if result.problem]
    for result in failed:
        yield Finding(
            "error",
            "device",
            f"{device}: {result.name}: {result.problem}",
            "Set device=cpu to train on the CPU",
        )
    if not failed:
        names = ", ".join(result.name for result in results)
        yield Finding(
            "good", "device", f"{device} passes the numerical self-test ({seconds:.1f} s: {names})"
        )


def _check_threads(device: DeviceName) -> Iterator[Finding]:
    from ida_tui.engine.device.threads import choose_threads

    choice = choose_threads(with_screen=False, device=device)
    beside = choose_threads(with_screen=True, device=device)
    text = choice.text
    if beside != choice:
        text += f" · beside the app with {beside.threads}: {beside.reason}"
    yield Finding("good", "threads", text)


def _check_disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    severity: Severity = "good" if free >= MIN_FREE_DISK_GB else "note"
    fix = "" if severity == "good" else "Set output_dir and HF_HOME to a larger disk"
    return Finding(severity, "disk", f"{free:.0f} GB free here", fix)


def _check_model_cache() -> Finding:
    cache = hub_cache()
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = " · HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Finding("good", "models", f"{models} downloaded, in {display_path(cache)}{offline}")


def check_network() -> Finding:
    """Whether the model hub can be reached; downloaded models need no network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding("good", "network", "not checked: HF_HUB_OFFLINE is set")
    hub = urlsplit(constants.ENDPOINT)
    address = hub.hostname or "", hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection(address, timeout=NETWORK_TIMEOUT_S).close()
    except OSError as error:
        return Finding(
            "note",
            "network",
            f"{address[0]} cannot be reached: {error.strerror or error}",
            "Use a downloaded model or model=embedded, which need no network",
        )
    return Finding("good", "network", f"{address[0]} can be reached")


def _check_keys() -> Iterator[Finding]:
    """Which API keys of judge profiles are set, never their values, and an address for all of them."""
    if named := environment_endpoint():
        problem = base_url_problem(named.base_url, named.variable)
        place = ".env" if named.file else "environment"
        if problem:
            yield Finding("error", "judge", f"{problem[0]} ({place})", problem[1])
        else:
            text = f"judges without a base_url are asked at {host_of(named.base_url)}"
            yield Finding("good", "judge", f"{text}: {named.variable} is set ({place})")
    sources: dict[str, str] = {}
    for name in profiles.list_profiles("judges"):
        judge = resolve("quickstart", [f"judge={name}"], verify=False).config.judge
        for member in judge.members:
            if member.kind == "openai" and member.api_key_env:
                sources[member.api_key_env] = key_source(member)
    for name, source in sorted(sources.items()):
        if source:
            yield Finding("good", "key", f"{name} is set ({source})")
        else:
            yield Finding(
                "note", "key", f"{name} is not set", f"Run export {name}=…, or add {name}=… to .env"
            )


def _check_judge(config: object, folder: Path) -> Finding:
    from ida_tui.config.schema import Config
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.judge.calibration.anchors import anchor_prompts
    from ida_tui.judge.service import JudgeService

    assert isinstance(config, Config)
    name = config.judge.name or config.judge.model
    try:
        key = load_api_key(config.judge, dotenv_dir=folder)
        with JudgeService(config.judge, config.rubric, anchor_prompts(), key=key) as service:
            fault = service.probe_endpoint().result()
    except IdaError as error:
        return Finding("error", "judge", f"{name}: {error.title}", error.hint.splitlines()[0])
    if fault is not None:
        return Finding("error", "judge", f"{name}: {fault.text}", f"Run ida-tui judge check {name}")
    return Finding("good", "judge", f"{name} answers")
