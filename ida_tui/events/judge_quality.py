"""Quality of a run's judge: how much its verdicts repeat, tie, follow length, position and time.

Pure functions of the finished steps and the drift probes, so that the judge pane, the report and the printed
lines show the same figures. A figure that too few verdicts support is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from ida_tui.config.scoring.axes import JUDGED_RANGE
from ida_tui.events.state import RunState
from ida_tui.events.values import GroupVerdicts
from ida_tui.util.format import format_count, format_number, format_percent, format_signed
from ida_tui.util.intervals import Interval, change_interval, share_interval

MAX_STEPS = 200
"""Newest steps that the figures describe: a judge may change, and a long run has enough of them."""
MIN_PAIRS = 30
"""Fewest pairs of answers for the share of ties."""
MIN_GROUPS = 8
"""Fewest groups, or shuffled orders, for a figure whose unit they are."""
MIN_REPEATS = 8
"""Fewest answers with several verdicts for a figure of their agreement."""
MIN_LENGTH_STEPS = 3
"""Fewest steps for the correlation with length; each has at least eight completions."""
MANY_TIES = 0.75
"""Share of ties from which groups teach little; a model that refuses everything has up to 70%."""
MANY_FLAT_GROUPS = 0.8
"""Share of groups without any difference from which little is learned, as in the alert `zero variance`."""
WIDE_SPREAD = 1.0
"""Mean distance of repeated verdicts, in points, from which a judge's noise hides differences."""
STRONG_LENGTH = 0.8
"""Correlation with length from which a judge pays for length."""
CLEAR_POSITION = 0.25
"""Effect of the position, in points, below which it is too small to matter: half of a half point."""
MUCH_DRIFT = 1.0
"""Mean change of the scores of the fixed answers, in points, that counts as drift."""
_POINTS = JUDGED_RANGE[1] - JUDGED_RANGE[0]


class QualityFigure(NamedTuple):
    """One figure of a judge, in words."""

    name: str
    """One or two words for a row's label."""
    short: str
    """The figure in a few characters, with its name."""
    text: str
    """The figure in a sentence without a period."""
    problem: str = ""
    """What is wrong, in a few words; empty if nothing is."""
    remedy: str = ""
    """What to change; empty if nothing is wrong."""


@dataclass(frozen=True, slots=True)
class JudgeQuality:
    """Figures of a judge's verdicts; None where there are too few of them."""

    tie_share: float | None = None
    """Share of pairs of different answers to the same prompt that earn exactly the same reward."""
    pairs: int = 0
    flat_groups: Interval | None = None
    """Share of groups in which all answers earn the same reward."""
    groups: int = 0
    repeats: int = 0
    """Answers with more than one verdict."""
    spread: Interval | None = None
    """Mean of the highest minus the lowest score of such an answer, in points per axis."""
    agreement: Interval | None = None
    """Share of such answers whose verdicts agree exactly, on every axis."""
    length_r: Interval | None = None
    """Correlation of length and reward among answers alone, or refusals alone; mean over the steps."""
    length_steps: int = 0
    position: Interval | None = None
    """Points that an answer gets more in the first half of a shuffled group than in the second."""
    orders: int = 0
    """Groups, or answers in both halves, that `position` compares."""
    compared: str = "group"
    """What `orders` counts: group, or answer."""
    places: tuple[float | None, ...] = ()
    """Mean score at each place of the order minus that of the whole order, in points."""
    drift: float | None = None
    """Mean change of the scores of the fixed answers since the first probe, in points per axis."""
    samples: int = 1
    """Most verdicts that an answer got from one judge."""

    def figures(self) -> Iterator[QualityFigure]:
        """The known figures in words, in the order in which they are shown."""
        yield from filter(
            None,
            (
                _agreement_figure(self),
                _position_figure(self),
                _ties_figure(self),
                _length_figure(self),
                _drift_figure(self),
            ),
        )

    def as_numbers(self) -> dict[str, float]:
        """The known figures by name, for an event and for JSON; an interval has three entries."""
        numbers: dict[str, float] = {}
        for name, value in (
            ("tie_share", self.tie_share),
            ("flat_groups", self.flat_groups),
            ("repeat_spread", self.spread),
            ("repeat_agreement", self.agreement),
            ("length_r", self.length_r),
            ("early_minus_late", self.position),
            ("drift", self.drift),
        ):
            if isinstance(value, Interval):
                numbers |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            elif value is not None:
                numbers[name] = value
        counts = {"pairs": self.pairs, "groups": self.groups, "repeats": self.repeats}
        counts |= {"orders": self.orders}
        return {name: round(number, 6) for name, number in numbers.items()} | {
            name: float(count) for name, count in counts.items() if count
        }


