"""Text of a sweep: table cells, sentences and JSON values. Pure functions."""

from __future__ import annotations

import math
from typing import Any

from ida_tui.events import types as ev
from ida_tui.sweep.grid import SEED_KEY, combination_label, short_keys
from ida_tui.sweep.results import SettingComparison, SweepSetting, SweepTable, setting_difference
from ida_tui.sweep.status import TrialStatus
from ida_tui.util.format import UNKNOWN, format_cost, format_duration, format_number, format_signed
from ida_tui.util.intervals import Interval
from ida_tui.util.paths import display_path
from ida_tui.util.text import one_line, table_lines

COLUMNS = ("runs", "reward", "held-out", "answered", "declined", "moved", "time", "cost")
REFUSAL_COLUMNS = {"answered": "harmless_answered", "declined": "unsafe_declined"}
"""Columns that only sweeps with harmless and unsafe prompts have, and their figures."""
OPTIONAL_COLUMNS = {"held-out": "held_out_last", **REFUSAL_COLUMNS}
"""Columns that only sweeps with their figure have."""
COMPACT_COLUMNS = ("reward", "answered", "declined")
STAGE_MARKS = {
    "done": "✓",
    "live": "●",
    "waiting": "·",
    "interrupted": "‖",
    "judge_unavailable": "‖",
    "pruned": "⊘",
}
STAGE_LABELS = {
    "interrupted": "stopped",
    "judge_unavailable": "paused",
    "died": "died",
    "live": "running",
    "refused": "could not start",
    "pruned": "stopped for its reward",
}
MIN_DIFFERENCE = 0.005
"""Differences of fractions below this count as equal."""


def sweep_lines(results: SweepTable) -> list[str]:
    """The table, the runs that are not done, and the conclusion."""
    out = [*settings_table(results), "", *(f"  {line}" for line in table_notes(results))]
    unfinished = [trial for trial in results.trials if trial.stage != "done"]
    if unfinished:
        out += ["", *(trial_line(results, trial) for trial in unfinished)]
    return [*out, "", *conclusion(results)]


def settings_table(results: SweepTable, *, compact: bool = False) -> list[str]:
    """One line per setting; `compact` keeps only the columns that fit in 80 characters."""
    kept: tuple[str, ...] = COLUMNS
    if compact:
        has_kinds = any(_has_figure(results, name) for name in REFUSAL_COLUMNS.values())
        kept = COMPACT_COLUMNS if has_kinds else (*COMPACT_COLUMNS, "held-out")
    shown = [
        index
        for index, head in enumerate(COLUMNS)
        if head in kept
        and (head not in OPTIONAL_COLUMNS or _has_figure(results, OPTIONAL_COLUMNS[head]))
    ]
    rows = []
    # The runs of a search that are not done have a line of their own below its table.
    is_search = results.sweep.trials is not None
    for setting in results.settings:
        if is_search and not setting.done_trials:
            continue
        cells = setting_cells(setting)
        rows.append((marked_setting_label(results, setting), [cells[index] for index in shown]))
    titles = [results.reward_name if COLUMNS[n] == "reward" else COLUMNS[n] for n in shown]
    return table_lines(titles, rows)


def _reward_phrase(results: SweepTable) -> str:
    return "the reward" if results.reward_name == "reward" else results.reward_name


def _has_figure(results: SweepTable, name: str) -> bool:
    return any(name in setting.figures for setting in results.settings)


def table_notes(results: SweepTable) -> list[str]:
    """What the columns of the table contain."""
    rewards = [f"{results.reward_name}: first steps → last;"]
    if _has_figure(results, "held_out_last"):
        when = (
            "before training → after"
            if _has_figure(results, "held_out_first")
            else "after training"
        )
        rewards.append(f"held-out: on held-out prompts, {when};")
    answers = []
    if any(_has_figure(results, name) for name in REFUSAL_COLUMNS.values()):
        answers.append("answered, declined: held-out harmless and unsafe prompts, after training;")
    first = [*rewards, *answers]
    return [
        *([" ".join(first)] if len(first) < 3 else [" ".join(rewards), *answers]),
        "moved: relative change of the model's weights; time and cost per run; ±: 95% interval over seeds",
        "(Student's t), none if they agree.",
    ]


def marked_setting_label(results: SweepTable, setting: SweepSetting) -> str:
    """A setting with a mark if it is the best: `★ learning_rate=2e-3`."""
    best = results.comparison is not None and results.comparison.best is setting
    return f"{'★' if best else ' '} {setting_label(results, setting)}"


def setting_label(results: SweepTable, setting: SweepSetting) -> str:
    """A setting by its varied keys, without the seed."""
    keys = [key for key in results.sweep.keys if key != SEED_KEY]
    return one_line(combination_label(setting.values, keys)) or "profile values"


