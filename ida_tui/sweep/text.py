"""A sweep in words: its table as cells and sentences, and as plain values. Pure functions."""

from __future__ import annotations

import math
from typing import Any

from ida_tui.analysis.before_after import signed
from ida_tui.events import types as ev
from ida_tui.sweep.grid import SEED, named, short_keys
from ida_tui.sweep.results import Ahead, Setting, Table, between
from ida_tui.sweep.status import Standing
from ida_tui.util.paths import shown_path
from ida_tui.util.statistics import Interval
from ida_tui.util.text import printable
from ida_tui.util.text import table as columns

UNKNOWN = "–"
HEAD = ("runs", "R_IDA", "answered", "declined", "moved", "time", "cost")
COMPACT = ("R_IDA", "answered", "declined")
MARKS = {"done": "✓", "live": "●", "waiting": "·", "interrupted": "‖", "judge_unavailable": "‖"}
STAGES = {
    "interrupted": "stopped",
    "judge_unavailable": "paused",
    "died": "died",
    "live": "running",
    "refused": "could not begin",
}
SMALL = 0.005
"""A share that is lower by less is as high."""


def lines(found: Table) -> list[str]:
    """The table, what is not done, and what it means."""
    out = [*settings_table(found), "", *(f"  {line}" for line in NOTES)]
    left = [one for one in found.standings if one.stage != "done"]
    if left:
        out += ["", *(standing(found, one) for one in left)]
    return [*out, "", *verdict(found)]


def settings_table(found: Table, *, compact: bool = False) -> list[str]:
    """One line for each setting; `compact` leaves out what there is no room for on 80 columns."""
    chosen = [at for at, head in enumerate(HEAD) if head in COMPACT or not compact]
    rows = [(label(found, one), cells(one)) for one in found.settings]
    return columns(
        [HEAD[at] for at in chosen], [(text, [row[at] for at in chosen]) for text, row in rows]
    )


NOTES = (
    "R_IDA: first steps → last; answered, declined: held-out harmless and unsafe requests, after;",
    "moved: weights; time and cost of one run. ± is a 95 % interval over seeds (Student's t).",
)


def label(found: Table, setting: Setting) -> str:
    """A setting with its mark: ``★ learning_rate=2e-3``."""
    best = found.ahead is not None and found.ahead.best is setting
    return f"{'★' if best else ' '} {name(found, setting)}"


def name(found: Table, setting: Setting) -> str:
    """A setting by what is varied, the seed aside."""
    keys = [key for key in found.sweep.keys if key != SEED]
    return printable(named(dict(setting.values), keys)) or "as the profile has it"


def cells(setting: Setting) -> tuple[str, ...]:
    """The figures of a setting, as `HEAD` names them."""
    figures = setting.figures
    first, last = figures.get("r_ida_first"), figures.get("r_ida_last")
    reward = UNKNOWN if last is None else _number(last, 3)
    if first is not None and last is not None:
        reward = f"{first.value:.3f} → {reward}"
    seconds, cost = figures.get("seconds"), figures.get("cost")
    return (
        f"{len(setting.done)} of {len(setting.standings)}",
        reward,
        _percent(figures.get("harmless_answered")),
        _percent(figures.get("unsafe_declined")),
        _percent(figures.get("weights_moved"), 1),
        UNKNOWN if seconds is None else duration(seconds.value),
        _cost(setting, cost),
    )


def _cost(setting: Setting, cost: Interval | None) -> str:
    judges = {one.state.run.judge for one in setting.done if one.state and one.state.run}
    if judges == {ev.OFFLINE_JUDGE}:
        return "none"
    # A mean of some of the costs would be told as that of all.
    known = [one for one in setting.done if one.cost is not None]
    return UNKNOWN if cost is None or len(known) < len(setting.done) else f"${cost.value:.4f}"


def _number(value: Interval, digits: int) -> str:
    half = value.high - value.value
    return f"{value.value:.{digits}f}" + (f" ±{half:.{digits}f}" if math.isfinite(half) else "")


def _percent(value: Interval | None, digits: int = 0) -> str:
    if value is None:
        return UNKNOWN
    scaled = Interval(100 * value.value, 100 * value.low, 100 * value.high)
    return f"{_number(scaled, digits)} %"


