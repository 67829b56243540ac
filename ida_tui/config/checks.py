"""Cross-checks of a resolved experiment: does it fit together, and what to change if not.

`check` returns findings: errors, which refuse the run before anything is loaded, and notes, which
the plan prints.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

from ida_tui.config.devices import chosen_device
from ida_tui.config.model_files import unusable, weights
from ida_tui.config.precision import Recipe, Row, nearest, recipe
from ida_tui.config.schema import Config, DeviceName, JudgeConfig, ModelConfig, TrainingConfig
from ida_tui.errors import UsageError
from ida_tui.util import plugins

WARN_DAYS = 60
"""A judge that is retired sooner than this is pointed out."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about an experiment, and what to do about it."""

    severity: Literal["error", "note"]
    key: str
    """Dotted key of the value to change."""
    title: str
    hint: str
    involved: tuple[str, ...] = ()
    """Other keys that it depends on."""


def check(
    config: Config, device: DeviceName | None = None, today: date | None = None
) -> list[Finding]:
    """Everything that does not fit together, errors first.

    Args:
        config: the resolved experiment.
        device: where it would run; by default the one asked for, or this machine's likely one.
        today: the day that retirement dates are compared with.
    """
    device = device or chosen_device(config)
    found = [
        *_check_prompts(config),
        *_check_steps(config),
        *_check_model(config.model),
        *_check_lengths(config),
        *_check_precision(config, device),
        *_check_judge(config.judge, today or date.today()),
        *_check_formula(config.rubric.formula),
        *_check_budget(config),
        *_check_rollout(config),
        *_check_vllm(config),
        *_check_rest(config),
    ]
    return sorted(found, key=lambda finding: finding.severity)


# --- the checks ---------------------------------------------------------------------------------


def _error(key: str, title: str, hint: str, *involved: str) -> Finding:
    return Finding("error", key, title, hint, involved)


def _note(key: str, title: str, hint: str) -> Finding:
    return Finding("note", key, title, hint)