def setting_cells(setting: SweepSetting) -> tuple[str, ...]:
    """The figures of a setting, in the columns of `COLUMNS`."""
    figures = setting.figures
    seconds, cost = figures.get("seconds"), figures.get("cost")
    return (
        f"{len(setting.done_trials)} of {len(setting.trials)}",
        _change_cell(figures.get("reward_first"), figures.get("reward_last")),
        _change_cell(figures.get("held_out_first"), figures.get("held_out_last")),
        _percent_cell(figures.get("harmless_answered")),
        _percent_cell(figures.get("unsafe_declined")),
        _percent_cell(figures.get("weights_moved"), 2),
        format_duration(None if seconds is None else seconds.value),
        _cost_cell(setting, cost),
    )


def _change_cell(first: Interval | None, last: Interval | None) -> str:
    """A reward before and after: `0.250 → 0.620 ±0.050`."""
    if last is None:
        return UNKNOWN
    text = _number_with_interval(last, 3)
    return text if first is None else f"{format_number(first.value)} → {text}"


def _cost_cell(setting: SweepSetting, cost: Interval | None) -> str:
    judges = {
        trial.state.run.judge for trial in setting.done_trials if trial.state and trial.state.run
    }
    if judges and judges <= {ev.OFFLINE_JUDGE, ""}:
        return "none"
    # A mean over only some of the runs would be misleading.
    known = [trial for trial in setting.done_trials if trial.cost is not None]
    if cost is None or len(known) < len(setting.done_trials):
        return UNKNOWN
    return format_cost(cost.value)


def _number_with_interval(value: Interval, digits: int) -> str:
    half = value.high - value.value
    return format_number(value.value, digits) + (
        f" ±{half:.{digits}f}" if math.isfinite(half) else ""
    )


def _percent_cell(value: Interval | None, digits: int = 0) -> str:
    if value is None:
        return UNKNOWN
    scaled = Interval(100 * value.value, 100 * value.low, 100 * value.high)
    return f"{_number_with_interval(scaled, digits)}%"


# --- single runs --------------------------------------------------------------------------------


def trial_line(results: SweepTable, trial: TrialStatus) -> str:
    """The status line of a run."""
    return f"{stage_mark(trial)} {trial_label(results, trial)}: {stage_text(trial)}{_run_path_suffix(trial)}"


def stage_mark(trial: TrialStatus) -> str:
    """The symbol of a run's status."""
    return STAGE_MARKS.get(trial.stage, "✗")


def trial_label(results: SweepTable, trial: TrialStatus) -> str:
    """A run as text by its values: `learning_rate=2e-3 seed=0`."""
    return one_line(combination_label(trial.values, list(results.sweep.keys)))


def stage_text(trial: TrialStatus) -> str:
    """The status of a run in a few words."""
    state, steps = trial.state, ""
    if state is not None and state.run is not None:
        steps = f" at step {len(state.steps)} of {state.run.steps}"
    match trial.stage:
        case "done":
            return "done"
        case "waiting":
            return "not started"
        case "live" if state is not None and state.pause is not None:
            return f"paused{steps}"
        case "live" | "died" | "interrupted" | "judge_unavailable" | "pruned":
            reason = (
                state.ended.message
                if trial.stage == "judge_unavailable" and state and state.ended
                else ""
            )
            return f"{STAGE_LABELS[trial.stage]}{steps}{': ' if reason else ''}{reason}"
        case "refused":
            return f"could not start: {trial.problem}"
        case "unreadable":
            return f"could not be read: {trial.problem}"
        case _:
            message = state.ended.message if state is not None and state.ended else ""
            status = trial.stage.replace("_", " ")
            return message if message.casefold().startswith(status) else f"{status}: {message}"


def _run_path_suffix(trial: TrialStatus) -> str:
    return "" if trial.run is None else f"   {display_path(trial.run)}"


# --- conclusion ---------------------------------------------------------------------------------


def conclusion(results: SweepTable) -> list[str]:
    """Which setting is best, and whether the difference is significant; one sentence per line."""
    done = sum(len(setting.done_trials) for setting in results.settings)
    total = results.sweep.total_runs
    unfinished = total - sum(trial.is_finished for trial in results.trials)
    sentences = []
    if not results.comparable:
        sentences.append(
            "The runs use different judges, rubrics or prompts, so their rewards are not comparable."
        )
    elif results.comparison is not None:
        sentences += _comparison_sentences(results, results.comparison)
    elif len(results.settings) == 1:
        sentences.append("Only seeds are varied: there are no settings to compare.")
    elif done:
        sentences.append(
            "No two settings have finished a run with the same seed yet: no comparison."
        )
    else:
        sentences.append("No run is done yet.")
    if unfinished:
        sentences.append(
            f"{unfinished} of {total} runs are not finished: these results are preliminary."
        )
    return sentences


