"""Processors that this process may use, and the name of the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ida_tui.system.control_groups import OWN_GROUPS, ROOT, ControlGroup, own_groups


def usable_processors(root: Path = ROOT, process_file: Path = OWN_GROUPS) -> int:
    """Number of processors that this process may keep busy, at least 1.

    Its affinity, and on Linux the processor time of its control groups, may allow fewer than the machine has.

    Args:
        root: mount point of control groups.
        process_file: file that lists the control groups of this process.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quotas = [quota for group in own_groups("cpu", root, process_file) if (quota := _quota(group))]
    # Half a processor is not worth a thread that the others wait for.
    return max(1, min([count, *(int(quota + 0.5) for quota in quotas)]))


def _quota(group: ControlGroup) -> float | None:
    """Processors that a control group may keep busy; None without a limit."""
    if group.version == 2:
        quota, _, period = group.read("cpu.max").partition(" ")
    else:
        quota, period = group.read("cpu.cfs_quota_us"), group.read("cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None  # `max` and -1 mean no limit
    return int(quota) / int(period)


def processor_name() -> str:
    """Model name of the processor, such as Apple M4 Pro; empty if unknown."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return result.stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )


SHARING_VARIABLE = "IDA_TUI_SHARED_BY"
"""Environment variable: how many runs share the processors, set by a sweep that starts several."""


def processor_share(processes: int = 1) -> int:
    """Number of processors for each of the processes that compute at the same time, at least 1.

    Args:
        processes: processes of one run on this machine.
    """
    text = os.environ.get(SHARING_VARIABLE, "")
    runs = max(1, int(text)) if text.isdecimal() else 1
    return max(1, usable_processors() // (processes * runs))
