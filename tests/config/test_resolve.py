"""Resolving an experiment: names, overrides, origins, and errors with a fix."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ida_tui.config import profiles
from ida_tui.config.resolve import resolve, resolve_profile, to_yaml
from ida_tui.config.validation import KEY_SYNONYMS
from ida_tui.config.yaml_tree import iter_leaves
from ida_tui.errors import ExitCode, UsageError

EXPERIMENT = """\
description: A test
model: {path: embedded, context_length: 1024}
judge: offline
rubric:
  task: Grade it.
  axes:
    align: {zero: "no", ten: "yes"}
    risk: {zero: harmful, ten: safest}
    detail: {zero: vague, ten: complete}
prompts:
  prompts:
    - {id: one, kind: harmless, text: First}
    - {id: two, kind: unsafe, text: Second}
    - {id: last, kind: harmless, split: held-out, text: Third}
device: cpu
training:
  num_generations: 4
  gradient_accumulation_steps: 4
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of user profiles with the experiment `exp`; the working directory is empty."""
    root = tmp_path / "mine"
    work = tmp_path / "here"
    work.mkdir()
    for kind in profiles.PROFILE_KINDS:
        (root / kind).mkdir(parents=True)
    (root / "experiments" / "exp.yaml").write_text(EXPERIMENT, encoding="utf-8")
    monkeypatch.setenv("IDA_TUI_PROFILES", str(root))
    monkeypatch.chdir(work)
    return root


def refusal(*overrides: str, experiment: str | None = "exp") -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(experiment, overrides)
    error = caught.value
    assert error.code is ExitCode.USAGE
    assert len("\n".join(error.lines()).splitlines()) <= 6
    return error


def edit_experiment(user: Path, old: str, new: str) -> None:
    assert old in EXPERIMENT
    file = user / "experiments" / "exp.yaml"
    file.write_text(EXPERIMENT.replace(old, new), encoding="utf-8")


# --- shipped profiles ---


def test_the_test_run_of_the_quick_start_has_two_steps_of_four_completions():
    config = resolve("dev-mps", []).config
    assert config.planned_steps() == 2
    assert config.training.completions_per_step == 4
    assert config.training.max_completion_length == 256
    assert config.training.max_grad_norm == 0
    assert config.model.torch_dtype == "float16"


def test_the_command_line_of_the_quick_start_resolves():
    resolved = resolve(None, ["model=qwen3-4b-mps-fp16", "experiment=dev-mps"])
    assert resolved.config.name == "dev-mps"
    origin = resolved.origins["model.torch_dtype"]
    assert (origin.file.name if origin.file else "") == "qwen3-4b-mps-fp16.yaml"


def test_the_dev_mps_file_sets_max_grad_norm_to_zero_literally():
    text = profiles.list_profiles("experiments")["dev-mps"].read_text(encoding="utf-8")
    assert "  max_grad_norm: 0\n" in text


def test_oblit_1_has_one_prompt_and_ten_steps_of_eight_completions():
    for name in ("oblit-1-mps", "oblit-1-mps-lowmem"):
        config = resolve(name, []).config
        assert (len(config.prompts.train()), config.planned_steps()) == (1, 10)
        assert config.training.completions_per_step == config.training.num_generations == 8


def test_the_low_memory_variant_generates_fewer_tokens_and_recomputes_activations():
    full, low = resolve("oblit-1-mps", []).config, resolve("oblit-1-mps-lowmem", []).config
    assert low.training.max_completion_length < full.training.max_completion_length
    assert low.training.per_device_train_batch_size == 1
    assert low.training.gradient_checkpointing
    assert low.name == "oblit-1-mps-lowmem"


def test_every_shipped_experiment_resolves_with_every_shipped_model_and_judge():
    for experiment in profiles.list_profiles("experiments"):
        for model in profiles.list_profiles("models"):
            resolve(experiment, [f"model={model}"], verify=False)
        for judge in profiles.list_profiles("judges"):
            resolve(experiment, [f"judge={judge}"], verify=False)


def test_the_test_run_works_with_the_embedded_model_on_the_cpu():
    config = resolve("dev-mps", ["model=embedded", "device=cpu", "judge=offline"]).config
    assert (config.model.path, config.device, config.judge.kind) == ("embedded", "cpu", "offline")


# --- overrides and origins ---


def test_overrides_change_values_and_become_their_origin(user):
    resolved = resolve("exp", ["training.learning_rate=1e-5", "lora.r=8", "limit_gb=auto"])
    assert resolved.config.training.learning_rate == 1e-5
    assert resolved.config.lora.r == 8
    assert str(resolved.origins["lora.r"]) == "command line"
    assert str(resolved.origins["lora.alpha"]) == "default"
    assert str(resolved.origins["device"]).endswith("exp.yaml:15")


def test_every_leaf_has_an_origin(user):
    resolved = resolve("exp", [])
    for key, _ in iter_leaves(resolved.config.model_dump()):
        assert key in resolved.origins


def test_a_url_is_a_valid_override_value(user):
    url = "http://127.0.0.1:9000/v1"
    assert resolve("exp", [f"judge.base_url={url}"]).config.judge.base_url == url


def test_a_section_may_extend_a_profile_and_change_it(user):
    edit_experiment(user, "judge: offline", "judge: {extends: ollama, model: my-judge}")
    judge = resolve("exp", []).config.judge
    assert judge.model == "my-judge"
    assert judge.base_url == "http://127.0.0.1:11434/v1"


def test_a_model_may_be_a_folder(user):
    folder = Path.cwd() / "weights" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 512}', encoding="utf-8")
    model = resolve("exp", ["model=./weights/mine"]).config.model
    assert (model.name, model.folder()) == ("mine", Path("weights/mine"))


def test_a_model_may_be_a_hugging_face_id(user):
    model = resolve("exp", ["model=Some-Org/Some-Model"]).config.model
    assert (model.path, model.name) == ("Some-Org/Some-Model", "Some-Model")


def test_facts_about_a_replaced_model_or_judge_are_dropped():
    resolved = resolve("dev-mps", ["model.path=Some-Org/Other", "judge.model=other"])
    model, judge = resolved.config.model, resolved.config.judge
    assert (model.parameters, model.download_gb, model.licence) == (None, None, "")
    assert model.name == "Other"
    assert (judge.price, judge.shutdown_date) == (None, None)


def test_a_resolved_config_resolves_to_itself(user):
    before = resolve("exp", ["seed=7", "training.learning_rate=3e-6"]).config
    Path("config.yaml").write_text(to_yaml(before), encoding="utf-8")
    after = resolve("config.yaml", [])
    assert after.config == before
    assert "ida-tui --run" in to_yaml(before)


def test_resolved_shipped_experiments_resolve_to_themselves(tmp_path):
    for name in profiles.list_profiles("experiments"):
        config = resolve(name, [], verify=False).config
        file = tmp_path / f"{name}.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        assert resolve(str(file), [], verify=False).config == config


# --- errors ---


def test_text_in_place_of_a_number_gets_a_one_line_error(user):
    error = refusal("training.learning_rate=fast")
    assert error.title == '"fast" is not a number; e.g. 1e-5'
    assert error.where == "command line: training.learning_rate"


def test_an_error_in_a_file_names_the_file_and_the_line(user):
    edit_experiment(user, "num_generations: 4", "num_generations: four")
    error = refusal()
    assert error.where.endswith("exp.yaml:17: training.num_generations")
    assert "whole number" in error.title


@pytest.mark.parametrize("synonym", ["lr", "generations", "G", "steps", "epochs", "kl", "clip"])
def test_a_synonym_of_a_key_gets_the_key_suggested(user, synonym):
    key = KEY_SYNONYMS[synonym.lower()]
    assert key in refusal(f"training.{synonym}=1").hint
    assert f"training.{key}=" in refusal(f"{synonym}=1").hint


def test_a_key_in_the_wrong_section_gets_the_right_section_suggested(user):
    edit_experiment(user, "device: cpu", "learning_rate: 1e-5")
    assert refusal().hint.startswith("learning_rate belongs under training:")
    assert "training.fp16" in refusal("model.fp16=true", experiment="dev-mps").hint


def test_a_misspelled_key_gets_the_nearest_key_suggested(user):
    assert "temperature" in refusal("training.temprature=1").hint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_steps=-1", "above 0"),
        ("training.max_steps=1.5", "whole number"),
        ("training.learning_rate=true", "not a number"),
        ("training.learning_rate=.inf", "finite"),
        ("training.fp16=maybe", "true, false or auto"),
        ("device=gpu", "cuda"),
        ("training=3", "mapping"),
        ("training.num_generations.x=3", "set the full value"),
        ("report_to=wandb", "[wandb]"),
        ("judge.model=4", "quotes"),
        ("model=./nowhere", "does not exist"),
        ("model=embeded", "embedded"),
        ("judge=gpt", "gpt-4o-mini"),
        ("judge=", "needs a name"),
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("a=[", "is not a valid value"),
        ("prompts.only=[on]", "prompts.only"),
        ("prompts.only=[onee]", "one"),
        ("prompts.only=[last]", "held out"),
        ("prompts.only=[]", "no prompts to train on"),
        ("prompts.prompts=[]", "no prompts"),
        ("prompts.prompts.0.text=''", "empty"),
        ("prompts.prompts.0.id=two", "two prompts"),
        ("name=a/b", "not a valid experiment name"),
    ],
)
def test_each_wrong_value_is_explained(user, override, message):
    assert message in "\n".join(refusal(override).lines())


def test_axes_that_the_offline_judge_does_not_know_need_another_judge(user):
    edit_experiment(user, "    risk: {zero: harmful, ten: safest}\n", "")
    error = refusal()
    assert error.title == "the offline judge scores only align, risk and detail, not align, detail"
    assert "choose a judge with judge=NAME" in error.hint


def test_an_axis_without_a_description_is_named_with_the_text_to_add(user):
    edit_experiment(user, "    risk: {zero: harmful, ten: safest}\n", "    risk: {}\n")
    error = refusal()
    assert error.title == "the axis risk has no meaning of 0"
    assert "risk: {zero:" in error.hint


def test_a_missing_section_says_what_to_add(user):
    edit_experiment(user, "judge: offline\n", "")
    assert refusal().hint == "add judge: NAME; list names with: ida-tui --list judges"


def test_an_api_key_is_neither_accepted_nor_repeated(user):
    for override in ("judge.api_key=sk-secret", "judge.api_key_env=sk-secret"):
        extra = ["judge.kind=openai", "judge.model=m"]
        assert "sk-secret" not in "\n".join(refusal(*extra, override).lines())


def test_a_conflict_is_reported_at_the_value_from_the_command_line(user):
    error = refusal("training.num_generations=3")
    assert error.where == "command line: training.num_generations"
    assert "gradient_accumulation_steps to 6" in error.hint


def test_zero_or_two_experiments_are_refused(user):
    assert "no experiment" in refusal(experiment=None).title
    assert "two experiments" in refusal("experiment=dev-mps").title


def test_other_kinds_of_profiles_are_validated_separately(user):
    assert resolve_profile("models", "qwen3-0.6b").file.name == "qwen3-0.6b.yaml"
    (user / "judges" / "odd.yaml").write_text("kind: psychic", encoding="utf-8")
    with pytest.raises(UsageError, match="offline, openai, plugin, panel or none"):
        resolve_profile("judges", "odd")


_keys = st.sampled_from(
    [
        "training", "training.learning_rate", "training.fp16", "lora.r", "lora.target_modules",
        "model", "model.path", "judge", "judge.price", "judge.base_url", "rubric.axes.risk",
        "prompts", "prompts.only", "prompts.prompts", "prompts.prompts.0", "prompts.prompts.1.id",
        "limit_gb", "name", "report_to", "experiment", "extends", "model.extends", "nonsense",
    ]
)  # fmt: skip
_values = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "null", "[]", "{}", "1e-5", "-1", "auto", "[a, 1]", "{a: {b: 1}}", "../x"]
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.builds("{}={}".format, _keys, _values) | st.text(max_size=20), max_size=3))
def test_random_overrides_resolve_or_get_a_usage_error(user, overrides):
    try:
        resolve("exp", overrides)
    except UsageError as error:
        lines = "\n".join(error.lines()).splitlines()
    else:
        lines = []
    assert len(lines) <= 6


def test_resolving_imports_no_heavy_library():
    code = (
        "import sys, ida_tui.config.resolve, ida_tui.config.listing, ida_tui.planning.preview\n"
        "heavy = {'torch', 'transformers', 'trl', 'textual', 'openai', 'peft', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_trust_in_a_models_code_does_not_carry_over_to_another_model(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: quickstart\nmodel: {extends: embedded, trust_remote_code: true}\n"
    )
    mine = str(tmp_path / "mine.yaml")

    assert resolve(mine).config.model.trust_remote_code
    assert not resolve(mine, ["model.path=Qwen/Qwen3-0.6B"]).config.model.trust_remote_code


def test_absurd_layer_sizes_are_not_used_for_planning(ida_tui_here: Any) -> None:
    shape = f"{{hidden_size: {10**400}, intermediate_size: 8, num_hidden_layers: 2,"
    shape += " num_attention_heads: 2, vocab_size: 9}"
    result = ida_tui_here("--check", "quickstart", "model.path=some/model", f"model.shape={shape}")

    assert result.code == 0
    assert "layer sizes are not known" in result.out


def test_too_few_prompts_are_an_error_of_the_file_that_was_typed() -> None:
    Path("one.jsonl").write_text('{"prompt": "How do I whisk an egg?"}\n')
    with pytest.raises(UsageError, match="there is only 1 to train on") as error:
        resolve("quickstart", ["prompts=one.jsonl", "evaluation.enabled=false"])
    assert error.value.where == "command line: prompts.source"
