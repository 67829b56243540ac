"""Several updates with the completions of one step: losses, events, and resumed runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ida_tui
from ida_tui.engine.trainer.rollout_copy import ROLLOUT_FILE, RolloutCopy
from ida_tui.events import types as ev
from ida_tui.events.narration import event_lines
from ida_tui.events.state import fold_all
from ida_tui.runs.log.reader import read_events
from tests.support.scripted_completions import script_completions

STEPS = 5
SETTINGS = (
    "evaluation.enabled=false", f"training.max_steps={STEPS}", "training.num_generations=4",
    "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2",
    "training.max_completion_length=16", "training.num_iterations=3", "training.beta=0.05",
    "training.learning_rate=1e-3", "training.save_steps=1", "training.save_total_limit=9",
)  # fmt: skip
WEIGHTS = "adapter/adapter_model.safetensors"


Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns a function: an engine → directory of its run with three updates for each batch."""

    @cache
    def run_of(engine: str) -> Path:
        folder = tmp_path_factory.mktemp(engine)
        run = ida_tui.run(
            "quickstart", *SETTINGS, f"engine={engine}", f"output_dir={folder}/outputs"
        )
        assert run.exit_code == 0, run.state.ended
        return run.directory

    return run_of


@pytest.fixture
def uninterrupted(runs: Runs) -> Path:
    """The run of the fast engine."""
    return runs("fast")


def finished_steps(run: Path) -> list[ev.StepFinished]:
    events = [record.event for record in read_events(run / "events.jsonl")]
    return [event for event in events if isinstance(event, ev.StepFinished)]


def test_an_update_with_earlier_completions_names_their_step_and_has_no_scores_of_its_own(
    uninterrupted: Path,
) -> None:
    steps = finished_steps(uninterrupted)
    assert [step.reused_step for step in steps] == [None, 1, 1, None, 4]
    assert [step.completions for step in steps] == [8, 0, 0, 8, 0]
    assert all((step.reward is None) == (step.reused_step is not None) for step in steps)
    assert all(step.loss is not None and step.entropy is not None for step in steps)
    state = fold_all(read_events(uninterrupted / "events.jsonl"))
    assert [step.step for step in (*state.first_steps, *state.last_steps)] == [1, 4]
    assert state.newest_rollout == steps[3]
    assert event_lines(state, steps[2])[0].startswith(
        "Step 3/5 | update 3 with the completions of step 1: loss="
    )


def copy_until(run: Path, step: int, steps: int, folder: Path) -> Path:
    """A copy of a run's directory as it was when the checkpoint of a step had been saved."""
    killed = folder / "outputs" / "quickstart" / run.name
    shutil.copytree(run, killed)
    for later in range(step + 1, steps + 1):
        shutil.rmtree(killed / "checkpoints" / f"checkpoint-{later}")
    shutil.rmtree(killed / "adapter")
    lines = (killed / "events.jsonl").read_text().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if f'checkpoint-{step}"' in line)
    (killed / "events.jsonl").write_text("".join(lines[: last + 1]))
    return killed


