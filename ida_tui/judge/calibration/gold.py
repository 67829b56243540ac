"""Accuracy of a judge on gold answers: pairwise order, scores within a point, and labels, with intervals.

Answers to the same prompt are compared, as GRPO compares them. The unit of an interval is the prompt, because
answers to one prompt are not independent. Failed verdicts are counted and left out.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from statistics import fmean

from ida_tui.config.schema import Config, JudgeKey, Prompt, PromptSet, RubricConfig
from ida_tui.config.scoring.axes import JUDGED_RANGE
from ida_tui.errors import UsageError
from ida_tui.judge.calibration.gold_file import OVERALL, GoldMark, GoldPair, GoldSet, load_gold
from ida_tui.judge.calibration.gold_report import Disagreement, GoldAxis, GoldReport, LabelFigure
from ida_tui.judge.collect import collect
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.util.intervals import Interval, binomial_interval, share_interval
from ida_tui.util.paths import expand_home
from ida_tui.util.statistics import mean_of_known
from ida_tui.util.text import join_words

GROUP_SIZE = 8
"""Most answers to one prompt that a judge in group mode sees in one call."""
CLOSE_POINTS = 1.0
"""Difference of two scores up to which they agree."""
MAX_COMPARED = 300
"""Most answers that are compared with each other if no prompt has two of them."""
MAX_DISAGREEMENTS = 5
_MIDDLE = sum(JUDGED_RANGE) / 2
_TINY = 1e-9


def check_gold(
    service: JudgeService,
    gold: GoldSet,
    rubric: RubricConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> GoldReport:
    """Have every gold answer scored once, bypassing the cache, and compare with the person.

    Args:
        service: a running service of the judge.
        gold: the gold answers.
        rubric: the rubric of the scores.
        should_stop: polled while calls are pending.

    Raises:
        JudgeInterrupted: `should_stop` returned true.
        JudgeUnavailable: the judge cannot be used.
    """
    reward_name = rubric.reward_name
    verdicts = _verdicts(service, gold, should_stop)
    given = {row.axis for row in gold.marks} | {pair.axis for pair in gold.pairs}
    names = [name for name in (*rubric.judged_axes, OVERALL) if name in given]
    failures = Counter(v.failure for v in verdicts if v.failure is not None)
    costs = [verdict.cost for verdict in verdicts]
    known = [cost for cost in costs if cost is not None]
    worst = sorted(_disagreements(gold, verdicts, reward_name), key=lambda d: -d.size)
    return GoldReport(
        name=gold.name,
        answers=len(gold.answers),
        prompts=len({answer.prompt_key for answer in gold.answers}),
        failed=sum(failures.values()),
        failure=failures.most_common(1)[0][0] if failures else "",
        calls=sum(verdict.calls for verdict in verdicts),
        cost=sum(known) if len(known) == len(costs) else None,
        axes=tuple(_axis_figures(gold, verdicts, name, reward_name) for name in names),
        disagreements=tuple(worst[:MAX_DISAGREEMENTS]),
        notes=gold.notes,
    )


def check_judge_on_gold(
    config: Config,
    gold: GoldSet,
    key: JudgeKey,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> GoldReport:
    """Start the judge of an experiment, and check it on gold answers; see `check_gold`."""
    # The offline heuristic compares words with those of the prompts that it knows.
    texts = dict.fromkeys(answer.prompt for answer in gold.answers)
    prompts = PromptSet(
        name="gold",
        prompts=[Prompt(id=f"gold-{n}", text=text) for n, text in enumerate(texts, start=1)],
    )
    options = JudgeServiceOptions(should_stop=should_stop)
    with JudgeService(config.judge, config.rubric, prompts, key=key, options=options) as service:
        return check_gold(service, gold, config.rubric, should_stop=should_stop)


def load_gold_of(config: Config) -> GoldSet | None:
    """The gold answers that an experiment names; None if it names none.

    Raises:
        UsageError: they cannot be used, or the judge does not give what they are about.
    """
    rubric = config.rubric
    if config.judge.gold is None:
        return None
    gold = load_gold(expand_home(config.judge.gold), tuple(rubric.judged_axes))
    rows: list[GoldMark | GoldPair] = [*gold.marks, *gold.pairs]
    about_reward = [row for row in rows if row.axis == OVERALL]
    if about_reward and (computed := rubric.computed_axes):
        raise UsageError(
            f"this row is about the reward, for which functions compute {join_words(list(computed))}",
            f"write a judged axis in its place: {join_words(list(rubric.judged_axes))}",
            where=about_reward[0].where,
        )
    return gold


def _verdicts(
    service: JudgeService, gold: GoldSet, should_stop: Callable[[], bool]
) -> list[Verdict]:
    """The verdict on each answer; a judge in group mode sees the answers to a prompt together."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, answer in enumerate(gold.answers):
        groups[answer.prompt_key].append(number)
    parts = [
        numbers[start : start + GROUP_SIZE]
        for numbers in groups.values()
        for start in range(0, len(numbers), GROUP_SIZE)
    ]
    futures: dict[int, Future[Verdict]] = {}
    for part in parts:
        requests = [_request(gold, number) for number in part]
        if service.scores_groups:
            own = service.submit_group(requests)
        else:
            own = [service.submit(request) for request in requests]
        futures |= dict(zip(part, own, strict=True))
    order = list(futures)
    received = collect([futures[number] for number in order], should_stop=should_stop)
    verdicts = dict(zip(order, received, strict=True))
    for part in parts:
        aligned = service.align_group([verdicts[number] for number in part])
        verdicts |= dict(zip(part, aligned, strict=True))
    return [verdicts[number] for number in range(len(gold.answers))]


