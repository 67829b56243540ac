"""Notes on models that think before they answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.templates.thinking import find_thinking
from ida_tui.util.finding import Finding

PROMPT = "{{ messages[0].content }}{% if add_generation_prompt %}assistant:"
ALWAYS = PROMPT + "<think>\n{% endif %}"
ON_BY_DEFAULT = (
    PROMPT
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
OFF_BY_DEFAULT = (
    PROMPT + "{% if enable_thinking is defined and enable_thinking %}<|channel>thought\n{% endif %}"
    "{% endif %}"
)


def note(template: str | None = None, *overrides: str, model: str = "embedded") -> Finding | None:
    config = resolve("quickstart", [f"model={model}", *overrides], verify=False).config
    changed = config.model.model_copy(update={"chat_template": template})
    return find_thinking(config.model_copy(update={"model": changed}))


def test_a_template_that_opens_a_thought_is_noted_with_the_length_of_completions() -> None:
    found = note(ALWAYS)
    assert found is not None
    assert "opens a thought" in found.text
    assert "64 tokens" in found.text
    assert "raise training.max_completion_length (now 64)" in found.fix
    assert "enable_thinking" not in found.fix


def test_a_template_with_a_switch_is_noted_with_the_switch_until_it_is_off() -> None:
    found = note(ON_BY_DEFAULT)
    assert found is not None
    assert "made for thoughts" in found.text
    assert "model.chat_template_kwargs.enable_thinking=false" in found.fix
    assert note(ON_BY_DEFAULT, "model.chat_template_kwargs={enable_thinking: false}") is None


def test_a_template_whose_thoughts_are_off_is_noted_only_if_they_are_switched_on() -> None:
    assert note(OFF_BY_DEFAULT) is None
    found = note(OFF_BY_DEFAULT, "model.chat_template_kwargs={enable_thinking: true}")
    assert found is not None
    assert "opens a thought" in found.text


def test_the_embedded_model_and_templates_without_thoughts_are_not_noted() -> None:
    assert note() is None
    assert note(PROMPT + "{% endif %}") is None


@pytest.mark.parametrize(
    ("model", "thinks"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", True),
        ("Qwen/QwQ-32B", True),
        ("Qwen/Qwen3-4B-Thinking-2507", True),
        ("Qwen/Qwen3-4B-Instruct-2507", False),
        ("meta-llama/Llama-3.2-1B-Instruct", False),
    ],
)
def test_a_model_that_is_not_here_is_recognized_by_its_name(model: str, thinks: bool) -> None:
    found = note(model=model)
    assert (found is not None) == thinks
    assert found is None or "as its name says" in found.text


def test_the_template_of_a_model_folder_is_read(tmp_path: Path) -> None:
    shutil.copytree(embedded.model_folder(), tmp_path / "thinks")
    file = tmp_path / "thinks" / "chat_template.jinja"
    file.write_text(
        file.read_text() + "{% if add_generation_prompt %}<think>\n{% endif %}", encoding="utf-8"
    )
    found = note(model=str(tmp_path / "thinks"))
    assert found is not None
    assert "opens a thought" in found.text