def run_quality(state: RunState) -> JudgeQuality:
    """The figures of a run's judge in the current scoring period, over its newest `MAX_STEPS` steps."""
    start = max(state.scoring_start, len(state.steps) - MAX_STEPS)
    steps = [step for step in state.steps[start:] if step.reused_step is None]
    drift = state.judge_probes[-1].drift if state.judge_probes else None
    lengths = [step.length_r for step in steps if step.length_r is not None]
    return group_quality(
        (group for step in steps for group in step.judge_groups), lengths=lengths, drift=drift
    )


def group_quality(
    groups: Iterable[GroupVerdicts], *, lengths: Sequence[float] = (), drift: float | None = None
) -> JudgeQuality:
    """The figures of some groups.

    Args:
        groups: the verdicts on each group.
        lengths: correlations of length and reward, one per step.
        drift: mean change of the scores of the fixed answers, in points.
    """
    groups = list(groups)
    pairs = sum(group.pairs for group in groups)
    compared = [group for group in groups if group.pairs]
    repeated = [group for group in groups if group.repeats]
    repeats = sum(group.repeats for group in repeated)
    enough_repeats = repeats >= MIN_REPEATS
    effects = [group.early_minus_late for group in groups if group.early_minus_late is not None]
    return JudgeQuality(
        tie_share=sum(g.ties for g in groups) / pairs if pairs >= MIN_PAIRS else None,
        pairs=pairs,
        flat_groups=share_interval([float(g.ties == g.pairs) for g in compared])
        if len(compared) >= MIN_GROUPS
        else None,
        groups=len(compared),
        repeats=repeats,
        spread=_scaled(share_interval([g.spread / _POINTS for g in repeated]))
        if enough_repeats
        else None,
        agreement=share_interval([g.equal / g.repeats for g in repeated])
        if enough_repeats
        else None,
        length_r=change_interval(lengths) if len(lengths) >= MIN_LENGTH_STEPS else None,
        length_steps=len(lengths),
        position=change_interval(effects, most=_POINTS) if len(effects) >= MIN_GROUPS else None,
        orders=len(effects),
        places=_mean_places([group.places for group in groups if group.places]),
        drift=drift,
        samples=max((group.samples for group in groups), default=1),
    )


def _ties_figure(quality: JudgeQuality) -> QualityFigure | None:
    share, flat = quality.tie_share, quality.flat_groups
    if share is None:
        return None
    text = f"{format_percent(share)} of {quality.pairs:,} pairs of different answers earn the same"
    if flat is not None:
        text += (
            f"; no difference in {format_percent(flat.value)} of {quality.groups:,} groups"
            f" ({percent_interval(flat)})"
        )
    problem = ""
    if flat is not None and flat.value >= MANY_FLAT_GROUPS:
        problem = "most groups have no difference"
    elif share >= MANY_TIES:
        problem = f"{format_percent(share)} of the pairs tie"
    return QualityFigure(
        "ties",
        f"ties {format_percent(share)}",
        text,
        problem,
        "a finer scale (rubric.scale=half_points), judge.samples=3 with a temperature, or"
        " judge.mode=group, which compares answers side by side",
    )


