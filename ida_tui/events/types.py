"""Events of a training run: frozen, typed dataclasses and their JSON codec.

The trainer emits events, the run directory stores them (one JSON object per line in ``events.jsonl``), and
every screen, printer and report is a fold over them. An event never changes after it is emitted, and newer
versions of ida-tui read the lines of older ones.

How the format may change:
    a new field       has a default that older lines imply. Older readers ignore the field.
    anything else     (a new type, or a field that is removed or changes its meaning) raises `VERSION` and
                      adds an upgrade from the previous version to `UPGRADES`. Older readers reject such a
                      line and ask for an update of ida-tui, because the unknown part could matter.

An unknown type in a line of a known version is therefore reported as damage.

    {"v": 1, "seq": 17, "time": "2026-01-31T01:02:03.004Z", "type": "StepFinished", ...fields}
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from ida_tui.util.text import as_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 1
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each older version, a function that converts a line's body (with type, without version) to the next
version."""

MAX_NUMBER = 2**53
"""Largest absolute value of a number in an event; floats represent every integer up to here exactly."""
MAX_ROLLOUT_ROWS = 1_000_000
"""Largest number of completions in one rollout."""

OFFLINE_JUDGE = "offline heuristic"
"""Name of the built-in scorer wherever its scores are shown; the name says that no model scored."""

