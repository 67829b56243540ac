"""Compound values of events, each a list in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class DownloadProgress(NamedTuple):
    """Progress of a model's download; a list in JSON."""

    done: int
    """Bytes that are on this machine."""
    total: int
    """Bytes of all files."""
    bytes_per_s: float
    """Current rate; 0 while it is unknown."""

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the current rate; None while the rate is unknown."""
        return (self.total - self.done) / self.bytes_per_s if self.bytes_per_s >= 1 else None


class EvaluationFigure(NamedTuple):
    """One judged figure of the untrained and the trained model; a list in JSON."""

    name: str
    unit: str
    before: float
    after: float
    low: float
    """Lower end of the 95% interval of the difference, after − before."""
    high: float


class AnswerShare(NamedTuple):
    """How many answers have a score of 1 on an axis whose scores are only 0 and 1; a list in JSON."""

    hits: int
    answers: int
    """Answers with a score."""
    low: float
    """Lower end of the 95% interval of the share over the prompts, from 0 to 1."""
    high: float

    @property
    def is_possible(self) -> bool:
        """Whether there is an answer, and no more hits than answers; a stranger's file may say otherwise."""
        return 0 <= self.hits <= self.answers and self.answers > 0

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.hits / self.answers


class EverydayFigures(NamedTuple):
    """Answers of the untrained and the trained model to everyday questions; a list in JSON.

    The answers are greedy. The perplexities are those of the untrained model's answers, under each model.
    """

    questions: int
    length_before: float
    """Mean length of an answer, in tokens."""
    length_after: float
    repetition_before: float
    """Mean share of an answer's word 4-grams that repeat an earlier one, from 0 to 1."""
    repetition_after: float
    perplexity_before: float
    perplexity_after: float


class JudgeCost(NamedTuple):
    """Cost of a run's judge calls so far; a list in JSON."""

    dollars: float = 0.0
    """US dollars, with the estimates of `estimated` calls."""
    unpriced: int = 0
    """Replies whose cost is unknown; the total is unknown if there are any."""
    estimated: int = 0
    """Calls whose reply never arrived, such as those in flight when the process was killed."""

    @property
    def cost(self) -> float | None:
        """US dollars; None if the cost of a reply is unknown."""
        return None if self.unpriced else self.dollars


class JudgeWork(NamedTuple):
    """What the judge did outside of the steps; a list in JSON."""

    calls: int
    """Verdicts that it was asked for, without those from the cache."""
    cached: int
    failed: int
    retries: int
    seconds: float
    """Time with at least one request open."""
    failure: str = ""
    """Its most common failure; empty without failures."""


class JudgeMember(NamedTuple):
    """What one judge of a panel scored in a step; a list in JSON."""

    name: str
    scored: int
    """Completions that it scored."""
    completions: int
    """Completions that it was asked to score."""
    failure: str = ""
    """Its most common failure; empty without failures."""


class SampledVerdict(NamedTuple):
    """One of several verdicts on a completion, or one from a call on its whole group; a list in JSON."""

    judge: str
    """The judge that gave it; in a panel, one of its judges."""
    number: int
    """Number of the verdict, from 0. In group mode, the orders 2n and 2n + 1 are each other's reverse."""
    position: int | None
    """Place of the completion in the order that the judge saw, from 0; null if it saw no other one."""
    shown: int
    """Completions that the judge saw in this call."""
    scores: Mapping[str, float | None]
    """The score on each judged axis, by name."""


class GroupVerdicts(NamedTuple):
    """Figures of the verdicts on one group; a list in JSON."""

    pairs: int
    """Pairs of different answers with a reward."""
    ties: int
    """Pairs of them whose rewards are equal."""
    repeats: int = 0
    """Answers that a judge has scored several times: by judge.samples, or because their text occurs twice."""
    equal: int = 0
    """Those of them whose verdicts are equal on every axis."""
    spread: float = 0.0
    """Highest minus lowest score of such an answer, in points; mean over the axes and answers."""
    early_minus_late: float | None = None
    """Points that answers got more in the first half of a shuffled order than in the second; null without."""
    places: tuple[float | None, ...] = ()
    """Mean score at each place of the orders minus that of the whole order, in points; may be empty."""
    samples: int = 1
    """Most verdicts of one judge on one answer."""


class JudgeCall(NamedTuple):
    """Times of one call to a judge, in seconds since the first request of its step; a list in JSON."""

    requested_s: float
    """When it was requested; it then waits until a call is allowed."""
    sent_s: float
    answered_s: float
    """When its reply arrived, or it failed."""
    input_tokens: int | None = None
    """Tokens of the request; null if the server does not count them."""
    output_tokens: int | None = None
    """Tokens of the reply; null if the server does not count them."""


class JudgeTraffic(NamedTuple):
    """The calls to one judge in a step; a list in JSON."""

    judge: str
    slots: int
    """Maximum number of concurrent calls, from the profile."""
    mode: str
    """What a call scores: `absolute`, `group`, or `plugin` for one completion of a judge without groups."""
    calls: tuple[JudgeCall, ...]


class RankFigures(NamedTuple):
    """Memory and speed of one rank in a step; a list in JSON."""

    host: str
    process_memory: int
    """Memory of the process, in bytes."""
    device_tensors: int | None
    """Tensors on its device, in bytes; null without dedicated device memory."""
    device_cache: int | None
    """Cache of its device's allocator, in bytes; null without dedicated device memory."""
    tokens: int
    """Tokens sampled in the step."""
    tokens_per_s: float