def _agreement_figure(quality: JudgeQuality) -> QualityFigure | None:
    spread, agreement = quality.spread, quality.agreement
    if spread is None or agreement is None:
        return None
    count = f"{quality.repeats:,} answers with several verdicts"
    text = (
        f"verdicts on the same answer differ by {_points(spread.value)} points per axis"
        f" ({_number_interval(spread)}); {format_percent(agreement.value)} of {count} agree exactly"
        f" ({percent_interval(agreement)})"
    )
    problem = remedy = ""
    if spread.value >= WIDE_SPREAD:
        problem = f"repeated verdicts differ by {_points(spread.value)} points"
        more = min(16, max(3, 2 * quality.samples - 1))
        remedy = (
            f"average more verdicts (judge.samples={more}), lower judge.temperature, or write checks that"
            " leave less to taste"
        )
    return QualityFigure("repeats", f"repeats Δ{_points(spread.value)}", text, problem, remedy)


def _length_figure(quality: JudgeQuality) -> QualityFigure | None:
    r = quality.length_r
    if r is None:
        return None
    text = (
        f"r = {format_signed(r.value, 2)} between length and reward among similar answers"
        f" ({_signed_interval(r)}, {quality.length_steps} steps)"
    )
    pays = r.value >= STRONG_LENGTH and r.low > 0
    return QualityFigure(
        "length",
        f"mean length r {format_signed(r.value, 2)}",
        text,
        "length pays" if pays else "",
        "let the rubric penalize filler, or choose another judge" if pays else "",
    )


def _position_figure(quality: JudgeQuality) -> QualityFigure | None:
    effect = quality.position
    if effect is None:
        return None
    favored = favored_positions(effect)
    text = (
        f"an answer in the first half of the shuffled order gets {format_signed(effect.value, 2)} points,"
        f" relative to the last half ({_signed_interval(effect)},"
        f" {format_count(quality.orders, quality.compared)})"
    )
    if not favored:
        text += "; neither half is favored beyond chance"
    return QualityFigure(
        "position",
        f"{'last' if effect.value < 0 else 'first'} +{_points(abs(effect.value))}",
        text,
        f"{favored} positions are favored by {_points(abs(effect.value))} points"
        if favored
        else "",
        "judge.samples=2 shows each order and its reverse, so that the effect cancels; or judge.mode=absolute"
        if favored
        else "",
    )


def favored_positions(effect: Interval) -> str:
    """`first` or `last` if a judge favors answers there, beyond chance and enough to matter; else empty."""
    if not effect.excludes_zero or abs(effect.value) < CLEAR_POSITION:
        return ""
    return "first" if effect.value > 0 else "last"


def _drift_figure(quality: JudgeQuality) -> QualityFigure | None:
    drift = quality.drift
    if drift is None:
        return None
    moved = drift > MUCH_DRIFT
    return QualityFigure(
        "drift",
        f"drift {_points(drift)}",
        f"{_points(drift)} points per axis on the same fixed answers",
        f"scores of fixed answers moved by {_points(drift)} points" if moved else "",
        "rewards before and after are not comparable; pin the judge's version" if moved else "",
    )


def _mean_places(groups: Sequence[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    """The mean at each place of the orders of the most common length; empty for fewer than `MIN_GROUPS`."""
    lengths = [len(places) for places in groups]
    length = max(set(lengths), key=lambda n: (lengths.count(n), n), default=0)
    same = [places for places in groups if len(places) == length]
    if len(same) < MIN_GROUPS:
        return ()
    columns = ([v for v in column if v is not None] for column in zip(*same, strict=True))
    return tuple(fmean(known) if known else None for known in columns)


def _scaled(interval: Interval) -> Interval:
    """An interval of a share as one of points."""
    return Interval(_POINTS * interval.value, _POINTS * interval.low, _POINTS * interval.high)


def _points(value: float) -> str:
    return format_number(value, 1)


def percent_interval(interval: Interval) -> str:
    """An interval of a share in words."""
    return f"95% interval {format_percent(interval.low)} to {format_percent(interval.high)}"


def _number_interval(interval: Interval) -> str:
    return f"95% interval {_points(interval.low)} to {_points(interval.high)}"


def _signed_interval(interval: Interval) -> str:
    low, high = format_signed(interval.low, 2), format_signed(interval.high, 2)
    return f"95% interval {low} to {high}"