Phase = Literal["load", "generate", "judge", "reference", "update", "save", "evaluate"]
MemoryPeriod = Literal["always", "loading", "sampling", "update"]
NoticeLevel = Literal["info", "warning"]
EvaluationFigure: TypeAlias = tuple[str, str, float, float, float, float]
"""Name, unit, value before, value after, and lower and upper end of the 95% interval of the difference."""
RankFigures: TypeAlias = tuple[str, int, int | None, int | None, int, float]
"""Figures of one rank: host, memory of the process in bytes, tensors and cache on its device in bytes (null
without dedicated device memory), tokens sampled in the step, and tokens per second."""
RunEndStatus = Literal[
    "done", "failed", "interrupted", "judge_unavailable", "out_of_memory", "stopped_by_alert"
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The model is loaded and the first step is about to begin."""

    run_id: str
    directory: str
    experiment: str
    model: str
    judge: str
    device: str
    dtype: str
    """Precision of the base weights; `precision` describes the full precision setup in words."""
    precision: str
    method: str
    params: int
    trainable_params: int
    steps: int
    prompts: int
    generations: int
    completions_per_step: int
    seed: int
    limit_gb: float
    planned_gb: float | None = None
    """Planned peak memory; null if no plan could be made."""
    plan: tuple[tuple[str, MemoryPeriod, int], ...] = ()
    """The memory plan: name, time of use and bytes of each part."""
    processes: int = 1
    """Number of ranks; the plan is for one of them, `completions_per_step` counts all of them."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """A line for the log: a fallback, a library's warning, the state of the cache."""

    level: NoticeLevel
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The trainer entered another phase of the step."""

    step: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class RolloutStarted:
    """The prompts of a step, one per group; the trainer is about to sample `generations` completions each."""

    step: int
    generations: int
    prompt_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    """`harmless` or `unsafe`, for each prompt."""
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextGenerated:
    """Text sampled since the previous `TextGenerated`, by row; a row is group × generations + index."""

    step: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokensGenerated:
    """Progress of the generation of completions, emitted at least once a second."""

    step: int
    tokens: int
    """Tokens sampled so far in this rollout, over all rows."""
    tokens_per_s: float
    rows_done: int
    rows: int


@dataclass(frozen=True, slots=True)
class CompletionFinished:
    """One completion, as generated."""

    step: int
    group: int
    index: int
    prompt_id: str
    prompt: str
    text: str
    tokens: int
    ended: bool
    """True if it ended with EOS, false if it was truncated at max_completion_length."""


@dataclass(frozen=True, slots=True)
class CompletionScored:
    """The judge's verdict on one completion; all scores are null if the verdict failed."""

    step: int
    group: int
    index: int
    align: float | None
    risk: float | None
    """10 is safest."""
    detail: float | None
    r_ida: float | None
    advantage: float | None
    reason: str
    judge: str
    latency_s: float
    cost: float | None
    """US dollars; null if the price is unknown."""
    cached: bool
    failure: str | None


@dataclass(frozen=True, slots=True)
class JudgeBatchFinished:
    """Every completion of one step has a verdict or a failed verdict."""

    step: int
    calls: int
    cached: int
    failed: int
    retries: int
    seconds: float
    """Time with at least one request open, which may overlap with the generation of completions."""
    exposed_s: float
    """Time that the trainer spent only waiting for the judge."""
    p50_s: float | None
    p95_s: float | None
    cost: float | None
    first_s: float | None = None
    """Time from the first request to the first verdict that a call returned."""
    slots: int | None = None
    """Limit of concurrent calls at the end of the batch; null for a judge without calls."""
    declined: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Number of completions that the judge refused to score, by kind of prompt."""


@dataclass(frozen=True, slots=True)
class JudgeProgressed:
    """Number of verdicts received in the current step; several times a second while the trainer waits."""

    step: int
    answered: int
    asked: int
    slots: int | None
    """Limit of concurrent calls; null for a judge without calls."""


@dataclass(frozen=True, slots=True)
class JudgeSlowed:
    """The judge rejected calls: the limit of concurrent calls drops, and new calls may have to wait."""

    seconds: float
    """Time until the next call may start; 0 if the judge named no time."""
    slots: int
    """Limit of concurrent calls afterwards."""
    reason: str


@dataclass(frozen=True, slots=True)
class JudgeProbed:
    """The judge's scores for a few fixed anchor answers, compared with those at the start of the run."""

    step: int
    served_model: str | None
    r_ida: Mapping[str, float | None]
    """R_IDA of each anchor, by name; null if the verdict failed."""
    drift: float | None
    """Mean absolute change per axis since the first probe, in points; null in the first probe."""
    cost: float | None


@dataclass(frozen=True, slots=True)
class StepFinished:
    """Figures of one finished optimizer step; means are over the scored completions."""

    step: int
    steps: int
    align: float | None
    risk: float | None
    detail: float | None
    r_ida: float | None
    """Mean of the R_IDA of the completions, not the R_IDA of the mean scores."""
    scored: int
    completions: int
    kl: float | None
    entropy: float | None
    loss: float | None
    grad_norm: float | None
    learning_rate: float | None
    lengths: tuple[float, float, float] | None
    """Mean, shortest and longest completion, in tokens."""
    truncated: float | None
    """Share of completions that were truncated at max_completion_length."""
    zero_std: float | None
    """Share of zero-variance groups: all rewards are equal, so every advantage is zero."""
    weight_delta: float
    """L2 norm of the change of the trainable weights since the start, relative to their norm."""
    skipped: bool
    """True if the gradient scaler skipped the update because a gradient overflowed."""
    seconds: Mapping[str, float]
    """Wall time by phase."""
    weight_norm: float = 0.0
    """L2 norm of the trainable weights (the adapter's, with LoRA)."""
    largest_change: float = 0.0
    """Largest change of a single trainable weight since the start, by absolute value."""
    non_finite: int = 0
    """Number of gradient elements that were NaN or infinite in this step."""
    loss_scale: float | None = None
    """Factor of the gradient scaler after this step; null without a scaler."""
    ranks: tuple[RankFigures, ...] = ()
    """Memory and speed of every rank, rank 0 first; empty in a run with one process."""
    harmless: int = 0
    """Completions of harmless prompts; counted by the refusal classifier, like the next three."""
    harmless_refused: int = 0
    """Full refusals among them."""
    unsafe: int = 0
    """Completions of unsafe prompts."""
    unsafe_declined: int = 0
    """Full or partial refusals among them."""
    repetition: float | None = None
    """Mean share of word 4-grams that repeat an earlier one in the same completion."""
    length_r: float | None = None
    """Correlation of length and R_IDA within a group, among completions that all answer or all decline."""
    offline_r_ida: float | None = None
    """Mean R_IDA of the scored completions by the offline heuristic; null if that is the judge."""


@dataclass(frozen=True, slots=True)
class MemorySampled:
    """Memory in bytes; device figures are null for a device without dedicated memory."""

    system_used: int
    system_total: int
    process: int
    device_tensors: int | None
    device_cache: int | None
    swap_growth: int
    pressure: int | None
    """macOS memory pressure level: 1 normal, 2 warning, 4 critical."""
    process_peak: int = 0
    """Peak of this process since the run started, according to the kernel."""
    device_limit: int | None = None
    """Recommended maximum of the device, or its memory size."""
    phase: Phase = "load"
    """Phase of the trainer at the time of the sample."""


@dataclass(frozen=True, slots=True)
class AlertRaised:
    """A rule found a problem in the training."""

    step: int
    rule: str
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class RunPaused:
    """Training paused at a point from which it can resume."""

    step: int
    reason: str
    hint: str = ""
    """How to fix the cause."""
    by: Literal["judge", "person", "disk", "alert"] = "judge"
    """Who or what paused the run."""


@dataclass(frozen=True, slots=True)
class RunResumed:
    """Training resumed after a pause or from a checkpoint."""

    from_step: int
    judge: str | None = None
    """The new judge, if it changed."""


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """Result of an evaluation on the held-out prompts; counts are numbers of completions."""

    when: Literal["before", "after"]
    step: int
    prompts: int
    harmless: int
    harmless_complied: int
    harmless_partial: int
    harmless_refused: int
    unsafe: int
    unsafe_refused: int
    """Full and partial refusals of unsafe requests."""
    classifier: str
    seconds: float
    verdict: str = ""
    """Comparison of both models in one sentence; empty if no answers were judged."""
    figures: tuple[EvaluationFigure, ...] = ()
    """Judged figures of the untrained and the trained model on the same prompts."""
    unscored: int = 0
    """Answers of both models with a failed verdict."""
    cost: float | None = 0.0
    """Cost of the judge in US dollars; null if unknown."""
    folder: str = ""
    """Directory of the evaluation, which contains every answer."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of every run that ended without being killed."""

    status: RunEndStatus
    exit_code: int
    steps_done: int
    r_ida_first: float | None
    """Mean R_IDA of the first steps (at most 3); `state.RunState.first_steps` lists them."""
    r_ida_last: float | None
    """Mean R_IDA of the last steps (at most 5)."""
    weight_delta: float
    seconds: float
    cost: float | None
    message: str
    hint: str

    @property
    def succeeded(self) -> bool:
        """Whether the run finished and changed the weights."""
        return self.status == "done" and self.weight_delta != 0


Event: TypeAlias = (
    RunStarted
    | Noticed
    | PhaseChanged
    | RolloutStarted
    | TextGenerated
    | TokensGenerated
    | CompletionFinished
    | CompletionScored
    | JudgeBatchFinished
    | JudgeProgressed
    | JudgeSlowed
    | JudgeProbed
    | StepFinished
    | MemorySampled
    | AlertRaised
    | CheckpointSaved
    | RunPaused
    | RunResumed
    | EvaluationFinished
    | RunEnded
)


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its sequence number and time.

    Args:
        seq: position in the run, starting at 0, without gaps.
        time: UTC, ISO 8601 with milliseconds.
        event: the event.
    """

    seq: int
    time: str
    event: Event

    TYPES: ClassVar[dict[str, type[Event]]] = {cls.__name__: cls for cls in Event.__args__}


class EventError(ValueError):
    """A line that is not a valid event."""


class NewerVersionError(EventError):
    """A line that was written by a newer version of ida-tui."""


def current_timestamp() -> str:
    """The current time in the format of `Record.time`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(record: Record) -> str:
    """A record as one line of JSON, without the newline; non-finite numbers become null."""
    event = record.event
    body: dict[str, Any] = {
        "v": VERSION,
        "seq": record.seq,
        "time": record.time,
        "type": type(event).__name__,
    }
    for field in dataclasses.fields(event):
        body[field.name] = _to_json_value(getattr(event, field.name))
    return as_json(body)


def decode(line: str) -> Record:
    """The record in a line of ``events.jsonl``.

    Raises:
        EventError: the line is incomplete, is not a JSON object, has an unknown version or type, or contains
            values that no run can emit.
    """
    body = parse_line(line)
    seq, time, name = body.pop("seq"), body.pop("time"), body.pop("type")
    if abs(seq) > MAX_NUMBER or not _is_timestamp(time):
        raise EventError("seq or time is invalid")
    if name not in Record.TYPES:
        raise EventError(f"unknown event type {name[:60]!r}")
    return Record(seq, time, build_event(name, body))


def build_event(name: str, fields: Mapping[str, Any]) -> Event:
    """An event built from its JSON fields; unknown fields are ignored.

    Args:
        name: one of `Record.TYPES`.
        body: the fields, as parsed from JSON.

    Raises:
        EventError: a field is missing, has the wrong type, or has a value that no run can emit.
    """
    try:
        event: Event = _type_adapter(name).validate_python(fields)
    except ValueError as invalid:
        # This is pydantic's ValidationError; pydantic is only imported when the first event is read.
        validation_error: Any = invalid
        first = validation_error.errors()[0]
        field_path = ".".join(str(part) for part in first["loc"])
        raise EventError(f"{name}.{field_path}: {first['msg']}") from None
    if problem := _find_impossible_value(event):
        raise EventError(f"{name}.{problem}")
    return event


def _is_timestamp(time: str) -> bool:
    try:
        return datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False


def _find_impossible_value(event: Event) -> str:
    """The first field with a value of the right type that no run can emit, and why; empty if none."""
    for name in _numeric_fields(type(event).__name__):
        if not _is_in_range(getattr(event, name)):
            return f"{name}: the number is too large"
    if isinstance(event, RolloutStarted):
        prompts = len(event.prompts)
        if not 1 <= event.generations <= MAX_ROLLOUT_ROWS // max(1, prompts):
            return "generations: the number of completions in the rollout is out of range"
        if not len(event.prompt_ids) == len(event.kinds) == prompts:
            return "prompts: the number of prompts, ids and kinds differs"
    if (
        isinstance(event, CompletionScored | StepFinished)
        and event.r_ida is not None
        and None in (event.align, event.risk, event.detail)
    ):
        return "r_ida: it is set, but an axis is null"
    return ""


@cache
def _numeric_fields(event_type: str) -> tuple[str, ...]:
    """Names of the fields of an event type that contain numbers."""
    fields = dataclasses.fields(Record.TYPES[event_type])
    return tuple(f.name for f in fields if re.search(r"\b(?:int|float)\b", str(f.type)))


def _is_in_range(value: object) -> bool:
    if isinstance(value, int | float):
        return -MAX_NUMBER <= value <= MAX_NUMBER  # false for NaN
    if isinstance(value, tuple):
        return all(map(_is_in_range, value))
    if isinstance(value, Mapping):
        return all(map(_is_in_range, value.values()))
    return True


def parse_line(line: str) -> dict[str, Any]:
    """A line as a JSON object of the current version: ``seq``, ``time``, ``type`` and unvalidated fields.

    Raises:
        NewerVersionError: the line was written by a newer version of ida-tui.
        EventError: the line is incomplete, or is not an event of a known version.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise EventError("not a JSON object")
    body: dict[str, Any] = value
    version = body.pop("v", None)
    if type(version) is not int or version < 1:
        raise EventError(f"invalid version {repr(version)[:40]}")
    if version > VERSION:
        raise NewerVersionError(
            f"written by a newer ida-tui (event format {str(version)[:20]}; this version reads up"
            f" to {VERSION}): update ida-tui"
        )
    _check_header(body)
    for older_version in range(version, VERSION):
        body = UPGRADES[older_version](body)
    return body


def _check_header(body: Mapping[str, Any]) -> None:
    if type(body.get("seq")) is not int or not isinstance(body.get("time"), str):
        raise EventError("seq or time is missing")
    if not isinstance(body.get("type"), str):
        raise EventError("type is missing")


@cache
def _type_adapter(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record.TYPES[name])


def _to_json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json_value(item) for item in value]
    return value
