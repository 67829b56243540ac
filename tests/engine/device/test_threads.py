"""Number of torch's threads: chosen by a measurement that can be believed, and kept by a resumed run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ida_tui.engine.device import thread_trials, threads
from ida_tui.engine.device.thread_trials import ThreadTrial, ThreadTrials
from ida_tui.engine.device.threads import best_choice, choose_threads
from ida_tui.runs.store import manifest

ONE = ThreadTrial(1, 20.0, 40.0)
GAIN = ThreadTrial(4, 10.0, 12.0, 3.0)
"""A trial in which four threads are faster and leave a screen on time."""


class ScriptedTrials:
    """Takes the place of the measurement, which depends on the machine and what else runs on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials: tuple[ThreadTrial, ...] = (ONE, GAIN)
        self.lateness = {4: 3.0, 2: 3.0, 1: 1.0}
        self.is_reliable = True
        self.measured = 0
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(threads, "measure_threads", self._measure)
        monkeypatch.setattr(
            threads, "measure_lateness", lambda count, **_: self.lateness.get(count)
        )
        for module in ("engine.device.threads", "system.processors"):
            monkeypatch.setattr(f"ida_tui.{module}.usable_processors", lambda: 4)

    def _measure(self, candidates: tuple[int, ...]) -> ThreadTrials:
        assert {1, 4} <= set(candidates)
        self.measured += 1
        return ThreadTrials(self.trials, self.is_reliable)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ScriptedTrials:
    """A machine with four processors, on which four threads are fastest."""
    return ScriptedTrials(monkeypatch)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def remembered() -> Path:
    return Path(os.environ["IDA_TUI_CACHE_DIR"]) / threads.FILE_NAME


# --- the choice ----------------------------------------------------------------------------------


def test_the_fastest_number_is_measured_once_and_remembered(machine: ScriptedTrials) -> None:
    first = choose_threads(with_screen=False)
    assert first.threads == 4
    assert "a token takes 0.50× and an update 0.30× the time of one thread" in first.text
    assert choose_threads(with_screen=False) == first
    assert choose_threads(with_screen=True).threads == 4
    assert machine.measured == 1


def test_a_measurement_on_a_busy_machine_is_not_remembered(machine: ScriptedTrials) -> None:
    machine.is_reliable = False
    choice = choose_threads(with_screen=False)
    assert "other programs use the processors" in choice.reason
    assert not remembered().exists()
    machine.is_reliable = True
    assert choose_threads(with_screen=False).threads == 4


