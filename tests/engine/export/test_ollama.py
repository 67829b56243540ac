"""The Modelfile of an export: Ollama writes the same prompts as the model's chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trl
from transformers.utils.chat_template_utils import render_jinja_template

from ida_tui.config.conversation import Context, chat_messages
from ida_tui.engine.export import ollama
from ida_tui.engine.export.chat_layout import UnknownLayout, find_layout
from tests.support import go_template

TEMPLATES = Path(trl.__file__).with_name("chat_templates")
SYSTEM = ("system", 'Answer "briefly" {{ .x }}\nin C:\\new.')
TURN = (("user", "Wer?"), ("assistant", "  {{ end }} 你好"))
MISTRAL = """{{ bos_token }}{% set rest = messages %}{% if messages[0].role == 'system' %}\
{% set system = messages[0].content %}{% set rest = messages[1:] %}{% endif %}\
{% for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.last and system %}{{ system }}\n\n{% endif %}\
{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"""
DEFAULT_SYSTEM = """{% for m in messages %}{% if loop.first and m.role != 'system' %}\
<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n{% endif %}\
<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"""
"""As SmolLM2 has it."""


def renderer(template: str, **arguments: object) -> Callable[[str, Context], str]:
    def render(text: str, context: Context = ()) -> str:
        rendered, _ = render_jinja_template(
            conversations=[chat_messages(text, context)],
            chat_template=template,
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
            **arguments,
        )
        return str(rendered[0])

    return render


@pytest.mark.parametrize(
    "name",
    ["qwen2_5", "qwen3", "llama3", "llama3_2", "gemma3", "gemma4", "phi3", "mistral", "smollm2"],
)
def test_ollama_writes_the_prompt_of_the_chat_template(name: str) -> None:
    own = {"mistral": MISTRAL, "smollm2": DEFAULT_SYSTEM}
    template = own.get(name) or (TEMPLATES / f"{name}.jinja").read_text()
    render = renderer(template)
    go = ollama.go_template(find_layout(render))

    for context in ((), (SYSTEM,), TURN, (SYSTEM, *TURN), (SYSTEM, *TURN, *TURN)):
        if "trim" in template:
            context = tuple((role, content.strip()) for role, content in context)
        messages = [
            {"role": role, "content": content} for role, content in (*context, ("user", "Why?"))
        ]
        assert go_template.render(go, messages) == render("Why?", context)


def test_the_arguments_of_a_chat_template_are_part_of_ollamas() -> None:
    render = renderer((TEMPLATES / "qwen3.jinja").read_text(), enable_thinking=False)
    go = ollama.go_template(find_layout(render))
    prompt = go_template.render(go, [{"role": "user", "content": "Why?"}])
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_an_answer_that_ollama_continues_has_no_end() -> None:
    go = ollama.go_template(find_layout(renderer(DEFAULT_SYSTEM)))
    started = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    assert go_template.render(go, started).endswith("<|im_start|>assistant\nBecause")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[-1].content | upper }}", "changes, repeats or moves"),
        ("{{ messages[-1].content }}", "changes, repeats or moves"),
        (
            "{% for m in messages %}{{ loop.length }}: {{ m.content }}\n{% endfor %}",
            "rules of its own",
        ),
        ("{{ raise_exception('no tools given') }}", "no tools given"),
    ],
    ids=["changes text", "drops messages", "counts", "fails"],
)
def test_a_chat_template_with_other_rules_has_no_layout(template: str, reason: str) -> None:
    with pytest.raises(UnknownLayout, match=reason):
        find_layout(renderer(template))


def test_the_first_token_is_left_to_programs_that_write_it() -> None:
    render = renderer(MISTRAL)
    layout = find_layout(render).without_bos("<s>")
    assert "<s>" + layout.render("Why?", (SYSTEM, *TURN)) == render("Why?", (SYSTEM, *TURN))


def test_a_modelfile_names_the_file_the_end_tokens_and_the_system_prompt() -> None:
    text = ollama.modelfile("mine.gguf", None, ["<|im_end|>", "<|endoftext|>"], 'Say "hi"\nonly.')
    assert text.splitlines() == [
        "FROM ./mine.gguf",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        'SYSTEM """Say "hi"',
        'only."""',
    ]


def test_three_quotes_at_the_end_of_a_line_cannot_be_written() -> None:
    assert ollama.can_quote('say """hi""" twice')
    assert not ollama.can_quote('say """hi"""  \nonce')


def test_characters_that_ollama_drops_are_escaped() -> None:
    layout = find_layout(renderer("{% for m in messages %}\x1f\u00a0{{ m.content }}{% endfor %}"))
    assert '{{ "\\u001f\\u00a0" }}' in ollama.go_template(layout)


def test_the_command_that_adds_an_export_has_a_name_that_ollama_takes(tmp_path: Path) -> None:
    command = ollama.create_command("My Run, 2", tmp_path / "an export")
    assert command.startswith("ollama create my-run-2 -f '")
    assert command.endswith("/an export/Modelfile'")
