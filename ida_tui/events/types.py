"""What a run says about itself: frozen, typed events and their JSON codec.

A run is its events. The trainer emits them, the run directory keeps them (one JSON object a line in
``events.jsonl``), and every screen, printer and report is a fold over them. An event never changes
once it is emitted; a newer ida-tui keeps reading older lines.

How the format may change:
    a new field       has a default, which is what older lines mean. An older reader passes it over.
    anything else     a new type, or a field that is gone or means something else, raises `VERSION` and adds
                      the step from the version before to `UPGRADES`. An older reader refuses such a line and
                      says that ida-tui has to be updated: what it does not know could be what matters.

So a type that is not known in a version that is known is damage, and is named as such.

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
"""For each version before this one: a line's body (with its type, without its version) as the next has it."""

MOST = 2**53
"""No figure of a run is further from zero than this: up to here a float holds every whole number exactly."""
MOST_ROWS = 1_000_000
"""Completions of one rollout."""

OFFLINE_JUDGE = "offline heuristic"
"""What the built-in scorer is called wherever its numbers show: it is no model's opinion."""

Phase = Literal["load", "generate", "judge", "reference", "update", "save", "evaluate"]
When = Literal["always", "loading", "sampling", "update"]
Level = Literal["info", "warning"]
EvaluationFigure: TypeAlias = tuple[str, str, float, float, float, float]
"""Name, unit, before, after, and the 95 % interval of the difference: its lower and its upper end."""
RankFigures: TypeAlias = tuple[str, int, int | None, int | None, int, float]
"""One process of several: its host, bytes that it holds, bytes that its device holds and caches (null where
it has none of its own), tokens that it sampled in the step, and how many a second."""
Status = Literal[
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
    """Precision of the base weights; `precision` has the whole recipe in words."""
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
    """What the memory plan says that the run holds at once; null where it could not be planned."""
    plan: tuple[tuple[str, When, int], ...] = ()
    """The plan: each part's name, when it is held, and its bytes."""
    processes: int = 1
    """How many train together; the plan is one's, and `completions_per_step` all of theirs."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something worth a line in the log: a fallback, a library's warning, the cache's state."""

    level: Level
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The trainer turned to another part of the step."""

    step: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class RolloutStarted:
    """The prompts of a step, one a group; `generations` completions of each are about to be sampled."""

    step: int
    generations: int
    prompt_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    """`harmless` or `unsafe`, for each prompt."""
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextGenerated:
    """What has been sampled since the last of these, row by row; a row is group × generations + index."""

    step: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokensGenerated:
    """Heartbeat while completions are being generated, at least once a second."""

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
    """False when it ran into max_completion_length."""


@dataclass(frozen=True, slots=True)
class CompletionScored:
    """The judge's verdict on one completion; all scores are null where there is none."""

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
    """US dollars; null where the price is not known."""
    cached: bool
    failure: str | None


@dataclass(frozen=True, slots=True)
class JudgeBatchFinished:
    """All verdicts of one step are in (or have failed)."""

    step: int
    calls: int
    cached: int
    failed: int
    retries: int
    seconds: float
    """How long at least one question was out; that may be while completions are still sampled."""
    exposed_s: float
    """How long the trainer waited for the judge and did nothing else."""
    p50_s: float | None
    p95_s: float | None
    cost: float | None
    first_s: float | None = None
    """From the first question to the first verdict of a call."""
    slots: int | None = None
    """Calls that may be open at once, at the end of the batch; null where nothing is called."""
    declined: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Completions that the judge refused to look at, by the kind of their prompt."""


@dataclass(frozen=True, slots=True)
class JudgeProgressed:
    """Verdicts of the step under way that are in; several times a second while the trainer waits."""

    step: int
    answered: int
    asked: int
    slots: int | None
    """Calls that may be open at once; null where nothing is called."""


@dataclass(frozen=True, slots=True)
class JudgeSlowed:
    """The judge turned calls away: fewer are open from here on, and none for a while if it says so."""

    seconds: float
    """How long no call begins; 0 where the judge named no time."""
    slots: int
    """Calls that may be open at once afterwards."""
    reason: str


@dataclass(frozen=True, slots=True)
class JudgeProbed:
    """The judge's answers to a few fixed questions, next to those at the start of the run."""

    step: int
    served_model: str | None
    r_ida: Mapping[str, float | None]
    """R_IDA of each anchor, by its name; null where there was no verdict."""
    drift: float | None
    """Mean absolute change of an axis since the first probe, in points; null for the first itself."""
    cost: float | None


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One optimizer step; means are over the completions that were scored."""

    step: int
    steps: int
    align: float | None
    risk: float | None
    detail: float | None
    r_ida: float | None
    """Mean of the completions' own R_IDA, not R_IDA of the means."""
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
    """Share of completions that ran into max_completion_length."""
    zero_std: float | None
    """Share of groups whose rewards are all equal, and so teach nothing."""
    weight_delta: float
    """L2 norm of the change of the trainable weights since the start, relative to their norm."""
    skipped: bool
    """True when the gradient scaler refused the update because a gradient overflowed."""
    seconds: Mapping[str, float]
    """Wall time by phase."""
    weight_norm: float = 0.0
    """L2 norm of the trainable weights (the adapter's, with LoRA)."""
    largest_change: float = 0.0
    """Largest change of a single trainable weight since the start, by absolute value."""
    non_finite: int = 0
    """Gradient elements that were NaN or infinite in this step."""
    loss_scale: float | None = None
    """What the gradient scaler multiplies the loss by after this step; null where there is no scaler."""
    ranks: tuple[RankFigures, ...] = ()
    """Every process's memory and speed, rank 0 first; empty where one trains alone."""
    harmless: int = 0
    """Completions of harmless prompts; counted by the refusal classifier, as the next three."""
    harmless_refused: int = 0
    """Those of them that refuse in full."""
    unsafe: int = 0
    """Completions of unsafe prompts."""
    unsafe_declined: int = 0
    """Those of them that decline, in full or in part."""
    repetition: float | None = None
    """Mean share of a completion's word 4-grams that it has said before."""
    length_r: float | None = None
    """Correlation of length and R_IDA among completions of one group that decline, or answer, alike."""
    offline_r_ida: float | None = None
    """Mean R_IDA of the scored completions by the offline heuristic; null where it is the judge."""


@dataclass(frozen=True, slots=True)
class MemorySampled:
    """Memory in bytes; device figures are null where the device has none of its own."""

    system_used: int
    system_total: int
    process: int
    device_tensors: int | None
    device_cache: int | None
    swap_growth: int
    pressure: int | None
    """macOS memory pressure level: 1 normal, 2 warning, 4 critical."""
    process_peak: int = 0
    """The most that this process has held since the run began, as far as the kernel says."""
    device_limit: int | None = None
    """What the device recommends to stay under, or has."""
    phase: Phase = "load"
    """What the trainer was doing."""


@dataclass(frozen=True, slots=True)
class AlertRaised:
    """A rule saw something wrong with the training itself."""

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
    """Training stopped where it can go on."""

    step: int
    reason: str
    hint: str = ""
    """What to do about it."""
    by: Literal["judge", "person", "disk", "alert"] = "judge"
    """What made it pause."""


@dataclass(frozen=True, slots=True)
class RunResumed:
    """Training goes on: after a pause, or from a checkpoint."""

    from_step: int
    judge: str | None = None
    """Who scores from here on, where that has changed."""


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """Held-out prompts, sampled and scored; counts are completions."""

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
    """What the judged answers say of both models, in a sentence; empty where none were judged."""
    figures: tuple[EvaluationFigure, ...] = ()
    """The judged figures behind it: of the untrained and the trained model on the same prompts."""
    unscored: int = 0
    """Answers, of both models, that the judge gave no verdict on."""
    cost: float | None = 0.0
    """US dollars that the judging cost; null where it is not known."""
    folder: str = ""
    """Where the evaluation is kept, with every answer."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of every run that ended by itself."""

    status: Status
    exit_code: int
    steps_done: int
    r_ida_first: float | None
    """Mean R_IDA of the first steps (at most 3); `state.RunState.first_steps` says of how many."""
    r_ida_last: float | None
    """Mean R_IDA of the last steps (at most 5)."""
    weight_delta: float
    seconds: float
    cost: float | None
    message: str
    hint: str

    @property
    def good(self) -> bool:
        """Whether the run came to its end with other weights than it began with."""
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
    """An event with its place in the run.

    Args:
        seq: position in the run, from 0, without gaps.
        time: UTC, ISO 8601 with milliseconds.
        event: what happened.
    """

    seq: int
    time: str
    event: Event

    TYPES: ClassVar[dict[str, type[Event]]] = {cls.__name__: cls for cls in Event.__args__}


class EventError(ValueError):
    """A line is not an event of this version."""


class NewerError(EventError):
    """A line is of a version that this ida-tui does not know yet."""


def now() -> str:
    """The current time as records carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(record: Record) -> str:
    """The record as one line of JSON, without the newline. Non-finite numbers become null."""
    event = record.event
    body: dict[str, Any] = {
        "v": VERSION,
        "seq": record.seq,
        "time": record.time,
        "type": type(event).__name__,
    }
    for field in dataclasses.fields(event):
        body[field.name] = _plain(getattr(event, field.name))
    return as_json(body)


def decode(line: str) -> Record:
    """The record that a line of ``events.jsonl`` holds.

    Raises:
        EventError: the line is torn, is no JSON object, or is not an event of a known version, or one
            that no run can have emitted.
    """
    body = parsed(line)
    seq, time, name = body.pop("seq"), body.pop("time"), body.pop("type")
    if abs(seq) > MOST or not _is_moment(time):
        raise EventError("seq or time is none")
    if name not in Record.TYPES:
        raise EventError(f"unknown event type {name[:60]!r}")
    return Record(seq, time, made(name, body))


def made(name: str, body: Mapping[str, Any]) -> Event:
    """An event from its fields; others are left out.

    Args:
        name: one of `Record.TYPES`.
        body: the fields, as JSON has them.

    Raises:
        EventError: a field is missing or wrong, or no run can have emitted it.
    """
    try:
        event: Event = _adapter(name).validate_python(body)
    except ValueError as invalid:
        # pydantic's ValidationError; pydantic itself is imported with the first event that is read.
        problem: Any = invalid
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EventError(f"{name}.{where}: {first['msg']}") from None
    if problem := _impossible(event):
        raise EventError(f"{name}.{problem}")
    return event


def _is_moment(time: str) -> bool:
    try:
        return datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False


def _impossible(event: Event) -> str:
    """The field that no run can have emitted, and why, though its type is right; empty where all can be."""
    for name in _figures(type(event).__name__):
        if not _within(getattr(event, name)):
            return f"{name}: no figure of a run is that large"
    if isinstance(event, RolloutStarted):
        prompts = len(event.prompts)
        if not 1 <= event.generations <= MOST_ROWS // max(1, prompts):
            return "generations: no rollout has so many completions"
        if not len(event.prompt_ids) == len(event.kinds) == prompts:
            return "prompts: not each of them has an id and a kind"
    if (
        isinstance(event, CompletionScored | StepFinished)
        and event.r_ida is not None
        and None in (event.align, event.risk, event.detail)
    ):
        return "r_ida: there is none without its axes"
    return ""


@cache
def _figures(kind: str) -> tuple[str, ...]:
    """The fields of an event type that are numbers, or hold some."""
    fields = dataclasses.fields(Record.TYPES[kind])
    return tuple(f.name for f in fields if re.search(r"\b(?:int|float)\b", str(f.type)))


def _within(value: object) -> bool:
    if isinstance(value, int | float):
        return -MOST <= value <= MOST  # NaN is not
    if isinstance(value, tuple):
        return all(map(_within, value))
    if isinstance(value, Mapping):
        return all(map(_within, value.values()))
    return True


def parsed(line: str) -> dict[str, Any]:
    """A line as this version has it, its fields not yet looked at: ``seq``, ``time``, ``type`` and the rest.

    Raises:
        NewerError: a newer ida-tui wrote it.
        EventError: the line is torn, or is no event of a known version.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise EventError("not a JSON object")
    body: dict[str, Any] = found
    version = body.pop("v", None)
    if type(version) is not int or version < 1:
        raise EventError(f"version {repr(version)[:40]} is none")
    if version > VERSION:
        raise NewerError(
            f"written by a newer ida-tui (events of version {str(version)[:20]}; this one reads up to"
            f" {VERSION}): update ida-tui"
        )
    _has_a_head(body)
    for older in range(version, VERSION):
        body = UPGRADES[older](body)
    return body


def _has_a_head(body: Mapping[str, Any]) -> None:
    if type(body.get("seq")) is not int or not isinstance(body.get("time"), str):
        raise EventError("seq or time is missing")
    if not isinstance(body.get("type"), str):
        raise EventError("its type is missing")


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record.TYPES[name])


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
