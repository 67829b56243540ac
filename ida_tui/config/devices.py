"""The device that a run will probably use, judged by this machine's files and without torch."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from ida_tui.config.schema import Config, DeviceName


def likely_device() -> DeviceName:
    """What `auto` probably becomes on this machine, judged without torch."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    if any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl")):
        return "cuda"
    return "cpu"


def chosen_device(config: Config) -> DeviceName:
    """The device that is asked for; for `auto`, this machine's likely one."""
    return likely_device() if config.device == "auto" else config.device
