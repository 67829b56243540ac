"""Number of threads that torch computes with on the CPU, and why.

More threads are not always faster: a token of a small model is a thousand products too short to be divided.
So the number is measured on the machine, once, and remembered in the cache folder for the processor, the
number of processors that may be used, and the version of torch. Beside the app it is the fastest number that
leaves the screen on time. `OMP_NUM_THREADS` always decides if it is set, and a resumed run computes with the
number it started with: sums differ in their last digits with the number of threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ida_tui.engine.device.thread_trials import (
    ThreadTrial,
    ThreadTrials,
    are_plausible,
    measure_lateness,
    measure_threads,
)
from ida_tui.runs.store.json_files import read_json
from ida_tui.system.processors import processor_name, processor_share, usable_processors
from ida_tui.util.paths import cache_folder
from ida_tui.util.safe_files import write_text

VARIABLE = "OMP_NUM_THREADS"
FILE_NAME = "threads.json"
"""File of the remembered measurements, in the cache folder."""
MIN_GAIN = 0.03
"""Share of time that more threads must save."""
MAX_LATENESS_MS = 16.0
"""Lateness of a screen, 99th percentile, that users do not see: one frame of a monitor."""
_TORCH_DEFAULT = torch.get_num_threads()
"""Torch's own number: one thread for each core."""


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """The chosen number of threads."""

    threads: int
    reason: str
    """Why, as a clause."""
    warning: str = ""
    """What the choice changes for a resumed run; empty if nothing."""

    @property
    def text(self) -> str:
        """Number and reason, for people."""
        plural = "" if self.threads == 1 else "s"
        return f"torch computes with {self.threads} thread{plural}: {self.reason}"

    def apply(self) -> None:
        """Let torch compute with this number of threads in this process."""
        torch.set_num_threads(self.threads)


def choose_threads(
    *,
    with_screen: bool,
    device: str = "cpu",
    processes: int = 1,
    recorded: int | None = None,
) -> ThreadChoice:
    """The number of threads for this process; may measure for less than a second.

    Args:
        with_screen: whether the app shows the work.
        device: the device of the model. On a GPU, threads only load weights.
        processes: processes on this machine that train together.
        recorded: the number that a resumed run has computed with; None for a new run.
    """
    available = processor_share(processes)
    choice = _from_environment() or _choose(with_screen, device, available, recorded)
    if recorded is None or choice.threads == recorded:
        return choice
    warning = (
        f"the run has computed with {recorded} threads and continues with {choice.threads}"
        f" ({choice.reason}); from here on its numbers can differ in their last digits"
    )
    return ThreadChoice(choice.threads, choice.reason, warning)


def _from_environment() -> ThreadChoice | None:
    """The number that the user, or a launcher, has set."""
    text = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    if not text.isdecimal() or int(text) < 1:
        return None
    return ThreadChoice(int(text), f"{VARIABLE} is set")


def _choose(with_screen: bool, device: str, available: int, recorded: int | None) -> ThreadChoice:
    if recorded is not None and recorded <= available:
        return ThreadChoice(recorded, "the resumed run has computed with this number")
    if device != "cpu":
        count = max(1, available - with_screen)
        return ThreadChoice(count, f"the model is on {device}")
    if available == 1:
        return ThreadChoice(1, "there is one processor for this process")
    if available < usable_processors():
        # The others start at the same time: a measurement would be of all of them.
        count = min(available, _default_threads())
        return ThreadChoice(
            count, f"{usable_processors()} processors are shared by several processes"
        )
    trials = remembered_trials() or _measure_and_remember()
    if not trials.is_reliable:
        count = max(1, _default_threads() - with_screen)
        return ThreadChoice(count, "not measured, because other programs use the processors")
    return best_choice(trials.trials, with_screen=with_screen)