def _request(gold: GoldSet, number: int) -> JudgeRequest:
    answer = gold.answers[number]
    return JudgeRequest(
        f"gold-{number}",
        answer.prompt,
        answer.kind,
        answer.completion,
        bypass_cache=True,
        context=answer.context,
        checks=answer.checks,
    )


def _score(verdict: Verdict, axis: str) -> float | None:
    return verdict.reward if axis == OVERALL else verdict.scores.get(axis)


def _axis_figures(
    gold: GoldSet, verdicts: Sequence[Verdict], axis: str, reward_name: str
) -> GoldAxis:
    judged = {
        number: score
        for number, verdict in enumerate(verdicts)
        if (score := _score(verdict, axis)) is not None
    }
    marks = [mark for mark in gold.marks if mark.axis == axis and mark.answer in judged]
    by_prompt = _pair_results(gold, axis, marks, judged)
    order, pairs, prompts = None, sum(map(len, by_prompt.values())), len(by_prompt)
    if by_prompt:
        order = share_interval([fmean(results) for results in by_prompt.values()])
    else:
        order, pairs = _order_across_prompts(marks, judged)
    scored = [] if axis == OVERALL else [mark for mark in marks if not mark.label]
    labeled = [] if axis == OVERALL else [mark for mark in marks if mark.label]
    return GoldAxis(
        axis or reward_name,
        order=order,
        pairs=pairs,
        prompts=prompts,
        close=_share_by_prompt(
            gold, scored, lambda m: abs(judged[m.answer] - m.value) <= CLOSE_POINTS + _TINY
        ),
        scores=len(scored),
        bias=mean_of_known(judged[mark.answer] - mark.value for mark in scored),
        accuracy=_share_by_prompt(gold, labeled, lambda m: _agrees(m, judged[m.answer])),
        labels=tuple(_label_figures([m for m in marks if m.label], judged, axis)),
    )


def _agrees(mark: GoldMark, score: float) -> bool:
    return score > _MIDDLE if mark.label == "good" else score < _MIDDLE


def _pair_results(
    gold: GoldSet, axis: str, marks: Sequence[GoldMark], judged: Mapping[int, float]
) -> dict[object, list[float]]:
    """For each prompt, whether its pairs are in the right order: 1, 0, or a half for equal scores."""
    results: dict[object, list[float]] = defaultdict(list)
    pairs = {(p.better, p.worse) for p in gold.pairs if p.axis == axis}
    by_prompt: dict[object, list[GoldMark]] = defaultdict(list)
    for mark in marks:
        by_prompt[gold.answers[mark.answer].prompt_key].append(mark)
    for own in by_prompt.values():
        pairs |= set(_ordered_pairs(own))
    for better, worse in sorted(pairs):
        if better in judged and worse in judged:
            key = gold.answers[better].prompt_key
            results[key].append(_order_result(judged[better], judged[worse]))
    return results


def _ordered_pairs(marks: Sequence[GoldMark]) -> Iterator[tuple[int, int]]:
    """The better and the worse answer of each pair to which a person gave something else."""
    for first, second in itertools.combinations(marks, 2):
        comparable = bool(first.label) == bool(second.label) and first.answer != second.answer
        if comparable and first.value != second.value:
            high, low = (first, second) if first.value > second.value else (second, first)
            yield high.answer, low.answer


