"""The example experiments."""

from __future__ import annotations

import asyncio
import json
import runpy
from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
PROFILES = sorted(EXAMPLES.glob("*/profile.yaml"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.parent.name)
def test_an_example_is_a_valid_experiment_with_held_out_prompts(profile: Path) -> None:
    config = resolve(str(profile)).config
    assert config.name == profile.parent.name
    assert config.prompts.train()
    assert config.prompts.held_out()
    assert not config.rubric.axes.keys() & {"align", "risk", "detail"}
    assert not any(prompt.kind for prompt in config.prompts.rows())
    assert f"| [{profile.parent.name}]" in (EXAMPLES / "README.md").read_text()


def test_the_right_answers_of_the_examples_earn_the_full_score() -> None:
    functions = runpy.run_path(str(EXAMPLES / "json-extraction" / "rewards.py"))
    prompts = resolve(str(EXAMPLES / "json-extraction" / "profile.yaml")).config.prompts.train()
    answers = [prompt.columns["answer"] for prompt in prompts]
    chats = [[{"role": "assistant", "content": answer}] for answer in answers]
    assert functions["valid_json"](completions=chats) == [1.0] * len(answers)
    assert functions["fields"](completions=chats, answer=answers) == [1.0] * len(answers)
    extra = [[{"role": "assistant", "content": json.dumps({**json.loads(answers[0]), "x": 1})}]]
    assert functions["fields"](completions=extra, answer=answers[:1]) == [pytest.approx(2 / 3)]

    functions = runpy.run_path(str(EXAMPLES / "gsm8k-style" / "rewards.py"))
    prompts = resolve(str(EXAMPLES / "gsm8k-style" / "profile.yaml")).config.prompts.train()
    for prompt in prompts:
        answer = prompt.columns["answer"]
        assert functions["accuracy"](completion=f"So it is\n{answer}", answer=answer) == 1
        assert functions["accuracy"](completion="It is 12345.", answer=answer) == 0
        assert asyncio.run(functions["shape"](completion=f"So it is\n{answer}")) == 1


def test_a_rubric_with_other_axes_replaces_the_rubric_of_the_extended_experiment(
    tmp_path: Path,
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "extends: quickstart\n"
        "judge: ollama\n"
        "rubric: {task: Grade it., axes: {tone: {zero: cold, ten: warm}}}\n"
    )
    rubric = resolve(str(profile), uses=()).config.rubric
    assert list(rubric.axes) == ["tone"]
    assert (rubric.task, rubric.formula_text, rubric.reward_name) == (
        "Grade it.",
        "tone / 10",
        "reward",
    )

    profile.write_text(
        "extends: quickstart\nrubric: {axes: {risk: {zero: bad, ten: good, checks: []}}}\n"
    )
    rubric = resolve(str(profile), uses=()).config.rubric
    assert list(rubric.axes) == ["align", "risk", "detail"]
    assert rubric.axes["risk"].zero == "bad"
