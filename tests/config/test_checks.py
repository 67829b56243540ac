"""Cross-checks of a configuration: conflicts, their suggested values, and notes."""

import json
import struct
from datetime import date
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ida_tui.config import checks
from ida_tui.config.checks import check_config
from ida_tui.config.model_files import inspect_model
from ida_tui.config.schema import Config, DeviceName, JudgeConfig, ModelConfig
from ida_tui.util.finding import Finding

AXIS = {"zero": "worst", "ten": "best"}
TODAY = date(2026, 6, 1)


def config(**changes: dict[str, object]) -> Config:
    """A small experiment with four train prompts and one held-out prompt, with some sections changed."""
    prompts = [
        {
            "id": f"p{n}",
            "kind": "harmless",
            "text": f"Hello {n}",
            "split": "train" if n else "held-out",
        }
        for n in range(5)
    ]
    tree: dict[str, dict[str, object]] = {
        "model": {"path": "org/name", "context_length": 1024},
        "judge": {"kind": "offline"},
        "rubric": {"task": "Grade.", "axes": {"align": AXIS, "risk": AXIS, "detail": AXIS}},
        "prompts": {"prompts": prompts},
        "training": {"num_generations": 4, "gradient_accumulation_steps": 4},
        "evaluation": {},
    }
    for section, values in changes.items():
        tree[section] = {**tree[section], **values}
    return Config.model_validate({"name": "test", **tree})


def find_errors(tested: Config, device: DeviceName = "cpu") -> list[Finding]:
    return [f for f in check_config(tested, device, TODAY) if f.severity == "error"]


def only_error(tested: Config, device: DeviceName = "cpu") -> Finding:
    findings = find_errors(tested, device)
    assert len(findings) == 1, findings
    return findings[0]


def note_texts(tested: Config, device: DeviceName = "cpu", today: date = TODAY) -> list[str]:
    return [f.text for f in check_config(tested, device, today) if f.severity == "note"]


def test_a_consistent_experiment_has_no_findings():
    assert check_config(config(), "cpu", TODAY) == []


def test_a_batch_that_does_not_divide_into_groups_gets_suggested_values():
    error = only_error(config(training={"gradient_accumulation_steps": 3}))
    assert error.about == "training.gradient_accumulation_steps"
    assert "gradient_accumulation_steps to 4 (1 × 4 = 4 completions: 1 prompt × 4)" in error.fix
    assert "num_generations to 3" in error.fix


@given(batch=st.integers(1, 40), passes=st.integers(1, 40), group=st.integers(2, 24))
def test_the_suggested_accumulation_always_divides_into_groups(batch, passes, group):
    assume((batch * passes) % group)
    training = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes,
        "num_generations": group,
    }
    hint = only_error(config(training=training)).fix
    suggested = int(hint.split("gradient_accumulation_steps to ")[1].split()[0])
    assert suggested >= 1
    assert (batch * suggested) % group == 0


def test_a_step_that_needs_more_prompts_than_exist_is_refused_with_a_value_that_fits():
    error = only_error(config(training={"gradient_accumulation_steps": 32}))
    assert "needs 8 prompts" in error.text
    assert "gradient_accumulation_steps to 16" in error.fix
    assert "add 4 more prompts" in error.fix
    one_big_pass = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    assert "per_device_train_batch_size to 4" in only_error(config(training=one_big_pass)).fix


def test_prompts_that_an_epoch_skips_are_noted():
    assert any("skips some" in n for n in note_texts(config(training={
        "gradient_accumulation_steps": 12,
    })))  # fmt: skip


def test_a_completion_as_long_as_the_context_is_refused_with_a_shorter_length():
    error = only_error(config(training={"max_completion_length": 1024}))
    assert error.fix == "set the maximum length to 768 or less"


def test_a_completion_length_that_leaves_little_room_for_the_longest_prompt_is_noted():
    prompts = [{"id": "long", "kind": "harmless", "text": "word " * 100}]
    long = config(prompts={"prompts": prompts * 1}, training={"max_completion_length": 1000})
    assert any("may be too few" in note for note in note_texts(long))


def test_fp16_and_bf16_together_are_refused():
    assert "both enabled" in only_error(config(training={"fp16": True, "bf16": True}), "cuda").text


