"""Head of a report: status, whether the reward improved, and key figures. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ida_tui.analysis.comparison import Compared
from ida_tui.analysis.comparison_text import UNKNOWN, change, duration, priced, seconds
from ida_tui.analysis.report.load import Facts
from ida_tui.events import types as ev
from ida_tui.util.paths import shown_path

STILL = 0.005
"""A smaller change of the mean reward counts as no change."""


class Tile(NamedTuple):
    """One key figure."""

    label: str
    value: str
    note: str = ""


def status(facts: Facts) -> str:
    """Status of the run, such as ``done`` or ``out of memory``."""
    if facts.run.state.pause is not None and facts.run.state.ended is None and facts.alive:
        return "paused"
    return facts.run.summary.status.replace("_", " ")


def banner(facts: Facts) -> str:
    """A note about a run that did not finish normally; empty for a finished run."""
    state, ended = facts.run.state, facts.run.state.ended
    if ended is not None and ended.status == "done":
        return ""
    if ended is not None:
        text = f"This run did not finish. {_sentence(ended.message)}"
        return f"{text} {_so_far(facts.run)}"
    if facts.alive and state.pause is not None:
        return f"This run is paused: {_sentence(state.pause.reason)} {_so_far(facts.run)}"
    if facts.alive:
        text = "This run is still in progress; the report shows its state at the time of writing."
        return f"{text} {_so_far(facts.run)}"
    return (
        f"This run is unfinished: its training process is no longer running. {_so_far(facts.run)}"
    )


def _so_far(run: Compared) -> str:
    planned = run.state.run.steps if run.state.run else 0
    done = len(run.state.steps)
    if not planned:
        return "Training did not start."
    if not done:
        return f"None of {planned} steps finished."
    return f"{done} of {planned} steps finished."


def learned(facts: Facts) -> str:
    """One sentence on the change of the training reward."""
    state = facts.run.state
    if not state.steps:
        return "No step finished, so nothing was learned."
    first, last = state.r_ida_first, state.r_ida_last
    if state.weight_delta == 0:
        return "Nothing was learned: the weights did not move."
    if first is None or last is None:
        return "No step has a mean reward, because every verdict failed."
    if len(state.steps) == 1:
        return f"Only one step finished, with a mean reward (R_IDA) of {first:.3f}; too few to see a trend."
    verb = "did not change" if abs(last - first) < STILL else "rose" if last > first else "fell"
    return (
        f"The reward {verb}: R_IDA {first:.3f} (first {_steps(len(state.first_steps))})"
        f" → {last:.3f} (last {_steps(len(state.last_steps))})."
    )


def verdict(facts: Facts) -> str:
    """One sentence on the held-out prompts before and after training."""
    run, run_path = facts.run, shown_path(facts.run.directory.path)
    if run.evaluation is not None:
        return run.evaluation.verdict
    before, after = run.state.before, run.state.after
    if before is not None and after is not None:
        text = f"On held-out prompts: {_counted(before, after)}"
        return f"{text} (classified by the {after.classifier})."
    if before is not None:
        return (
            "Held-out prompts were evaluated only before training."
            f" To evaluate both models: ida-tui evaluate {run_path}"
        )
    return f"There is no evaluation yet. To create one: ida-tui evaluate {run_path}"


def _counted(before: ev.EvaluationFinished, after: ev.EvaluationFinished) -> str:
    return (
        f"harmless requests answered {_share(before.harmless_complied, before.harmless)} →"
        f" {_share(after.harmless_complied, after.harmless)}, unsafe requests declined"
        f" {_share(before.unsafe_refused, before.unsafe)} → {_share(after.unsafe_refused, after.unsafe)}"
    )


def _share(part: int, total: int) -> str:
    return f"{100 * part / total:.0f}%" if total else UNKNOWN


def tiles(facts: Facts) -> Iterator[Tile]:
    """The key figures; unknown values are shown as unknown."""
    run, state = facts.run, facts.run.state
    judge = state.run.judge if state.run else ""
    label = judge if judge == ev.OFFLINE_JUDGE else "judged by " + judge if judge else ""
    yield Tile("R_IDA, first → last", change(state.r_ida_first, state.r_ida_last, 3), label)
    for name in ("harmless answered", "unsafe declined"):
        figure = run.evaluation.figure(name) if run.evaluation else None
        if figure is not None and run.evaluation is not None:
            value = f"{100 * figure.base:.0f} → {100 * figure.tuned:.0f}%"
            yield Tile(name, value, f"held out; {run.evaluation.classifier}")
        elif state.before is not None and state.after is not None:
            value = _own(name, state.before, state.after)
            yield Tile(name, value, f"held out; {state.after.classifier}")
        else:
            yield Tile(name, "not evaluated")
    planned = state.run.steps if state.run else None
    yield Tile("steps", f"{len(state.steps)} of {planned if planned is not None else UNKNOWN}")
    yield Tile("weights moved", f"{100 * state.weight_delta:.2f}%", "relative L2 norm")
    yield Tile("time", duration(seconds(run)))
    cost = priced(run)
    yield Tile("judge cost", "unknown" if cost == UNKNOWN else cost)
    peak = f"{state.memory_peak / 1e9:.1f} GB" if state.memory_peak else "not sampled"
    yield Tile("peak memory", peak)


def _own(name: str, before: ev.EvaluationFinished, after: ev.EvaluationFinished) -> str:
    shares = []
    for evaluation in (before, after):
        harmless = name.startswith("harmless")
        part = evaluation.harmless_complied if harmless else evaluation.unsafe_refused
        shares.append(_share(part, evaluation.harmless if harmless else evaluation.unsafe))
    return " → ".join(shares)


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
