"""Data of a report, read from the run directory."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ida_tui.analysis.report.select import SelectedCompletions, select_completions
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.events.codec import EventError
from ida_tui.events.memory_peaks import run_memory
from ida_tui.events.state import fold
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import decode_line
from ida_tui.runs.run import Run
from ida_tui.runs.store import spot_checks
from ida_tui.runs.store.completions import read_completions
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import iterate_lines, open_regular
from ida_tui.util.text import strip_credentials

MAX_CONFIG_CHARACTERS = 400_000
"""Maximum characters of config.yaml to show."""
MAX_HASHED_BYTES = 500_000_000
"""Maximum size, in bytes, of an adapter file to hash."""
_TYPE_PATTERN = re.compile(rb'"type": "(\w+)"')
_TYPE_WITHIN_BYTES = 120
"""Number of leading bytes of a line that contain its event type."""
_RELEVANT_TYPES = {
    b"RunStarted",
    b"PhaseChanged",
    b"RolloutStarted",
    b"MemorySampled",
    b"JudgeBatchFinished",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Versions, platform and command of a run, from its manifest; empty values are unknown."""

    ida_tui: str = ""
    python: str = ""
    platform: str = ""
    git: str = ""
    command: str = ""
    started_at: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    resume_count: int = 0
    """Number of times the run was resumed."""


@dataclass(slots=True)
class StepExtras:
    """Per-step data that the run state does not store: memory and judge batches; and prompt kinds."""

    peak_bytes: dict[int, int] = field(default_factory=dict)
    """Step → peak memory in bytes; step 0 is the time before the first step."""
    judge_batches: dict[int, ev.JudgeBatchFinished] = field(default_factory=dict)
    """Step → judge batch; the latest one if a step was repeated."""
    prompt_kinds: dict[str, str] = field(default_factory=dict)
    """Prompt id → `harmless` or `unsafe`."""

    @property
    def latency_s(self) -> tuple[float, float] | None:
        """Median of the per-batch median latencies, and the largest 95th percentile, in seconds."""
        p50 = [batch.p50_s for batch in self.judge_batches.values() if batch.p50_s is not None]
        p95 = [batch.p95_s for batch in self.judge_batches.values() if batch.p95_s is not None]
        return (median(p50), max(p95)) if p50 and p95 else None


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """All inputs of a report."""

    run: Run
    provenance: Provenance
    config_text: str
    """Text of `config.yaml` without credentials; empty if it cannot be read."""
    extras: StepExtras
    selected: SelectedCompletions
    spot_checks: tuple[int, int]
    """Spot checks that agree with the judge, and all spot checks."""
    is_training: bool
    """Whether a process is training the run now."""
    adapter_digest: str
    """SHA-256 of the final adapter; empty if there is none."""


def load_report_inputs(directory: RunDirectory, ended: ev.RunEnded | None = None) -> ReportInputs:
    """Load the report inputs of a run.

    Args:
        directory: the run; finished, unfinished or live.
        ended: the run's final event, if it is not written to disk yet.

    Raises:
        UsageError: the run cannot be read, or has no events.
    """
    run = Run.load(directory)
    if run.state.seq < 0:
        raise UsageError(
            f"{display_path(directory.events)} has no events yet",
            "write the report after the run has started",
        )
    if ended is not None:
        record = ev.Record(run.state.seq + 1, run.state.updated_at, ended)
        run = replace(run, state=fold(run.state, record), status=ended.status)
    try:
        extras = _load_step_extras(directory.events)
    except (OSError, EventError) as error:
        raise UsageError(f"could not read {display_path(directory.path)}: {error}") from None
    if not run.config_error and run.config.prompts.source is None:
        extras.prompt_kinds |= {
            prompt.id: prompt.kind or "" for prompt in run.config.prompts.rows()
        }
    last = run.state.steps[-1].step if run.state.steps else 0
    return ReportInputs(
        run=run,
        provenance=_load_provenance(directory),
        config_text=_read_config(directory),
        extras=extras,
        selected=select_completions(
            read_completions(directory),
            extras.prompt_kinds,
            last,
            after_step=run.state.scored_since_step,
        ),
        spot_checks=spot_checks.count_agreement(directory, run.state.scored_since_step),
        is_training=ended is None and owner.is_alive(directory),
        adapter_digest=_hash_adapter(directory),
    )


def _load_step_extras(path: Path) -> StepExtras:
    """The per-step data of an event file, in a single pass that parses only relevant lines.

    Raises:
        OSError: the file cannot be read.
        EventError: a relevant line is not a valid event.
    """
    extras, run, step = StepExtras(), None, 0
    with open_regular(path) as file:
        for number, line in enumerate(iterate_lines(file), start=1):
            kind = _TYPE_PATTERN.search(line, 0, _TYPE_WITHIN_BYTES)
            if not line.endswith(b"\n") or kind is None or kind[1] not in _RELEVANT_TYPES:
                continue
            event = decode_line(line, f"{path}:{number}").event
            match event:
                case ev.RunStarted():
                    run = event
                case ev.PhaseChanged():
                    step = event.step
                case ev.RolloutStarted():
                    extras.prompt_kinds |= dict(zip(event.prompt_ids, event.kinds, strict=False))
                case ev.MemorySampled():
                    extras.peak_bytes[step] = max(
                        extras.peak_bytes.get(step, 0), run_memory(run, event)
                    )
                case ev.JudgeBatchFinished():
                    extras.judge_batches[event.step] = event
    return extras


def _load_provenance(directory: RunDirectory) -> Provenance:
    try:
        manifest = read_json(directory.manifest)
    except (OSError, ValueError):
        return Provenance()
    if not isinstance(manifest, dict):
        return Provenance()
    packages = manifest.get("packages")
    resumed = manifest.get("resumed")
    return Provenance(
        ida_tui=_manifest_text(manifest, "ida_tui"),
        python=_manifest_text(manifest, "python"),
        platform=_manifest_text(manifest, "platform"),
        git=_manifest_text(manifest, "git"),
        command=_command_line(manifest.get("command")),
        started_at=_manifest_text(manifest, "started_at"),
        packages=tuple((str(k), str(v)) for k, v in packages.items() if v)
        if isinstance(packages, dict)
        else (),
        resume_count=len(resumed) if isinstance(resumed, list) else 0,
    )


def _manifest_text(manifest: Mapping[str, Any], name: str) -> str:
    value = manifest.get(name)
    return value if isinstance(value, str) else ""


def _command_line(argv: object) -> str:
    """The command line without credentials and without the local path of the program."""
    if not isinstance(argv, list) or not all(isinstance(argument, str) for argument in argv):
        return ""
    arguments = [strip_credentials(argument) for argument in argv[1:]]
    return " ".join(["ida-tui", *map(shlex.quote, arguments)])


def _read_config(directory: RunDirectory) -> str:
    try:
        with open_regular(directory.config) as file:
            text = file.read(MAX_CONFIG_CHARACTERS + 1).decode("utf-8", "replace")
    except OSError:
        return ""
    if len(text) > MAX_CONFIG_CHARACTERS:
        text = f"{text[:MAX_CONFIG_CHARACTERS]}\n# … truncated; see config.yaml for the rest\n"
    lines = text.split("\n")
    return "\n".join(strip_credentials(line) if "base_url" in line else line for line in lines)


def _hash_adapter(directory: RunDirectory) -> str:
    path = directory.weights("lora") / "adapter_model.safetensors"
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_HASHED_BYTES:
                return ""
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
