"""The shipped reward functions, and the data that they score."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from ida_tui.config.prompts import PromptSet
from ida_tui.config.resolve import resolve, resolve_profile
from ida_tui.rewards.functions import RewardFunctions, RewardRow
from ida_tui.rewards.shipped import json_answers, tone

RIGHT = '{"name": "Ada", "age": 69, "city": "Oslo"}'
GENERATOR = Path(__file__).parents[2] / "scripts" / "write_people_json.py"


def people_json() -> PromptSet:
    prompt_set = resolve_profile("prompts", "people-json").config
    assert isinstance(prompt_set, PromptSet)
    return prompt_set


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        (RIGHT, (1, 1, 1)),
        ('{\n  "city": "Oslo",\n  "age": 69,\n  "name": "Ada"\n}\n', (1, 1, 1)),
        (f"Here it is: {RIGHT}", (0, 1, 0)),
        (f"{RIGHT}\n```\n\nThis is JSON.", (0, 1, 0)),
        ('{"name": "Ada", "age": "69", "city": "Oslo"}', (1, 2 / 3, 0)),
        ('{"name": "Ada", "age": 69, "city": "Oslo", "country": "Norway"}', (1, 2 / 3, 0)),
        ('{"name": true}', (1, 0, 0)),
        ('["Ada", 69, "Oslo"]', (0, 0, 0)),
        ('{"name": "Ada"', (0, 0, 0)),
        ('{"a":' * 100_000, (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_only_the_right_object_and_nothing_else_is_exact(
    text: str, scores: tuple[float, float, float]
) -> None:
    columns = {"completions": [text], "answer": [RIGHT]}
    assert json_answers.valid_json(**columns) == [scores[0]]
    assert json_answers.fields(**columns) == [pytest.approx(scores[1])]
    assert json_answers.exact(**columns) == [scores[2]]


def test_one_and_true_are_different_answers() -> None:
    assert json_answers.exact(['{"n": true}', '{"n": 1.0}'], ['{"n": 1}', '{"n": 1}']) == [0, 0]


def test_the_right_answer_of_every_row_earns_the_full_reward_of_smollm2_json() -> None:
    config = resolve("smollm2-json").config
    functions = RewardFunctions(config.rubric, columns=config.prompts.column_names())
    rows = [
        RewardRow(p.id, p.text, (), str(p.columns["answer"]), (), p.columns)
        for p in config.prompts.rows()
    ]
    computed = functions.compute(rows, group_size=1)
    assert {tuple(row.scores.values()) for row in computed} == {(1.0, 1.0, 1.0)}


def test_training_and_held_out_rows_share_no_value_and_no_form_of_sentence() -> None:
    seen: dict[str, set[object]] = {}
    for prompt in people_json().rows():
        answer = json.loads(str(prompt.columns["answer"]))
        form = prompt.text.partition(": ")[2]
        for value in answer.values():
            form, found = re.subn(rf"\b{value}\b", "_", form)
            assert found == 1, prompt.text
        seen.setdefault(prompt.split, set()).update((form, *answer.values()))
    assert not seen["train"] & seen["held-out"]
    assert len(people_json().held_out()) >= 60


def test_the_file_of_sentences_is_what_its_script_writes() -> None:
    rows = list(runpy.run_path(str(GENERATOR))["rows"]())
    written = [
        (p.split, p.text, json.loads(str(p.columns["answer"]))) for p in people_json().rows()
    ]
    assert written == rows


def test_everyday_questions_are_two_hundred_and_none_is_trained_on() -> None:
    everyday = resolve_profile("prompts", "everyday").config
    assert isinstance(everyday, PromptSet)
    texts = {prompt.text for prompt in everyday.rows()}
    assert len(texts) == len(everyday.rows()) == 200
    for name in ("people-json", "support-messages", "over-refusal"):
        trained = resolve_profile("prompts", name).config
        assert isinstance(trained, PromptSet)
        assert not texts & {prompt.text for prompt in trained.rows()}


MESSAGE = "The vase arrived broken."
GOOD = "Sorry about the broken vase. Please send us a photo, and a new one is on its way."


def tone_of(text: str) -> list[float]:
    return [f([text], MESSAGE)[0] for f in (tone.courtesy, tone.brevity, tone.on_topic)]


def test_a_polite_short_answer_about_the_message_earns_the_full_score() -> None:
    assert tone_of(GOOD) == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("Thank you, thanks, sorry, please, of course: the vase is broken.", 0),
        ("The vase is broken and that is how it is.", 0),
        (GOOD.rstrip("."), 1),
        (" ".join([GOOD] * 5), 1),
        ("Sorry!", 1),
        ("Sorry, we will help you soon. Please wait.", 2),
        (f"Sorry! {MESSAGE} Please wait.", 2),
    ],
)
def test_repeated_courtesy_long_answers_and_the_message_said_back_earn_nothing(
    text: str, axis: int
) -> None:
    assert tone_of(text)[axis] == 0
