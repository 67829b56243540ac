"""Everyday questions in the evaluation: a model that is not broken, one that is, and a run that asks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ida_tui.config.resolve import resolve
from ida_tui.engine.inference.everyday import EverydayCheck
from ida_tui.engine.model import load
from ida_tui.events.everyday import bounds_problems
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.store import baseline, evaluations

REWARDS = """def short(prompt, completion, **columns):
    return float(len(completion) < 120)
"""


@pytest.fixture(scope="module")
def check() -> EverydayCheck:
    config = resolve("quickstart", ["evaluation.everyday=6"]).config
    return EverydayCheck(config, load.load_tokenizer(config.model), "cpu")


@pytest.fixture
def model() -> Any:
    config = resolve("quickstart").config.model
    return load.load_model(config, "float32", load.load_tokenizer(config))


def test_the_same_model_twice_has_the_same_figures(check: EverydayCheck, model: Any) -> None:
    figures = check.compare(check.answer(model), model)

    assert figures is not None
    assert figures.questions == 6
    assert figures.length_before == figures.length_after > 1
    assert figures.perplexity_before == pytest.approx(figures.perplexity_after)
    assert 1 <= figures.perplexity_before < 10
    assert not bounds_problems(figures)


def test_a_model_with_damaged_weights_is_outside_of_the_bounds(
    check: EverydayCheck, model: Any
) -> None:
    before = check.answer(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * weights.std() * torch.randn_like(weights))

    figures = check.compare(before, model)

    assert figures is not None
    assert any("perplexity" in problem for problem in bounds_problems(figures))


def test_answers_to_other_questions_are_not_compared(check: EverydayCheck, model: Any) -> None:
    assert check.compare(check.answer(model)[:3], model) is None


def test_a_run_states_its_shares_and_its_everyday_questions_live_and_in_what_it_saves(
    ida_tui_here: Any, tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    run = ida_tui_here(
        "--run", "quickstart", f"output_dir={tmp_path}/runs", f"rubric={tmp_path}/rewards.py",
        "evaluation.everyday=3", "evaluation.samples=1", "training.max_steps=1",
        "training.num_generations=4", "training.per_device_train_batch_size=8",
    )  # fmt: skip
    assert run.code == 0, run.err
    directory = RunDirectory((tmp_path / "runs/quickstart/latest").resolve())

    events = [record.event for record in read_events(directory.events)]
    before, after = (e for e in events if type(e).__name__ == "EvaluationFinished")
    assert before.everyday is None
    assert after.everyday.questions == 3
    share = after.shares["short"]
    assert share.answers == 30
    assert f"short {100 * share.value:.0f}% ({share.hits}/30)" in run.out.replace("   ", " ") or (
        f"→ {100 * share.value:.0f}% ({share.hits}/30)" in run.out
    )
    assert "On 3 everyday questions, answers have" in " ".join(run.out.split())

    saved = evaluations.newest_evaluation(directory)
    assert saved is not None
    assert saved.everyday == after.everyday
    figure = saved.figure("harmless short")
    assert figure is not None
    assert figure.unit == "share"
    assert figure.tuned_share is not None
    assert figure.tuned_share.answers == 20

    stored = directory.path / "evaluations" / baseline.EVERYDAY_FILE_NAME
    assert len(stored.read_text().splitlines()) == 1 + 3
