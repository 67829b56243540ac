"""How far two judges agree: stored completions of a run, judged again by another one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from dataclasses import dataclass
from statistics import fmean

from ida_tui.config.schema import AXES, JudgeConfig, Kind, RubricConfig
from ida_tui.events.state import Completion
from ida_tui.judge.backends.openai.prompt import system_message
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import POLL_S, JudgeService
from ida_tui.judge.verdict import BatchStats, Question, Verdict
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import stored
from ida_tui.util.statistics import spearman

FIGURES = (*AXES, "r_ida")
HALF = {**dict.fromkeys(AXES, 0.5), "r_ida": 0.05}
"""Half a point of ten, in the units of each figure."""
ROUNDING = 1e-9
_CHARS_PER_TOKEN = 4.0
_REPLY_TOKENS = 60


@dataclass(frozen=True, slots=True)
class Drawn:
    """The completions that are judged again."""

    completions: tuple[Completion, ...]
    of: int
    """How many of the run have scores."""
    unscored: int
    """Those that the run's own judge gave no verdict on: there is nothing to agree with."""
    unknown: int
    """Those whose prompt is not among the run's prompts; they are left out."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two judges' scores of one figure agree."""

    figure: str
    """align, risk, detail or r_ida."""
    pairs: int
    spearman: float | None
    exact: float
    """Share of the pairs that are equal."""
    within_half: float
    """Share within half a point of ten; for R_IDA, within 0.05."""
    within_one: float
    """Share within one point of ten; for R_IDA, within 0.1."""
    difference: float
    """Mean, new judge − the run's own."""


@dataclass(frozen=True, slots=True)
class Rejudging:
    """What came of it."""

    asked: int
    answered: int
    """Verdicts that came, with scores or without."""
    scored: int
    agreements: tuple[Agreement, ...]
    """One a figure; none where nothing was scored."""
    stats: BatchStats
    interrupted: bool
    """Somebody did not want to wait for the rest."""
    unavailable: JudgeUnavailable | None
    """Why the judge could not be asked for the rest."""


def draw(
    directory: RunDirectory, kinds: Mapping[str, Kind], *, sample: int | None, seed: int
) -> Drawn:
    """Draw completions of a run, without putting any back.

    Args:
        directory: the run.
        kinds: the kind of each prompt, by its id.
        sample: how many; None takes all of them.
        seed: of the draw.

    Raises:
        UsageError: they cannot be read.
    """
    scored: list[Completion] = []
    unscored = unknown = 0
    for _, completions in stored(directory):
        for one in completions:
            if one.scored is None or one.scored.r_ida is None:
                unscored += 1
            elif one.finished.prompt_id not in kinds:
                unknown += 1
            else:
                scored.append(one)
    chosen = scored
    if sample is not None and sample < len(scored):
        places = sorted(random.Random(seed).sample(range(len(scored)), sample))
        chosen = [scored[place] for place in places]
    return Drawn(tuple(chosen), len(scored), unscored, unknown)


def questions(completions: Sequence[Completion], kinds: Mapping[str, Kind]) -> list[Question]:
    """What the judge is asked."""
    return [
        Question(
            one.finished.prompt_id,
            one.finished.prompt,
            kinds[one.finished.prompt_id],
            one.finished.text,
        )
        for one in completions
    ]


def estimated_cost(
    judge: JudgeConfig, rubric: RubricConfig, asked: Sequence[Question]
) -> float | None:
    """US dollars if nothing is kept from before; None where the judge has no price."""
    if judge.kind == "offline":
        return 0.0
    if judge.price is None or judge.kind == "plugin":
        return None  # a plugin tells what it cost
    system = len(system_message(rubric))
    letters = sum(
        system + len(q.prompt) + min(len(q.completion), judge.max_judged_chars) for q in asked
    )
    tokens_in = judge.samples * letters / _CHARS_PER_TOKEN
    tokens_out = judge.samples * len(asked) * _REPLY_TOKENS
    return (tokens_in * judge.price.input + tokens_out * judge.price.output) / 1e6


def rejudge(
    service: JudgeService,
    completions: Sequence[Completion],
    asked: Sequence[Question],
    *,
    progress: Callable[[int, int], object] = lambda answered, of: None,
) -> Rejudging:
    """Have completions judged, and hold the verdicts against those of the run.

    A `KeyboardInterrupt`, or a judge that cannot be used any more, ends the asking; what has come counts.

    Args:
        service: asks the judge; it is running.
        completions: they have scores.
        asked: a question for each, in the same order.
        progress: told how many verdicts have come, now and then.
    """
    started = time.monotonic()
    futures = [service.submit(question) for question in asked]
    interrupted, unavailable = False, None
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            progress(len(asked) - len(pending), len(asked))
    except KeyboardInterrupt:
        interrupted = True
    except JudgeUnavailable as error:
        unavailable = error
    finally:
        for future in futures:
            future.cancel()
    verdicts = [_verdict(future) for future in futures]
    came = [verdict for verdict in verdicts if verdict is not None]
    pairs = [
        (one, verdict)
        for one, verdict in zip(completions, verdicts, strict=True)
        if verdict is not None and verdict.r_ida is not None
    ]
    return Rejudging(
        asked=len(asked),
        answered=len(came),
        scored=len(pairs),
        agreements=tuple(_agreement(name, pairs) for name in FIGURES) if pairs else (),
        stats=BatchStats.of(came, time.monotonic() - started, slots=service.slots),
        interrupted=interrupted,
        unavailable=unavailable,
    )


def _verdict(future: Future[Verdict]) -> Verdict | None:
    """The verdict, if it came."""
    if not future.done():
        return None
    try:
        return future.result()
    except (CancelledError, JudgeUnavailable):
        return None


def _agreement(name: str, pairs: Sequence[tuple[Completion, Verdict]]) -> Agreement:
    own = [float(getattr(one.scored, name)) for one, _ in pairs]
    other = [float(getattr(verdict, name)) for _, verdict in pairs]
    return agreement(name, own, other)


def agreement(name: str, own: Sequence[float], other: Sequence[float]) -> Agreement:
    """How two rows of scores agree.

    Args:
        name: align, risk, detail (0 to 10) or r_ida (0 to 1).
        own: the first judge's scores; not empty.
        other: the second judge's, in the same order.
    """
    differences = [new - old for old, new in zip(own, other, strict=True)]

    def within(most: float) -> float:
        return fmean(abs(difference) <= most + ROUNDING for difference in differences)

    return Agreement(
        figure=name,
        pairs=len(differences),
        spearman=spearman(own, other),
        exact=within(0.0),
        within_half=within(HALF[name]),
        within_one=within(2 * HALF[name]),
        difference=fmean(differences),
    )
