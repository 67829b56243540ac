"""Text about runs with other axes than the shipped ones: report, comparison, model card, lines and lists."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui.analysis.comparison import compare_runs
from ida_tui.analysis.model_card import CardInputs, render_card
from ida_tui.analysis.report.write import write_report
from ida_tui.analysis.rescore import rescore
from ida_tui.cli.output.comparison import comparison_lines
from ida_tui.cli.output.rescore import rescore_lines
from ida_tui.cli.output.runs import summary_line
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Config
from ida_tui.config.scoring.axes import Axis, display_scale
from ida_tui.config.scoring.rubric import RubricAxis
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.narration import event_lines
from ida_tui.events.state import RunState, fold
from ida_tui.rewards.formulas import parse_formula
from ida_tui.runs.catalog.read_summary import read_summary
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.run import Run
from ida_tui.runs.weights import TrainedWeights
from tests.support import synthetic_run

STEPS = 6
REWARD_RANGE = (-5.0, 120.0)
IDA_WORDS = re.compile(
    r"refus|declin|harmless|unsafe|\balign\b|\brisk\b|safest|\bdetail\b|R_IDA|R\\_IDA", re.I
)
"""Words on the shipped axes and on refusals, which no text about another reward contains."""
EVALUATION = ev.EvaluationFinished("before", 0, 30, 0, 0, 0, 0, 0, 0, ev.OFFLINE_JUDGE, 1.0)


def scored(when: ev.EvaluationMoment, step: int, reward: float) -> ev.EvaluationFinished:
    """An evaluation of 30 prompts without kinds that all have this mean reward."""
    scores = {axis.name: 0.5 for axis in synthetic_run.EIGHT_AXES}
    return replace(
        EVALUATION, when=when, step=step, reward=reward, scores=scores, unlabeled=120,
        reward_by_prompt=tuple(reward + n / 100 for n in range(30)),
    )  # fmt: skip


@pytest.fixture
def evaluated() -> RunDirectory:
    """Such a run with an evaluation before, after step 3 and at the end."""
    directory = write_run("20260103-000000")
    events = [record.event for record in read_events(directory.events)]
    third = next(n for n, e in enumerate(events) if isinstance(e, ev.StepFinished) and e.step == 3)
    events = [
        *events[:2], scored("before", 0, 10.0), *events[2 : third + 1], scored("during", 3, 40.0),
        *events[third + 1 : -1], scored("after", STEPS, 90.0), events[-1],
    ]  # fmt: skip
    records = (ev.Record(n, ev.current_timestamp(), event) for n, event in enumerate(events))
    directory.events.write_text("".join(codec.encode(record) + "\n" for record in records))
    return directory


@pytest.fixture
def run() -> RunDirectory:
    """A run with judged and computed axes, another reward, and prompts without a kind."""
    return write_run("20260101-000000")


def write_run(
    run_id: str,
    reward: str = "usefulness",
    axes: Sequence[Axis] = synthetic_run.EIGHT_AXES,
    judge: str | None = None,
) -> RunDirectory:
    directory = RunDirectory(Path(f"outputs/words/{run_id}").absolute())
    started = synthetic_run.started_with(axes, STEPS, reward)
    started = replace(started, run_id=run_id, experiment="words")
    started = started if judge is None else replace(started, judge=judge)
    synthetic_run.write(
        directory.events, STEPS, rows=4, started=started, kind="", reward_range=REWARD_RANGE
    )
    return directory


def config_of_run() -> Config:
    """The profile of such a run."""
    config = resolve("quickstart").config
    axes = {
        axis.name: RubricAxis(zero="bad", ten="good")
        if axis.kind == "judged"
        else RubricAxis(function="words.py:count", range=(axis.low, axis.high))
        for axis in synthetic_run.EIGHT_AXES
    }
    rubric = config.rubric.model_copy(
        update={
            "axes": axes,
            "name": "words",
            "reward": "usefulness",
            "formula": "accuracy + words",
        }
    )
    prompts = config.prompts.model_copy(update={"name": "questions"})
    return config.model_copy(update={"rubric": rubric, "prompts": prompts})


def missing_names(text: str) -> list[str]:
    return [axis.name for axis in synthetic_run.EIGHT_AXES if axis.name not in text]


def test_the_report_shows_the_axes_of_the_run_and_nothing_about_others(run: RunDirectory) -> None:
    report = write_report(run)
    html, markdown = report.html.read_text(), report.markdown.read_text().replace("\\", "")
    page = re.sub(r"<svg.*?</svg>", "", html[html.index("<body") :], flags=re.DOTALL)

    for text in (page, markdown):
        assert not missing_names(text)
        assert not IDA_WORDS.findall(text)
        assert "The judge scores accuracy, tone, step from 0 to 10." in text
        assert "Functions compute brief, format, unit_tests, words, penalty." in text
    assert "<h3>The judged axes</h3>" in html
    assert "<h3>The computed axes</h3>" in html


def test_the_report_of_one_computed_axis_has_no_plot_of_judged_axes() -> None:
    directory = write_run("20260101-000000", axes=synthetic_run.EIGHT_AXES[-1:])
    html = write_report(directory).html.read_text()

    assert "<h3>The judged axes</h3>" not in html
    assert "<h3>The computed axes</h3>" in html
    assert "Functions compute penalty." in html


def test_texts_about_a_run_without_a_judge_mention_none() -> None:
    directory = write_run("20260101-000000", axes=synthetic_run.EIGHT_AXES[-1:], judge="")
    report, loaded = write_report(directory), Run.load(directory)
    trained = TrainedWeights(directory.path / "adapter", STEPS, True, loaded.state)
    config = config_of_run()
    card = render_card(CardInputs(config, trained, "adapter", "float32", "equal", {}, None))

    for text in (report.html.read_text(), report.markdown.read_text()):
        assert "no reason given" not in text
    assert '<h2 id="judge">Scoring</h2>' in report.html.read_text()
    assert "## Scoring" in report.markdown.read_text()
    assert "high scores from its reward functions" in card
    assert "| scored by | reward functions" in card
    assert "| judge |" not in card
    assert json.dumps(config.prompts.held_out()[0].text) in card
    other = write_run("20260102-000000", axes=synthetic_run.EIGHT_AXES[-1:], judge="")
    compared = "\n".join(comparison_lines(compare_runs([directory, other])))
    assert "scored by" in compared
    assert "judge" not in compared


def test_a_comparison_shows_all_axes_of_its_runs(run: RunDirectory) -> None:
    lines = comparison_lines(compare_runs([run, write_run("20260102-000000")]))
    text = "\n".join(lines)

    assert not missing_names(text)
    assert not IDA_WORDS.findall(text)
    assert "usefulness over 6 steps (scale 0 to 95)" in text
    assert "words over 6 steps" in text


def test_a_comparison_leaves_out_what_an_axis_of_one_run_does_not_say(run: RunDirectory) -> None:
    other = write_run("20260102-000000")
    config = config_of_run()
    axes = {"polish": RubricAxis(zero="bad", ten="good")}
    rubric = config.rubric.model_copy(update={"axes": axes, "formula": "polish"})
    run.config.write_text(to_yaml(config))
    other.config.write_text(to_yaml(config.model_copy(update={"rubric": rubric})))

    keys = {difference.key for difference in compare_runs([run, other]).differences}

    assert "rubric.axes.polish.zero" in keys
    assert "rubric.axes.polish.checks" not in keys
    assert "rubric.axes.polish.function" not in keys


def test_runs_with_different_rewards_are_compared_under_the_title_reward(run: RunDirectory) -> None:
    text = "\n".join(comparison_lines(compare_runs([run, write_run("20260102-000000", "score")])))

    assert "reward over 6 steps" in text
    assert "usefulness over" not in text


def test_a_run_is_rescored_with_a_formula_of_its_axes(run: RunDirectory) -> None:
    axes = Run.load(run).state.axes
    result = rescore(run, parse_formula("step + words", axes), old_scale="batch", new_scale="batch")
    text = "\n".join(rescore_lines("words", result, "accuracy + words"))

    assert "step + words" in text
    assert "accuracy" in text
    assert not IDA_WORDS.findall(text)


def test_the_lines_of_a_run_name_its_axes_and_its_reward(run: RunDirectory) -> None:
    state, lines = RunState(), []
    events = [record.event for record in read_events(run.events)]
    events[-1:] = [EVALUATION, replace(EVALUATION, when="after"), events[-1]]
    for number, event in enumerate(events):
        state = fold(state, ev.Record(number, ev.current_timestamp(), event))
        lines += event_lines(state, event)
    text = "\n".join(lines)

    assert (
        "Step 6/6 | usefulness=95.000 | accuracy=8.0 tone=8.0 step=8.0 brief=0.8 format=0.8"
        " unit_tests=0.8 words=0.8 penalty=−1" in lines
    )
    assert "✓ Before training, on 30 held-out prompts" in lines
    assert not IDA_WORDS.findall(text)
    assert "usefulness" in lines[-1] or any(line.startswith("  usefulness") for line in lines)


def test_the_judged_reward_of_held_out_prompts_is_printed_under_its_name(run: RunDirectory) -> None:
    figure = ev.EvaluationFigure("usefulness", "reward", 10.0, 20.0, 5.0, 15.0)
    after = replace(EVALUATION, when="after", figures=(figure,))
    state, lines = RunState(), []
    events = [record.event for record in read_events(run.events)]
    for number, event in enumerate([*events[:-1], EVALUATION, after, events[-1]]):
        state = fold(state, ev.Record(number, ev.current_timestamp(), event))
        lines += event_lines(state, event)

    assert any(
        re.match(r"    usefulness +10\.000 → 20\.000 \(95% interval", line) for line in lines
    )


def test_a_run_is_listed_with_the_name_of_its_reward(run: RunDirectory) -> None:
    line = summary_line(read_summary(run))

    assert "usefulness 0.200 → 0.800" in line
    assert not IDA_WORDS.findall(line)


def test_the_model_card_describes_the_axes_of_the_run(run: RunDirectory) -> None:
    loaded = Run.load(run)
    state = replace(
        loaded.state, evaluation_before=EVALUATION, evaluation_after=replace(EVALUATION, step=STEPS)
    )
    trained = TrainedWeights(run.path / "adapter", STEPS, True, state)
    card = render_card(
        CardInputs(config_of_run(), trained, "adapter", "float32", "equal", {}, None)
    )
    text = card.replace("\\", "")

    assert "A judge scored each answer on accuracy, tone and step." in text
    assert "Functions computed brief, format, unit_tests, words and penalty." in text
    assert f"| steps | usefulness | | {' | '.join(a.name for a in state.axes)} |" in text
    assert not IDA_WORDS.findall(text)


def test_the_report_of_an_evaluation_without_kinds_has_its_reward_and_no_refusals(
    evaluated: RunDirectory,
) -> None:
    report = write_report(evaluated)
    html, markdown = report.html.read_text(), report.markdown.read_text().replace("\\", "")
    page = re.sub(r"<svg.*?</svg>", "", html[html.index("<body") :], flags=re.DOTALL)

    for text in (page, markdown):
        assert "On held-out prompts, usefulness rose (10.145 → 90.145, 95% interval" in text
        assert "usefulness, held out" in text
        assert "measured during the run" in text
        assert not IDA_WORDS.findall(text)
    assert "held-out prompts</text>" in html


def test_lines_comparison_and_model_card_have_the_reward_on_held_out_prompts_and_no_refusals(
    evaluated: RunDirectory,
) -> None:
    state, lines = RunState(), []
    for record in read_events(evaluated.events):
        state = fold(state, record)
        lines += event_lines(state, record.event)
    assert ["✓ After step 3, on 30 held-out prompts:", "   usefulness=40.000"] in [
        lines[n : n + 2] for n in range(len(lines))
    ]
    assert any(
        re.match(r"    usefulness +10\.145 → 90\.145 \(95% interval", line) for line in lines
    )

    compared = "\n".join(comparison_lines(compare_runs([evaluated, write_run("20260104-000000")])))
    assert re.search(r"held-out reward +10\.145 → 90\.145 \(", compared)

    trained = TrainedWeights(evaluated.path / "adapter", STEPS, True, state)
    inputs = CardInputs(config_of_run(), trained, "adapter", "float32", "equal", {}, None)
    card = render_card(inputs).replace("\\", "")
    assert "| usefulness | 10.145 | 90.145 | +" in card
    assert "On held-out prompts, usefulness rose" in card
    for text in (*lines, compared, card):
        assert not IDA_WORDS.findall(text)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.2, 0.9], (0.0, 1.0)),
        ([], (0.0, 1.0)),
        ([-4.62, 118.7], (-4.7, 120.0)),
        ([None, 1.01], (0.0, 1.1)),
        ([-0.5], (-0.5, 1.0)),
        ([-1e-320, 2.0**53], (0.0, 9.1e15)),
        ([-1234.0, -10.0], (-1300.0, 1.0)),
    ],
)
def test_the_scale_of_a_reward_reaches_as_far_as_its_values_with_short_ends(
    values: list[float | None], scale: tuple[float, float]
) -> None:
    assert display_scale(values) == scale
