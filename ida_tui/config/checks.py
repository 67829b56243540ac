"""Cross-checks of a resolved experiment, with a suggested fix for each finding.

Errors prevent the run before anything is loaded; notes are only printed.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator
from datetime import date

from ida_tui.config.conversation import longest_prompt_characters
from ida_tui.config.devices import resolve_device
from ida_tui.config.model_files import inspect_model, model_problem
from ida_tui.config.prompt_checks import check_prompts
from ida_tui.config.schema import Config, DeviceName, ModelConfig
from ida_tui.config.scoring_checks.judge import check_scoring
from ida_tui.config.templates.thinking import find_thinking
from ida_tui.config.training_checks.adapter import check_adapter
from ida_tui.config.training_checks.effects import check_effects
from ida_tui.config.training_checks.extra import check_extra
from ida_tui.config.training_checks.losses import check_loss
from ida_tui.config.training_checks.number_formats import check_attention, check_precision
from ida_tui.config.training_checks.quantization import check_quantization
from ida_tui.config.training_checks.sampling import check_sampling_weights
from ida_tui.config.training_checks.schedule import check_schedule
from ida_tui.config.training_checks.sharding import check_sharding
from ida_tui.config.training_checks.steps import check_steps
from ida_tui.config.trust.endpoint import base_url_problem
from ida_tui.config.trust.webhook import webhook_problem
from ida_tui.util.finding import Finding, error_finding, note_finding
from ida_tui.util.format import format_count

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
        *check_prompts(config),
        *_check_evaluation(config),
        *check_steps(config),
        *_check_model(config.model),
        *_check_thinking(config),
        *_check_lengths(config),
        *_check_dropout(config),
        *check_precision(config, device),
        *check_attention(config, device),
        *check_quantization(config),
        *check_sampling_weights(config, device),
        *check_sharding(config, device),
        *check_scoring(config, today or date.today()),
        *check_loss(config),
        *check_schedule(config),
        *check_adapter(config),
        *check_extra(config),
        *_check_rollout(config),
        *_check_vllm(config),
        *_check_name_and_sinks(config),
        *_check_notify(config),
        *check_effects(config, device),
    ]
    return sorted(findings, key=lambda finding: finding.severity)


# --- the checks ---------------------------------------------------------------------------------


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


def _check_model(model: ModelConfig) -> Iterator[Finding]:
    problem = model_problem(model)
    if problem is not None:
        yield error_finding("model.path", *problem)
    elif inspect_model(model).has_vision:
        yield note_finding(
            "model.path",
            "the model also reads pictures; the memory plan is for its text part alone",
            "leave memory for the rest, or choose a model for text alone",
        )
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
    if config.training.use_vllm and importlib.util.find_spec("vllm") is None:
        yield note_finding(
            "training.use_vllm",
            "vLLM is not installed on this machine, so the run would not start here",
            "install it where the run trains (docs/distributed.md), or set use_vllm to false",
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


def _check_notify(config: Config) -> Iterator[Finding]:
    notify = config.notify
    if notify.webhook is not None and (problem := webhook_problem(notify.webhook)):
        yield error_finding("notify.webhook", *problem)
    if any("\0" in word for word in notify.command) or (notify.command and not notify.command[0]):
        yield error_finding(
            "notify.command", "the command is not a program", "write it as [PROGRAM, ARGUMENT, ...]"
        )
