"""Evaluations on the held-out prompts between the steps of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.loop import train
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold_all
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.resume import find_resume_point
from ida_tui.runs.store.checkpoints import best_checkpoint, list_checkpoints
from tests.support.judge_server import ScriptedJudge, Status

REWARDS = """import random

def brief(prompt, completion, **columns):
    random.random()
    return 1 / (1 + len(completion))

def lucky(prompt, completion, **columns):
    return random.random()
"""
SETTINGS = (
    "evaluation.judged=false", "evaluation.samples=2", "evaluation.batch_size=20",
    "training.max_steps=3", "training.num_generations=4", "training.per_device_train_batch_size=8",
    "training.max_completion_length=6", "training.save_steps=1", "training.save_total_limit=1",
)  # fmt: skip
Watch = Callable[[ev.Event, RunControl], object]


class Watcher:
    """A subscriber that calls a function on the trainer's thread for every event."""

    def __init__(self, watch: Watch, control: RunControl) -> None:
        self._watch, self._control = watch, control

    def put(self, record: ev.Record) -> None:
        self._watch(record.event, self._control)


def run(
    folder: Path,
    *settings: str,
    watch: Watch = lambda event, control: None,
    resume: RunDirectory | None = None,
    rubric: bool = True,
    key: str | None = None,
) -> RunDirectory:
    """Train a run, or the rest of one; returns its directory.

    Args:
        folder: the folder of its output.
        *settings: settings of the profile.
        watch: receives every event.
        resume: the run to resume.
        rubric: whether functions score the answers, and not the judge.
        key: the judge's API key.
    """
    (folder / "rewards.py").write_text(REWARDS)
    overrides = [f"output_dir={folder}/runs", *SETTINGS, *settings]
    if rubric:
        overrides.append(f"rubric={folder}/rewards.py")
    config = resolve("quickstart", overrides).config
    control = RunControl()
    train(
        config,
        key=key,
        argv=["ida-tui"],
        subscriber=Watcher(watch, control),  # type: ignore[arg-type]
        control=control,
        resume=find_resume_point(resume) if resume is not None else None,
    )
    return RunDirectory((folder / "runs/quickstart/latest").resolve())


def state_of(directory: RunDirectory) -> RunState:
    return fold_all(read_events(directory.events))


def events_of(directory: RunDirectory) -> list[ev.Event]:
    return [record.event for record in read_events(directory.events)]


def weights(directory: RunDirectory) -> str:
    return hashlib.sha256(
        (directory.path / "adapter/adapter_model.safetensors").read_bytes()
    ).hexdigest()


def steps_of(evaluations: Sequence[ev.EvaluationFinished]) -> list[int]:
    return [evaluation.step for evaluation in evaluations]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of three steps with evaluations after the first and the second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDA_TUI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return run(tmp_path_factory.mktemp("evaluated"), "evaluation.every=1")


def test_a_run_with_evaluations_between_its_steps_has_the_same_weights_as_one_without(
    evaluated: RunDirectory, tmp_path: Path
) -> None:
    plain = state_of(directory := run(tmp_path))
    state = state_of(evaluated)

    assert weights(directory) == weights(evaluated)
    assert [step.reward for step in plain.steps] == [step.reward for step in state.steps]
    assert [made.when for made in state.evaluations] == ["before", "during", "during", "after"]
    assert steps_of(state.evaluations) == [0, 1, 2, 3]
    assert plain.evaluations == (plain.evaluation_before, plain.evaluation_after)
    assert all("evaluate" not in step.seconds for step in state.steps)
    assert plain.evaluation_before is not None
    assert state.evaluation_before is not None
    assert plain.evaluation_before.reward == state.evaluation_before.reward


def test_every_evaluation_has_the_computed_scores_and_its_progress(evaluated: RunDirectory) -> None:
    state = state_of(evaluated)

    for made in state.evaluations:
        assert made.reward is not None
        assert list(made.scores) == ["brief", "lucky"]
        assert made.reward == pytest.approx(sum(score or 0.0 for score in made.scores.values()))
    assert state.evaluation_after is not None
    assert len(state.evaluation_after.reward_by_prompt) == state.evaluation_after.prompts == 30
    progress = [e for e in events_of(evaluated) if isinstance(e, ev.EvaluationProgressed)]
    assert [(e.step, e.answers, e.planned) for e in progress if e.step == 1] == [
        (1, 0, 60), (1, 20, 60), (1, 40, 60),
    ]  # fmt: skip


def test_the_best_checkpoint_is_that_with_the_best_reward_on_the_held_out_prompts(
    evaluated: RunDirectory,
) -> None:
    state = state_of(evaluated)
    saved, _ = list_checkpoints(evaluated.checkpoints)
    rewards = {made.step: made.reward for made in state.evaluations_during}

    best = best_checkpoint(saved)

    assert best is not None
    assert best.step == max(rewards, key=lambda step: rewards[step] or 0.0)
    assert best.metadata["held_out_reward"] == rewards[best.step]
    assert json.loads((best.path / "checkpoint.json").read_text())["pass_reward"] is None


@pytest.mark.parametrize("request_name", ["request_stop", "request_pause"])
def test_a_run_that_is_stopped_or_paused_in_an_evaluation_evaluates_that_step_and_continues(
    request_name: str, evaluated: RunDirectory, tmp_path: Path
) -> None:
    def watch(event: ev.Event, control: RunControl) -> None:
        if isinstance(event, ev.EvaluationProgressed) and (event.step, event.answers) == (2, 20):
            getattr(control, request_name)()
        if isinstance(event, ev.RunPaused):
            control.request_resume()

    directory = run(tmp_path, "evaluation.every=1", watch=watch)
    if request_name == "request_stop":
        assert steps_of(state_of(directory).evaluations_during) == [1]
        directory = run(tmp_path, "evaluation.every=1", resume=directory)

    state = state_of(directory)
    assert state.ended is not None
    assert state.ended.status == "done"
    assert steps_of(state.evaluations_during) == [1, 2]
    assert weights(directory) == weights(evaluated)


def test_with_a_judge_the_answers_are_judged_at_once_and_a_judge_that_fails_gives_no_reward(
    tmp_path: Path,
) -> None:
    failing: list[int] = []

    def watch(event: ev.Event, control: RunControl) -> None:
        if isinstance(event, ev.EvaluationProgressed) and event.step == 2:
            failing.append(event.step)
        if isinstance(event, ev.EvaluationFinished):
            failing.clear()

    with ScriptedJudge(rule=lambda body: Status(401) if failing else None) as server:
        directory = run(
            tmp_path, *server.overrides, "evaluation.judged=true", "evaluation.every=1",
            "evaluation.samples=1", "judge.price={input: 1, output: 1}", "judge.anchor_every=0",
            watch=watch, rubric=False, key="sk-test-0123456789",
        )  # fmt: skip

    state = state_of(directory)
    first, second = state.evaluations_during
    assert first.reward is not None
    assert list(first.scores) == list(IDA_AXIS_NAMES)
    assert first.cost is not None
    assert first.cost > 0
    assert (second.reward, second.scores, second.harmless) == (None, {}, 20)
    assert [n.text for n in state.notices if "the evaluation was not scored" in n.text]
    assert state.evaluation_after is not None
    assert state.evaluation_after.verdict
    assert state.evaluation_after.reward is not None