@pytest.mark.parametrize(("fp16", "why"), [(True, "unscale"), (False, "destroys the weights")])
def test_full_training_in_float16_is_refused(fp16, why):
    tested = config(model={"torch_dtype": "float16"}, training={"method": "full", "fp16": fp16})
    error = only_error(tested, "mps")
    assert why in error.text
    assert "method: lora" in error.fix
    assert "float32" in error.fix


def test_the_fused_optimizer_with_a_scaler_on_mps_is_refused():
    tested = config(training={"optim": "adamw_torch_fused"})
    assert only_error(tested, "mps").about == "training.optim"
    assert find_errors(tested, "cuda") == []


def test_bf16_on_mps_and_fp16_on_the_cpu_are_noted():
    assert any("bf16 on mps" in n for n in note_texts(config(training={"bf16": True}), "mps"))
    assert any(
        "fp16 has no effect" in n for n in note_texts(config(training={"fp16": True}), "cpu")
    )


def test_a_loss_that_depends_on_the_batch_size_is_noted_and_refuses_an_automatic_one():
    error = only_error(config(training={"loss_type": "bnpo", "token_budget": "auto"}))
    assert error.about == "training.token_budget"
    assert "set token_budget to null" in error.fix
    for budget in (None, 500):
        notes = note_texts(config(training={"loss_type": "bnpo", "token_budget": budget}))
        assert any("averages over the tokens of each pass" in note for note in notes)
    one_pass = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    assert not note_texts(config(training={"loss_type": "bnpo", **one_pass}))
    assert not check_config(config(training={"token_budget": "auto"}), "cpu", TODAY)


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [("cpu", "auto", "needs a CUDA GPU"), ("cuda", "float32", "only in 16 bits"),
     ("cuda", "bfloat16", "which is not installed")],
)  # fmt: skip
def test_flash_attention_is_refused_where_it_cannot_run(device, dtype, reason, monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    model = {"attn_implementation": "flash_attention_2", "torch_dtype": dtype}
    training = {"bf16": dtype != "float32", "fp16": False}
    error = only_error(config(model=model, training=training), device)
    assert error.about == "model.attn_implementation"
    assert reason in error.text


@pytest.mark.parametrize(
    ("training", "note"),
    [
        ({"warmup_steps": 3}, "warmup_steps has no effect with a constant learning rate"),
        ({"max_steps": 4, "num_train_epochs": 2.0}, "num_train_epochs has no effect because"),
        ({"epsilon": 0.1}, "epsilon has no effect with num_iterations 1"),
        ({"optim": "adafactor", "adam_beta1": 0.8}, "adam_beta1 has no effect with the optimizer"),
        ({"vllm_mode": "server"}, "vllm_mode has no effect without use_vllm"),
    ],
)
def test_an_option_that_changes_nothing_is_noted(training, note):
    (text,) = note_texts(config(training=training))
    assert text.startswith(note)


def test_options_that_have_an_effect_are_not_noted():
    training = {"epsilon": 0.1, "num_iterations": 2, "max_steps": None, "num_train_epochs": 2.0}
    assert not note_texts(config(training=training))


def test_evaluation_needs_held_out_prompts():
    prompts = [{"id": "a", "kind": "harmless", "text": "Hello"}]
    tested = config(prompts={"prompts": prompts}, evaluation={"enabled": True})
    assert only_error(tested).about == "evaluation.enabled"


def test_an_unknown_prompt_id_gets_the_nearest_id_suggested():
    error = only_error(config(prompts={"only": ["p1", "pp2"]}))
    assert error.about == "prompts.only.1"
    assert "p2" in error.fix


# --- judges ---


def test_a_judge_model_that_retires_soon_is_noted():
    judge = {"kind": "openai", "model": "m", "shutdown_date": "2026-08-15"}
    assert note_texts(config(judge=judge)) == []
    soon = note_texts(config(judge=judge), today=date(2026, 8, 1))
    assert soon == ["m retires on 2026-08-15 (14 days)"]
    today = note_texts(config(judge=judge), today=date(2026, 8, 15))
    assert today == ["m retires today (2026-08-15)"]
    assert "was scheduled to retire" in note_texts(config(judge=judge), today=date(2027, 1, 1))[0]


@pytest.mark.parametrize(
    ("judge", "key"),
    [
        ({"model": ""}, "judge.model"),
        ({"base_url": "10.0.0.2:9000"}, "judge.base_url"),
        ({"api_key_env": "sk-secret"}, "judge.api_key_env"),
        ({"shutdown_date": "soon"}, "judge.shutdown_date"),
    ],
)
def test_an_invalid_judge_setting_is_refused(judge, key):
    error = only_error(config(judge={"kind": "openai", "model": "m", **judge}))
    assert error.about == key
    assert "sk-secret" not in error.text + error.fix


def test_a_reporter_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    tested = config().model_copy(update={"report_to": ["trackio"]})
    assert "report_to lists trackio, which is not installed" in only_error(tested).text


# --- the model's files ---


def model_folder(folder: Path, settings: object) -> Path:
    """A folder with a config.json, a chat template, and a weight file of a 2 × 3 tensor and its tied copy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    copy = {**tensor, "data_offsets": [24, 48]}
    header = json.dumps({"__metadata__": {}, "embed.weight": tensor, "lm_head.weight": copy})
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(48)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_context_and_parameters_are_read_from_a_local_models_files(tmp_path):
    folder = model_folder(tmp_path / "m", {"max_position_embeddings": 512, "vocab_size": 9})
    files = inspect_model(ModelConfig(path=str(folder)))
    assert (files.location, files.complete, files.context_length) == ("folder", True, 512)
    assert (files.parameters, files.vocab_size) == (12, 9)
    tied = model_folder(tmp_path / "m", {"tie_word_embeddings": True})
    assert inspect_model(ModelConfig(path=str(tied))).parameters == 6
    error = only_error(config(model={"path": str(folder), "context_length": 8}))
    assert error.about == "training.max_completion_length"


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "config.json is missing"), ("{", "not valid JSON"), ("[]", "not a JSON object")],
)
def test_a_folder_that_is_not_a_model_is_refused(tmp_path, content, why):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    error = only_error(config(model={"path": str(tmp_path)}))
    assert why in error.text
    assert error.about == "model.path"


def test_an_adapter_a_file_and_a_missing_folder_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "adapter" in only_error(config(model={"path": str(tmp_path)})).text
    file = tmp_path / "adapter_config.json"
    assert "is a file" in only_error(config(model={"path": str(file)})).text
    for path in ("./nowhere", "/no/such/folder", "a/b/c", "~nobody-here/x", " "):
        assert only_error(config(model={"path": path})).about == "model.path"


def test_a_model_in_the_hugging_face_cache_is_found(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = ModelConfig(path="org/name")
    assert inspect_model(model).location == "hub"
    model_folder(tmp_path / "hub" / "models--org--name" / "snapshots" / "abc", {})
    files = inspect_model(model)
    assert (files.location, files.complete) == ("cache", True)
    assert inspect_model(ModelConfig(path="org/name", revision="v2")).location == "hub"


def test_damaged_weight_files_make_the_parameter_count_unknown(tmp_path):
    folder = model_folder(tmp_path, {})
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    assert inspect_model(ModelConfig(path=str(folder))).parameters is None


def test_the_offline_judge_needs_no_model():
    assert find_errors(config(judge=JudgeConfig(kind="offline").model_dump())) == []


@pytest.mark.parametrize(
    ("evaluation", "save_steps", "words"),
    [
        ({"every": 2, "enabled": True, "judged": True}, 2, ""),
        ({"every": 2, "enabled": True, "judged": True}, 0, ""),
        (
            {"every": 10, "enabled": True, "judged": True},
            2,
            "no evaluation falls between the 10 steps",
        ),
        ({"every": 2, "enabled": True}, 2, "have no"),
        ({"every": 2, "enabled": True, "judged": True}, 3, "those of every 6 steps have a reward"),
        ({"every": 4, "enabled": True, "judged": True}, 3, "none have a reward"),
    ],
)
def test_a_profile_with_evaluations_between_the_steps_is_told_what_they_lack(
    evaluation: dict[str, object], save_steps: int, words: str
) -> None:
    tested = config(evaluation=evaluation, training={"max_steps": 10, "save_steps": save_steps})

    notes = [f for f in check_config(tested, "cpu", TODAY) if f.about == "evaluation.every"]

    assert [words in note.text for note in notes] == [True] * bool(words)


def test_evaluations_between_the_steps_need_the_evaluation() -> None:
    error = only_error(config(evaluation={"every": 2}))

    assert (error.about, error.text) == ("evaluation.every", "needs evaluation.enabled")
    assert "evaluation.enabled=true" in error.fix