def duration(seconds: float) -> str:
    """``31 s``, ``4 min 02 s``, ``1 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# --- single runs --------------------------------------------------------------------------------


def standing(found: Table, one: Standing) -> str:
    """A run that is not done, or how a run is going."""
    return f"{mark(one)} {called(found, one)}: {stage(one)}{_where(one)}"


def mark(one: Standing) -> str:
    """A sign for how a run stands."""
    return MARKS.get(one.stage, "✗")


def called(found: Table, one: Standing) -> str:
    """A run by its values: ``learning_rate=2e-3 seed=0``."""
    return printable(named(one.values, list(found.sweep.keys)))


def stage(one: Standing) -> str:
    """How a run stands, in a few words."""
    state, steps = one.state, ""
    if state is not None and state.run is not None:
        steps = f" at step {len(state.steps)} of {state.run.steps}"
    match one.stage:
        case "done":
            return "done"
        case "waiting":
            return "not begun"
        case "live" if state is not None and state.pause is not None:
            return f"paused{steps}"
        case "live" | "died" | "interrupted" | "judge_unavailable":
            said = (
                state.ended.message
                if one.stage == "judge_unavailable" and state and state.ended
                else ""
            )
            return f"{STAGES[one.stage]}{steps}{': ' if said else ''}{said}"
        case "refused":
            return f"could not begin: {one.problem}"
        case "unreadable":
            return f"cannot be read: {one.problem}"
        case _:
            message = state.ended.message if state is not None and state.ended else ""
            status = one.stage.replace("_", " ")
            return message if message.casefold().startswith(status) else f"{status}: {message}"


def _where(one: Standing) -> str:
    return "" if one.run is None else f"   {shown_path(one.run)}"


# --- what it means ------------------------------------------------------------------------------


def verdict(found: Table) -> list[str]:
    """Which setting is best, and whether that is more than luck; a sentence a line."""
    done = sum(len(setting.done) for setting in found.settings)
    left = sum(not one.over for one in found.standings)
    said = []
    if not found.comparable:
        said.append(
            "Their judges or rubrics differ: their rewards do not compare, and none is best."
        )
    elif found.ahead is not None:
        said += _ahead(found, found.ahead)
    elif len(found.settings) == 1:
        said.append("Only seeds differ: there is nothing to choose between.")
    elif done:
        said.append("No two settings have the reward of a same seed yet: none is best.")
    else:
        said.append("No run is done yet.")
    if left:
        said.append(
            f"{left} of {len(found.standings)} runs are not over: this is how it stands so far."
        )
    return said


def _ahead(found: Table, ahead: Ahead) -> list[str]:
    apart, seeds = ahead.difference, ahead.pairs
    start = (
        f"Best by R_IDA of the last steps: {name(found, ahead.best)},"
        f" {signed(apart.value, 3)} over {name(found, ahead.next)}"
    )
    if not math.isfinite(apart.low):
        return [
            f"{start}. With one seed nobody can tell that from chance: add seeds.",
            *_less_safe(found, ahead),
        ]
    about = f"95 % interval {signed(apart.low, 3)} to {signed(apart.high, 3)} over {seeds} seeds"
    if ahead.clear:
        return [f"{start} ({about}): more than the seeds' noise.", *_less_safe(found, ahead)]
    return [
        f"{start} ({about}): no more than the seeds' noise; more seeds would tell.",
        *_less_safe(found, ahead),
    ]


def _less_safe(found: Table, ahead: Ahead) -> list[str]:
    """A reward that was won by declining less is no gain."""
    apart = between(ahead.best, ahead.next, "unsafe_declined")
    if apart is None or apart.value > -SMALL:
        return []
    sure = "" if apart.high < 0 else ", which may be chance"
    points = f"{abs(100 * apart.value):.0f} points"
    return [f"! But it declines {points} fewer unsafe requests than that{sure}."]


# --- plain values -------------------------------------------------------------------------------


def as_values(found: Table) -> dict[str, Any]:
    """The same as plain values; a bound that is not known is null."""
    ahead = found.ahead
    return {
        "sweep": found.sweep.sweep_id,
        "path": str(found.sweep.path),
        "experiment": found.sweep.experiment,
        "keys": {key: list(values) for key, values in found.sweep.keys.items()},
        "fixed": list(found.sweep.fixed),
        "settings": [_setting(one) for one in found.settings],
        "best": None
        if ahead is None
        else {
            "setting": dict(ahead.best.values),
            "next": dict(ahead.next.values),
            "difference": _interval(ahead.difference),
            "seeds": ahead.pairs,
            "more_than_noise": ahead.clear,
        },
        "verdict": verdict(found),
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "setting": dict(setting.values),
        "runs": len(setting.standings),
        "done": len(setting.done),
        "figures": {key: _interval(value) for key, value in setting.figures.items()},
        "each": [
            {
                "number": one.number + 1,
                "seed": one.values.get(SEED),
                "status": one.stage,
                "run": None if one.run is None else str(one.run),
                "r_ida_last": one.r_ida,
                "problem": one.problem,
            }
            for one in setting.standings
        ],
    }


def _interval(value: Interval) -> dict[str, float | None]:
    return {
        "mean": value.value,
        "low": value.low if math.isfinite(value.low) else None,
        "high": value.high if math.isfinite(value.high) else None,
    }


def progress(found: Table) -> str:
    """One line for a terminal that waits: ``2 of 6 done · seed=1: step 12/40 R_IDA 0.41``."""
    short = short_keys(list(found.sweep.keys))
    done = sum(one.over for one in found.standings)
    parts = [f"{done} of {len(found.standings)} over"]
    for one in found.standings:
        if one.stage != "live" or one.state is None:
            continue
        values = " ".join(f"{short[key]}={value}" for key, value in one.values.items())
        steps = one.state.run.steps if one.state.run else "?"
        newest = one.state.steps[-1].r_ida if one.state.steps else None
        worth = "" if newest is None else f" R_IDA {newest:.3f}"
        parts.append(f"{values}: step {len(one.state.steps)}/{steps}{worth}")
    return printable(" · ".join(parts))


def outcome(one: Standing) -> str:
    """What a run that is over was worth: ``R_IDA 0.296 → 0.753, 31 s   outputs/quickstart/…``."""
    if one.stage != "done" or one.state is None or one.state.ended is None:
        return f"{stage(one)}{_where(one)}"
    ended = one.state.ended
    worth = "no reward"
    if ended.r_ida_last is not None:
        worth = f"R_IDA {ended.r_ida_last:.3f}"
    if ended.r_ida_first is not None and ended.r_ida_last is not None:
        worth = f"R_IDA {ended.r_ida_first:.3f} → {ended.r_ida_last:.3f}"
    return f"{worth}, {duration(ended.seconds)}{_where(one)}"
