"""Conversations of prompts: system prompts, earlier turns, and chat templates of profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.conversation import chat_messages, longest_prompt_characters, prompt_context
from ida_tui.config.model_files import model_problem
from ida_tui.config.repeated_prompts import repeated_training_note
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Message, ModelConfig, Prompt, PromptSet
from ida_tui.errors import UsageError

HISTORY = [Message(role="user", content="Hi."), Message(role="assistant", content="Hello!")]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}{{ eos_token }}"
PROMPTS = """
system: Be brief.
prompts:
  - {id: plain, kind: harmless, text: Bake bread.}
  - {id: other, kind: harmless, text: And cake., system: Rhyme.,
     history: [{role: user, content: Bake bread.}, {role: assistant, content: Mix flour.}]}
"""


def prompt(**fields: object) -> Prompt:
    return Prompt.model_validate({"id": "a", "kind": "harmless", "text": "Bye?", **fields})


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "talk.yaml"
    file.write_text(PROMPTS)
    return file


def test_the_messages_of_a_prompt_are_its_context_and_its_text() -> None:
    context = prompt_context(prompt(history=HISTORY), "Be brief.")
    assert chat_messages("Bye?", context) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye?"},
    ]


def test_the_system_prompt_of_a_row_overrides_that_of_the_set() -> None:
    assert prompt_context(prompt(system="Rhyme."), "Be brief.") == (("system", "Rhyme."),)
    assert prompt_context(prompt(system=""), "Be brief.") == ()
    assert prompt_context(prompt(), None) == ()


def test_without_a_system_role_the_system_prompt_is_put_into_the_first_user_message() -> None:
    context = prompt_context(prompt(history=HISTORY), "Be brief.")
    merged = chat_messages("Bye?", context, merge_system=True)
    assert [message["role"] for message in merged] == ["user", "assistant", "user"]
    assert merged[0]["content"] == "Be brief.\n\nHi."
    assert (
        chat_messages("Bye?", context[:1], merge_system=True)[0]["content"] == "Be brief.\n\nBye?"
    )


def test_a_prompt_set_with_conversations_is_written_out_and_read_again(
    prompts_file: Path, tmp_path: Path
) -> None:
    config = resolve("quickstart", [f"prompts={prompts_file}"], verify=False).config
    written = to_yaml(config)
    (tmp_path / "config.yaml").write_text(written)

    assert resolve(str(tmp_path / "config.yaml"), verify=False).config.prompts == config.prompts
    assert config.prompts.prompts[1].history[1] == Message(role="assistant", content="Mix flour.")
    assert written.count("history:") == 1, "prompts without a context do not mention it"


def test_the_same_last_message_in_another_conversation_is_another_prompt() -> None:
    again = prompt(id="b", history=HISTORY)
    assert repeated_training_note(PromptSet(prompts=[prompt(), again])) == ""
    assert repeated_training_note(PromptSet(prompts=[prompt(), prompt(id="b")]))


def test_the_length_of_a_prompt_includes_its_context() -> None:
    assert longest_prompt_characters([prompt(history=HISTORY)], "Be brief.") == 4 + 3 + 6 + 9


# --- chat templates of profiles -----------------------------------------------------------------


def test_the_text_of_a_template_file_becomes_part_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nmodel: {chat_template: mine.jinja}\n")

    config = resolve(str(tmp_path / "mine.yaml")).config

    assert config.model.chat_template == TEMPLATE
    assert resolve("quickstart", [f"model.chat_template='{TEMPLATE}'"]).config.model == config.model


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.jinja", "does not exist"),
        ("/etc/hostname", "neither a chat template nor a template file"),
        ("latin.jinja", "not UTF-8"),
    ],
)
def test_a_template_that_cannot_be_read_is_named_with_the_way_out(
    value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.jinja").write_bytes(b"\xe9{{ messages }}")
    with pytest.raises(UsageError) as raised:
        resolve("quickstart", [f"model.chat_template={value}"])
    assert message in raised.value.title
    assert raised.value.where == "command line: model.chat_template"
    assert raised.value.hint


def test_a_template_of_a_profile_that_does_not_end_is_refused() -> None:
    endless = "{% for i in range(99999) %}{{ 'a' * 500 }}{% endfor %}"
    problem = model_problem(ModelConfig(path="embedded", chat_template=endless))
    assert problem is not None
    assert "model.chat_template expands one short message" in problem[0]
