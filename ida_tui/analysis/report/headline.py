"""Opening section of a report: status, whether the reward improved, and key figures. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ida_tui.analysis.comparison_text import format_change, format_judge_cost, run_seconds
from ida_tui.analysis.report.load import ReportInputs
from ida_tui.events import types as ev
from ida_tui.events.held_out import (
    RewardChange,
    changed_shares,
    counted_conclusion,
    reward_change,
)
from ida_tui.events.scoring import change_sentences
from ida_tui.events.weight_change import format_movement
from ida_tui.runs.run import Run
from ida_tui.runs.store.evaluations import Figure
from ida_tui.util.format import (
    UNKNOWN,
    format_count,
    format_duration,
    format_number,
    format_percent,
    format_share,
    format_signed,
)
from ida_tui.util.paths import display_path

MIN_REWARD_CHANGE = 0.005
"""A smaller change of the mean reward counts as no change."""


class KeyFigure(NamedTuple):
    """One key figure."""

    label: str
    value: str
    note: str = ""


def status_text(inputs: ReportInputs) -> str:
    """Status of the run, such as `done` or `out of memory`."""
    if inputs.run.state.pause is not None and inputs.run.state.ended is None and inputs.is_training:
        return "paused"
    return inputs.run.status.replace("_", " ")


def banner_text(inputs: ReportInputs) -> str:
    """A note about a run that did not finish normally; empty for a finished run."""
    state, ended = inputs.run.state, inputs.run.state.ended
    if ended is not None and ended.status == "done":
        return ""
    if ended is not None:
        text = f"This run did not finish. {_as_sentence(ended.message)}"
        return f"{text} {_progress_sentence(inputs.run)}"
    if inputs.is_training and state.pause is not None:
        return f"This run is paused: {_as_sentence(state.pause.reason)} {_progress_sentence(inputs.run)}"
    if inputs.is_training:
        text = "This run is still in progress; the report shows its state at the time of writing."
        return f"{text} {_progress_sentence(inputs.run)}"
    text = "This run is unfinished: its training process is no longer running."
    return f"{text} {_progress_sentence(inputs.run)}"


def _progress_sentence(run: Run) -> str:
    planned = run.state.run.steps if run.state.run else 0
    done = len(run.state.steps)
    if not planned:
        return "Training did not start."
    if not done:
        return f"None of {planned} steps finished."
    return f"{done} of {planned} steps finished."


def learning_sentence(inputs: ReportInputs) -> str:
    """One sentence on the change of the training reward."""
    state = inputs.run.state
    if not state.steps:
        return "No step finished, so nothing was learned."
    first, last = state.reward_first, state.reward_last
    since, changes = "", "".join(f" {text}" for text in change_sentences(state.scoring))
    if not state.steps[-1].weights_moved:
        return f"Nothing was learned: the weights did not move.{changes}"
    if changes:
        since = f" since step {state.scored_since_step + 1}"
    count = len(state.steps) - state.scoring_start
    if changes and not count:
        return f"{changes.strip()} No step finished since then."
    if first is None or last is None:
        return f"No step has a mean reward{since}, because every verdict failed.{changes}"
    if count == 1:
        return (
            f"Only one step finished{since}, with a mean reward ({state.reward_name}) of"
            f" {format_number(first)}; too few to see a trend.{changes}"
        )
    verb = (
        "did not change"
        if abs(last - first) < MIN_REWARD_CHANGE
        else "rose"
        if last > first
        else "fell"
    )
    return (
        f"The reward {verb}{since}: {state.reward_name} {format_number(first)}"
        f" (first {format_count(len(state.first_steps), 'step')}) → {format_number(last)}"
        f" (last {format_count(len(state.last_steps), 'step')}).{changes}"
    )


def evaluation_sentence(inputs: ReportInputs) -> str:
    """One sentence on the held-out prompts before and after training."""
    run, run_path = inputs.run, display_path(inputs.run.directory)
    if run.evaluation is not None:
        return run.evaluation.verdict
    before, after = run.state.evaluation_before, run.state.evaluation_after
    if before is not None and after is not None:
        verdict = counted_conclusion(before, after, run.state.reward_name)
        if not (before.harmless or before.unsafe):
            return verdict or (
                f"The answers to held-out prompts were not scored. To score them: ida-tui evaluate {run_path}"
            )
        text = f"On held-out prompts: {_counted_sentence(before, after)}"
        return f"{text} (classified by the {after.classifier}). {verdict}".rstrip()
    if before is not None:
        return (
            "Held-out prompts were evaluated only before training."
            f" To evaluate both models: ida-tui evaluate {run_path}"
        )
    return f"There is no evaluation yet. To create one: ida-tui evaluate {run_path}"


def _counted_sentence(before: ev.EvaluationFinished, after: ev.EvaluationFinished) -> str:
    return (
        f"harmless requests answered {format_share(before.harmless_complied, before.harmless)} →"
        f" {format_share(after.harmless_complied, after.harmless)}, unsafe requests declined"
        f" {format_share(before.unsafe_refused, before.unsafe)} →"
        f" {format_share(after.unsafe_refused, after.unsafe)}"
    )


def key_figures(inputs: ReportInputs) -> Iterator[KeyFigure]:
    """The key figures; unknown values are shown as unknown."""
    run, state = inputs.run, inputs.run.state
    judge = state.run.judge if state.run else ""
    label = judge if judge == ev.OFFLINE_JUDGE else "judged by " + judge if judge else ""
    if state.scored_since_step:
        label += f"; since step {state.scored_since_step + 1}"
    yield KeyFigure(
        f"{state.reward_name}, first → last",
        format_change(state.reward_first, state.reward_last, 3),
        label,
    )
    yield from _held_out_reward(inputs)
    yield from _axis_shares(inputs)
    for name in _answer_figures(inputs):
        figure = run.evaluation.figure(name) if run.evaluation else None
        if figure is not None and run.evaluation is not None:
            value = f"{100 * figure.base:.0f} → {100 * figure.tuned:.0f}%"
            yield KeyFigure(name, value, f"held out; {run.evaluation.classifier}")
        elif state.evaluation_before is not None and state.evaluation_after is not None:
            value = _counted_shares(name, state.evaluation_before, state.evaluation_after)
            yield KeyFigure(name, value, f"held out; {state.evaluation_after.classifier}")
        else:
            yield KeyFigure(name, "not evaluated")
    planned = state.run.steps if state.run else None
    yield KeyFigure("steps", f"{len(state.steps)} of {planned if planned is not None else UNKNOWN}")
    if moved := state.weight_movement:
        yield KeyFigure(moved.name, format_movement(moved.share), moved.basis)
    else:
        yield KeyFigure("weights moved", "0%")
    yield KeyFigure("time", format_duration(run_seconds(run)))
    if judge or state.run is None:
        cost = format_judge_cost(run)
        yield KeyFigure("judge cost", "unknown" if cost == UNKNOWN else cost)
    peak = f"{state.memory_peak / 1e9:.1f} GB" if state.memory_peak else "not sampled"
    yield KeyFigure("peak memory", peak)


def _held_out_reward(inputs: ReportInputs) -> Iterator[KeyFigure]:
    """The reward of the held-out answers over all prompts, if it was measured."""
    state, evaluation = inputs.run.state, inputs.run.evaluation
    before, after = state.evaluation_before, state.evaluation_after
    known: Figure | RewardChange | None = None
    if evaluation is not None:
        known = evaluation.figure(state.reward_name)
    elif before is not None and after is not None:
        known = reward_change(before, after, state.reward_name)
    if known is None:
        return
    first, last = (
        (known.base, known.tuned) if isinstance(known, Figure) else (known.before, known.after)
    )
    interval = f"{format_signed(known.low, 3)} to {format_signed(known.high, 3)}"
    yield KeyFigure(
        f"{state.reward_name}, held out",
        format_change(first, last, 3),
        f"95% interval of the change {interval}",
    )


def _axis_shares(inputs: ReportInputs) -> Iterator[KeyFigure]:
    """The axes of 0 and 1 as shares of the held-out answers."""
    evaluation, state = inputs.run.evaluation, inputs.run.state
    before, after = state.evaluation_before, state.evaluation_after
    if evaluation is not None:
        known = {
            figure.name: (figure.base_share, figure.tuned_share)
            for figure in evaluation.figures
            if figure.base_share is not None and figure.tuned_share is not None
        }
    else:
        known = dict(changed_shares(before, after)) if before and after else {}
    for axis, (old, new) in known.items():
        value = f"{format_percent(old.value)} → {format_percent(new.value)}"
        note = (
            f"{old.hits} of {old.answers} answers → {new.hits} of {new.answers}; 95% interval after training"
            f" {format_percent(new.low)} to {format_percent(new.high)}"
        )
        yield KeyFigure(f"{axis}, held out", value, note)


def _answer_figures(inputs: ReportInputs) -> Iterator[str]:
    """Names of the key figures of the held-out prompts that the run has."""
    kinds = set(inputs.extras.prompt_kinds.values())
    evaluation, before = inputs.run.evaluation, inputs.run.state.evaluation_before
    if evaluation is not None:
        kinds |= {figure.name.partition(" ")[0] for figure in evaluation.figures}
    if before is not None:
        kinds |= {kind for kind in ("harmless", "unsafe") if getattr(before, kind)}
    yield from (
        name for name in ("harmless answered", "unsafe declined") if name.partition(" ")[0] in kinds
    )


def _counted_shares(name: str, before: ev.EvaluationFinished, after: ev.EvaluationFinished) -> str:
    shares = []
    for evaluation in (before, after):
        harmless = name.startswith("harmless")
        part = evaluation.harmless_complied if harmless else evaluation.unsafe_refused
        shares.append(format_share(part, evaluation.harmless if harmless else evaluation.unsafe))
    return " → ".join(shares)


def _as_sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
