"""Untrusted text on a terminal: what is shown as it is, and tables by terminal cells."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from ida_tui.util.text import is_blank, one_line, split_words, table_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bonjour\u00a0! C'est loin\u202f?", "Bonjour ! C'est loin ?"),
        ("東京\u3000大阪", "東京 大阪"),
        ("می\u200cپزم", "می\u200cپزم"),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("a\x1b[2Jb\u202ec\u2028d\u200be", "a?[2Jb?c?d?e"),
    ],
    ids=["no-break spaces", "ideographic space", "non-joiner", "joiner", "controls"],
)
def test_spaces_and_joiners_are_shown_and_what_a_terminal_interprets_is_not(
    text: str, shown: str
) -> None:
    assert one_line(text) == shown


def test_the_columns_of_a_table_start_in_the_same_terminal_cell() -> None:
    rows = [("東京都", ["日本語", "x"]), ("ab", ["c", "y"]), ("long", ["語" * 60, "z"])]

    lines = table_lines(["first", "second"], rows)

    ends = {cell_len(line[: line.index(mark)]) for line, mark in zip(lines[1:], "xyz", strict=True)}
    assert len(ends) == 1
    assert "…" in lines[3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("two words", ["two", "words"]),
        ("東京は、首都。", ["東", "京", "は", "首", "都"]),
        ("用kill命令", ["用", "kill", "命", "令"]),
        ("A/B测试 v2.0", ["A/B", "测", "试", "v2.0"]),
        ("안녕 하세요", ["안녕", "하세요"]),
    ],
)
def test_words_are_counted_in_scripts_without_spaces_too(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize(
    "text", ["7", "x", "是", "∞", "½", "→", "👍", "👩\u200d🚀", "#", "%", "\\"]
)
def test_a_letter_a_digit_a_symbol_or_an_emoji_is_an_answer(text: str) -> None:
    assert not is_blank(text)
    assert not is_blank(f" {text}.\n")


@pytest.mark.parametrize("text", ["", " \t\n", "?", "…", ":", "—", "“”", "。", "\u200b", "\x00"])
def test_spaces_and_the_marks_of_sentences_are_no_answer(text: str) -> None:
    assert is_blank(text)
