"""Sweeps: what a command line expands to, what the table says, and a real one that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.events import types as ev
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.sweep import budget, directory, preflight, processes, text
from ida_tui.sweep.grid import combination_label, parse_grid, split_values
from ida_tui.sweep.results import build_table
from ida_tui.sweep.scheduler import SweepScheduler
from ida_tui.sweep.status import SweepReader
from ida_tui.sweep.study import TrialQueue
from ida_tui.tui.app import IdaApp
from tests.support.app_driver import NOON, drive, settled, text_on_screen
from tests.support.synthetic_sweep import Made, add_run
from tests.support.synthetic_sweep import sweep as made_up

RATES = "training.learning_rate"
PATIENCE_S = 200.0


def told(one: directory.Sweep) -> Any:
    return build_table(one, SweepReader(one).read_all())


# -- what a command line means ------------------------------------------------------------------


def test_values_between_commas_make_a_grid_whose_seeds_change_last() -> None:
    found = parse_grid([f"{RATES}=1e-3,2e-3", "training.max_steps=4", "seed=0,1"])

    assert [combination_label(values) for values in found.combinations] == [
        "learning_rate=1e-3 seed=0",
        "learning_rate=2e-3 seed=0",
        "learning_rate=1e-3 seed=1",
        "learning_rate=2e-3 seed=1",
    ]
    assert found.fixed == ("training.max_steps=4",)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[csv]", ("[csv]",)),
        ("[csv, wandb]", ("[csv, wandb]",)),
        ("[csv],[csv, wandb]", ("[csv]", "[csv, wandb]")),
        ("'a, b'", ("'a, b'",)),
        ("don't,do", ("don't", "do")),
        ("{input: 1, output: 2}", ("{input: 1, output: 2}",)),
    ],
)
def test_a_comma_in_brackets_or_quotes_parts_nothing(text: str, values: tuple[str, ...]) -> None:
    assert split_values("key", text) == values


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        (["seed=0"], "no key is varied"),
        (["seed=0,,1"], "has an empty value between commas"),
        (["seed=0,1,0"], '"0" is given twice'),
        (["seed=0,1", "seed=2"], "seed is given twice"),
        (["seed"], "is not key=value"),
        (["output_dir=a,b"], "output_dir cannot be varied"),
        (["seed=" + ",".join(map(str, range(1001)))], "1,001 combinations are too many"),
        ([f"{RATES}=1e-3,0.001"], "learning_rate=0.001 is the same run as learning_rate=1e-3"),
        ([f"{RATES}=1e-3,fast", "seed=0,1"], "learning_rate=fast seed=0: "),
        (["judge=offline,nobody"], "judge=nobody: there is no judge profile named"),
        (["device=cpu,cuda"], "device=cuda: device: this machine has no cuda"),
    ],
)
def test_whatever_is_wrong_is_one_error_before_anything_is_written(
    typed: list[str], title: str, ida_tui_here: Any
) -> None:
    done = ida_tui_here("sweep", "quickstart", *typed)

    assert done.code == ExitCode.USAGE
    assert title in done.err.splitlines()[0]
    assert not Path("outputs").exists()


def test_a_combination_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(IdaError, match=r"seed=0 limit_gb=0.5: planned memory is") as error:
        preflight.plan_sweep("quickstart", ["seed=0,1", "limit_gb=8,0.5"])

    assert error.value.code is ExitCode.OUT_OF_MEMORY


def test_a_budget_needs_a_judge_whose_calls_have_a_price() -> None:
    words_ = ["seed=0,1", "judge=ollama", "judge.price=null"]

    with pytest.raises(UsageError, match="a budget requires a price"):
        preflight.plan_sweep("quickstart", words_, budget=2.0)


def test_what_would_be_run_can_be_checked_alone(ida_tui_here: Any) -> None:
    done = ida_tui_here("sweep", "quickstart", f"{RATES}=1e-3,2e-3", "seed=0,1,2", "--check")

    assert done.code == 0
    assert done.out.startswith("✓ 2 values of training.learning_rate × 3 of seed = 6 runs")
    assert not Path("outputs").exists()


def test_without_optuna_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    monkeypatch.setattr("ida_tui.sweep.study.find_spec", lambda name: None)

    done = ida_tui_here("sweep", "quickstart", "seed=0,1")

    assert done.code == ExitCode.USAGE
    assert "a sweep needs optuna" in done.err
    assert "uv sync --extra sweep" in done.err


# -- the table ----------------------------------------------------------------------------------


def test_the_table_has_means_with_intervals_over_seeds() -> None:
    one = made_up(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1", "2")},
        [Made(0.60), Made(0.75), Made(0.62), Made(0.79), Made(0.64), Made(0.77)],
    )

    found = told(one)

    slow, fast = found.settings
    # The spread of 0.60, 0.62, 0.64 is 0.02; t of 2 degrees of freedom is 4.3027; over the root of 3.
    interval = slow.figures["r_ida_last"]
    assert interval.value == pytest.approx(0.62)
    assert interval.high - interval.value == pytest.approx(4.302653 * 0.02 / 3**0.5, abs=1e-6)
    assert text.setting_cells(slow)[:3] == ("3 of 3", "0.250 → 0.620 ±0.050", "100 ±0%")
    # By seed they are 0.15, 0.17 and 0.13 apart, seeds told apart by their numbers and not by their order.
    assert found.comparison.best is fast
    assert found.comparison.difference.value == pytest.approx(0.15)
    assert found.comparison.difference.low == pytest.approx(
        0.15 - 4.302653 * 0.02 / 3**0.5, abs=1e-6
    )
    assert text.conclusion(found) == [
        "Best by R_IDA of the last steps: learning_rate=2e-3, +0.150 over learning_rate=1e-3"
        " (95% interval +0.100 to +0.200 over 3 seeds): larger than the noise of the seeds."
    ]


def test_a_difference_that_seeds_alone_could_make_is_called_noise() -> None:
    one = made_up(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1", "2")},
        [Made(0.60), Made(0.75), Made(0.80), Made(0.70), Made(0.70), Made(0.72)],
    )

    assert "within the noise of the seeds" in text.conclusion(told(one))[0]


def test_one_seed_tells_nothing_of_noise() -> None:
    one = made_up({RATES: ("1e-3", "2e-3")}, [Made(0.60), Made(0.75)])

    found = told(one)

    assert text.setting_cells(found.settings[0])[1] == "0.250 → 0.600"
    assert "One seed cannot separate this from chance" in text.conclusion(found)[0]
    assert text.sweep_as_json(found)["best"]["difference"] == {
        "mean": pytest.approx(0.15), "low": None, "high": None,
    }  # fmt: skip


def test_a_lucky_seed_that_only_one_setting_has_had_makes_it_no_winner() -> None:
    one = made_up(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")}, [Made(0.60), Made(0.65), Made(0.99), None]
    )

    found = told(one)

    assert dict(found.comparison.best.values) == {RATES: "2e-3"}
    assert (
        text.conclusion(found)[-1] == "1 of 4 runs are not finished: these results are preliminary."
    )


def test_a_best_setting_that_declines_less_is_said_to() -> None:
    one = made_up(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [Made(0.60), Made(0.75, declined=36), Made(0.62), Made(0.78, declined=36)],
    )

    assert (
        text.conclusion(told(one))[-1]
        == "! But it declines unsafe prompts less often, by 10 points."
    )


def test_rewards_of_two_judges_are_not_ranked() -> None:
    one = made_up({"judge": ("offline", "ollama")}, [Made(0.60), Made(0.75)])

    assert told(one).comparison is None
    assert "their rewards are not comparable" in text.conclusion(told(one))[0]


def test_a_run_that_failed_is_a_row_that_counts_in_no_mean() -> None:
    one = made_up(
        {RATES: ("1e-3", "2e-3"), "seed": ("0", "1")},
        [
            Made(0.60),
            Made(0.75),
            Made(0.1, status="out_of_memory", message="Out of memory"),
            Made(0.77),
        ],
    )

    found = told(one)

    assert text.setting_cells(found.settings[0])[:2] == ("1 of 2", "0.250 → 0.600")
    assert any(
        line.startswith("✗ learning_rate=1e-3 seed=1: Out of memory   outputs/quickstart/")
        for line in text.sweep_lines(found)
    )


def test_a_sweep_is_shown_without_optuna_and_its_runs_are_listed_once(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    one = made_up({"seed": ("0", "1")}, [Made(0.6)])
    monkeypatch.setitem(sys.modules, "optuna", None)

    shown = ida_tui_here("sweep", "--show")

    assert shown.code == 0
    assert "profile values" in shown.out
    assert f"ida-tui sweep --resume outputs/sweeps/{one.sweep_id}" in shown.out
    assert json.loads(ida_tui_here("sweep", "--show", "quickstart", "--json").out)["keys"] == {
        "seed": ["0", "1"]
    }
    assert len(ida_tui_here("runs").out.splitlines()) == 1
    assert ida_tui_here("attach", one.sweep_id).out == shown.out


# -- money, memory, locks ------------------------------------------------------------------------


def test_what_is_left_of_a_budget_is_shared_by_the_runs_that_are_begun() -> None:
    one = made_up({"seed": ("0", "1", "2", "3")}, [Made(cost=0.30)], budget=1.0)
    standings = SweepReader(one).read_all()

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


def test_a_spent_budget_pauses_the_sweep_with_the_command_that_goes_on(ida_tui_here: Any) -> None:
    plan = preflight.plan_sweep("quickstart", ["seed=0,1", "judge=ollama", "judge.model=qwen3:8b",
                                           "judge.price={input: 1, output: 2}"], budget=0.01)  # fmt: skip
    one = preflight.create_sweep(plan, jobs=1, budget=0.01, started_at=NOON)
    add_run(one, 0, Made(cost=0.01))

    done = ida_tui_here("sweep", "--resume", one.sweep_id)

    assert done.code == ExitCode.JUDGE_UNAVAILABLE
    assert "✓ 1/2 seed=0 R_IDA 0.250 → 0.500" in done.out
    assert "Paused: the sweep's budget of $0.01 is spent" in done.out
    assert f"--resume outputs/sweeps/{one.sweep_id} --budget DOLLARS" in done.out
    assert TrialQueue(one).pending() == [1]


def test_runs_are_begun_beside_each_other_only_where_their_plans_fit() -> None:
    plan = preflight.plan_sweep("quickstart", ["seed=0,1,2", "limit_gb=3"])
    one = preflight.create_sweep(plan, jobs=3, budget=None, started_at=NOON)
    course = SweepScheduler(
        one, TrialQueue(one), print_line=lambda line: None, on_update=lambda found: None
    )
    need = one.combinations[0].planned
    assert need is not None

    fitting = 0
    while course._fits_in_memory(fitting):
        course._processes[fitting] = processes.SweepProcess(one, fitting, None)
        fitting += 1

    assert fitting == int(3e9 // need)


def test_only_one_process_carries_a_sweep_out(ida_tui_here: Any) -> None:
    one = made_up({"seed": ("0", "1")}, [])

    with owner.owned_run(RunDirectory(one.path)):
        done = ida_tui_here("sweep", "--resume")

    assert done.code == ExitCode.USAGE
    assert "another process is running the sweep" in done.err


def test_a_study_that_is_lost_is_made_anew_from_the_runs(ida_tui_here: Any) -> None:
    one = made_up({"seed": ("0", "1")}, [Made(0.6), Made(0.7)])
    one.study_file.write_bytes(b"SQLite format 3\x00" + b"\x07" * 300)

    damaged = ida_tui_here("sweep", "--resume")
    one.study_file.unlink()
    done = ida_tui_here("sweep", "--resume")

    assert damaged.code == ExitCode.FAILED
    assert f"delete outputs/sweeps/{one.sweep_id}/optuna.sqlite3" in damaged.err
    assert done.code == 0
    assert "✓ All 2 runs are done" in done.out


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"v": 1}', '{"v": 2}', "null", "[" * 9000, '{"v": 1, "keys": {"seed": 5}}'],
    ids=range(8),
)
def test_a_folder_whose_file_is_no_sweeps_is_refused_in_a_sentence(
    text: str, ida_tui_here: Any
) -> None:
    one = made_up({"seed": ("0", "1")}, [])
    (one.path / directory.SWEEP_FILE).write_text(text)

    done = ida_tui_here("sweep", "--show", one.sweep_id)

    assert done.code == ExitCode.USAGE
    assert done.err.startswith(f"error: outputs/sweeps/{one.sweep_id}/sweep.json ")


# -- in the app ----------------------------------------------------------------------------------


def test_the_app_shows_a_sweep_as_it_goes_on_and_opens_its_runs() -> None:
    one = made_up({RATES: ("1e-3", "2e-3")}, [Made(0.60)])

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        assert "1 of 2 runs finished · not running" in text_on_screen(app)
        add_run(one, 1, Made(0.75))
        app.screen._poll()
        await settled(app, pilot)
        assert "2 of 2 runs finished" in text_on_screen(app)
        assert "★ learning_rate=2e-3" in text_on_screen(app)
        await pilot.press("j", "enter")
        await settled(app, pilot)
        assert app.current_mode == "run"
        assert app.run_view is not None
        assert app.run_view.directory == one.runs_folder / "20260131-090101"

    drive(scenario, app=IdaApp(clock=lambda: NOON, open_directory=one.path))


# -- a real one ---------------------------------------------------------------------------------

SMALL = (
    f"{RATES}=1e-3,2e-3", "seed=0,1", "training.max_steps=2", "training.save_steps=1",
    "evaluation.enabled=false", "training.max_completion_length=16",
)  # fmt: skip


def begun(*arguments: str) -> subprocess.Popen[str]:
    """`ida-tui sweep` in a process of its own, which may be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "ida_tui", "sweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(what: str, number: int) -> RunDirectory:
    """The run of a combination, once this event of it is on the disk."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for path in directory.list_directories(Path("outputs")):
            run = SweepReader(directory.read(path)).read_one(number).run
            if run is not None and what in RunDirectory(run).events.read_text():
                return RunDirectory(run)
        time.sleep(0.02)
    raise AssertionError(f"no {what} of run {number + 1} in {PATIENCE_S:g} s")


def killed(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(600)
def test_a_sweep_that_is_killed_and_stopped_goes_on_and_ends_with_its_table(
    ida_tui_here: Any,
) -> None:
    # Killed together with its run, which has a checkpoint.
    sweep = begun("quickstart", *SMALL)
    cut_off = until('"CheckpointSaved"', 0)
    child = owner.owner_pid(cut_off)
    assert child is not None
    killed(sweep)
    os.kill(child, signal.SIGKILL)

    # Killed alone: its run goes on without it, and the next sweep waits for that one.
    sweep = begun("--resume", "quickstart")
    until('"RunStarted"', 1)
    killed(sweep)
    sweep = begun("--resume")
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if line.startswith("● 3/4"):
            break
        assert not line.startswith("● 2/4") or "still running from an interrupted sweep" in line
    # Stopped: its run saves a checkpoint first.
    until('"RunStarted"', 2)
    sweep.terminate()
    said = sweep.stdout.read()
    assert sweep.wait() == ExitCode.INTERRUPTED
    assert "‖ 3/4 learning_rate=1e-3 seed=1 stopped at step" in said
    assert (
        "! Stopped; 2 of 4 runs done. Resume with: ida-tui sweep --resume outputs/sweeps/" in said
    )

    done = ida_tui_here("sweep", "--resume", "--json")

    assert done.code == ExitCode.DONE, done.err
    found = json.loads(done.out)
    assert [(row["done"], row["runs"]) for row in found["settings"]] == [(2, 2), (2, 2)]
    assert found["best"]["seeds"] == 2
    # No combination has two runs, and what was cut off went on in its own directory.
    runs = {each["run"] for row in found["settings"] for each in row["each"]}
    there = {
        str(path.parent.resolve()) for path in Path("outputs/quickstart").glob("2*/events.jsonl")
    }
    assert there == runs
    assert len(runs) == 4
    assert str(cut_off.path) in runs
    resumed = [
        sum(
            isinstance(record.event, ev.RunResumed)
            for record in read_events(Path(run) / "events.jsonl")
        )
        for run in sorted(runs)
    ]
    assert resumed == [1, 0, 1, 0]
