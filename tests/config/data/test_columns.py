"""The meaning of columns: by the names of public data sets, or as written in a profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.prompts import Message, Prompt, PromptColumns, PromptSet
from ida_tui.errors import UsageError


def prompts_of(*rows: dict[str, Any], **columns: str) -> PromptSet:
    Path("data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return PromptSet(source="data.jsonl", columns=PromptColumns(**columns))


def first_of(*rows: dict[str, Any], **columns: str) -> Prompt:
    prompts = prompts_of(*rows, **columns)
    prompts.load()
    return prompts.rows()[0]


@pytest.mark.parametrize("name", ["prompt", "Question", "instruction", "text", "input", "problem"])
def test_the_column_of_the_prompt_is_found_by_its_name(name: str) -> None:
    prompt = first_of({"answer": "4", name: "What is 2 + 2?"})

    assert (prompt.text, prompt.columns, prompt.kind) == ("What is 2 + 2?", {"answer": "4"}, None)


def test_the_notes_say_which_columns_were_taken_for_what() -> None:
    prompts = prompts_of({"question": "a", "answer": "b", "tag": "c"})

    assert prompts.load().notes == (
        "data.jsonl: 1 row; prompt ← question, tags ← tag (by name); other columns: answer",
    )


def test_a_column_that_is_written_wins() -> None:
    assert first_of({"prompt": "a", "task": "b"}, prompt="task").text == "b"
    with pytest.raises(
        UsageError, match='has no column "tsak"; its columns: prompt, task'
    ) as refused:
        first_of({"prompt": "a", "task": "b"}, prompt="tsak")
    assert refused.value.hint == "did you mean prompts.columns.prompt=task?"


def test_columns_that_say_nothing_are_listed_with_the_words_to_type() -> None:
    with pytest.raises(UsageError, match="its columns: foo, bar") as refused:
        first_of({"foo": "a", "bar": "b"})
    assert "prompts.columns.prompt=foo" in refused.value.hint


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                      {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]},
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"},
                           {"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Bye"},
                           {"from": "gpt", "value": "A reply, which is left out."}]},
        {"prompt": "Bye", "system": "Be brief.", "history": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"prompt": [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
                    {"role": "user", "content": "Bye"}]},
    ],
    ids=["messages", "sharegpt", "history", "prompt"],
)  # fmt: skip
def test_a_conversation_is_split_into_system_prompt_history_and_last_message(
    row: dict[str, Any],
) -> None:
    prompt = first_of(row)

    assert (prompt.system, prompt.text) == ("Be brief.", "Bye")
    assert prompt.history == [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
    ]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "assistant", "content": "Hi"}], "no message of the user"),
        ([{"role": "tool", "content": "Hi"}], 'the role "tool"'),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part that is not text"),
        ("Hi", "not a list of messages"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_refused_with_its_row(
    messages: object, reason: str
) -> None:
    with pytest.raises(UsageError) as refused:
        first_of({"messages": messages})
    assert reason in refused.value.title
    assert refused.value.where == "data.jsonl:1"


@pytest.mark.parametrize(
    ("word", "kind"),
    [("benign", "harmless"), ("Safe", "harmless"), ("harmful", "unsafe"), ("toxic", "unsafe"),
     ("", None)],
)  # fmt: skip
def test_words_for_kinds_are_understood(word: str, kind: str | None) -> None:
    assert first_of({"prompt": "a", "kind": word}).kind == kind
    assert first_of({"prompt": "a", "label": word}).kind == kind


def test_a_word_that_is_not_a_kind_is_refused_where_a_kind_is_meant() -> None:
    with pytest.raises(UsageError, match='kind must be harmless or unsafe, not "maybe"') as refused:
        first_of({"prompt": "a", "kind": "safe"}, {"prompt": "b", "kind": "maybe"})
    assert refused.value.where == "data.jsonl:2"

    prompts = prompts_of({"text": "Great film", "label": "positive"})
    assert prompts.load().notes == (
        "data.jsonl: 1 row; prompt ← text (by name); other columns: label",
        'label is a further column, not the kind: "positive" is neither harmless nor unsafe',
    )
    assert prompts.rows()[0].columns == {"label": "positive"}


def test_tags_are_a_list_or_a_text_with_commas() -> None:
    assert first_of({"prompt": "a", "tags": ["x", "y"]}).tags == ["x", "y"]
    assert first_of({"prompt": "a", "tags": "x, y"}).tags == ["x", "y"]
    assert first_of({"prompt": "a", "tag": "x, y"}).tags == ["x, y"]


def test_ids_that_repeat_are_made_unless_they_were_chosen() -> None:
    rows = [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}]
    prompts = prompts_of(*rows)
    notes = prompts.load().notes

    assert [prompt.id for prompt in prompts.rows()] == ["data:1", "data:2"]
    assert 'in id two rows have "1"' in notes[1]
    with pytest.raises(UsageError, match='two rows have "1"'):
        first_of(*rows, id="id")


def test_ids_that_repeat_on_one_line_of_a_yaml_file_are_made() -> None:
    Path("data.yaml").write_text(json.dumps([{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}]))

    prompts = PromptSet(source="data.yaml")

    assert [prompt.id for prompt in prompts.rows()] == ["data:1", "data:2"]


@pytest.mark.parametrize(
    ("row", "title"),
    [
        ({"prompt": ""}, "the prompt of this row is empty"),
        ({"prompt": 5}, "prompt is not text: 5"),
        ({"other": "b"}, 'this row has no "prompt"'),
    ],
)
def test_a_row_without_a_prompt_is_refused_with_its_line(row: dict[str, Any], title: str) -> None:
    with pytest.raises(UsageError) as refused:
        first_of({"prompt": "a"}, row)
    assert (refused.value.title, refused.value.where) == (title, "data.jsonl:2")
