"""Report of a run whose scoring changed, and what its judging cost."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from ida_tui.analysis.model_card import CardInputs, render_card
from ida_tui.analysis.report.figures import failed_percent
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.run import Run
from ida_tui.runs.store.judge_costs import JudgeCosts
from ida_tui.runs.weights import TrainedWeights
from tests.analysis.reported_run import RUN, edit_lines, page_text, write_and_read
from tests.support import synthetic_run


def change_judge_after(step: int, formula: str = "") -> None:
    """Record that the run was resumed with another judge after this step."""

    def change(body: dict[str, Any]) -> None:
        if body["type"] == "RunStarted":
            body["scoring"] = {"judge": "first judge"}
            body["formula"] = formula

    edit_lines(change)
    path = RUN / "events.jsonl"
    lines = path.read_text().splitlines()
    position = next(
        n for n, line in enumerate(lines)
        if json.loads(line)["type"] == "StepFinished" and json.loads(line)["step"] == step
    )  # fmt: skip
    resumed = ev.RunResumed(step, "second judge", {"judge": "second judge"})
    lines.insert(
        position + 1, codec.encode(ev.Record(position + 1, ev.current_timestamp(), resumed))
    )
    path.write_text("\n".join(lines) + "\n")


def test_the_report_never_combines_the_scores_of_two_judges(finished: RunDirectory) -> None:
    change_judge_after(4)
    state = Run.load(finished).state
    html, markdown = write_and_read(finished)
    assert [s.step for s in (*state.first_steps, *state.last_steps)] == [5, 6]
    text = page_text(html)
    assert "since step 5: R_IDA" in text
    assert "After step 4 the judge (first judge → second judge) changed" in text
    assert "Dotted lines mark changes of the scoring" in text
    assert "Step 5 → last step" in text
    assert "The highest rewards since step 5" in text
    assert not re.search(r"step [1-4], group", text)
    assert "After step 4 the judge" in markdown


def test_the_report_and_the_model_card_name_the_formula_of_the_run(finished: RunDirectory) -> None:
    change_judge_after(4, "R_IDA = the formula mine (the weakest axis), from 0 to 1")
    for text in write_and_read(finished):
        assert "the formula mine" in text
        assert "min(1, risk/5)" not in text
    config = Run.load(finished).config
    trained = TrainedWeights(RUN / "adapter", 6, True, Run.load(finished).state)
    card = render_card(CardInputs(config, trained, "adapter", "float32", "equal", {}, None))
    assert "the formula mine" in card
    assert "min(1, risk/5)" not in card
    assert [line for line in card.splitlines() if re.match(r"\| [1-4] \|", line)] == []


def test_completions_that_were_never_judged_are_not_failed_verdicts() -> None:
    step = next(e for e in synthetic_run.step_events(1, 2) if isinstance(e, ev.StepFinished))
    unjudged = replace(step, scored=0, completions=8)
    batch = ev.JudgeBatchFinished(1, 8, 0, 2, 0, 1.0, 1.0, None, None, 0.0)
    assert failed_percent(unjudged, None) is None
    assert failed_percent(step, replace(batch, failed=step.completions // 2)) == 50


def test_the_cost_of_a_run_includes_calls_that_no_finished_step_made(
    finished: RunDirectory,
) -> None:
    edit_lines(lambda body: body.update(judge="gpt-4o-mini") if "judge" in body else None)
    with closing(JudgeCosts(finished, "train")) as costs:
        costs.finish(costs.start(0.3), 0.3, 0.25)
        costs.start(0.3)
    with closing(JudgeCosts(finished, "evaluate")) as costs:
        assert costs.spent == pytest.approx(0.55)
        costs.finish(costs.start(0.2), 0.2, 0.125)
    assert Run.load(finished).judge_cost == ev.JudgeCost(0.5, 0, 1)
    text = page_text(write_and_read(finished)[0])
    assert "$0.5000 (estimated for 1 call without a reply)" in text
    assert "$0.1250; evaluate, chat and replay-judge" in text