def best_choice(trials: tuple[ThreadTrial, ...], *, with_screen: bool) -> ThreadChoice:
    """The fewest threads that are as fast as any, among those that leave a screen on time if there is one.

    Args:
        trials: the figures of each number of threads, 1 first. A trial without a lateness was not tried
            with a screen: it would be slower than one that is on time.
        with_screen: whether a screen must be on time.
    """
    one = trials[0]
    allowed = [t for t in trials if not with_screen or t is one or is_on_time(t)]
    fastest = min(_time(t, one) for t in allowed)
    best = next(t for t in allowed if _time(t, one) <= fastest * (1 + MIN_GAIN))
    reason = _describe(best, one)
    if with_screen and best.lateness_ms is not None:
        reason += f"; a screen beside them is late by {best.lateness_ms:.0f} ms (99th percentile)"
    return ThreadChoice(best.threads, reason)


def is_on_time(trial: ThreadTrial) -> bool:
    """Whether a screen beside these threads was on time."""
    return trial.lateness_ms is not None and trial.lateness_ms <= MAX_LATENESS_MS


def _time(trial: ThreadTrial, one: ThreadTrial) -> float:
    """Time relative to one thread, for a run that samples and updates for equally long."""
    return (trial.decode_ms / one.decode_ms + trial.update_ms / one.update_ms) / 2


def _describe(best: ThreadTrial, one: ThreadTrial) -> str:
    if best.threads == 1:
        return "measured: more are not faster on this machine"
    return (
        f"measured: a token takes {best.decode_ms / one.decode_ms:.2f}× and an update"
        f" {best.update_ms / one.update_ms:.2f}× the time of one thread"
    )


# --- measuring and remembering -----------------------------------------------------------------


def remembered_trials() -> ThreadTrials | None:
    """The remembered measurement of this machine; None if there is none that can be believed."""
    entry = _read_entries().get(_machine())
    try:
        trials = tuple(ThreadTrial(**trial) for trial in entry)  # type: ignore[union-attr]
        one = trials[0]
        if one.threads == 1 and are_plausible(trials) and one.decode_ms > 0 < one.update_ms:
            return ThreadTrials(trials, is_reliable=True)
    except (TypeError, IndexError, ZeroDivisionError):
        pass  # written by another version, or by hand
    return None


def _measure_and_remember() -> ThreadTrials:
    measured = measure_threads(_candidates())
    if not measured.is_reliable:
        return measured
    trials = list(measured.trials)
    one = trials[0]
    # With a screen, the fastest number that leaves it on time is used. Slower ones need no figure.
    for trial in sorted(trials, key=lambda t: _time(t, one)):
        late = measure_lateness(trial.threads, good_enough_ms=MAX_LATENESS_MS)
        with_lateness = replace(trial, lateness_ms=late)
        trials[trials.index(trial)] = with_lateness
        if is_on_time(with_lateness):
            break
    measured = ThreadTrials(tuple(trials), is_reliable=True)
    _remember(measured)
    return measured


def _candidates() -> tuple[int, ...]:
    """Numbers of threads to measure: one, all processors and cores, and halves of both."""
    counts = {1}
    for count in (usable_processors(), _default_threads()):
        while count > 1:
            counts.add(count)
            count //= 2
    return tuple(sorted(counts))


def _default_threads() -> int:
    """Torch's own number, if so many processors may be used."""
    return min(usable_processors(), _TORCH_DEFAULT)


def _machine() -> str:
    """What the figures depend on."""
    isa = torch.backends.cpu.get_cpu_capability()
    return " · ".join(
        (processor_name(), isa, f"{usable_processors()} processors", f"torch {torch.__version__}")
    )


def _read_entries() -> Mapping[str, Any]:
    try:
        entries = read_json(cache_folder() / FILE_NAME)
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _remember(measured: ThreadTrials) -> None:
    """Write the measurement. Without a cache folder, the next run measures again."""
    entry = [asdict(trial) for trial in measured.trials]
    entries = {**_read_entries(), _machine(): entry}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_text(cache_folder() / FILE_NAME, json.dumps(entries, indent=2) + "\n")
    except OSError:
        return