def _check_prompts(config: Config) -> Iterator[Finding]:
    prompts = config.prompts
    if not prompts.prompts:
        yield _error(
            "prompts.prompts",
            "there are no prompts",
            "add at least one: - {id: NAME, kind: harmless, text: what the user says}",
        )
        return
    for position, prompt in enumerate(prompts.prompts):
        if not prompt.text.strip():
            yield _error(
                f"prompts.prompts.{position}.text",
                f'the prompt "{prompt.id}" is empty',
                "write what the user says, or remove the prompt",
            )
    counts = Counter(p.id for p in prompts.prompts)
    for position, prompt in reversed(list(enumerate(prompts.prompts))):
        if counts[prompt.id] > 1:
            yield _error(
                f"prompts.prompts.{position}.id",
                f'two prompts have the id "{prompt.id}"',
                "rename one: ids are unique within a set",
            )
            break
    train = [p.id for p in prompts.prompts if p.split == "train"]
    for position, wanted in enumerate(prompts.only or []):
        key = f"prompts.only.{position}"
        if wanted in counts and wanted not in train:
            yield _error(
                key,
                f'the prompt "{wanted}" is held out, so it cannot be trained on',
                f"remove it from only:, or give it split: train; ids to train on: {_some(train)}",
            )
        elif wanted not in counts:
            close = difflib.get_close_matches(wanted, train, n=2)
            yield _error(
                key,
                f'only: names a prompt that is not there: "{wanted}"',
                f"did you mean {' or '.join(close)}?" if close else f"known ids: {_some(train)}",
            )
    if not prompts.train() and not (prompts.only and train):
        yield _error(
            "prompts.prompts" if prompts.only is None else "prompts.only",
            "no prompt is left to train on",
            "give a prompt split: train" if not train else f"list some ids, such as {_some(train)}",
        )
    if config.evaluation.enabled and not prompts.held_out():
        yield _error(
            "evaluation.enabled",
            "evaluation needs held-out prompts, and this set has none",
            "set evaluation.enabled to false, or mark some prompts split: held-out",
        )


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def _check_steps(config: Config) -> Iterator[Finding]:
    training, train = config.training, len(config.prompts.train())
    batch, group = training.per_device_train_batch_size, training.num_generations
    passes = training.gradient_accumulation_steps
    unit = group // math.gcd(batch, group)
    most = train * group // batch // unit * unit
    if (batch * passes) % group:
        fits = max(unit, min(-(-passes // unit) * unit, most))
        groups = batch * fits // group
        yield _error(
            "training.gradient_accumulation_steps",
            f"{batch} × {passes} completions per step are not a multiple of num_generations"
            f" ({group})",
            f"set gradient_accumulation_steps to {fits} ({batch} × {fits} = {batch * fits}"
            f" completions: {groups} {_plural('prompt', groups)} × {group})"
            + _other_groups(batch * passes, group),
            "training.num_generations",
            "training.per_device_train_batch_size",
        )
        return
    if 0 < train < training.prompts_per_step:
        smaller = f"gradient_accumulation_steps to {most}"
        if not most:
            smaller = f"per_device_train_batch_size to {group} and gradient_accumulation_steps to 1"
        missing = training.prompts_per_step - train
        yield _error(
            "training.gradient_accumulation_steps",
            f"a step takes {training.prompts_per_step} prompts, but there"
            f" {'is' if train == 1 else 'are'} {train} to train on",
            f"set {smaller}, or add {missing} more {_plural('prompt', missing)}",
            "training.per_device_train_batch_size",
            "training.num_generations",
            "prompts.only",
            "prompts.name",
        )
        return
    steps = config.planned_steps()
    if train and steps == 0:
        yield _error(
            "training.num_train_epochs",
            "this plan has no step to train",
            "set max_steps to the number of steps, or num_train_epochs to 1 or more",
        )
    dropped = train % training.prompts_per_step
    if training.max_steps is None and dropped:
        yield _note(
            "training.gradient_accumulation_steps",
            f"{dropped} of {train} prompts do not fill a step, so every epoch leaves some out",
            f"choose a number of prompts that is a multiple of {training.prompts_per_step}",
        )
    if training.warmup_steps and training.lr_scheduler_type == "constant":
        yield _note(
            "training.warmup_steps",
            "a constant learning rate has no warm-up",
            "set lr_scheduler_type to constant_with_warmup",
        )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _other_groups(completions: int, wanted: int) -> str:
    fits = [g for g in range(2, min(completions, 4096) + 1) if completions % g == 0]
    nearest = sorted(sorted(fits, key=lambda g: abs(g - wanted))[:3])
    return f"\nor num_generations to {' or '.join(map(str, nearest))}" if nearest else ""


def _check_model(model: ModelConfig) -> Iterator[Finding]:
    problem = unusable(model.path)
    if problem is not None:
        yield _error("model.path", *problem)
    if model.trust_remote_code:
        yield _note(
            "model.trust_remote_code",
            "Python code that comes with the model will be run, with all your rights",
            "leave trust_remote_code out, unless you have read that code",
        )


def _check_lengths(config: Config) -> Iterator[Finding]:
    context = weights(config.model).context_length
    if context is None:
        return
    longest = max((len(p.text) for p in config.prompts.prompts), default=0)
    wanted = [("training.max_completion_length", config.training.max_completion_length)]
    if config.evaluation.enabled and config.evaluation.max_completion_length is not None:
        wanted.append(("evaluation.max_completion_length", config.evaluation.max_completion_length))
    for key, length in wanted:
        room = max(1, context - min(512, max(1, context // 4)))
        if length >= context:
            yield _error(
                key,
                f"{length} tokens leave no room for a prompt: the model's context is {context}",
                f"set it to at most {room}",
                "model.path",
                "model.context_length",
            )
        elif context - length < longest / 4:
            yield _note(
                key,
                f"{context - length} tokens are left for a prompt, which may be too few for"
                f" {longest} characters",
                f"set it to at most {room}",
            )


def _check_precision(config: Config, device: DeviceName) -> Iterator[Finding]:
    training, plan = config.training, recipe(config, device)
    if training.fp16 is True and training.bf16 is True:
        yield _error(
            "training.bf16",
            "fp16 and bf16 are both on",
            "keep one: fp16 on mps, bf16 on cuda; auto chooses by the device",
            "training.fp16",
        )
        return
    instead = nearest(config, device)
    if instead is not None:
        yield _error(*_refused(training, device, plan, instead))
    if device == "mps" and plan.bf16:
        yield _note(
            "training.bf16",
            "bf16 on mps is not the recipe that the profiles here are made for",
            "set bf16 to auto, which takes fp16 with a gradient scaler on mps",
        )
    if device == "cpu" and training.fp16 is True:
        yield _note(
            "training.fp16",
            "fp16 does nothing on the CPU; the run is in float32",
            "set fp16 to auto, which is on for mps alone",
        )


def _refused(
    training: TrainingConfig, device: DeviceName, plan: Recipe, instead: Row
) -> tuple[str, ...]:
    """Key, reason, way out and other keys of number formats that are not in the table."""
    way = f"the nearest that works: {instead.settings()}"
    if training.method == "full" and plan.weights == "float16":
        why = (
            "the gradient scaler cannot unscale the gradients of float16 weights"
            if plan.fp16
            else "full training in pure float16 destroys the weights"
        )
        way = (
            "use training.method: lora, or model.torch_dtype: float32 (fp16 autocast still works),"
            " or bfloat16"
        )
        return "model.torch_dtype", why, way, "training.method"
    if device == "mps" and plan.fp16 and plan.optim == "adamw_torch_fused":
        why = (
            "on mps the fused AdamW applies steps that overflowed in fp16 instead of skipping them"
        )
        return "training.optim", why, "set optim to auto or adamw_torch", "training.fp16", "device"
    if training.method == "full" and plan.weights == "bfloat16" and plan.optim != "adamw_kahan":
        why = f"with {plan.optim} most updates are too small for bfloat16 weights and are lost"
        return "training.optim", why, "set optim to auto or adamw_kahan", "model.torch_dtype"
    if plan.weights == "float16" and not plan.fp16:
        why = "without a gradient scaler small gradients vanish in float16"
        return "training.fp16", why, way, "model.torch_dtype"
    autocast = "fp16" if plan.fp16 else "bf16" if plan.bf16 else "no"
    why = (
        f"{training.method} with {plan.weights} weights, {autocast} autocast and {plan.optim} is not"
        f" known to learn on {device}"
    )
    return "model.torch_dtype", why, way, "training.fp16", "training.bf16", "training.optim"


def _check_judge(judge: JudgeConfig, today: date) -> Iterator[Finding]:
    if judge.options and judge.kind != "plugin":
        yield _error("judge.options", "only a plugin takes options", "leave judge.options out")
    if judge.kind == "offline":
        return
    if judge.kind == "plugin":
        yield from _installed("judge.model", plugins.JUDGES, judge.model)
        return
    if not judge.model.strip():
        yield _error(
            "judge.model",
            "the judge has no model",
            "set judge.model to the name that its server knows, or use judge: offline",
        )
    if judge.base_url is not None and not re.match(r"https?://[^\s/]", judge.base_url):
        yield _error(
            "judge.base_url",
            "the judge's address is not a web address",
            "write it as http://127.0.0.1:9000/v1, with http:// or https://",
        )
    if judge.api_key_env is not None and not _ENV_NAME.fullmatch(judge.api_key_env):
        yield _error(
            "judge.api_key_env",
            "api_key_env takes the name of an environment variable, not a key",
            "export the key as OPENAI_API_KEY and write api_key_env: OPENAI_API_KEY",
        )
    if judge.samples > 1 and judge.temperature == 0:
        yield _note(
            "judge.samples",
            f"{judge.samples} judgements at temperature 0 say nearly the same {judge.samples} times",
            "set judge.temperature=0.7, or judge.samples=1",
        )
    if judge.shutdown_date is None:
        return
    try:
        days = (date.fromisoformat(judge.shutdown_date) - today).days
    except ValueError:
        yield _error(
            "judge.shutdown_date",
            f'"{judge.shutdown_date}" is not a day',
            "write it as YYYY-MM-DD, or null",
        )
        return
    if days < WARN_DAYS:
        name = judge.model
        when = f"is retired in {days} days, on" if days > 0 else "was due to be retired on"
        yield _note(
            "judge.model",
            f"{name} {when} {judge.shutdown_date}",
            "choose another judge: ida-tui --list judges",
        )


def _check_formula(name: str) -> Iterator[Finding]:
    if name != "r_ida":
        yield from _installed("rubric.formula", plugins.FORMULAS, name)


def _installed(key: str, group: str, name: str) -> Iterator[Finding]:
    try:
        plugins.find(group, name)
    except UsageError as error:
        yield _error(key, error.title, error.hint)


def _check_budget(config: Config) -> Iterator[Finding]:
    if config.budget is not None and config.judge.kind != "offline" and config.judge.price is None:
        yield _error(
            "budget",
            "a budget needs a price, and the judge's profile states none",
            "set judge.price={input: DOLLARS, output: DOLLARS} per million tokens, or leave budget out",
            "judge.price",
        )


def _check_rollout(config: Config) -> Iterator[Finding]:
    if config.training.rollout_rows is not None and config.engine == "plain":
        yield _error(
            "training.rollout_rows",
            "TRL samples all completions of a step at once",
            "set engine to fast, or leave rollout_rows out",
            "engine",
        )


def _check_vllm(config: Config) -> Iterator[Finding]:
    if config.training.use_vllm and config.engine != "plain":
        yield _error(
            "training.use_vllm",
            "vLLM samples through TRL's own trainer, which engine: fast replaces",
            "set engine to plain, or leave use_vllm out",
            "engine",
        )


def _check_rest(config: Config) -> Iterator[Finding]:
    if not _RUN_NAME.fullmatch(config.name):
        yield _error(
            "name",
            f'"{config.name[:40]}" cannot be the name of a folder of runs',
            "use letters, digits, dots, dashes and underscores",
        )
    for position, extra in enumerate(config.report_to):
        found = importlib.util.find_spec(extra)
        # A folder of the same name, such as wandb's own ./wandb, is found without an origin.
        if found is None or found.origin is None:
            yield _error(
                f"report_to.{position}",
                f"{extra} is not installed",
                f"uv sync --extra {extra}   or remove it from report_to",
            )
