"""References to reward functions, rubrics made of a Python file, and the digests of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.scoring.reward_files import (
    FunctionReference,
    file_digests,
    function_names,
    locate_file,
    parse_reference,
    rubric_of_file,
)
from ida_tui.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.py:f", FunctionReference("file", "f", file=Path("a/b.py"))),
        ("trl.rewards:accuracy_reward",
         FunctionReference("module", "accuracy_reward", module="trl.rewards")),
        ("mine", FunctionReference("entry point", "mine")),
    ],
)  # fmt: skip
def test_references_are_files_modules_or_entry_points(
    text: str, expected: FunctionReference
) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["rewards.py", "a b:f", "rewards.py:", "rewards.py:1f", "a:b:c"])
def test_other_references_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_reference(text)
    assert ":NAME" in raised.value.hint


def test_a_file_makes_one_axis_per_reward_function_without_running_it() -> None:
    Path("rewards.py").write_text(
        "raise SystemExit\n"
        "def accuracy_reward(completions, answer, **kwargs): ...\n"
        "async def reward_style(prompt, completion): ...\n"
        "def reward(completion_ids, **kwargs): ...\n"
        "def helper(text): ...\n"
        "def _hidden(completion): ...\n"
    )
    rubric = resolve("quickstart", ["rubric=rewards.py"], verify=False).config.rubric
    assert list(rubric.axes) == ["accuracy", "style", "reward_f"]
    assert rubric.axes["style"].function == f"{Path('rewards.py').absolute()}:reward_style"
    assert rubric.formula_text == "accuracy + style + reward_f"


def test_a_file_without_reward_functions_and_unknown_names_are_refused() -> None:
    Path("rewards.py").write_text("def f(text): ...\ng = f\n")
    with pytest.raises(UsageError, match="defines no reward function"):
        rubric_of_file("rewards.py")
    with pytest.raises(UsageError, match='has no reward function "h"'):
        rubric_of_file("rewards.py:h")
    assert list(rubric_of_file("rewards.py:g")) == ["name", "axes"]
    Path("rewards.py").write_text("def f(completion:\n")
    with pytest.raises(UsageError, match="not valid Python") as raised:
        function_names(Path("rewards.py"))
    assert raised.value.where == "rewards.py:1"


def test_a_function_whose_name_cannot_be_that_of_an_axis_is_refused_with_what_to_do() -> None:
    Path("rewards.py").write_text("def größe(completion): return 1.0\n")
    with pytest.raises(UsageError) as raised:
        resolve("quickstart", ["rubric=rewards.py"], verify=False)
    assert "größe" in raised.value.title
    assert "cannot name an axis" in raised.value.title
    assert "rename" in raised.value.hint


def test_a_relative_path_starts_at_the_naming_file_then_at_the_working_directory() -> None:
    Path("theirs").mkdir()
    Path("theirs/a.py").touch()
    assert locate_file("a.py", Path("theirs/profile.yaml")) == Path("theirs/a.py").absolute()
    assert locate_file("b.py", Path("theirs/profile.yaml")) == Path("b.py").absolute()
    assert locate_file("a.py", None) == Path("a.py").absolute()


def test_ranges_and_options_are_in_the_resolved_profile() -> None:
    Path("rewards.py").write_text("def f(completion, limit): ...\n")
    Path("mine.yaml").write_text(
        "axes: {f: {function: 'rewards.py:f', range: [0, null], options: {limit: 3}}}\n"
    )
    config = resolve("quickstart", ["rubric=mine.yaml"]).config
    Path("again.yaml").write_text(to_yaml(config))
    again = resolve("again.yaml").config.rubric
    assert again == config.rubric
    assert again.axis_list[0].low == 0.0
    assert again.axis_list[0].high is None
    assert again.axes["f"].options == {"limit": 3}


def test_the_digests_cover_the_files_beside_that_a_file_imports() -> None:
    Path("rewards.py").write_text("import helper\nimport json\ndef f(completion): ...\n")
    Path("helper.py").write_text("from deeper import x\n")
    Path("deeper.py").write_text("import rewards\nx = 1\n")
    rubric = resolve("quickstart", ["rubric=rewards.py"]).config.rubric
    before = file_digests(rubric)
    assert [Path(file).name for file in before] == ["rewards.py", "helper.py", "deeper.py"]
    Path("deeper.py").write_text("import rewards\nx = 2\n")
    after = file_digests(rubric)
    assert [name for name in before if before[name] != after[name]] == [
        str(Path("deeper.py").absolute())
    ]


def test_a_missing_file_or_function_is_found_before_a_run() -> None:
    Path("rewards.py").write_text("def f(completion): ...\n")
    for reference, message in (
        ("nothing.py:f", "there is no file"),
        ("rewards.py:g", 'has no function "g"'),
        ("nothing", "no installed package provides the reward function"),
    ):
        Path("mine.yaml").write_text(f"axes: {{f: {{function: '{reference}'}}}}\n")
        with pytest.raises(UsageError, match=message) as raised:
            resolve("quickstart", ["rubric=mine.yaml"])
        assert "rubric.axes.f.function" in raised.value.where


def test_a_missing_column_is_found_before_a_run_without_running_the_file() -> None:
    Path("rewards.py").write_text(
        "raise SystemExit\n"
        "def f(completion, answer, limit, *, tag, other=1): ...\n"
        "def decorate(f): return f\n"
        "@decorate\n"
        "def g(completion, unknown): ...\n"
    )
    Path("mine.yaml").write_text(
        "axes:\n"
        "  f: {function: 'rewards.py:f', options: {limit: 3, tag: x}}\n"
        "  g: {function: 'rewards.py:g'}\n"
    )
    with pytest.raises(UsageError, match='needs the column "answer"'):
        resolve("quickstart", ["rubric=mine.yaml"])


def test_a_missing_file_does_not_stop_commands_that_call_no_function() -> None:
    Path("mine.yaml").write_text("axes: {f: {function: 'gone.py:f'}}\n")
    assert resolve("quickstart", ["rubric=mine.yaml"], uses=("code",)).config.rubric.axes
