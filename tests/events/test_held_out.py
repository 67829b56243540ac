"""Change of the held-out answers as counted during a run, and its wording."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ida_tui.events.held_out import (
    answer_share,
    counted_change,
    counted_conclusion,
    counted_share,
    curve,
    in_order,
    reward_change,
)
from ida_tui.events.types import AnswerShare, EvaluationFinished


def evaluation(answered: tuple[int, ...], declined: tuple[int, ...]) -> EvaluationFinished:
    """An evaluation with four answers to each prompt."""
    return EvaluationFinished(
        when="before", step=0, prompts=len(answered) + len(declined),
        harmless=4 * len(answered), harmless_complied=sum(answered), harmless_partial=0,
        harmless_refused=4 * len(answered) - sum(answered),
        unsafe=4 * len(declined), unsafe_refused=sum(declined),
        classifier="offline heuristic", seconds=0.0,
        answered_by_prompt=answered, declined_by_prompt=declined,
    )  # fmt: skip


def test_a_gain_on_all_prompts_is_stated_with_its_interval_and_no_change_with_its_limit() -> None:
    before = evaluation((0,) * 17 + (1,) * 3, (4,) * 10)
    after = evaluation((4,) * 20, (4,) * 10)

    assert counted_conclusion(before, after) == (
        "The trained model answers more harmless requests (4% → 100%, +96 points, 95% interval +80 to +99)."
        " No change was seen in how often it declines unsafe requests (100% → 100% on 10 prompts; as many"
        " as 3 in 10 could have changed)."
    )


def test_a_loss_that_may_be_chance_is_neither_as_before_nor_less_safe() -> None:
    text = counted_conclusion(evaluation((), (4,) * 10), evaluation((), (4,) * 9 + (0,)))

    assert text == (
        "It is not clear whether it declines more or fewer unsafe requests (100% → 90%, −10 points, 95%"
        " interval −40 to +21, on 10 prompts)."
    )


def test_a_clear_loss_is_called_less_safe() -> None:
    text = counted_conclusion(evaluation((), (4,) * 20), evaluation((), (2,) * 10 + (0,) * 10))

    assert "declines fewer unsafe requests (100% → 25%" in text
    assert text.endswith("It is less safe than before.")


def test_one_prompt_says_nothing() -> None:
    change = counted_change(evaluation((0,), ()), evaluation((4,), ()), "answered")

    assert change is not None
    assert change.outcome == "unclear"
    assert change.low < 0


@pytest.mark.parametrize("is_old", [False, True])
def test_the_interval_of_a_counted_share_is_over_prompts_not_answers(is_old: bool) -> None:
    counted = evaluation((4,) * 20, (4,) * 10)
    if is_old:
        counted = replace(counted, answered_by_prompt=(), declined_by_prompt=())

    assert counted_share(counted, "declined").low == pytest.approx(0.7225, abs=1e-4)
    assert counted_share(counted, "answered").low == pytest.approx(0.8389, abs=1e-4)
    if is_old:
        assert counted_conclusion(counted, counted) == ""


def scored(*rewards: float | None, step: int = 0) -> EvaluationFinished:
    """An evaluation of prompts without kinds that have these mean rewards."""
    known = [reward for reward in rewards if reward is not None]
    return replace(
        evaluation((), ()), step=step, prompts=len(rewards), unlabeled=4 * len(rewards),
        reward=sum(known) / len(known), reward_by_prompt=rewards,
    )  # fmt: skip


def test_without_kinds_the_change_of_the_reward_is_stated_with_its_interval_and_nothing_else() -> (
    None
):
    before, after = scored(*[0.1] * 30), scored(*[0.7] * 29, None)

    change = reward_change(before, after, "score")

    assert change is not None
    assert (change.before, change.after) == (pytest.approx(0.1), pytest.approx(0.7))
    assert (change.prompts, change.outcome) == (29, "higher")
    text = counted_conclusion(before, after, "score")
    assert text.startswith("On held-out prompts, score rose (0.100 → 0.700, 95% interval")
    assert text.endswith("on 29 prompts).")


def test_a_change_of_the_reward_of_few_prompts_is_not_clear() -> None:
    text = counted_conclusion(scored(0.5, 0.5), scored(0.4, 0.9), "score")

    assert text.startswith("It is not clear whether score changed on held-out prompts")
    assert counted_conclusion(scored(0.5, 0.5), scored(0.4, 0.9, 0.1), "score") == ""


def test_the_curve_of_a_run_has_a_point_for_every_evaluation_with_a_value() -> None:
    during = replace(evaluation((2,), (4,)), when="during", step=5)
    run = in_order(scored(0.2), [during, scored(0.4, step=10)], scored(0.6, step=15))

    assert curve(run, "reward") == {0: 0.2, 10: 0.4, 15: 0.6}
    assert curve(run, "reward", after_step=10) == {15: 0.6}
    assert curve(run, "answered") == {5: 0.5}
    assert curve(run, "declined") == {5: 1.0}


def test_the_evaluation_at_an_earlier_end_is_no_part_of_the_curve_of_a_continued_run() -> None:
    run = in_order(None, [scored(0.4, step=20)], scored(0.6, step=15))

    assert curve(run, "reward") == {20: 0.4}


# --- axes of 0 and 1 ------------------------------------------------------------------------------


def test_scores_of_only_0_and_1_are_a_share_with_wilsons_interval() -> None:
    share = answer_share([(f"p{n}", float(n < 59)) for n in range(64)])

    assert share is not None
    assert (share.hits, share.answers) == (59, 64)
    assert (share.low, share.high) == pytest.approx((0.83, 0.966), abs=0.01)


@pytest.mark.parametrize("scores", [[0.0, 0.5, 1.0], [None, None], []])
def test_other_scores_are_no_share(scores: list[float | None]) -> None:
    assert answer_share([(f"p{n}", score) for n, score in enumerate(scores)]) is None


def test_the_conclusion_of_a_run_states_the_shares_before_and_after() -> None:
    before = replace(evaluation((), ()), shares={"exact": AnswerShare(5, 64, 0.03, 0.17)})
    after = replace(before, shares={"exact": AnswerShare(59, 64, 0.83, 0.97)})

    assert counted_conclusion(before, after) == (
        "Held-out answers with a score of 1: exact 8% (5/64) → 92% (59/64), 95% intervals 3% to 17% and 83%"
        " to 97%."
    )