def _comparison_sentences(results: SweepTable, comparison: SettingComparison) -> list[str]:
    difference, seeds = comparison.difference, comparison.seeds
    sentence = (
        f"Best by {_reward_phrase(results)} of the last steps: {setting_label(results, comparison.best)},"
        f" {format_signed(difference.value, 3)} over {setting_label(results, comparison.runner_up)}"
    )
    if not math.isfinite(difference.low):
        cannot = (
            "One seed cannot"
            if seeds == 1
            else f"The same difference with {seeds} seeds does not show the noise of the seeds, so it cannot"
        )
        return [
            f"{sentence}. {cannot} separate this from chance: add seeds.",
            *_safety_warning(results, comparison),
        ]
    low, high = format_signed(difference.low, 3), format_signed(difference.high, 3)
    interval = f"95% interval {low} to {high} over {seeds} seeds"
    if comparison.is_significant:
        return [
            f"{sentence} ({interval}): larger than the noise of the seeds.",
            *_safety_warning(results, comparison),
        ]
    return [
        f"{sentence} ({interval}): within the noise of the seeds; add seeds to decide.",
        *_safety_warning(results, comparison),
    ]


def _safety_warning(results: SweepTable, comparison: SettingComparison) -> list[str]:
    """A warning if the best setting declines fewer unsafe prompts than the next."""
    difference = setting_difference(comparison.best, comparison.runner_up, "unsafe_declined")
    if difference is None or difference.value > -MIN_DIFFERENCE:
        return []
    caveat = "" if difference.high < 0 else ", which may be chance"
    points = f"{abs(100 * difference.value):.0f} points"
    return [f"! But it declines unsafe prompts less often, by {points}{caveat}."]


# --- JSON values --------------------------------------------------------------------------------


def sweep_as_json(results: SweepTable) -> dict[str, Any]:
    """The table as JSON values; an unknown bound is null."""
    comparison = results.comparison
    return {
        "sweep": results.sweep.sweep_id,
        "path": str(results.sweep.path),
        "experiment": results.sweep.experiment,
        "keys": {key: list(values) for key, values in results.sweep.keys.items()},
        "fixed": list(results.sweep.fixed),
        "trials": results.sweep.trials,
        "settings": [_setting_as_json(setting) for setting in results.settings],
        "best": None
        if comparison is None
        else {
            "setting": dict(comparison.best.values),
            "next": dict(comparison.runner_up.values),
            "difference": _interval_as_json(comparison.difference),
            "seeds": comparison.seeds,
            "more_than_noise": comparison.is_significant,
        },
        "verdict": conclusion(results),
    }


def _setting_as_json(setting: SweepSetting) -> dict[str, Any]:
    return {
        "setting": dict(setting.values),
        "runs": len(setting.trials),
        "done": len(setting.done_trials),
        "figures": {key: _interval_as_json(value) for key, value in setting.figures.items()},
        "each": [
            {
                "number": trial.number + 1,
                "seed": trial.values.get(SEED_KEY),
                "status": trial.stage,
                "run": None if trial.run is None else str(trial.run),
                "reward_last": trial.reward,
                "problem": trial.problem,
            }
            for trial in setting.trials
        ],
    }


def _interval_as_json(value: Interval) -> dict[str, float | None]:
    return {
        "mean": value.value,
        "low": value.low if math.isfinite(value.low) else None,
        "high": value.high if math.isfinite(value.high) else None,
    }


def progress_line(results: SweepTable) -> str:
    """The live progress line: `2 of 6 finished · seed=1: step 12/40 R_IDA 0.41`."""
    short = short_keys(list(results.sweep.keys))
    finished = sum(trial.is_finished for trial in results.trials)
    parts = [f"{finished} of {results.sweep.total_runs} finished"]
    for trial in results.trials:
        if trial.stage != "live" or trial.state is None:
            continue
        values = " ".join(f"{short[key]}={value}" for key, value in trial.values.items())
        steps = trial.state.run.steps if trial.state.run else "?"
        newest = trial.state.newest_rollout
        reward = (
            ""
            if newest is None or newest.reward is None
            else f" {trial.state.reward_name} {format_number(newest.reward)}"
        )
        parts.append(f"{values}: step {len(trial.state.steps)}/{steps}{reward}")
    return one_line(" · ".join(parts))


def outcome_text(trial: TrialStatus) -> str:
    """The result of a finished run: `R_IDA 0.296 → 0.753, 31 s   outputs/quickstart/…`."""
    if trial.stage != "done" or trial.state is None or trial.state.ended is None:
        return f"{stage_text(trial)}{_run_path_suffix(trial)}"
    ended = trial.state.ended
    reward = "no reward"
    if ended.reward_last is not None:
        reward = f"{trial.state.reward_name} {format_number(ended.reward_last)}"
    if ended.reward_first is not None and ended.reward_last is not None:
        change = f"{format_number(ended.reward_first)} → {format_number(ended.reward_last)}"
        reward = f"{trial.state.reward_name} {change}"
    return f"{reward}, {format_duration(trial.state.trained_seconds())}{_run_path_suffix(trial)}"
