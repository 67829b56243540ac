"""Choice of the best checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ida_tui.runs.store.checkpoints import Checkpoint, best_checkpoint


def checkpoint(step: int, reward: float | None, **metadata: Any) -> Checkpoint:
    return Checkpoint(Path(f"checkpoint-{step}"), step, reward, metadata)


def test_a_lucky_step_is_not_the_best_checkpoint() -> None:
    """The first step has easy prompts; the mean over a pass through all prompts has risen since."""
    saved = [
        checkpoint(30, 0.6, pass_reward=0.62),
        checkpoint(20, 0.5, pass_reward=0.55),
        checkpoint(1, 0.9, pass_reward=None),
    ]

    best = best_checkpoint(saved)

    assert best is not None
    assert best.step == 30


def test_rewards_of_an_earlier_judge_do_not_count() -> None:
    saved = [
        checkpoint(30, 0.4, pass_reward=0.4, scoring={"judge": "b"}),
        checkpoint(20, 0.9, pass_reward=0.9, scoring={"judge": "a"}),
    ]

    best = best_checkpoint(saved)

    assert best is not None
    assert best.step == 30


def test_checkpoints_of_old_runs_are_compared_by_the_reward_of_their_step() -> None:
    best = best_checkpoint([checkpoint(3, None), checkpoint(2, 0.7), checkpoint(1, 0.6)])

    assert best is not None
    assert best.step == 2
    assert best_checkpoint([checkpoint(1, None)]) is None
    assert best_checkpoint([]) is None


def test_the_reward_on_the_held_out_prompts_decides_where_it_is_known() -> None:
    saved = [
        checkpoint(30, 0.9, pass_reward=0.9, held_out_reward=None),
        checkpoint(20, 0.6, pass_reward=0.6, held_out_reward=0.4),
        checkpoint(10, 0.5, pass_reward=0.5, held_out_reward=0.7),
    ]

    best = best_checkpoint(saved)

    assert best is not None
    assert best.step == 10


def test_without_a_reward_on_the_held_out_prompts_the_training_prompts_decide() -> None:
    saved = [
        checkpoint(20, 0.6, pass_reward=0.6, held_out_reward=None),
        checkpoint(10, 0.5, pass_reward=0.5, held_out_reward=None),
    ]

    best = best_checkpoint(saved)

    assert best is not None
    assert best.step == 20
