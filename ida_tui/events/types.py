"""Events of a training run: frozen, typed dataclasses.

The trainer emits events, the run directory stores them (one JSON object per line in `events.jsonl`, see
`codec`), and every screen, printer and report is a fold over them. An event never changes after it is
emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal, TypeAlias

from ida_tui.config.scoring.axes import IDA_AXES, IDA_REWARD, Scores
from ida_tui.config.scoring.axes import Axis as Axis
from ida_tui.events.evaluation import EvaluationFinished as EvaluationFinished
from ida_tui.events.evaluation import EvaluationMoment as EvaluationMoment
from ida_tui.events.evaluation import EvaluationProgressed as EvaluationProgressed
from ida_tui.events.values import AnswerShare as AnswerShare
from ida_tui.events.values import DownloadProgress as DownloadProgress
from ida_tui.events.values import EvaluationFigure as EvaluationFigure
from ida_tui.events.values import EverydayFigures as EverydayFigures
from ida_tui.events.values import GroupVerdicts as GroupVerdicts
from ida_tui.events.values import JudgeCall as JudgeCall
from ida_tui.events.values import JudgeCost as JudgeCost
from ida_tui.events.values import JudgeMember as JudgeMember
from ida_tui.events.values import JudgeTraffic as JudgeTraffic
from ida_tui.events.values import JudgeWork as JudgeWork
from ida_tui.events.values import RankFigures as RankFigures
from ida_tui.events.values import SampledVerdict as SampledVerdict

MAX_NUMBER = 2**53
"""Largest absolute value of a number in an event; floats represent every integer up to here exactly."""
MAX_ROLLOUT_ROWS = 1_000_000
"""Largest number of completions in one rollout."""

OFFLINE_JUDGE = "offline heuristic"
"""Name of the built-in scorer wherever its scores are shown; the name says that no model scored."""

Phase = Literal["load", "generate", "judge", "reference", "update", "save", "evaluate"]
MemoryPeriod = Literal["always", "loading", "sampling", "update"]
PlanPeriod = Literal["always", "loading", "sampling", "update", "evaluation"]
NoticeLevel = Literal["info", "warning"]
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
    """The memory plan without the evaluation: name, time of use and bytes of each part."""
    processes: int = 1
    """Number of ranks; the plan is for one of them, `completions_per_step` counts all of them."""
    evaluation_plan: tuple[tuple[str, int], ...] = ()
    """The parts of the memory plan that only the evaluation uses: name and bytes of each."""
    scoring: Mapping[str, str] = field(default_factory=dict)
    """What the scores depend on: judge, rubric, reward formula, prompts, …; empty in old runs."""
    formula: str = ""
    """The reward formula, such as `R_IDA = …`; empty in old runs."""
    axes: tuple[Axis, ...] = IDA_AXES
    """The axes on which completions are scored, in order."""
    reward: str = IDA_REWARD
    """Name of the reward."""

    @property
    def memory_plan(self) -> tuple[tuple[str, PlanPeriod, int], ...]:
        """The whole memory plan: name, time of use and bytes of each part."""
        evaluation = tuple((name, "evaluation", size) for name, size in self.evaluation_plan)
        return (*self.plan, *evaluation)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Noticed:
    """A line for the log: a fallback, a library's warning, the state of the cache."""

    level: NoticeLevel
    source: str
    text: str
    lost_s: float = 0.0
    """Seconds before this notice in which the run could not work: the machine slept, the process was
    suspended, or the disk rejected writes."""


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The trainer entered another phase of the step."""

    step: int
    phase: Phase
    download: DownloadProgress | None = None
    """Progress of the model's download, about once a second in the phase `load`; else null."""


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
    context: tuple[tuple[str, str], ...] = ()
    """The messages before the prompt: role and content of each; empty if there are none."""
    thought_tokens: int = 0
    """Length of its thought in tokens; the text contains the thought with its tags."""


@dataclass(frozen=True, slots=True)
class CompletionScored:
    """The scores of one completion and the reward that they make."""

    step: int
    group: int
    index: int
    scores: Scores
    """The score on each axis, by name; null where the judge or the function failed."""
    reward: float | None
    """The reward; null if a score that it needs is null, or the formula has no value."""
    advantage: float | None
    reason: str
    judge: str
    latency_s: float
    cost: float | None
    """US dollars; null if the price is unknown."""
    cached: bool
    failure: str | None
    spread: Mapping[str, float] = field(default_factory=dict)
    """Highest minus lowest score of a panel's judges on each axis; empty for a single judge."""
    verdicts: tuple[SampledVerdict, ...] = ()
    """The verdicts that the scores combine, with positions in group mode; empty for one absolute verdict."""


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
    declined: Mapping[str, int] = field(default_factory=dict)
    """Number of completions that the judge refused to score, by kind of prompt."""
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""
    members: tuple[JudgeMember, ...] = ()
    """What each judge of a panel scored; empty for a single judge."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Mean spread of a panel's judges on each axis; empty for a single judge."""
    failure: str = ""
    """The most common reason of the failed verdicts; empty without any, and in old runs."""
    traffic: tuple[JudgeTraffic, ...] = ()
    """The calls to each judge; empty without calls, and in old runs."""


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
    rewards: Mapping[str, float | None]
    """Reward of each anchor, by name; null if the verdict failed."""
    drift: float | None
    """Mean absolute change per axis since the first probe, in points; null in the first probe."""
    cost: float | None
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""