def _order_result(better: float, worse: float) -> float:
    if abs(better - worse) <= _TINY:
        return 0.5
    return float(better > worse)


def _order_across_prompts(
    marks: Sequence[GoldMark], judged: Mapping[int, float]
) -> tuple[Interval | None, int]:
    """The order of answers to different prompts, and the number of pairs; None without any.

    Every answer is in many pairs, so that the interval counts only as many as can be formed without using an
    answer twice.
    """
    marks = marks[:: max(1, -(-len(marks) // MAX_COMPARED))]
    results = [_order_result(judged[high], judged[low]) for high, low in _ordered_pairs(marks)]
    if not results:
        return None, 0
    disjoint = 0
    for is_label in (False, True):
        counts = Counter(mark.value for mark in marks if bool(mark.label) == is_label)
        if counts:
            total = counts.total()
            disjoint += min(total // 2, total - max(counts.values()))
    share = fmean(results)
    return binomial_interval(share * disjoint, disjoint), len(results)


def _share_by_prompt(
    gold: GoldSet, marks: Sequence[GoldMark], is_hit: Callable[[GoldMark], bool]
) -> Interval | None:
    """The share of marks for which something holds, with an interval over the prompts; None without any."""
    hits: dict[object, list[bool]] = defaultdict(list)
    for mark in marks:
        hits[gold.answers[mark.answer].prompt_key].append(is_hit(mark))
    return share_interval([fmean(own) for own in hits.values()]) if hits else None


def _label_figures(
    marks: Sequence[GoldMark], judged: Mapping[int, float], axis: str
) -> Iterator[LabelFigure]:
    for label in ("good", "bad"):
        own = [mark for mark in marks if mark.label == label]
        if own:
            right = sum(_agrees(m, judged[m.answer]) for m in own) if axis != OVERALL else None
            yield LabelFigure(label, len(own), right, fmean(judged[m.answer] for m in own))


def _disagreements(
    gold: GoldSet, verdicts: Sequence[Verdict], reward_name: str
) -> Iterator[Disagreement]:
    """Scores more than a point away, labels on whose side the score is not, and pairs in the wrong order."""
    rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
    span = max(rewards, default=0.0) - min(rewards, default=0.0)

    def describe(size: float, answer: int, axis: str, where: str, **words: str) -> Disagreement:
        return Disagreement(
            size,
            where,
            axis or reward_name,
            prompt=gold.answers[answer].prompt,
            completion=gold.answers[answer].completion,
            reason=verdicts[answer].reason,
            **words,
        )

    for mark in gold.marks:
        score = _score(verdicts[mark.answer], mark.axis)
        if score is None or mark.axis == OVERALL:
            continue
        size = abs(score - mark.value)
        gold_text = f"{mark.value:g}"
        if mark.label:
            size = 0.0 if _agrees(mark, score) else abs(score - _MIDDLE)
            gold_text = mark.label
        if (mark.label and not _agrees(mark, score)) or (not mark.label and size > CLOSE_POINTS):
            yield describe(
                size, mark.answer, mark.axis, mark.where, gold=gold_text, judged=f"{score:.1f}"
            )
    for where, axis, better, worse in _wrong_order_candidates(gold):
        high, low = (_score(verdicts[number], axis) for number in (better, worse))
        if high is None or low is None or high > low - _TINY:
            continue
        scale = (10 / span if span else 0.0) if axis == OVERALL else 1.0
        digits = 2 if axis == OVERALL else 1
        yield describe(
            scale * (low - high),
            better,
            axis,
            where,
            gold="better than another answer",
            judged=f"{high:.{digits}f}, the other {low:.{digits}f}",
        )


def _wrong_order_candidates(gold: GoldSet) -> Iterator[tuple[str, str, int, int]]:
    """Row, axis, better and worse answer of the given pairs, and of labels of whole answers."""
    for pair in gold.pairs:
        yield pair.where, pair.axis, pair.better, pair.worse
    overall: dict[object, list[GoldMark]] = defaultdict(list)
    for mark in gold.marks:
        if mark.axis == OVERALL:
            overall[gold.answers[mark.answer].prompt_key].append(mark)
    for marks in overall.values():
        rows = {mark.answer: mark.where for mark in marks}
        for better, worse in _ordered_pairs(marks):
            yield rows[better], OVERALL, better, worse