@pytest.mark.parametrize(("engine", "step"), [("fast", 1), ("fast", 2), ("plain", 2)])
def test_a_run_resumed_between_two_updates_ends_with_the_same_bytes(
    engine: str, step: int, runs: Runs, tmp_path: Path
) -> None:
    uninterrupted = runs(engine)
    killed = copy_until(uninterrupted, step, STEPS, tmp_path)
    resumed = ida_tui.run(str(killed), resume=True)

    assert resumed.exit_code == 0, resumed.state.ended
    assert (killed / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()
    figures = [
        [
            (s.step, s.reused_step, s.loss, s.kl, s.reward, s.weight_delta)
            for s in finished_steps(run)
        ]
        for run in (killed, uninterrupted)
    ]
    assert figures[0] == figures[1]


def test_a_run_stopped_during_a_second_update_resumes_to_the_same_bytes(
    uninterrupted: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_in_second_update(record: ev.Record) -> None:
        if record.event == ev.PhaseChanged(step=2, phase="update"):
            raise Stop

    with pytest.raises(Stop):
        ida_tui.run(
            "quickstart", *SETTINGS, "training.save_steps=0", f"output_dir={tmp_path}/outputs",
            on_event=stop_in_second_update,
        )  # fmt: skip
    (stopped,) = (tmp_path / "outputs" / "quickstart").glob("2*")
    resumed = ida_tui.run(str(stopped), resume=True)
    assert resumed.exit_code == 0, resumed.state.ended
    assert (stopped / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()


def test_only_checkpoints_between_two_updates_contain_the_completions(uninterrupted: Path) -> None:
    checkpoints = (uninterrupted / "checkpoints").glob("checkpoint-*")
    assert {int(path.name[11:]) for path in checkpoints if (path / ROLLOUT_FILE).exists()} == {
        1, 2, 4, 5,
    }  # fmt: skip


def test_steps_that_share_a_rollout_resume_with_the_rest_of_its_completions(tmp_path: Path) -> None:
    """The adaptive coefficient of the entropy bonus is resumed, too."""
    run = ida_tui.run(
        "quickstart", *SETTINGS, "training.num_iterations=1", "training.steps_per_generation=4",
        "training.max_steps=3", "training.use_adaptive_entropy=true", "training.entropy_target=9",
        "training.beta=0", f"output_dir={tmp_path}/outputs",
    )  # fmt: skip
    assert run.exit_code == 0, run.state.ended
    steps = finished_steps(run.directory)
    assert [step.reused_step for step in steps] == [None, 1, None]
    assert [step.completions for step in steps] == [16, 0, 16]
    killed = copy_until(run.directory, 1, 3, tmp_path / "killed")
    resumed = ida_tui.run(str(killed), resume=True)
    assert resumed.exit_code == 0, resumed.state.ended
    assert (killed / WEIGHTS).read_bytes() == (run.directory / WEIGHTS).read_bytes()


def test_another_number_of_processes_reuses_the_rows_of_each_step() -> None:
    def batch(*ids: int) -> dict[str, Any]:
        rows = torch.tensor(ids)[:, None]
        return {"completion_ids": rows, "advantages": rows[:, 0].float(), "num_items_in_batch": 8}

    # Two ranks; the first step trained on rows 1 to 4, the second continues with rows 5 to 8.
    copy = RolloutCopy(1, [batch(1, 2, 5, 6), batch(3, 4, 7, 8)])
    (one,) = [copy.rows_of_rank(0, 1, pad_token_id=0, steps=2)]
    assert one["advantages"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    last = copy.rows_of_rank(3, 4, pad_token_id=0, steps=2)
    assert last["completion_ids"].tolist() == [[4], [8]]


def test_stored_completions_can_be_reused_by_another_number_of_processes(
    uninterrupted: Path,
) -> None:
    loaded = RolloutCopy.load(uninterrupted / "checkpoints" / "checkpoint-1")
    assert loaded is not None
    rows = loaded[0].rows_by_rank[0]
    halves = [loaded[0].rows_of_rank(rank, 2, pad_token_id=0) for rank in (0, 1)]
    assert [len(half["advantages"]) for half in halves] == [4, 4]
    copy = RolloutCopy(1, [{**half, "prompt_ids": half["prompt_ids"][:, n:],
                            "prompt_mask": half["prompt_mask"][:, n:],
                            "completion_ids": half["completion_ids"][:, : 16 - n]}
                           for n, half in enumerate(halves)])  # fmt: skip
    again = copy.rows_of_rank(0, 1, pad_token_id=0)
    assert (again["prompt_ids"][:4] == rows["prompt_ids"][:4]).all()
    assert (again["prompt_ids"][4:, 1:] == rows["prompt_ids"][4:, 1:]).all()
    assert (again["completion_ids"][4:, :15] == rows["completion_ids"][4:, :15]).all()
    assert (again["completion_ids"][4:, 15:] == 0).all()
    assert (again["advantages"] == rows["advantages"]).all()


def scripted_run(engine: str, iterations: int, folder: Path) -> tuple[list[tuple[Any, ...]], Any]:
    """Losses, gradient norms and weights of a run whose completions do not depend on the engine."""
    with pytest.MonkeyPatch.context() as patch:
        script_completions(patch)
        run = ida_tui.run(
            "quickstart", *SETTINGS, f"engine={engine}", f"training.num_iterations={iterations}",
            f"output_dir={folder}/{engine}-{iterations}",
        )  # fmt: skip
    assert run.exit_code == 0, run.state.ended
    figures = [(step.loss, step.grad_norm, step.kl, step.entropy) for step in run.steps]
    return figures, load_file(run.directory / WEIGHTS)


@pytest.mark.parametrize("iterations", [2, 3])
def test_the_fast_engine_computes_the_updates_of_plain_trl(iterations: int, tmp_path: Path) -> None:
    fast, fast_weights = scripted_run("fast", iterations, tmp_path)
    plain, plain_weights = scripted_run("plain", iterations, tmp_path)
    assert len(fast) == STEPS
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for name, weights in plain_weights.items():
        assert (fast_weights[name] - weights).norm() <= 1e-3 * weights.norm(), name