def test_a_measurement_of_another_machine_does_not_count(
    machine: ScriptedTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_threads(with_screen=False)
    monkeypatch.setattr(threads, "processor_name", lambda: "another processor")
    choose_threads(with_screen=False)
    assert machine.measured == 2
    assert len(json.loads(remembered().read_text())) == 2


@pytest.mark.parametrize(
    "content",
    [
        "not JSON", "[]", '{"MACHINE": 7}', '{"MACHINE": [{"threads": 4}]}', '{"MACHINE": []}',
        '{"MACHINE": [{"threads": 1, "decode_ms": 1, "update_ms": 0}]}',
        '{"MACHINE": [{"threads": 1, "decode_ms": 90, "update_ms": 90},'
        ' {"threads": 4, "decode_ms": 1, "update_ms": 1}]}',
    ],
)  # fmt: skip
def test_a_remembered_measurement_that_cannot_be_is_made_again(
    content: str, machine: ScriptedTrials
) -> None:
    remembered().parent.mkdir(exist_ok=True)
    remembered().write_text(content.replace("MACHINE", threads._machine()))
    assert choose_threads(with_screen=False).threads == 4
    assert machine.measured == 1


def test_without_a_cache_folder_the_choice_is_the_same(machine: ScriptedTrials) -> None:
    remembered().parent.write_text("a file, not a folder")
    assert choose_threads(with_screen=False).threads == 4


def test_more_threads_must_save_time() -> None:
    equal = ThreadTrial(2, 19.9, 39.5, 1.0)
    assert best_choice((ONE, equal), with_screen=False).threads == 1
    assert "not faster" in best_choice((ONE, equal), with_screen=False).reason
    slower = ThreadTrial(8, 12.0, 12.0, 1.0)
    assert best_choice((ONE, GAIN, slower), with_screen=False).threads == 4


def test_beside_a_screen_the_fastest_number_that_leaves_it_on_time_is_used(
    machine: ScriptedTrials,
) -> None:
    machine.trials = (ONE, ThreadTrial(2, 15.0, 22.0), GAIN)
    machine.lateness[4] = 40.0
    beside = choose_threads(with_screen=True)
    assert beside.threads == 2
    assert "late by 3 ms" in beside.reason
    assert choose_threads(with_screen=False).threads == 4
    machine.lateness = {}  # no process could be started
    remembered().unlink()
    assert choose_threads(with_screen=True).threads == 1


def test_a_variable_of_the_user_decides(
    machine: ScriptedTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    choice = choose_threads(with_screen=True)
    assert (choice.text, machine.measured) == (
        "torch computes with 3 threads: OMP_NUM_THREADS is set",
        0,
    )
    choice.apply()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("processes", "runs", "expected"), [(2, "1", 2), (1, "2", 2), (8, "", 1)])
def test_processes_that_compute_at_the_same_time_share_the_processors(
    processes: int, runs: str, expected: int, machine: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("IDA_TUI_SHARED_BY", runs)
    monkeypatch.setattr(threads, "_TORCH_DEFAULT", 4)
    assert choose_threads(with_screen=False, processes=processes).threads == expected
    assert machine.measured == 0


# --- a resumed run -------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_number_and_says_where_it_cannot(
    machine: ScriptedTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = choose_threads(with_screen=True, recorded=2)
    assert (kept.threads, kept.warning, machine.measured) == (2, "", 0)
    fewer = choose_threads(with_screen=False, recorded=16)
    assert fewer.threads == 4
    assert "has computed with 16 threads and continues with 4" in fewer.warning
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS is set" in choose_threads(with_screen=False, recorded=2).warning


def test_the_number_of_the_last_process_of_a_run_is_in_its_manifest(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    assert manifest.recorded_threads(file) is None
    file.write_text('{"threads": 4, "resumed": ["damaged", {"threads": "many"}]}')
    assert manifest.recorded_threads(file) == 4
    manifest.record_resume(file, resumed_at="2026-01-31", argv=[], threads=2)
    assert manifest.recorded_threads(file) == 2


# --- the measurement -----------------------------------------------------------------------------


def test_a_measurement_times_every_number_and_keeps_torchs_own() -> None:
    before = torch.get_num_threads()
    measured = thread_trials.measure_threads([1, 2])
    assert [trial.threads for trial in measured.trials] == [1, 2]
    assert all(trial.decode_ms > 0 and trial.update_ms > 0 for trial in measured.trials)
    late = thread_trials.measure_lateness(1, good_enough_ms=0.0)
    assert late is not None
    assert late > 0
    assert torch.get_num_threads() == before


def test_a_speed_that_no_number_of_threads_can_have_is_not_believed() -> None:
    assert thread_trials.are_plausible((ONE, GAIN))
    assert not thread_trials.are_plausible((ONE, ThreadTrial(4, 10.0, 8.0)))


def test_processor_time_of_other_programs_is_told_from_that_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = iter([(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2.0, 1.0, 2.0)])
    monkeypatch.setattr(thread_trials.OtherLoad, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(thread_trials.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(thread_trials, "usable_processors", lambda: 2)
    load = thread_trials.OtherLoad()
    assert (
        load.processors() == 0.0
    )  # of two processors for a second: one idle, one for this process
    assert load.processors() == 0.5  # two seconds: one idle, two for this process, one for another
