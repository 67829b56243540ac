"""The chat format of a model: prompts with a context, completions with a thought, and a run with both."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from ida_tui.analysis.report.load import load_report_inputs
from ida_tui.analysis.report.samples import sample_lists
from ida_tui.api import Run, load_run
from ida_tui.cli.main import main
from ida_tui.config import embedded
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.errors import IdaError
from ida_tui.runs.directory import RunDirectory

SYSTEM = (("system", "Be brief."),)
LOOP = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + LOOP
)
DROPS_SYSTEM = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.content }}{% endif %}"
    "{% endfor %}"
)
OPENS_THOUGHT = LOOP + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
ALTERNATES = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ message.content }}{% endfor %}"
)


def chat_format(template: str, **settings: Any) -> tuple[Any, ChatFormat]:
    model = ModelConfig(path="embedded", chat_template=template, **settings)
    tokenizer = load.load_tokenizer(model)
    return tokenizer, ChatFormat(tokenizer, model)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_system_prompt_is_not_lost_if_the_template_has_no_role_for_it(template: str) -> None:
    tokenizer, form = chat_format(template)
    with pytest.warns(UserWarning, match="no system role"):
        ids = form.encode("Hi.", SYSTEM)
    assert "Be brief." in tokenizer.decode(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        form.encode("Hi.", SYSTEM)


def test_a_template_with_a_system_role_gets_the_system_message() -> None:
    _, form = chat_format(LOOP)
    assert [message["role"] for message in form.messages("Hi.", SYSTEM)] == ["system", "user"]


def test_a_conversation_that_the_template_refuses_is_found_with_the_reason() -> None:
    _, form = chat_format(ALTERNATES)
    good = (("user", "Hi."), ("assistant", "Hello."))
    assert form.find_refused([good, ()]) is None
    refused = form.find_refused([good, (("user", "Hi."),)])
    assert refused is not None
    assert refused[0] == (("user", "Hi."),)
    assert "roles must alternate" in refused[1]


def test_the_text_of_a_completion_has_the_tag_that_the_prompt_opened() -> None:
    tokenizer, form = chat_format(OPENS_THOUGHT)
    ids = tokenizer("I wonder.</think>Yes.", add_special_tokens=False)["input_ids"]
    text = form.decode([*ids, tokenizer.eos_token_id])
    assert text == "<think>\nI wonder.</think>Yes."
    thought = len(tokenizer("I wonder.", add_special_tokens=False)["input_ids"])
    assert form.count_thought_tokens(text, len(ids)) == thought
    assert form.count_thought_tokens("<think>\nI wonder", 7) == 7
    assert form.count_thought_tokens("Yes.", 7) == 0


def test_special_tokens_of_a_thought_stay_in_the_text_and_others_do_not() -> None:
    tokenizer, form = chat_format(LOOP)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<other>"]})
    ids = tokenizer("[THINK]Hm.[/THINK]Yes.<other>", add_special_tokens=False)["input_ids"]
    assert form.decode([*ids, tokenizer.eos_token_id]).replace(" ", "") == "[THINK]Hm.[/THINK]Yes."


def test_a_model_without_a_template_is_refused_with_the_key_that_gives_it_one(
    tmp_path: Path,
) -> None:
    shutil.copytree(embedded.model_folder(), tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    model = ModelConfig(path=str(tmp_path / "base"))
    with pytest.raises(IdaError, match="has no chat template") as raised:
        load.load_tokenizer(model)
    assert "model.chat_template=FILE" in raised.value.hint

    given = model.model_copy(update={"chat_template": LOOP})
    tokenizer = load.load_tokenizer(given)
    assert "Hi." in tokenizer.decode(ChatFormat(tokenizer, given).encode("Hi."))
    load.save_tokenizer(given, tmp_path / "exported")
    assert (tmp_path / "exported" / "chat_template.jinja").read_text() == LOOP


# --- a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_with_thoughts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One step on conversations, with a template that opens a thought that the model never closes."""
    folder = tmp_path_factory.mktemp("thoughts")
    shipped = (embedded.model_folder() / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "think.jinja").write_text(
        shipped + "{% if add_generation_prompt %}<think>\n{% endif %}", encoding="utf-8"
    )
    prompts = {
        "system": "Be brief.",
        "prompts": [
            {"id": "plain", "kind": "harmless", "text": "How do I bake bread?"},
            {"id": "talk", "kind": "harmless", "text": "And a cake?", "system": "",
             "history": [{"role": "user", "content": "How do I bake bread?"},
                         {"role": "assistant", "content": "Mix flour and water."}]},
        ],
    }  # fmt: skip
    (folder / "talk.yaml").write_text(json.dumps(prompts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(
            ["--run", "quickstart", "prompts=talk.yaml", "model.chat_template=think.jinja",
             "evaluation.enabled=false", "training.max_steps=1", "training.num_generations=4",
             "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1",
             "training.max_completion_length=8"]
        )  # fmt: skip
        assert code in (0, 1), "a model without a reward learns nothing"
        return load_run("quickstart")


def test_the_events_of_a_run_have_the_conversation_and_the_thought(run_with_thoughts: Run) -> None:
    completions = [row.finished for row in run_with_thoughts.completions()]
    contexts = {completion.prompt_id: completion.context for completion in completions}
    assert contexts["plain"] == (("system", "Be brief."),)
    assert contexts["talk"] == (
        ("user", "How do I bake bread?"),
        ("assistant", "Mix flour and water."),
    )
    assert all(completion.text.startswith("<think>\n") for completion in completions)
    assert all(completion.thought_tokens == completion.tokens for completion in completions)


def test_thoughts_that_are_cut_off_are_counted_and_get_no_verdict(run_with_thoughts: Run) -> None:
    step = run_with_thoughts.state.steps[-1]
    assert step.unfinished_thoughts == 8
    assert step.thought_tokens is not None
    assert step.thought_tokens > 0
    scored = [row.scored for row in run_with_thoughts.completions()]
    assert all(row is not None and "cut off in its thought" in row.reason for row in scored)


def test_the_configuration_of_a_run_contains_its_template_and_its_conversations(
    run_with_thoughts: Run,
) -> None:
    config = run_with_thoughts.config
    assert config.model.chat_template is not None
    assert config.model.chat_template.endswith("<think>\n{% endif %}")
    assert config.prompts.system == "Be brief."
    assert config.prompts.prompts[1].history[0].content == "How do I bake bread?"


def test_the_report_shows_the_conversation_and_folds_the_thought(run_with_thoughts: Run) -> None:
    inputs = load_report_inputs(RunDirectory(run_with_thoughts.directory))
    samples = [sample for row in sample_lists(inputs) for sample in row.samples]
    assert samples
    for sample in samples:
        assert sample.text == "", "no answer"
        assert sample.thought
        assert sample.thought_label == "thought, 8 tokens"
        assert "truncated in its thought" in sample.cut
        assert sample.context in (
            ("system: Be brief.",),
            ("user: How do I bake bread?", "assistant: Mix flour and water."),
        )
