"""Sweeps as their runs show them: the table of results, budgets, memory, locks and the app."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ida_tui.errors import ExitCode
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import fold
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.sweep import budget, directory, preflight, processes, text
from ida_tui.sweep.results import build_table
from ida_tui.sweep.status import SweepReader
from ida_tui.tui.app import IdaApp
from tests.support.app_driver import NOON, drive, settled, text_on_screen
from tests.support.synthetic_sweep import RunOutcome, add_run, create_sweep

RATES = "training.learning_rate"


def table_of(sweep: directory.Sweep) -> Any:
    return build_table(sweep, SweepReader(sweep).read_all())


# -- the table ----------------------------------------------------------------------------------


def test_the_table_has_means_with_confidence_intervals_over_seeds() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1", "2")},
        [
            RunOutcome(0.60),
            RunOutcome(0.75),
            RunOutcome(0.62),
            RunOutcome(0.79),
            RunOutcome(0.64),
            RunOutcome(0.77),
        ],
    )

    table = table_of(sweep)

    slow, fast = table.settings
    # The standard deviation of 0.60, 0.62, 0.64 is 0.02; t with 2 degrees of freedom is 4.3027; n is 3.
    interval = slow.figures["reward_last"]
    assert interval.value == pytest.approx(0.62)
    assert interval.high - interval.value == pytest.approx(4.302653 * 0.02 / 3**0.5, abs=1e-6)
    assert text.setting_cells(slow)[:4] == ("3 of 3", "0.250 → 0.620 ±0.050", "–", "100%")
    assert "held-out" not in text.settings_table(table)[0]
    # The differences per seed are 0.15, 0.17 and 0.13; runs are paired by seed, not by order.
    assert table.comparison.best is fast
    assert table.comparison.difference.value == pytest.approx(0.15)
    assert table.comparison.difference.low == pytest.approx(
        0.15 - 4.302653 * 0.02 / 3**0.5, abs=1e-6
    )
    assert text.conclusion(table) == [
        "Best by R_IDA of the last steps: learning_rate=2e-3, +0.150 over learning_rate=1e-3"
        " (95% interval +0.100 to +0.200 over 3 seeds): larger than the noise of the seeds."
    ]


def test_a_sweep_without_harmless_and_unsafe_prompts_has_no_columns_for_refusals() -> None:
    sweep = create_sweep({RATES: ("1e-3", "2e-3")}, [RunOutcome(0.6), RunOutcome(0.7)])
    for trial in sweep.runs_folder.iterdir():
        events = trial / "events.jsonl"
        lines = events.read_text().splitlines(keepends=True)
        events.write_text("".join(line for line in lines if "EvaluationFinished" not in line))
    printed = "\n".join(text.sweep_lines(table_of(sweep)))

    assert "R_IDA" in printed
    assert not re.search("answered|declined|harmless|unsafe", printed)


def test_a_sweep_shows_the_reward_of_the_held_out_prompts_before_and_after_training() -> None:
    sweep = create_sweep({RATES: ("1e-3",)}, [RunOutcome(0.6)])
    events = next(sweep.runs_folder.iterdir()) / "events.jsonl"
    states = []
    for record in read_events(events):
        if isinstance(record.event, ev.EvaluationFinished):
            scored = replace(record.event, scores={"align": 5.0})
            after = replace(scored, reward=0.7, reward_by_prompt=(0.6, 0.8))
            before = replace(after, when="before", step=0, reward=0.2, reward_by_prompt=(0.1, 0.3))
            states += [before, after]
        else:
            states.append(record.event)
    records = (ev.Record(n, "2026-01-31T09:01:00.000Z", event) for n, event in enumerate(states))
    events.write_text("".join(codec.encode(record) + "\n" for record in records))

    table = table_of(sweep)
    head, row = text.settings_table(table)

    assert "held-out" in head
    assert "0.200 → 0.700" in row
    assert "held-out prompts, before training → after;" in " ".join(text.table_notes(table))


def test_held_out_prompts_judged_only_at_the_end_have_no_reward_before_training() -> None:
    sweep = create_sweep({RATES: ("1e-3",)}, [RunOutcome(0.6)])
    events = next(sweep.runs_folder.iterdir()) / "events.jsonl"
    records = [
        replace(record, event=replace(record.event, scores={"align": 5.0}, reward=0.7))
        if isinstance(record.event, ev.EvaluationFinished)
        else record
        for record in read_events(events)
    ]
    events.write_text("".join(codec.encode(record) + "\n" for record in records))

    table = table_of(sweep)

    assert " 0.700 " in text.settings_table(table)[1]
    assert "held-out prompts, after training;" in " ".join(text.table_notes(table))


def test_a_difference_within_the_variation_of_the_seeds_is_called_noise() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1", "2")},
        [
            RunOutcome(0.60),
            RunOutcome(0.75),
            RunOutcome(0.80),
            RunOutcome(0.70),
            RunOutcome(0.70),
            RunOutcome(0.72),
        ],
    )

    assert "within the noise of the seeds" in text.conclusion(table_of(sweep))[0]


def test_seeds_with_the_same_difference_do_not_show_that_a_setting_is_better() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [RunOutcome(0.60), RunOutcome(0.70), RunOutcome(0.61), RunOutcome(0.71)],
    )
    table = table_of(sweep)

    assert table.comparison is not None
    assert not table.comparison.is_significant
    assert "cannot separate this from chance" in text.conclusion(table)[0]


def test_results_with_one_seed_have_no_interval() -> None:
    sweep = create_sweep({RATES: ("1e-3", "2e-3")}, [RunOutcome(0.60), RunOutcome(0.75)])

    table = table_of(sweep)

    assert text.setting_cells(table.settings[0])[1] == "0.250 → 0.600"
    assert "One seed cannot separate this from chance" in text.conclusion(table)[0]
    assert text.sweep_as_json(table)["best"]["difference"] == {
        "mean": pytest.approx(0.15), "low": None, "high": None,
    }  # fmt: skip


def test_only_seeds_that_all_settings_have_run_decide_the_best_setting() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [RunOutcome(0.60), RunOutcome(0.65), RunOutcome(0.99), None],
    )

    table = table_of(sweep)

    assert dict(table.comparison.best.values) == {RATES: "2e-3"}
    assert (
        text.conclusion(table)[-1] == "1 of 4 runs are not finished: these results are preliminary."
    )


def test_a_best_setting_that_declines_less_often_gets_a_warning() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [
            RunOutcome(0.60),
            RunOutcome(0.75, declined=36),
            RunOutcome(0.62),
            RunOutcome(0.78, declined=36),
        ],
    )

    assert (
        text.conclusion(table_of(sweep))[-1]
        == "! But it declines unsafe prompts less often, by 10 points, which may be chance."
    )


def test_rewards_of_different_judges_are_not_ranked() -> None:
    sweep = create_sweep({"judge": ("offline", "ollama")}, [RunOutcome(0.60), RunOutcome(0.75)])

    assert table_of(sweep).comparison is None
    assert "their rewards are not comparable" in text.conclusion(table_of(sweep))[0]


@pytest.mark.parametrize("key", ["prompts", "prompts.only", "judge.temperature", "rubric.formula"])
def test_no_setting_is_best_if_judge_rubric_or_prompts_are_varied(key: str) -> None:
    outcomes = [RunOutcome(reward=0.4), RunOutcome(reward=0.8)]
    sweep = create_sweep({key: ("a", "b")}, outcomes)
    table = build_table(sweep, SweepReader(sweep).read_all())
    assert (table.comparable, table.comparison) == (False, None)
    assert "★" not in "".join(text.sweep_lines(table))
    assert any("not comparable" in line for line in text.conclusion(table))


def test_no_setting_is_best_if_a_run_was_resumed_with_another_judge() -> None:
    sweep = create_sweep({"training.beta": ("0", "0.1")}, [RunOutcome(), RunOutcome(reward=0.8)])
    trials = SweepReader(sweep).read_all()
    assert build_table(sweep, trials).comparable
    state = trials[1].state
    assert state is not None
    resumed = ev.Record(state.seq + 1, state.updated_at, ev.RunResumed(1, "another judge"))
    trials[1] = replace(trials[1], state=fold(state, resumed))
    assert not build_table(sweep, trials).comparable


def test_a_failed_run_is_listed_but_excluded_from_the_means() -> None:
    sweep = create_sweep(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [
            RunOutcome(0.60),
            RunOutcome(0.75),
            RunOutcome(0.1, status="out_of_memory", message="Out of memory"),
            RunOutcome(0.77),
        ],
    )

    table = table_of(sweep)

    assert text.setting_cells(table.settings[0])[:2] == ("1 of 2", "0.250 → 0.600")
    assert any(
        line.startswith("✗ learning_rate=1e-3 seed=1: Out of memory   outputs/quickstart/")
        for line in text.sweep_lines(table)
    )


def test_a_sweep_can_be_shown_without_optuna_and_its_runs_are_listed_once(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [RunOutcome(0.6)])
    monkeypatch.setitem(sys.modules, "optuna", None)

    shown = ida_tui_here("sweep", "--show")

    assert shown.code == 0
    assert "profile values" in shown.out
    assert f"ida-tui sweep --resume outputs/sweeps/{sweep.sweep_id}" in shown.out
    assert json.loads(ida_tui_here("sweep", "--show", "quickstart", "--json").out)["keys"] == {
        "seed": ["0", "1"]
    }
    assert len(ida_tui_here("runs").out.splitlines()) == 1
    assert ida_tui_here("attach", sweep.sweep_id).out == shown.out


# -- money, memory, locks and files --------------------------------------------------------------


def test_the_rest_of_a_budget_is_divided_among_the_runs_that_start() -> None:
    sweep = create_sweep({"seed": ("0", "1", "2", "3")}, [RunOutcome(cost=0.30)], budget=1.0)
    standings = SweepReader(sweep).read_all()

    first = budget.run_cost_limit(standings[1], standings, {}, budget=1.0, slots=2, run_budget=None)
    second = budget.run_cost_limit(
        standings[2], standings, {1: 0.35}, budget=1.0, slots=1, run_budget=0.2
    )
    none = budget.run_cost_limit(
        standings[2], standings, {1: 0.70}, budget=1.0, slots=1, run_budget=None
    )

    assert first == pytest.approx(0.35)
    assert second == pytest.approx(0.2)
    assert none is None


def test_a_spent_budget_pauses_the_sweep_and_prints_the_command_to_resume(
    ida_tui_here: Any,
) -> None:
    plan = preflight.plan_sweep("quickstart", ["seed=0,1", "judge=ollama", "judge.model=qwen3:8b",
                                           "judge.price={input: 1, output: 2}"], budget=0.01)  # fmt: skip
    sweep = preflight.create_sweep(plan, jobs=1, budget=0.01, started_at=NOON)
    add_run(sweep, 0, RunOutcome(cost=0.01))

    result = ida_tui_here("sweep", "--resume", sweep.sweep_id)

    assert result.code == ExitCode.JUDGE_UNAVAILABLE
    assert "✓ 1/2 seed=0 R_IDA 0.250 → 0.500" in result.out
    assert "Paused: the sweep's budget of $0.01 is spent" in result.out
    assert f"--resume outputs/sweeps/{sweep.sweep_id} --budget DOLLARS" in result.out
    assert not sweep.study_file.exists()


def test_runs_start_in_parallel_only_if_their_planned_memory_fits() -> None:
    plan = preflight.plan_sweep("quickstart", ["seed=0,1,2", "limit_gb=3"])
    sweep = preflight.create_sweep(plan, jobs=3, budget=None, started_at=NOON)
    planned = sweep.combinations[0].planned
    assert planned is not None

    active: dict[int, processes.TrainingProcess] = {}
    while processes.LocalMachine().has_room(sweep, len(active), active):
        active[len(active)] = processes.SweepProcess(sweep, len(active), None)

    assert len(active) == int(3e9 // planned)


def test_a_sweep_that_another_process_runs_cannot_be_resumed(ida_tui_here: Any) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [])

    with owner.owned_run(RunDirectory(sweep.path)):
        result = ida_tui_here("sweep", "--resume")

    assert result.code == ExitCode.USAGE
    assert "another process is running the sweep" in result.err


def test_a_sweep_that_contains_a_link_is_not_resumed(ida_tui_here: Any) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [None, None])
    Path("victim").write_text("kept")
    sweep.log_file(0).symlink_to(Path("victim").absolute())

    done = ida_tui_here("sweep", "--resume", str(sweep.path))

    assert done.code == ExitCode.USAGE
    assert "logs/001.log in" in done.err
    assert "is not a regular file or folder" in done.err
    with pytest.raises(OSError, match="it is a link"):
        processes.start_process(sweep, 0, None, None)
    assert Path("victim").read_text() == "kept"


def test_a_grid_is_finished_by_its_runs_without_a_study(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    create_sweep({"seed": ("0", "1")}, [RunOutcome(0.6), RunOutcome(0.7)])

    result = ida_tui_here("sweep", "--resume")

    assert result.code == 0
    assert "✓ 2/2 seed=1 R_IDA 0.250 → 0.700" in result.out
    assert "✓ All 2 runs are done" in result.out
    assert "no search" in ida_tui_here("sweep", "--resume", "--trials", "4").err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"v": 1}', '{"v": 3}', "null", "[" * 9000, '{"v": 1, "keys": {"seed": 5}}'],
    ids=range(8),
)
def test_a_folder_with_an_invalid_sweep_file_gets_a_one_line_error(
    text: str, ida_tui_here: Any
) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [])
    (sweep.path / directory.SWEEP_FILE).write_text(text)

    result = ida_tui_here("sweep", "--show", sweep.sweep_id)

    assert result.code == ExitCode.USAGE
    assert result.err.startswith(f"error: outputs/sweeps/{sweep.sweep_id}/sweep.json ")


# -- in the app ----------------------------------------------------------------------------------


def test_the_app_shows_a_running_sweep_and_opens_its_runs() -> None:
    sweep = create_sweep({RATES: ("1e-3", "2e-3")}, [RunOutcome(0.60)])

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        assert "1 of 2 runs finished · not running" in text_on_screen(app)
        add_run(sweep, 1, RunOutcome(0.75))
        app.screen._poll()
        await settled(app, pilot)
        assert "2 of 2 runs finished" in text_on_screen(app)
        assert "★ learning_rate=2e-3" in text_on_screen(app)
        await pilot.press("j", "enter")
        await settled(app, pilot)
        assert app.current_mode == "run"
        assert app.run_view is not None
        assert app.run_view.directory == sweep.runs_folder / "20260131-090101"

    drive(scenario, app=IdaApp(clock=lambda: NOON, open_directory=sweep.path))
