"""Thoughts told apart from answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.util.thoughts import TAGS, answer_of, marker_tokens, opened_thought, split_thought


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_every_pair_of_tags_separates_the_thought(opening: str, closing: str) -> None:
    parts = split_thought(f"{opening}\nHm, 4.\n{closing}\n\nThe answer is 4.")
    assert (parts.thought, parts.answer, parts.unfinished) == ("Hm, 4.", "The answer is 4.", False)


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_thought_that_is_cut_off_has_no_answer(opening: str, closing: str) -> None:
    parts = split_thought(f"{opening}\nFirst I")
    assert (parts.thought, parts.answer, parts.unfinished) == ("First I", "", True)


@pytest.mark.parametrize(
    ("completion", "thought", "answer"),
    [
        ("It is even.\n</think>\n\nYes.", "It is even.", "Yes."),
        ("It is even.</think>Yes.", "It is even.", "Yes."),
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("<think>a</think>\n<think>b</think>Yes.", "a\nb", "Yes."),
        ("<think>a</think>One.\n<think>b</think>\nTwo.", "a\nb", "One.\n\nTwo."),
        ("  \n<think>a</think>Yes.", "a", "Yes."),
        ("<reasoning>2+2</reasoning>\n<answer>4</answer>", "2+2", "<answer>4</answer>"),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "Hm.",
            "Yes.",
        ),
        ("<|channel|>final<|message|>Yes.<|return|>", "", "Yes."),
    ],
)
def test_thoughts_are_found_wherever_a_model_writes_them(
    completion: str, thought: str, answer: str
) -> None:
    parts = split_thought(completion)
    assert (parts.thought, parts.answer, parts.unfinished) == (thought, answer, False)


@pytest.mark.parametrize(
    "completion",
    [
        "Put your reasoning between <think> and </think> tags.",
        "The tag </think> ends it.",
        "Write `<think>` first.",
        "Use this:\n```\nplan\n</think>\n```\nand go on.",
        "No tags at all.",
        "",
    ],
)
def test_a_tag_that_is_only_mentioned_is_no_thought(completion: str) -> None:
    parts = split_thought(completion)
    assert (parts.thought, parts.answer, parts.unfinished) == ("", completion, False)


def test_a_tag_that_an_answer_mentions_after_a_thought_stays_in_the_answer() -> None:
    answer = "Close it with `</think>`, like this:\n```\n<think>\nplan\n</think>\n```"
    assert answer_of(f"<think>They ask about tags.</think>{answer}") == answer


def test_a_second_thought_that_is_cut_off_keeps_the_answer_before_it() -> None:
    parts = split_thought("<think>a</think>One.\n<think>\nAnd")
    assert (parts.thought, parts.answer, parts.unfinished) == ("a\nAnd", "One.", True)


@given(st.lists(st.sampled_from([*(tag for pair in TAGS for tag in pair), "word ", "\n", "```\n"])))
def test_any_sequence_of_tags_is_split(pieces: list[str]) -> None:
    split_thought("".join(pieces))


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("[INST]Hi[/INST][THINK]", "[THINK]"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("What does <think> do?<|im_end|>\n<|im_start|>assistant\n", ""),
    ],
)
def test_a_prompt_that_ends_with_an_opening_tag_opens_a_thought(prompt: str, opening: str) -> None:
    assert opened_thought(prompt) == opening


def test_special_tokens_that_frame_thoughts_are_not_dropped_from_texts() -> None:
    assert marker_tokens({"<s>", "[THINK]", "[/THINK]"}) == {"[THINK]", "[/THINK]"}
    assert marker_tokens({"<|end|>", "<|user|>"}) == set(), "an end token of other models"
    assert "<|end|>" in marker_tokens({"<|end|>", "<|channel|>", "<|message|>"})
