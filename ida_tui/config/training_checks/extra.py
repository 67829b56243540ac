"""Check of `training.extra`: other arguments of `trl.GRPOConfig`, by name and type, without importing TRL.

`trl_arguments.json` lists the arguments of the installed TRL. `scripts/write_reference.py` writes it from
the library; `tests/docs/test_docs.py` fails if it differs, `tests/config/test_training_checks.py` if an
argument is missing here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ida_tui.config.schema import Config
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.text import quoted

TABLE = Path(__file__).with_name("trl_arguments.json")
"""Name of an argument → its types: `int`, `float`, `bool`, `str`, `dict`, `list` and `null`."""

ACCEPTED = frozenset({
    "activation_checkpointing_kwargs", "cache_implementation", "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "full_determinism",
    "generation_kwargs", "gradient_checkpointing_kwargs", "pad_to_multiple_of",
    "router_aux_loss_coef", "tf32", "torch_empty_cache_steps",
})  # fmt: skip
"""Arguments that `training.extra` passes on."""
VLLM = frozenset({
    "vllm_group_port", "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
    "vllm_max_model_length", "vllm_model_impl", "vllm_server_host", "vllm_server_port",
    "vllm_server_timeout", "vllm_structured_outputs_regex",
})  # fmt: skip
"""Arguments that are passed on with `use_vllm`."""
CORRECTION = "vllm_importance_sampling_"
"""First part of the names of those that are passed on with `sampling_weights`, too."""

OTHER_KEYS: Mapping[str, str] = {
    "activation_checkpointing": "training.gradient_checkpointing",
    "chat_template_kwargs": "model.chat_template_kwargs",
    "model_init_kwargs": "model.torch_dtype, model.attn_implementation or model.revision",
    "output_dir": "output_dir",
    "report_to": "report_to",
    "run_name": "name",
    "save_strategy": "training.save_steps",
    "seed": "seed",
    "trust_remote_code": "model.trust_remote_code",
    "use_cpu": "device",
    "use_transformers_paged": "engine",
    "vllm_importance_sampling_cap": "training.extra.vllm_importance_sampling_clip_max",
}
"""Argument → the key that sets it here, if its name is another."""

REFUSED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("disable_tqdm", "log_completions", "log_completions_hub_repo", "log_level",
         "log_level_replica", "log_multimodal", "log_on_each_node", "log_unique_prompts",
         "logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy",
         "num_completions_to_print", "project", "trackio_bucket_id", "trackio_space_id",
         "trackio_static_space_id", "debug", "skip_memory_metrics"),
        "the screen, the log and the sinks get every step from the run's events",
        "use report_to for W&B, TensorBoard and others; the events keep every completion",
    ),
    (
        ("save_only_model", "save_on_each_node", "enable_jit_checkpoint", "ignore_data_skip",
         "restore_callback_states_from_checkpoint", "resume_from_checkpoint"),
        "a run is resumed exactly, from checkpoints that ida-tui writes and checks",
        "use training.save_steps and ida-tui resume RUN",
    ),
    (
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
         "hub_always_push", "hub_revision"),
        "a run sends nothing to the hub",
        "after the run: ida-tui export RUN --push NAME",
    ),
    (
        ("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config",
         "ds3_gather_for_generation", "ddp_backend", "ddp_timeout", "local_rank"),
        "ida-tui trains data-parallel only, and starts the processes' group itself",
        "start several processes with torchrun; see docs/distributed.md",
    ),
    (
        ("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start",
         "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps",
         "include_for_metrics", "batch_eval_metrics", "prediction_loss_only", "bf16_full_eval",
         "fp16_full_eval", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
         "do_train", "do_eval", "do_predict", "num_generations_eval", "label_names"),
        "ida-tui evaluates held-out prompts itself",
        "use the keys of evaluation",
    ),
    (
        ("dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
         "dataloader_persistent_workers", "dataloader_prefetch_factor",
         "dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns",
         "train_sampling_strategy", "length_column_name", "data_seed"),
        "the order of the prompts follows from seed and must be the same after a resume",
        "use seed and training.shuffle_dataset",
    ),
    (
        ("reward_weights", "multi_objective_aggregation"),
        "a run has one reward, which the rubric's formula computes",
        "use rubric.formula",
    ),
    (
        ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
        "a checkpoint does not contain a moving reference model, so a resumed run would train"
        " something else",
        "keep the reference model fixed, with training.beta",
    ),
    (
        ("disable_dropout", "neftune_noise_alpha"),
        "the loss must score the policy that drew the completions, which has no noise",
        "to regularize, lower learning_rate, or set training.beta above 0",
    ),
    (
        ("optim_args", "optim_target_modules"),
        "the optimizers of training.optim take no such arguments",
        "use training.optim, adam_beta1, adam_beta2 and adam_epsilon",
    ),
    (
        ("auto_find_batch_size",),
        "TRL does not support it: a smaller batch would tear groups apart",
        "set training.token_budget to auto, which finds the batch size before the run",
    ),
    (
        ("torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel",
         "liger_kernel_config", "use_cache", "cast_lm_head_to_fp32"),
        "it replaces parts of the model that the fast step, the memory plan and the export rely on",
        "use model.torch_dtype and engine",
    ),
    (
        ("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
        "it changes the weights' number format while they are trained",
        "use engine: fast, which samples all completions of a rollout together",
    ),
    (
        ("average_tokens_across_devices", "label_smoothing_factor", "include_num_input_tokens_seen",
         "max_tool_calling_iterations"),
        "it has no effect on a GRPO run without tools",
        "remove it",
    ),
)  # fmt: skip
"""Arguments that would break a run or change nothing: names, reason, what to do instead."""

OWN_GENERATION_KEYS: Mapping[str, str] = {
    "temperature": "training.temperature",
    "top_p": "training.top_p",
    "top_k": "training.top_k",
    "min_p": "training.min_p",
    "repetition_penalty": "training.repetition_penalty",
    "max_new_tokens": "training.max_completion_length",
    "max_length": "training.max_completion_length",
    "max_tokens": "training.max_completion_length",
    "cache_implementation": "training.extra.cache_implementation",
}
"""Entry of `generation_kwargs` → the key that sets it here."""
FIXED_GENERATION_KEYS = frozenset({
    "do_sample", "num_beams", "num_return_sequences", "n", "eos_token_id", "pad_token_id",
    "bos_token_id", "return_dict_in_generate", "output_scores", "output_logits", "disable_compile",
    "use_cache", "assistant_model", "prompt_lookup_num_tokens", "logprobs",
})  # fmt: skip
"""Entries of `generation_kwargs` without which GRPO does not get one sampled row per completion."""


@cache
def argument_types() -> Mapping[str, tuple[str, ...]]:
    """Every argument of the installed `trl.GRPOConfig`, with its types."""
    table: dict[str, list[str]] = json.loads(TABLE.read_text(encoding="utf-8"))["arguments"]
    return {name: tuple(types) for name, types in table.items()}


def check_extra(config: Config) -> Iterator[Finding]:
    """An error for each argument that is unknown, of another type, or not to be set here."""
    training = config.training
    for name, value in training.extra.items():
        key = f"training.extra.{name}"
        if problem := _name_problem(name):
            yield error_finding(key, *problem)
        elif not _has_type(value, argument_types()[name]):
            expected = " or ".join(_TYPE_NAMES[kind] for kind in argument_types()[name])
            yield error_finding(
                key, f"{quoted(value)} is not {expected}", f"set {name} to {expected}"
            )
        elif name == "generation_kwargs" and isinstance(value, Mapping):
            yield from _check_generation(value, training.use_vllm)
        elif name in VLLM and not training.use_vllm:
            if not name.startswith(CORRECTION):
                yield note_finding(
                    key,
                    f"{name} has no effect without use_vllm",
                    f"set use_vllm to true, or remove {name}",
                )
            elif not training.draws_from_another_policy:
                yield note_finding(
                    key,
                    f"{name} has no effect without use_vllm or sampling_weights",
                    f"set sampling_weights, or remove {name}",
                )


def _name_problem(name: str) -> tuple[str, str] | None:
    """Why an argument cannot be set, and what to do instead; None if it can."""
    if name in TrainingConfig.model_fields and name != "extra":
        return f"{name} has a key of its own", f"use training.{name}"
    if name in OTHER_KEYS:
        return f"{name} has a key of its own", f"use {OTHER_KEYS[name]}"
    for names, reason, fix in REFUSED:
        if name in names:
            return f"{name} cannot be set: {reason}", fix
    if name == "warmup_ratio":
        return (
            "warmup_ratio is not an argument of TRL",
            "use training.warmup_steps, a share below 1",
        )
    if name in ACCEPTED or name in VLLM:
        return None
    known = [*ACCEPTED, *VLLM, *OTHER_KEYS, *TrainingConfig.model_fields]
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(ACCEPTED))}"
    if name in argument_types():
        return f"{name} is not known to ida-tui, which cannot say what it would change", hint
    return f"TRL has no argument {quoted(name)}", hint


def _check_generation(values: Mapping[str, Any], vllm: bool) -> Iterator[Finding]:
    key = "training.extra.generation_kwargs"
    for name in values:
        if name in OWN_GENERATION_KEYS:
            yield error_finding(
                key, f"{name} has a key of its own", f"use {OWN_GENERATION_KEYS[name]}"
            )
        elif name in FIXED_GENERATION_KEYS:
            yield error_finding(
                key,
                f"{name} cannot be set: GRPO samples one row for each completion",
                f"remove {name}",
            )
    if not vllm:
        yield note_finding(
            key,
            "only the training samples with these arguments: evaluation and chat do not",
            "compare samples of the run itself",
        )


_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping",
    "list": "a list",
    "null": "null",
}


def _has_type(value: Any, types: tuple[str, ...]) -> bool:
    """Whether a value of a profile has one of an argument's types."""
    if value is None:
        return "null" in types
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int):
        return bool({"int", "float"} & set(types)) and abs(value) <= 10**15
    if isinstance(value, float):
        return "float" in types
    kinds = (("str", str), ("dict", dict), ("list", list))
    return any(isinstance(value, kind) and name in types for name, kind in kinds)
