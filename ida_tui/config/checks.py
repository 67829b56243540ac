"""Cross-checks of a resolved experiment, with a suggested fix for each finding.

Errors prevent the run before anything is loaded; notes are only printed.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date

from ida_tui.config.conversation import longest_prompt_characters
from ida_tui.config.devices import resolve_device
from ida_tui.config.endpoint import base_url_problem
from ida_tui.config.judge_checks import check_scoring
from ida_tui.config.model_files import inspect_model, model_problem
from ida_tui.config.precision import (
    PrecisionRecipe,
    PrecisionRow,
    nearest_supported,
    resolve_precision,
)
from ida_tui.config.prompts import SOURCE_KEYS
from ida_tui.config.repeated_prompts import repeated_held_out_note, repeated_training_note
from ida_tui.config.schema import (
    Config,
    DeviceName,
    ModelConfig,
    Prompt,
    PromptSet,
)
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.config.templates.thinking import find_thinking
from ida_tui.config.training_checks.adapter import check_adapter
from ida_tui.config.training_checks.effects import check_effects
from ida_tui.config.training_checks.extra import check_extra
from ida_tui.config.training_checks.losses import check_loss, check_rollout_size
from ida_tui.config.training_checks.schedule import check_schedule
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.format import format_count, format_plural

_EXPERIMENT_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


def check_config(
    config: Config, device: DeviceName | None = None, today: date | None = None
) -> list[Finding]:
    """All errors and notes about an experiment, errors first; each is about the dotted key of a value.

    Args:
        config: the resolved experiment.
        device: the device of the run; defaults to the configured one, or to a guess for this machine.
        today: the date to compare retirement dates with; defaults to the current date.
    """
    device = device or resolve_device(config)
    findings = [
        *_check_prompts(config),
        *_check_evaluation(config),
        *_check_steps(config),
        *_check_model(config.model),
        *_check_thinking(config),
        *_check_lengths(config),
        *_check_dropout(config),
        *_check_precision(config, device),
        *_check_attention(config, device),
        *check_scoring(config, today or date.today()),
        *check_loss(config),
        *check_schedule(config),
        *check_adapter(config),
        *check_extra(config),
        *_check_rollout(config),
        *_check_vllm(config),
        *_check_name_and_sinks(config),
        *check_effects(config, device),
    ]
    return sorted(findings, key=lambda finding: finding.severity)


# --- the checks ---------------------------------------------------------------------------------


def _check_prompts(config: Config) -> Iterator[Finding]:
    prompts = config.prompts
    about = "prompts.prompts" if prompts.source is None else "prompts.source"
    yield from _check_source(prompts)
    if prompts.problem:
        return
    if not prompts.rows():
        yield error_finding(
            about,
            "there are no prompts",
            "add at least one: - {id: NAME, kind: harmless, text: the user's message}"
            "\nor use a data file: prompts=FILE.jsonl",
        )
        return
    if prompts.source is None:
        yield from _check_listed_prompts(prompts.prompts)
    train, known = _first_train_ids(prompts), _known_ids(prompts)
    for position, prompt_id in enumerate(prompts.only or []):
        key = f"prompts.only.{position}"
        if prompt_id in known and prompt_id not in train:
            yield error_finding(
                key,
                f'the prompt "{prompt_id}" is held out, so it cannot be trained on',
                f"remove the prompt from only:, or set split: train for it; "
                f"training ids: {_first_ids(train)}",
            )
        elif prompt_id not in known:
            close = difflib.get_close_matches(prompt_id, train, n=2)
            yield error_finding(
                key,
                f'only: contains the unknown prompt id "{prompt_id}"',
                f"did you mean {' or '.join(close)}?"
                if close
                else f"known ids: {_first_ids(train)}",
            )
    if not prompts.train() and not (prompts.only and train):
        yield error_finding(
            about if prompts.only is None else "prompts.only",
            "there are no prompts to train on",
            "set split: train for some prompts"
            if not train
            else f"list some ids, such as {_first_ids(train)}",
        )
    if config.evaluation.enabled and not prompts.held_out():
        has = "only training prompts with other ids" if prompts.repeated_held_out() else "none"
        yield error_finding(
            "evaluation.enabled",
            f"evaluation needs held-out prompts, but this prompt set has {has}",
            "set evaluation.enabled to false, or set split: held-out for some prompts"
            if prompts.source is None
            else "hold some out, such as prompts.held_out_fraction=0.1, or set evaluation.enabled=false",
        )
    if note := repeated_held_out_note(prompts):
        yield note_finding(about, note, "replace them, or remove them from the prompt set")
    if note := repeated_training_note(prompts):
        yield note_finding(about, note, "remove them if that is not intended")


def _check_source(prompts: PromptSet) -> Iterator[Finding]:
    """Keys of a source without one, and how the source was read."""
    if prompts.source is None:
        given = next((key for key in SOURCE_KEYS if key in prompts.model_dump()), None)
        if given is not None:
            yield error_finding(
                f"prompts.{given}",
                f"{given} belongs to a source, and these prompts are a list",
                "add prompts.source=FILE.jsonl, or remove the key",
            )
        return
    if prompts.prompts:
        yield error_finding(
            "prompts.source",
            "the prompts have both a list and a source",
            "remove prompts: or source:",
            "prompts.prompts",
        )
    if prompts.held_out_fraction is not None and (
        prompts.held_out_source or prompts.held_out_split
    ):
        yield error_finding(
            "prompts.held_out_fraction",
            "the held-out prompts are both a fraction of the rows and rows of their own",
            "remove held_out_fraction, or held_out_source and held_out_split",
            "prompts.held_out_source",
            "prompts.held_out_split",
        )
    if prompts.problem:
        yield note_finding(
            "prompts.source",
            f"the prompts are not known: {prompts.problem}",
            "put the data back to train or evaluate on it",
        )
    for note in prompts.source_notes():
        yield note_finding("prompts.source", note, "")


def _check_listed_prompts(prompts: list[Prompt]) -> Iterator[Finding]:
    for position, prompt in enumerate(prompts):
        if not prompt.text.strip():
            yield error_finding(
                f"prompts.prompts.{position}.text",
                f'the prompt "{prompt.id}" is empty',
                "add the user's message, or remove the prompt",
            )
    counts = Counter(p.id for p in prompts)
    for position, prompt in reversed(list(enumerate(prompts))):
        if counts[prompt.id] > 1:
            yield error_finding(
                f"prompts.prompts.{position}.id",
                f'two prompts have the id "{prompt.id}"',
                "rename one of them: ids must be unique within a set",
            )
            break


def _known_ids(prompts: PromptSet) -> set[str]:
    """The ids that `only` can name; not read without it."""
    return {p.id for p in prompts.rows()} if prompts.only else set()


def _first_train_ids(prompts: PromptSet) -> list[str]:
    """Ids of the prompts that can be trained on; without `only`, those of the first ones."""
    if prompts.only is None and prompts.source is not None:
        return [p.id for p in prompts.train()[:10]]
    return [p.id for p in prompts.rows() if p.split == "train"]


def _check_evaluation(config: Config) -> Iterator[Finding]:
    """Findings about the evaluations between two steps."""
    evaluation, steps = config.evaluation, config.planned_steps()
    if not evaluation.every:
        return
    if not evaluation.enabled:
        yield error_finding(
            "evaluation.every",
            "needs evaluation.enabled",
            "set evaluation.enabled=true, or evaluation.every=0",
        )
        return
    if 0 < steps <= evaluation.every:
        yield note_finding(
            "evaluation.every",
            f"no evaluation falls between the {format_count(steps, 'step')} of this run",
            f"set it below {steps}, or to 0" if steps > 1 else "set it to 0",
        )
        return
    if config.rubric.judged_axes and not evaluation.judged:
        yield note_finding(
            "evaluation.every",
            f"the evaluations between the steps have no {config.rubric.reward_name}, because a judge scores"
            " some axes; the best checkpoint is chosen by the training prompts",
            "set evaluation.judged=true to have the answers judged",
        )
        return
    common = math.lcm(config.training.save_steps, evaluation.every)
    if common != config.training.save_steps:
        which = f"those of every {common} steps" if common < steps else "none"
        yield note_finding(
            "evaluation.every",
            f"of the checkpoints every {config.training.save_steps} steps, {which} have a reward on the"
            " held-out prompts, by which the best one is chosen",
            f"set training.save_steps to a multiple of {evaluation.every}",
        )


def _first_ids(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def _check_steps(config: Config) -> Iterator[Finding]:
    training, train = config.training, len(config.prompts.train())
    if findings := list(check_rollout_size(training)):
        yield from findings
        return
    batch, group = training.per_device_train_batch_size, training.num_generations
    if training.steps_per_rollout > 1:
        findings = list(_check_shared_rollout(training, train))
        yield from findings or _check_length(config)
        return
    passes = training.gradient_accumulation_steps
    passes_per_group = group // math.gcd(batch, group)
    most_passes = train * group // batch // passes_per_group * passes_per_group
    if (batch * passes) % group:
        fitting_passes = max(
            passes_per_group, min(-(-passes // passes_per_group) * passes_per_group, most_passes)
        )
        groups = batch * fitting_passes // group
        yield error_finding(
            "training.gradient_accumulation_steps",
            f"{batch} × {passes} completions per step are not a multiple of num_generations"
            f" ({group})",
            f"set gradient_accumulation_steps to {fitting_passes}"
            f" ({batch} × {fitting_passes} = {batch * fitting_passes} completions:"
            f" {format_count(groups, 'prompt')} × {group})"
            + _alternative_group_sizes(batch * passes, group),
            "training.num_generations",
            "training.per_device_train_batch_size",
        )
        return
    if 0 < train < training.prompts_per_rollout:
        fix = f"gradient_accumulation_steps to {most_passes}"
        if not most_passes:
            fix = f"per_device_train_batch_size to {group} and gradient_accumulation_steps to 1"
        missing = training.prompts_per_rollout - train
        yield error_finding(
            "training.gradient_accumulation_steps",
            f"a step needs {training.prompts_per_rollout} prompts, but there"
            f" {'is' if train == 1 else 'are'} only {train} to train on",
            f"set {fix}, or add {missing} more {format_plural(missing, 'prompt')}",
            "training.per_device_train_batch_size",
            "training.num_generations",
            "prompts.only",
            "prompts.source",
        )
        return
    yield from _check_length(config)


def _check_shared_rollout(training: TrainingConfig, train: int) -> Iterator[Finding]:
    """Errors about a rollout that serves several steps."""
    key = "steps_per_generation" if training.steps_per_generation else "generation_batch_size"
    rows, group = training.completions_per_rollout, training.num_generations
    if rows % group:
        yield error_finding(
            f"training.{key}",
            f"{rows} completions per rollout are not a multiple of num_generations ({group})",
            f"set num_generations to {math.gcd(rows, group)}, or change {key}"
            if math.gcd(rows, group) > 1
            else f"change {key}",
            "training.num_generations",
        )
    elif 0 < train < rows // group:
        missing = rows // group - train
        yield error_finding(
            f"training.{key}",
            f"a rollout needs {rows // group} prompts, but there {'is' if train == 1 else 'are'} only"
            f" {train} to train on",
            f"lower {key}, or add {missing} more {format_plural(missing, 'prompt')}",
            "prompts.only",
            "prompts.source",
        )


def _check_length(config: Config) -> Iterator[Finding]:
    training, train = config.training, len(config.prompts.train())
    steps = config.planned_steps()
    if train and steps == 0:
        yield error_finding(
            "training.num_train_epochs",
            "this experiment has no training steps",
            "set max_steps to the number of steps, or num_train_epochs to at least 1",
        )
    dropped = train % training.prompts_per_rollout
    if training.max_steps is None and dropped:
        yield note_finding(
            "training.gradient_accumulation_steps",
            f"{dropped} of {train} prompts do not fill a step, so every epoch skips some",
            f"use a number of prompts that is a multiple of {training.prompts_per_rollout}",
        )


def _alternative_group_sizes(completions: int, group_size: int) -> str:
    divisors = [g for g in range(2, min(completions, 4096) + 1) if completions % g == 0]
    nearest = sorted(sorted(divisors, key=lambda g: abs(g - group_size))[:3])
    return f"\nor num_generations to {' or '.join(map(str, nearest))}" if nearest else ""


def _check_model(model: ModelConfig) -> Iterator[Finding]:
    problem = model_problem(model)
    if problem is not None:
        yield error_finding("model.path", *problem)
    if model.trust_remote_code:
        yield note_finding(
            "model.trust_remote_code",
            "the run will execute Python code from the model with your permissions",
            "remove trust_remote_code unless you have read that code",
        )


def _check_thinking(config: Config) -> Iterator[Finding]:
    if finding := find_thinking(config):
        yield finding


def _check_lengths(config: Config) -> Iterator[Finding]:
    context = inspect_model(config.model).context_length
    if context is None:
        return
    longest = longest_prompt_characters(config.prompts.rows(), config.prompts.system)
    lengths = [("training.max_completion_length", config.training.max_completion_length)]
    if config.evaluation.enabled and config.evaluation.max_completion_length is not None:
        lengths.append(
            ("evaluation.max_completion_length", config.evaluation.max_completion_length)
        )
    for key, length in lengths:
        longest_allowed = max(1, context - min(512, max(1, context // 4)))
        if length >= context:
            yield error_finding(
                key,
                f"{length} tokens leave no space for a prompt: the model's context is {context} tokens",
                f"set the maximum length to {longest_allowed} or less",
                "model.path",
                "model.context_length",
            )
        elif context - length < longest / 4:
            yield note_finding(
                key,
                f"{context - length} tokens remain for a prompt, which may be too few for"
                f" {longest} characters",
                f"set the maximum length to {longest_allowed} or less",
            )


def _check_precision(config: Config, device: DeviceName) -> Iterator[Finding]:
    training, precision = config.training, resolve_precision(config, device)
    if training.fp16 is True and training.bf16 is True:
        yield error_finding(
            "training.bf16",
            "fp16 and bf16 are both enabled",
            "enable only one: fp16 on mps, bf16 on cuda; auto chooses by device",
            "training.fp16",
        )
        return
    alternative = nearest_supported(config, device)
    if alternative is not None:
        yield error_finding(*_unsupported_precision(training, device, precision, alternative))
    if device == "mps" and precision.bf16:
        yield note_finding(
            "training.bf16",
            "the shipped profiles are not tuned for bf16 on mps",
            "set bf16 to auto, which selects fp16 with a gradient scaler on mps",
        )
    if device == "cpu" and training.fp16 is True:
        yield note_finding(
            "training.fp16",
            "fp16 has no effect on the CPU; the run uses float32",
            "set fp16 to auto, which enables it only on mps",
        )


def _check_attention(config: Config, device: DeviceName) -> Iterator[Finding]:
    if config.model.attn_implementation != "flash_attention_2":
        return
    precision = resolve_precision(config, device)
    if device != "cuda":
        reason = f"flash_attention_2 needs a CUDA GPU, but this run uses {device}"
    elif precision.weights == "float32" and not (precision.fp16 or precision.bf16):
        reason = "flash_attention_2 computes only in 16 bits, but this run uses float32"
    elif importlib.util.find_spec("flash_attn") is None:
        reason = "flash_attention_2 needs the package flash-attn, which is not installed"
    else:
        return
    yield error_finding(
        "model.attn_implementation", reason, "set attn_implementation to sdpa", "model.torch_dtype"
    )


def _unsupported_precision(
    training: TrainingConfig,
    device: DeviceName,
    precision: PrecisionRecipe,
    alternative: PrecisionRow,
) -> tuple[str, ...]:
    """Key, text, fix and related keys for number formats that are not in the table."""
    fix = f"the closest combination that works: {alternative.settings()}"
    if training.method == "full" and precision.weights == "float16":
        reason = (
            "the gradient scaler cannot unscale the gradients of float16 weights"
            if precision.fp16
            else "full training in pure float16 destroys the weights"
        )
        fix = (
            "use training.method: lora, or model.torch_dtype: float32 (fp16 autocast still works),"
            " or bfloat16"
        )
        return "model.torch_dtype", reason, fix, "training.method"
    if device == "mps" and precision.fp16 and precision.optim == "adamw_torch_fused":
        reason = (
            "on mps, fused AdamW applies steps that overflowed in fp16 instead of skipping them"
        )
        return (
            "training.optim",
            reason,
            "set optim to auto or adamw_torch",
            "training.fp16",
            "device",
        )
    if (
        training.method == "full"
        and precision.weights == "bfloat16"
        and precision.optim != "adamw_kahan"
    ):
        reason = (
            f"with {precision.optim}, most updates are too small for bfloat16 weights and are lost"
        )
        return "training.optim", reason, "set optim to auto or adamw_kahan", "model.torch_dtype"
    if precision.weights == "float16" and not precision.fp16:
        reason = "without a gradient scaler, small gradients underflow in float16"
        return "training.fp16", reason, fix, "model.torch_dtype"
    autocast = "fp16" if precision.fp16 else "bf16" if precision.bf16 else "no"
    reason = (
        f"{training.method} with {precision.weights} weights, {autocast} autocast and"
        f" {precision.optim} is not known to learn on {device}"
    )
    return "model.torch_dtype", reason, fix, "training.fp16", "training.bf16", "training.optim"


def _check_rollout(config: Config) -> Iterator[Finding]:
    if config.training.rollout_rows is not None and config.engine == "plain":
        yield error_finding(
            "training.rollout_rows",
            "rollout_rows has no effect in TRL, which samples all completions of a step together",
            "set engine to fast, or remove rollout_rows",
            "engine",
        )


def _check_dropout(config: Config) -> Iterator[Finding]:
    if config.training.method == "lora" and config.lora.dropout:
        yield note_finding(
            "lora.dropout",
            "lora.dropout has no effect: the loss scores the policy that drew the completions,"
            " which has no dropout",
            "remove lora.dropout; to regularize, lower lora.r or learning_rate, or set beta above 0",
        )


def _check_vllm(config: Config) -> Iterator[Finding]:
    address = "training.vllm_server_base_url"
    if problem := base_url_problem(config.training.vllm_server_base_url, address):
        yield error_finding(address, *problem)
    if config.training.use_vllm and config.engine != "plain":
        yield error_finding(
            "training.use_vllm",
            "use_vllm works only with TRL's own trainer, which engine: fast replaces",
            "set engine to plain, or remove use_vllm",
            "engine",
        )
    in_process = config.training.use_vllm and config.training.vllm_mode == "colocate"
    if in_process and config.model.revision and config.model.folder() is None:
        yield error_finding(
            "model.revision",
            "vLLM would load the default revision: TRL passes it the model's name only",
            f"download the revision (hf download {config.model.path} --revision"
            f" {config.model.revision} --local-dir FOLDER) and set model to FOLDER",
        )


def _check_name_and_sinks(config: Config) -> Iterator[Finding]:
    if not _EXPERIMENT_NAME_PATTERN.fullmatch(config.name):
        yield error_finding(
            "name",
            f'"{config.name[:40]}" is not a valid experiment name',
            "use letters, digits, dots, dashes and underscores",
        )
    for position, extra in enumerate(config.report_to):
        spec = importlib.util.find_spec(extra)
        # A folder with the same name, such as ./wandb, is found as a namespace package without an origin.
        if spec is None or spec.origin is None:
            yield error_finding(
                f"report_to.{position}",
                f"report_to lists {extra}, which is not installed",
                f"uv sync --extra {extra}   or remove {extra} from report_to",
            )