@dataclass(frozen=True, slots=True)
class StepFinished:
    """Figures of one finished optimizer step; means are over the completions that have a reward."""

    step: int
    steps: int
    scores: Scores
    """Mean score on each axis, by name; null if no completion has one."""
    reward: float | None
    """Mean of the rewards of the completions, not the reward of the mean scores."""
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
    """L2 norm of the change of the trainable weights (the adapter's, with LoRA), relative to their norm."""
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
    """Correlation of length and reward within a group, among completions that all answer or all decline."""
    offline_reward: float | None = None
    """Mean reward of the scored completions by the offline heuristic; null if it is the judge, or does not
    know the axes."""
    model_change: float | None = None
    """L2 norm of the change of the model's weights since the start, relative to that of the whole model. With
    LoRA the change is scale · B·A, as a merged export has it; null in runs of older versions."""
    logprob_gap: float | None = None
    """Mean difference of the log-probabilities of drawn tokens, as drawn and as the loss scores them, in nats
    (relative where they exceed 1); null if this step was not checked or the difference is not finite."""
    sampling_ratio: float | None = None
    """Mean importance ratio of the tokens before it is limited; null without sampling_weights or vLLM."""
    sampling_kl: float | None = None
    """KL divergence per token of the policy that drew from the one that is trained, in nats."""
    sampling_clipped: float | None = None
    """Share of the ratios that the correction limits or leaves out: of completions, or of tokens."""
    reused_step: int | None = None
    """The earlier step whose completions this update reused (training.num_iterations); null if it sampled
    its own. The figures of the completions are only in that earlier step."""
    thought_tokens: float | None = None
    """Mean length of the thoughts in tokens, over the completions with one; null if there are none."""
    unfinished_thoughts: int = 0
    """Completions that were cut off in their thought, and have no answer."""
    judge_groups: tuple[GroupVerdicts, ...] = ()
    """Ties, agreement and effect of the position in each group; empty without a judge, and in old runs."""
    least_seconds: Mapping[str, float] = field(default_factory=dict)
    """Shortest time by phase at the device's measured speed; empty in old runs and with several processes."""
    stragglers_s: float | None = None
    """Time of `generate` in which nine in ten completions had ended; null if the engine did not see it."""

    @property
    def weights_moved(self) -> bool:
        """Whether the model's weights differ from those at the start."""
        return (self.weight_delta if self.model_change is None else self.model_change) != 0


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
    functions_failed: bool = False
    """Whether the reward functions failed, so that no other judge helps; `by` is then "judge"."""
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""

    @property
    def cause(self) -> str:
        """What failed, in a run that waits for scores: `its judge` or `its reward functions`."""
        return "its reward functions" if self.functions_failed else "its judge"


@dataclass(frozen=True, slots=True)
class RunResumed:
    """Training resumed after a pause or from a checkpoint."""

    from_step: int
    judge: str | None = None
    """The judge, if the scoring changed: another judge, rubric, reward formula or other prompts."""
    scoring: Mapping[str, str] = field(default_factory=dict)
    """What the scores depend on from now on; empty if the scoring did not change."""
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of every run that ended without being killed."""

    status: RunEndStatus
    exit_code: int
    steps_done: int
    reward_first: float | None
    """Mean reward of the first steps (at most 3); `state.RunState.first_steps` lists them."""
    reward_last: float | None
    """Mean reward of the last steps (at most 5)."""
    weight_delta: float
    seconds: float
    """Time of training, over all processes of the run; see `state.RunState.trained_seconds`."""
    cost: float | None
    message: str
    hint: str
    model_change: float | None = None
    """As in StepFinished."""
    paused_s: float | None = None
    """Seconds of pauses that `seconds` leaves out; null in older runs, whose `seconds` includes them."""
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""
    judge_quality: Mapping[str, float] = field(default_factory=dict)
    """Known figures of the judge, such as `tie_share`; see `judge_quality.JudgeQuality`."""

    @property
    def succeeded(self) -> bool:
        """Whether the run finished and changed the model's weights."""
        moved = self.weight_delta if self.model_change is None else self.model_change
        return self.status == "done" and moved != 0


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
    | EvaluationProgressed
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


def current_timestamp() -> str:
    """The current time in the format of `Record.time`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
