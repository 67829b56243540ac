"""Prompts that are the same but for id, case, spacing and outer punctuation."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.checks import check_config
from ida_tui.config.prompt_text import normalize_prompt
from ida_tui.config.resolve import resolve

PROMPTS = """
name: overlapping
prompts:
  - {id: a, kind: harmless, text: "How do I kill a Python process?"}
  - {id: b, kind: harmless, text: "How do I beat eggs?"}
  - {id: c, kind: harmless, text: " how do I  beat EGGS"}
  - {id: d, kind: harmless, split: held-out, text: "How do I kill a python process"}
  - {id: e, kind: harmless, split: held-out, text: "How do I shoot a photo?"}
  - {id: f, kind: harmless, split: held-out, text: "How do I shoot a photo"}
"""
ONE_PROMPT = ("training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1")
"""A step of one prompt with its 8 completions."""


def test_held_out_prompts_that_are_trained_on_or_repeated_are_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    file = tmp_path / "overlapping.yaml"
    file.write_text(PROMPTS, encoding="utf-8")
    resolved = resolve("quickstart", [f"prompts={file}", *ONE_PROMPT])

    assert [prompt.id for prompt in resolved.config.prompts.held_out()] == ["e"]
    notes = [finding.text for finding in resolved.notes]
    assert (
        "2 held-out prompts have the text of a training prompt or of another held-out prompt"
        ' ("d" = "a", "f" = "e"): left out of the evaluation' in notes
    )
    assert (
        '1 training prompt has the text of another training prompt ("c" = "b"), so this text is trained'
        " on more often" in notes
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [("Explain C++", "Explain C#"), ("-5 + 3", "5 + 3"), ("What is 5%?", "What is 5?"),
     ("How is it \U0001f600?", "How is it \U0001f601?"), ("\u0915\u0940", "\u0915\u093e")],
)  # fmt: skip
def test_a_sign_or_symbol_at_an_end_makes_another_prompt(one: str, other: str) -> None:
    assert normalize_prompt(one) != normalize_prompt(other)


def test_a_prompt_that_is_not_among_the_trained_ones_stays_held_out(tmp_path: Path) -> None:
    file = tmp_path / "overlapping.yaml"
    file.write_text(PROMPTS, encoding="utf-8")
    config = resolve("quickstart", [f"prompts={file}", *ONE_PROMPT, "prompts.only=[b]"]).config

    assert [prompt.id for prompt in config.prompts.held_out()] == ["d", "e"]


def test_a_set_whose_held_out_prompts_are_all_trained_on_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "overlapping.yaml"
    file.write_text(PROMPTS.replace("shoot a photo", "beat eggs"), encoding="utf-8")
    config = resolve("quickstart", [f"prompts={file}", *ONE_PROMPT], verify=False).config

    errors = [finding.text for finding in check_config(config) if finding.severity == "error"]

    assert errors == [
        "evaluation needs held-out prompts, but this prompt set has only training prompts with other ids"
    ]


def test_prompts_without_letters_are_not_all_the_same() -> None:
    assert normalize_prompt("???") != normalize_prompt("!")
    assert normalize_prompt(" How?  ") == normalize_prompt("how")
