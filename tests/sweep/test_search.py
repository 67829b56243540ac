"""Searches: the values that Optuna suggests, a study that is killed, and runs stopped for their reward."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ida_tui.errors import ExitCode
from ida_tui.sweep import directory, preflight, scheduler, text
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.processes import SweepProcess
from ida_tui.sweep.results import build_table
from ida_tui.sweep.scheduler import SweepScheduler
from ida_tui.sweep.status import SweepReader
from ida_tui.sweep.study import StudyQueue
from tests.conftest import REPOSITORY
from tests.support.stand_in_training import StandInHost, reward_of
from tests.support.synthetic_sweep import RunOutcome, add_run

RATES = "training.learning_rate"


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "POLL_INTERVAL_S", 0.0)


def new_search(*more: str, trials: int = 8) -> Sweep:
    plan = preflight.plan_sweep("quickstart", [f"{RATES}=1e-5..1e-3", *more], trials=trials)
    return preflight.create_sweep(plan, jobs=None, budget=None, started_at=datetime(2026, 1, 31))


def train(sweep: Sweep, host: StandInHost) -> tuple[ExitCode, Sweep, list[str]]:
    """Train the remaining runs: the exit code, the search as saved, and the printed lines."""
    lines: list[str] = []
    runner = SweepScheduler(sweep, StudyQueue(sweep), host, lines.append, lambda table: None)
    return runner.run(), directory.read(sweep.path), lines


def values_of(sweep: Sweep) -> list[dict[str, str]]:
    return [dict(combination.values) for combination in sweep.combinations]


def test_a_killed_search_resumes_without_losing_or_repeating_a_trial() -> None:
    whole = new_search("lora.r=4..64", "training.loss_type=grpo,dapo", trials=7)
    code, whole, _ = train(whole, StandInHost())
    assert code is ExitCode.DONE
    assert len(whole.combinations) == 7
    assert all(1e-5 <= float(values[RATES]) <= 1e-3 for values in values_of(whole))
    assert all(4 <= int(values["lora.r"]) <= 64 for values in values_of(whole))
    assert len({values[RATES] for values in values_of(whole)}) == 7

    killed = new_search("lora.r=4..64", "training.loss_type=grpo,dapo", "name=killed", trials=7)
    script = (
        "from pathlib import Path; from tests.sweep.test_search import *;"
        f"train(directory.read(Path({str(killed.path)!r})), StandInHost(kill_at=5))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert process.returncode == -9
    host = StandInHost()
    code, resumed, lines = train(directory.read(killed.path), host)

    assert code is ExitCode.DONE
    assert host.started == [5, 6]
    assert values_of(resumed) == values_of(whole)
    assert [line.split()[1] for line in lines] == ["6/7", "6/7", "7/7", "7/7"]
    assert len(list(resumed.runs_folder.iterdir())) == 7


def test_the_suggested_values_come_closer_to_the_best_and_the_table_starts_with_it() -> None:
    sweep = new_search(trials=14)

    _, sweep, _ = train(sweep, StandInHost())

    rewards = [reward_of(values) for values in values_of(sweep)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.2  # the first five are random
    table = build_table(sweep, SweepReader(sweep).read_all())
    shown = [setting.mean_of_figure("reward_last") for setting in table.settings]
    assert shown == sorted(rewards, reverse=True)
    assert text.settings_table(table)[1].startswith("  ★ learning_rate=")


def test_a_lost_study_is_rebuilt_from_the_runs_and_another_number_of_trials_extends_it(
    ida_tui_here: Any,
) -> None:
    sweep = new_search(trials=3)
    _, sweep, _ = train(sweep, StandInHost())
    sweep.study_file.write_bytes(b"SQLite format 3\x00" + b"\x07" * 300)

    damaged = ida_tui_here("sweep", "--resume")
    sweep.study_file.unlink()
    rebuilt = ida_tui_here("sweep", "--resume")
    fewer = ida_tui_here("sweep", "--resume", "--trials", "2")
    _, longer, lines = train(replace(sweep, trials=5), StandInHost())

    assert damaged.code == ExitCode.FAILED
    assert f"delete outputs/sweeps/{sweep.sweep_id}/optuna.sqlite3" in damaged.err
    assert rebuilt.code == ExitCode.DONE
    assert "✓ All 3 runs are done" in rebuilt.out
    assert "this search already has 3 runs, more than 2" in fewer.err
    assert [line.split()[1] for line in lines] == ["4/5", "4/5", "5/5", "5/5"]
    _, undamaged, _ = train(new_search("name=undamaged", trials=5), StandInHost())
    assert values_of(longer) == values_of(undamaged)
    in_studies = [
        [trial.params for trial in StudyQueue(search)._trials()] for search in (longer, undamaged)
    ]
    assert in_studies[0] == in_studies[1]


def test_a_run_whose_reward_is_below_the_median_of_the_others_is_stopped() -> None:
    sweep = new_search(trials=6)
    runs = RunOutcome(steps=8, planned_steps=8)

    class Host(StandInHost):
        def start(self, sweep: Sweep, number: int, *rest: Any) -> Any:
            if number < 5:
                add_run(sweep, number, runs)
                return SweepProcess(sweep, number, None)
            return Losing(sweep, number)

    class Losing(SweepProcess):
        """A run that has trained six of its eight steps with a low reward, until it is stopped."""

        def __init__(self, sweep: Sweep, number: int) -> None:
            super().__init__(sweep, number, None)
            self.log = add_run(sweep, number, replace(runs, status=None, steps=4, highest=0.2))
            self.log.owner.write_text(owner_here())
            self.polls = 0

        def has_ended(self, run: Path | None) -> bool:
            self.polls += 1
            if self.polls == 2:
                assert not self.sweep.pruned_file(5).exists()  # too early at four steps
                rewrite(replace(runs, status=None, steps=6, highest=0.2))
            return stopped == [5]

        def stop(self, run: Path | None) -> bool:
            assert self.sweep.pruned_file(5).exists()
            rewrite(replace(runs, status="interrupted", steps=6, highest=0.2))
            stopped.append(self.number)
            return True

    stopped: list[int] = []

    def rewrite(outcome: RunOutcome) -> None:
        add_run(directory.read(sweep.path), 5, outcome, replace_existing=True)

    code, sweep, lines = train(sweep, Host())

    assert stopped == [5]
    assert code is ExitCode.DONE
    assert lines[-1].startswith("⊘ 6/6 learning_rate=")
    assert "stopped for its reward at step 6 of 8" in lines[-1]
    statuses = SweepReader(sweep).read_all()
    assert [status.stage for status in statuses] == ["done"] * 5 + ["pruned"]
    assert StudyQueue(sweep).next() is None
    table = build_table(sweep, statuses)
    assert len(text.settings_table(table)) == 6  # the head and five settings
    assert any(line.startswith("⊘") for line in text.sweep_lines(table))


def owner_here() -> str:
    from ida_tui.runs import owner
    from ida_tui.runs.directory import RunDirectory

    folder = RunDirectory(Path("owner"))
    folder.path.mkdir(exist_ok=True)
    owner.claim(folder)
    return folder.owner.read_text()


def test_a_suggestion_that_cannot_be_trained_is_listed_and_the_search_continues() -> None:
    # The 64 completions of a step are not divided into groups of 3.
    sweep = new_search("training.num_generations=2..4", trials=6)

    code, sweep, lines = train(sweep, StandInHost())

    refused = [line for line in lines if line.startswith("✗")]
    assert code is ExitCode.FAILED
    assert 0 < len(refused) < 6
    assert all("could not start: 64 × 1 completions per step" in line for line in refused)
    assert len(sweep.combinations) == 6


def test_check_prints_the_ranges_and_starts_nothing(ida_tui_here: Any) -> None:
    result = ida_tui_here(
        "sweep", "quickstart", f"{RATES}=1e-5..1e-3", "lora.r=4..8", "--trials", "9", "--check"
    )

    assert result.code == ExitCode.DONE
    ranges = "training.learning_rate 1e-5..0.001 (log), lora.r 4..8"
    assert result.out.startswith(f"✓ 9 trials of quickstart: {ranges}; the bounds are valid")
    assert not Path("outputs").exists()


def test_a_bound_that_the_profile_refuses_is_named_before_anything_is_written(
    ida_tui_here: Any,
) -> None:
    result = ida_tui_here("sweep", "quickstart", f"{RATES}=-1..1", "--trials", "9")

    assert result.code == ExitCode.USAGE
    assert result.err.startswith("error: learning_rate=-1: -1 is out of range")
    assert not Path("outputs").exists()
