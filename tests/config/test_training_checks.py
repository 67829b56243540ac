"""Checks of losses, schedules, adapters and `training.extra`, without the libraries that read them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.checks import check_config
from ida_tui.config.resolve import resolve
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.config.training_checks import extra
from ida_tui.config.training_checks.schedule import SCHEDULE_ARGUMENTS


def findings(*overrides: str) -> list[tuple[str, str, str]]:
    config = resolve("quickstart", list(overrides), verify=False).config
    return [(f.severity, f.about, f"{f.text}; {f.fix}") for f in check_config(config, "cpu")]


def errors(*overrides: str) -> list[tuple[str, str]]:
    return [(about, text) for severity, about, text in findings(*overrides) if severity == "error"]


# --- training.extra -------------------------------------------------------------------------------


def test_every_argument_of_trl_is_passed_on_or_has_a_key_or_a_reason() -> None:
    groups = [
        extra.ACCEPTED,
        extra.VLLM,
        {name for names, _, _ in extra.REFUSED for name in names},
        extra.OTHER_KEYS.keys(),
        TrainingConfig.model_fields.keys() & extra.argument_types().keys(),
    ]
    assert set().union(*groups) == set(extra.argument_types())
    assert sum(map(len, groups)) == len(extra.argument_types())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pad_to_multiple_off=8", "did you mean pad_to_multiple_of?"),
        ("nonsense=1", "TRL has no argument"),
        ("loss_type=grpo", "use training.loss_type"),
        ("output_dir=here", "use output_dir"),
        ("model_init_kwargs={}", "use model.torch_dtype"),
        ("warmup_ratio=0.1", "use training.warmup_steps"),
        ("push_to_hub=true", "ida-tui export RUN --push"),
        ("deepspeed=zero3.json", "data-parallel only"),
        ("fsdp=full_shard", "data-parallel only"),
        ("logging_steps=5", "use report_to"),
        ("eval_strategy=steps", "use the keys of evaluation"),
        ("sync_ref_model=true", "a resumed run would train something else"),
        ("tf32=1", "1 is not true or false or null"),
        ("pad_to_multiple_of=eight.5", ""),
        ("torch_empty_cache_steps=2.5", "is not a whole number or null"),
        ("generation_kwargs=[1]", "is not a mapping"),
        ("generation_kwargs={temperature: 2}", "use training.temperature"),
        ("generation_kwargs={num_beams: 4}", "one row for each completion"),
    ],
)
def test_an_argument_that_cannot_be_set_is_refused_with_what_to_do(
    setting: str, message: str
) -> None:
    found = errors(f"training.extra={{{setting.replace('=', ': ', 1)}}}")
    if not message:
        assert not found
        return
    ((about, text),) = found
    assert about == f"training.extra.{setting.partition('=')[0]}"
    assert message in text


def test_arguments_reach_trl_and_a_value_that_it_refuses_is_an_error_of_the_profile(
    tmp_path: Path,
) -> None:
    from ida_tui.config.precision import resolve_precision
    from ida_tui.engine.trainer.arguments import grpo_config
    from ida_tui.errors import UsageError

    def build(argument: str) -> Any:
        config = resolve("quickstart", [f"training.extra={{{argument}}}"]).config
        return grpo_config(config, resolve_precision(config, "cpu"), "cpu", tmp_path)

    assert build("pad_to_multiple_of: 8").pad_to_multiple_of == 8
    with pytest.raises(UsageError) as caught:
        build("pad_to_multiple_of: eight")
    assert caught.value.where == "training.extra"
    assert "pad_to_multiple_of" in "\n".join(caught.value.lines())


# --- schedules --------------------------------------------------------------------------------------


def test_the_arguments_of_every_schedule_are_those_of_transformers() -> None:
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    given = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    functions = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    assert functions.keys() - SCHEDULE_ARGUMENTS.keys() == {"reduce_lr_on_plateau", "greedy"}
    for name, arguments in SCHEDULE_ARGUMENTS.items():
        assert set(inspect.signature(functions[name]).parameters) - given == set(arguments), name


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        ("linear", {"num_cycles": 2}, "linear has no argument num_cycles"),
        ("cosine", {"num_cycle": 2}, "did you mean num_cycles?"),
        ("cosine", {"num_cycles": "two"}, "a number from 0"),
        ("cosine_with_min_lr", {}, "needs its smallest rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-9, "min_lr_rate": 0.1}, "in one of two ways"),
        ("cosine_with_min_lr", {"min_lr": 9.0}, "is above learning_rate"),
        ("polynomial", {"lr_end": 1.0}, "not below learning_rate"),
        ("warmup_stable_decay", {}, "needs the number of steps of its decay"),
        ("warmup_stable_decay", {"num_decay_steps": 10**6}, "are more than the run's"),
        ("warmup_stable_decay", {"num_decay_steps": 1, "decay_type": "round"}, "one of linear"),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, ""),
        ("warmup_stable_decay", {"num_decay_steps": 1, "decay_type": "1-sqrt"}, ""),
        ("inverse_sqrt", {"timescale": 10}, ""),
    ],
)
def test_arguments_that_a_schedule_cannot_have_are_refused(
    schedule: str, arguments: dict[str, Any], message: str
) -> None:
    found = errors(
        f"training.lr_scheduler_type={schedule}",
        f"training.lr_scheduler_kwargs={json.dumps(arguments)}",
        "training.max_steps=20",
    )
    assert len(found) == bool(message)
    assert all(message in text for _, text in found)


# --- losses and rollouts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["loss_type=luspo"], "importance_sampling_level", "set importance_sampling_level to sequence"),
        (["loss_type=vespo", "importance_sampling_level=sequence"], "importance_sampling_level",
         "changes only the KL term"),
        (["importance_sampling_level=sequence"], "importance_sampling_level", "as GSPO does"),
        (["loss_type=cispo"], "epsilon_high", "set epsilon_high to 5"),
        (["delta=1.1", "num_iterations=2"], "delta", "is not above 1 + epsilon_high"),
        (["sapo_temperature_pos=2.0"], "sapo_temperature_pos", "no effect with loss_type dapo"),
        (["loss_type=sapo", "epsilon=0.3"], "epsilon", "no effect with loss_type sapo"),
        (["entropy_target=3.0"], "entropy_target", "without use_adaptive_entropy"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_loss_are_noted(
    overrides: list[str], key: str, message: str
) -> None:
    found = findings(*(f"training.{override}" for override in overrides))
    assert [text for _, about, text in found if about == f"training.{key}" and message in text]
    assert not [severity for severity, *_ in found if severity == "error"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=plain"], "TRL's own sampling uses the model's own weights"),
        (["device=mps"], "exist on the CPU only, and this run uses mps"),
        (["model.quantization=int8"], "packed already (int8)"),
        (["model.torch_dtype=bfloat16"], "needs weights and products in float32"),
        (["training.loss_type=vespo"], "to that of sampling_weights, but"),
    ],
)
def test_runs_that_cannot_draw_with_other_weights_are_refused(
    overrides: list[str], message: str
) -> None:
    device: Any = "mps" if "device=mps" in overrides else "cpu"
    setting = "training.sampling_weights=int8"
    config = resolve("quickstart", [setting, *overrides], verify=False).config
    found = [(f.about, f.text) for f in check_config(config, device) if f.severity == "error"]
    assert any(message in text for _, text in found)


def test_arguments_of_the_correction_have_an_effect_where_other_weights_draw() -> None:
    mode = "training.extra={vllm_importance_sampling_mode: token_truncate, vllm_server_port: 80}"
    mask = ("training.off_policy_mask_threshold=0.5",)
    with_option = [about for _, about, _ in findings("training.sampling_weights=int8", mode, *mask)]
    assert with_option == ["training.extra.vllm_server_port"]
    assert len(findings(mode, *mask)) == 3
    assert not errors("training.sampling_weights=int8", mode, "training.loss_type=vespo")


def test_profiles_without_the_option_are_stored_as_before() -> None:
    def stored(*overrides: str) -> dict[str, Any]:
        dumped: dict[str, Any] = resolve("quickstart", list(overrides)).config.model_dump()
        return dict(dumped["training"])

    assert "sampling_weights" not in stored()
    assert stored("training.sampling_weights=int8")["sampling_weights"] == "int8"


def test_a_rollout_serves_whole_steps() -> None:
    split = ("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2",
             "training.num_generations=8")  # fmt: skip
    assert not errors(*split, "training.steps_per_generation=6")
    assert not errors(*split, "training.generation_batch_size=16")
    ((about, text),) = errors(*split, "training.steps_per_generation=3")
    assert about == "training.steps_per_generation"
    assert "set steps_per_generation to 4" in text
    ((_, text),) = errors(*split, "training.generation_batch_size=4")
    assert "smaller than a step" in text
    ((_, text),) = errors(
        *split, "training.generation_batch_size=16", "training.steps_per_generation=4"
    )
    assert "remove one of them" in text
    config = resolve("quickstart", [*split, "training.steps_per_generation=6"]).config
    training = config.training
    assert (training.completions_per_step, training.completions_per_rollout) == (8, 24)
    assert config.steps_per_pass() == len(config.prompts.train()) // 3 * 3
    smaller = training.with_batch(1, 8)
    assert (smaller.steps_per_generation, smaller.completions_per_rollout) == (24, 24)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.bias=all", "training.beta=0.1"], "does not restore trained biases"),
        (["lora.init_lora_weights=false"], "would change the model before the first step"),
        (["lora.init_lora_weights=orthogonal", "lora.r=3"], "needs even ranks"),
        (["lora.target_parameters=[q_proj.weight]", "lora.use_dora=true"], "PEFT has no DoRA"),
        (["lora.modules_to_save=[embed_tokens]"], "shares its weight with the output layer"),
        (["lora.rank_pattern={'(': 4}"], "is not a regular expression"),
    ],
)
def test_adapters_that_peft_would_refuse_or_change_silently_are_refused(
    overrides: list[str], message: str
) -> None:
    ((_, text),) = errors(*overrides)
    assert message in text


def test_a_model_with_trained_biases_is_not_its_base_without_the_adapter() -> None:
    assert not resolve("quickstart").config.needs_own_base
    assert resolve("quickstart", ["lora.bias=lora_only"]).config.needs_own_base
