"""Text preview of a run for `ida-tui --check PROFILE [key=value ...]`.

It needs no torch and loads nothing. Of a model that is not on this machine, `--check` first downloads the
configuration (see `hub_models`), so that the memory can be planned; unknown values are shown as unknown. The
device of `auto` is a guess from this machine's files; a profile made for mps is planned for mps on any
machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ida_tui.config.checks import check_config
from ida_tui.config.devices import guess_device
from ida_tui.config.model_files import ModelFiles, inspect_model
from ida_tui.config.models.source import PREFIXES
from ida_tui.config.precision import resolve_precision
from ida_tui.config.resolve import ResolvedExperiment
from ida_tui.config.schema import Config, DeviceName, JudgeConfig
from ida_tui.config.scoring.reward_files import named_functions
from ida_tui.config.sections.lora import LoraConfig
from ida_tui.config.trust.endpoint import (
    OPENAI_BASE_URL,
    dotenv_value,
    endpoint_source,
    is_local,
    may_get_variable,
)
from ida_tui.config.trust.headers import header_variables
from ida_tui.errors import UsageError
from ida_tui.events import narration
from ida_tui.events.codec import EventError
from ida_tui.events.state import RunState
from ida_tui.judge.calibration.anchors import DRIFT_ANCHOR_IDS
from ida_tui.judge.calibration.gold_text import gold_summary
from ida_tui.judge.estimate import typical_call_tokens
from ida_tui.planning import memory
from ida_tui.planning.hub_models import known_hub_model
from ida_tui.runs.log.replay import Replay
from ida_tui.system.memory_limit import memory_limit
from ida_tui.util import plugins
from ida_tui.util.format import format_cost, format_count, format_size
from ida_tui.util.paths import cache_folder, display_path, expand_home
from ida_tui.util.proxies import find_proxy
from ida_tui.util.text import quoted, strip_credentials

_LABEL_WIDTH = 13


def render_preview(resolved: ResolvedExperiment, *, hub_note: str = "") -> str:
    """The preview of an experiment, followed by the findings of its cross-checks.

    Args:
        resolved: the experiment.
        hub_note: why the Hub could not be asked for the model; empty if it was, or need not be.
    """
    config = resolved.config
    device, _ = choose_planned_device(config)
    experiment = ("experiment", f"{config.name}   ({display_path(resolved.file)})")
    lines = [
        _format_row(label, text)
        for label, text in (experiment, *preview_rows(config, latest_run_state(config)))
    ]
    findings = check_config(config, device)
    if findings or hub_note:
        lines.append("")
    if hub_note:
        lines.append(f"note: {hub_note}")
    for finding in findings:
        origin = resolved.origins.get(finding.about, "default")
        mark = "note" if finding.severity == "note" else "problem"
        lines.append(f"{mark}: {finding.text}")
        lines.append(f"  at:  {origin}: {finding.about}")
        lines += [f"  fix: {line}" for line in finding.fix.splitlines()[:1]]
    return "\n".join(lines)


def preview_rows(config: Config, previous_run: RunState | None = None) -> list[tuple[str, str]]:
    """The preview of an experiment as (label, text) rows.

    Args:
        config: the resolved profile.
        previous_run: state of a previous run, whose measured memory is shown next to the plan.
    """
    device, remark = choose_planned_device(config)
    config = memory.resolve_auto(config, device, planned_memory_limit(config))
    return [
        *_model_rows(config, device, inspect_model(config.model)),
        ("device", remark),
        ("precision", resolve_precision(config, device).describe(config.training.method)),
        *_training_rows(config),
        *_reward_rows(config),
        *_judge_rows(config),
        *((("gold answers", gold),) if (gold := gold_summary(config)) else ()),
        ("evaluation", _evaluation_text(config)),
        *_memory_rows(config, device, previous_run),
        *_output_rows(config),
    ]


def choose_planned_device(config: Config) -> tuple[DeviceName, str]:
    """The device that the preview assumes, and a remark on how it was chosen."""
    likely = guess_device()
    requested = config.device
    if requested == "auto" and not (_is_made_for_mps(config) and likely != "mps"):
        return likely, f"auto: probably {likely} on this machine"
    if requested in ("auto", "mps") and likely != "mps":
        note = "" if requested == "mps" else f" (auto is probably {likely} here)"
        return "mps", f"{requested}: this machine has no MPS; the plan below is for mps{note}"
    if requested == "cuda" and likely != "cuda":
        return "cuda", "cuda: this machine has no NVIDIA driver; the plan below is for cuda"
    return ("cpu" if requested == "auto" else requested), f"{requested}"


def planned_memory_limit(config: Config) -> float:
    """The memory limit in bytes: the profile's limit, else all memory of this machine."""
    return memory.resolve_limit(config, memory_limit().total)


def key_source(judge: JudgeConfig) -> str:
    """The source of the judge's API key: `environment`, `.env` or empty. The key is not stored."""
    return "" if judge.api_key_env is None else variable_source(judge.api_key_env)


def variable_source(name: str) -> str:
    """Where an environment variable is set: `environment`, `.env`, or empty if it is not set."""
    if os.environ.get(name):
        return "environment"
    return ".env" if dotenv_value(name) else ""


def count_judge_calls(config: Config) -> tuple[int, int]:
    """Number of judge calls for training (without a cache) and for the drift checks."""
    calls = [_calls_of(config, member) for member in config.judge.members]
    return sum(in_training for in_training, _ in calls), sum(anchors for _, anchors in calls)


def _calls_of(config: Config, member: JudgeConfig) -> tuple[int, int]:
    """Number of calls of one judge for training and for the drift checks."""
    training, steps = config.training, config.planned_steps()
    rollouts = -(-steps // (training.num_iterations * training.steps_per_rollout))
    interval = config.judge.anchor_every if config.judge.makes_calls else 0
    drift_checks = 1 + steps // interval if 0 < interval < steps else 0
    return (
        rollouts * calls_per_rollout(config, member),
        drift_checks * len(DRIFT_ANCHOR_IDS) * member.samples,
    )


def calls_per_rollout(config: Config, member: JudgeConfig) -> int:
    """Number of calls of one judge for the completions of a rollout, without a cache."""
    training = config.training
    rows = training.completions_per_rollout
    return (rows // training.num_generations if member.mode == "group" else rows) * member.samples


def _format_row(label: str, text: str) -> str:
    first, *rest = text.splitlines()
    lines = [f"{label:<{_LABEL_WIDTH}} {first}", *(f"{'':<{_LABEL_WIDTH}} {line}" for line in rest)]
    return "\n".join(lines)


def _is_made_for_mps(config: Config) -> bool:
    return any("mps" in name.split("-") for name in (config.name, config.model.name))


def _model_rows(config: Config, device: DeviceName, files: ModelFiles) -> Iterator[tuple[str, str]]:
    model = config.model
    label = f"{model.name}   ({model.path})" if model.name not in ("", model.path) else model.path
    known = known_hub_model(model)
    count = files.parameters or (known.parameters if known else None)
    size = "parameters unknown" if count is None else f"{count:,} parameters"
    context = files.context_length
    context_text = "context unknown" if context is None else f"context {context:,} tokens"
    yield "model", f"{label}\n{size}, {context_text}"
    yield "weights", _weights_location(config, files)
    recipe = resolve_precision(config, device)
    if config.training.method == "full":
        trained = f"all weights, in {recipe.weights}"
    else:
        article = "a" if recipe.quantization == "none" else "an"
        trained = f"{_adapter_text(config.lora)} in float32, on {article} {recipe.base_format} base"
    yield "trains", trained


def _adapter_text(lora: LoraConfig) -> str:
    where = lora.target_modules
    layers = "all linear layers" if where == "all-linear" else ", ".join(where)
    variants = {"DoRA": lora.use_dora, "rsLoRA": lora.use_rslora}
    variant = " and ".join(name for name, used in variants.items() if used) or "LoRA"
    text = f"a {variant} adapter of rank {lora.r} (alpha {lora.alpha:g}) on {layers}"
    return text + "".join(f", all of {name}" for name in lora.modules_to_save)


def _weights_location(config: Config, files: ModelFiles) -> str:
    model = config.model
    size = "" if files.size_gb is None else f", {format_size(1e9 * files.size_gb)}"
    if files.location == "embedded":
        return (
            f"included with ida-tui{size}" if files.complete else "missing from this installation"
        )
    if files.location == "folder" and files.folder is not None:
        state = size if files.complete else ", without weight files (*.safetensors)"
        return f"on this machine, in {display_path(files.folder)}{state}"
    if (packed := files.gguf) is not None:
        place = "" if model.path.startswith(PREFIXES) else f", in {display_path(packed.file)}"
        done = "unpacked" if files.folder is not None else "to be unpacked once"
        unpacked = f"{format_size(packed.unpacked_bytes)} in {files.stored_dtype}"
        return (
            f"on this machine{place}, {packed.quantization}{size}\n"
            f"{done} to {unpacked}, in {display_path(cache_folder())}"
        )
    if files.location in ("folder", "gguf"):
        return "not on this machine"
    if files.location == "cache":
        if files.complete:
            return f"on this machine, in the Hugging Face cache{size}"
        if files.size_gb is not None:
            return "partly in the Hugging Face cache; the run downloads the rest"
    known = known_hub_model(model)
    download_bytes = sum(known.weight_files().values()) if known else 1e9 * (model.download_gb or 0)
    download = format_size(download_bytes) if download_bytes else "size unknown"
    return f"not on this machine; the run downloads them ({download}): hf download {model.path}"


def _training_rows(config: Config) -> Iterator[tuple[str, str]]:
    training, train = config.training, config.prompts.train()
    steps, group = config.planned_steps(), training.num_generations
    length = "max_steps" if training.max_steps else f"{training.num_train_epochs:g} × the prompts"
    held_out = len(config.prompts.held_out())
    name = config.prompts.name or "prompts"
    yield "prompts", f"{len(train)} for training, {held_out} held out   ({name})"
    shared = training.steps_per_rollout
    unit = "step" if shared == 1 else "rollout"
    each = "each" if shared == 1 else f"every {shared} of one rollout of"
    yield (
        "steps",
        f"{steps} ({length}), {each} {training.prompts_per_rollout} × {group} ="
        f" {training.completions_per_rollout} completions\n"
        f"batch {training.per_device_train_batch_size} × accumulation"
        f" {training.gradient_accumulation_steps}, activations"
        f" {'stored' if training.gradient_checkpointing is False else 'recomputed'}",
    )
    sampled_tokens = training.completions_per_rollout * training.max_completion_length
    yield (
        "tokens",
        f"at most {training.max_completion_length} per completion, {sampled_tokens:,} sampled per {unit}",
    )
    sampling = [f"temperature {training.temperature:g}"]
    if training.top_p < 1:
        sampling.append(f"top_p {training.top_p:g}")
    if training.top_k:
        sampling.append(f"top_k {training.top_k}")
    if training.min_p is not None:
        sampling.append(f"min_p {training.min_p:g}")
    if training.repetition_penalty != 1:
        sampling.append(f"repetition penalty {training.repetition_penalty:g}")
    if training.use_vllm:
        sampling.append(f"by vLLM ({training.vllm_mode})")
    yield "sampling", ", ".join(sampling)
    clip = f"clipping at {training.max_grad_norm:g}" if training.max_grad_norm else "no clipping"
    penalty = f"KL weight {training.beta:g}" if training.beta else "no KL penalty"
    rate = f"{training.learning_rate:g}".replace("e-0", "e-")
    yield (
        "update",
        f"learning rate {rate} ({training.lr_scheduler_type}), {training.loss_type}, {penalty},"
        f" {clip}",
    )


def _reward_rows(config: Config) -> Iterator[tuple[str, str]]:
    """The axes, functions and formula of a reward that is not the shipped one."""
    rubric = config.rubric
    if rubric.is_ida:
        return
    axes = []
    for axis in rubric.axis_list:
        ends = ("?" if end is None else f"{end:g}" for end in (axis.low, axis.high))
        known = axis.low is not None or axis.high is not None
        axes.append(f"{axis.name} ({axis.kind}{', ' + ' to '.join(ends) if known else ''})")
    yield "axes", ", ".join(axes)
    if functions := named_functions(rubric):
        lines = [f"{', '.join(axes)}: {label}" for label, axes in functions]
        yield "functions", "\n".join(lines)
    yield "reward", f"{rubric.reward_name} = {rubric.formula_text}"


def _judge_rows(config: Config) -> Iterator[tuple[str, str]]:
    judge = config.judge
    if not config.rubric.judged_axes:
        return
    if judge.kind == "offline":
        yield "judge", "offline heuristic: no calls, no key, no cost"
        return
    if judge.kind == "plugin":
        yield "judge", f"{judge.name or judge.model}   (plugin {_plugin_label(judge.model)})"
        yield "judge calls", f"{sum(count_judge_calls(config)):,}; the cost depends on the plugin"
        return
    if judge.kind == "panel":
        members = "\n".join(map(_judge_text, judge.members))
        yield (
            "judge",
            f"{judge.name or 'panel'}   ({judge.panel_score} of {len(judge.panel)})\n{members}",
        )
        keys = dict.fromkeys(_key_status(m) for m in judge.members if m.kind == "openai")
        needed = [status for status in keys if not status.startswith("not needed")]
        yield "key", "\n".join(needed) or "not needed"
    else:
        yield "judge", _judge_text(judge)
        yield "key", _key_status(judge)
    proxies = dict.fromkeys(_proxy_text(m) for m in judge.members if m.kind == "openai")
    if used := [text for text in proxies if text]:
        yield "proxy", "\n".join(used)
    yield "judge mode", _mode_text(config)
    in_training, anchors = count_judge_calls(config)
    calls = in_training + anchors
    parts = f"{in_training:,} for completions, {anchors:,} for drift checks"
    if evaluation := count_evaluation_calls(config):
        calls += evaluation
        parts += f", {evaluation:,} for the evaluation"
    cached = "; fewer with cached verdicts" if any(m.cache for m in judge.members) else ""
    yield "judge calls", f"{calls:,} ({parts}){cached}\n{_cost_estimate(config)}"
    if config.budget is not None:
        yield "budget", f"${config.budget:g}; the run pauses before the judge exceeds it"


def _judge_text(judge: JudgeConfig) -> str:
    """One judge that is called, and where."""
    name = judge.name or judge.model
    if judge.kind == "plugin":
        return f"{name}   (plugin {_plugin_label(judge.model)})"
    if judge.kind != "openai":
        return "offline heuristic   (no calls)"
    where = strip_credentials(judge.base_url) if judge.base_url else "OpenAI"
    return f"{name}   ({judge.model} at {where}{endpoint_source(judge.base_url)})"


def _proxy_text(judge: JudgeConfig) -> str:
    """The proxy on the way to a judge's server, or why it cannot be used; empty without one."""
    base_url = judge.base_url or OPENAI_BASE_URL
    proxy = None if is_local(base_url) else find_proxy(base_url)
    if proxy is None:
        return ""
    problem = proxy.problem()
    return "\n".join(problem) if problem else proxy.label


def _mode_text(config: Config) -> str:
    """What one call scores, and how many calls a step or a rollout makes."""
    group = config.training.num_generations
    what = f"group: one call ranks and scores {group} completions"
    if config.judge.mode == "absolute":
        what = "absolute: one call scores one completion"
    unit = "step" if config.training.steps_per_rollout == 1 else "rollout"
    calls = sum(
        calls_per_rollout(config, m) for m in config.judge.members if m.kind in ("openai", "plugin")
    )
    return f"{what}; {format_count(calls, 'call')} per {unit}"


def _plugin_label(name: str) -> str:
    try:
        return plugins.describe_plugin(plugins.find_plugin(plugins.JUDGE_GROUP, name))
    except UsageError:
        return f"{quoted(name)}, which is not installed"


def _key_status(judge: JudgeConfig) -> str:
    """The secrets that a judge's server gets, a line for each, and where they are set."""
    names = [
        variable for text in judge.extra_headers.values() for variable in header_variables(text)
    ]
    key = judge.api_key_env
    if key is not None and may_get_variable(judge.base_url, key):
        names.insert(0, key)
    if names:
        return "\n".join(map(_variable_status, dict.fromkeys(names)))
    if key is None:
        return "not needed"
    return "not needed: the server is local, and the OpenAI key is not sent to it"


def _variable_status(name: str) -> str:
    if source := variable_source(name):
        return f"{name} is set ({source})"
    return f"{name} is not set: export {name}=… or add it to .env"


def _cost_estimate(config: Config) -> str:
    costs, parts = [], []
    for member in config.judge.members:
        price = member.price
        if member.kind == "plugin":
            return "the cost depends on the plugin"
        if member.kind == "openai" and price is None:
            return "cost unknown: the judge profile has no price"
        if price is None or not (price.input or price.output):
            continue
        in_training, anchors = _calls_of(config, member)
        group = config.training.num_generations if member.mode == "group" else 1
        single = anchors + _evaluation_calls_of(config, member)
        for calls, size in ((in_training, group), (single, 1)):
            tokens = typical_call_tokens(config.rubric, config.prompts, size)
            costs.append(calls * (tokens[0] * price.input + tokens[1] * price.output) / 1e6)
            text = f"{tokens[0]:,} input and {tokens[1]} output tokens per call"
            if calls and text not in parts:
                parts.append(text + (f" on {size} completions" if size > 1 else ""))
    if not costs:
        return "free"
    return f"about {format_cost(sum(costs))}, at {', '.join(parts)}; the run shows the actual cost"


def count_evaluation_calls(config: Config) -> int:
    """Number of judge calls for the evaluations of a run; 0 if they are not judged."""
    return sum(_evaluation_calls_of(config, member) for member in config.judge.members)


def _evaluation_calls_of(config: Config, member: JudgeConfig) -> int:
    if not (config.evaluation.judged and config.rubric.judged_axes):
        return 0
    answers = len(config.prompts.held_out()) * config.evaluation.samples
    return config.planned_evaluations() * answers * member.samples


def _evaluation_text(config: Config) -> str:
    if not config.evaluation.enabled:
        return "none"
    held_out, samples = len(config.prompts.held_out()), config.evaluation.samples
    between = config.planned_evaluations() - 2
    moments = "before and after"
    if between:
        count = format_count(between, "evaluation")
        moments = f"before, after and every {config.evaluation.every} steps ({count} in between)"
    scored = ""
    if config.scores_evaluation:
        verb = "judged" if config.rubric.judged_axes else "scored"
        scored = f", {verb}" if between else f", {verb} at the end"
    return (
        f"{moments}: {format_count(held_out, 'held-out prompt')} × {samples} = {held_out * samples}"
        f" completions of at most {config.evaluation_max_completion_length} tokens{scored}"
        + (
            f"; {format_count(asked, 'everyday question')}"
            if (asked := config.evaluation.everyday)
            else ""
        )
    )


def _memory_rows(
    config: Config, device: DeviceName, previous_run: RunState | None
) -> Iterator[tuple[str, str]]:
    planned = memory.plan(config, device)
    if planned is None:
        yield "memory", _unplanned_text(config, device)
        return
    limit_bytes = planned_memory_limit(config)
    measured = narration.measured_memory(previous_run) if previous_run else {}
    lines = [f"peak: about {planned.peak_bytes / 1e9:.1f} GB"]
    configured_limit = None if config.limit_gb == "auto" else limit_bytes
    lines += narration.memory_table(planned.as_rows(), configured_limit, measured)
    if previous_run is not None and previous_run.run is not None and measured:
        lines.append(f"measured in the latest run, {previous_run.run.run_id}")
    if planned.peak_bytes > limit_bytes:
        lines.append("over the limit; to make it fit:")
        lines += memory.reduction_hint(config, device, limit_bytes).splitlines()
    yield "memory", "\n".join(lines)


def _unplanned_text(config: Config, device: DeviceName) -> str:
    """Why there is no memory plan, and what is known."""
    files = inspect_model(config.model)
    if files.folder is None:
        return "unknown: the model's layer sizes are not known before it is downloaded"
    reason = "its layers are split into experts" if files.has_experts else "its layers are unknown"
    least = memory.weight_bytes(config, device)
    alone = f"; its weights alone need {least / 1e9:.1f} GB" if least else ""
    return f"not planned: {reason}{alone}"


def latest_run_state(config: Config) -> RunState | None:
    """The state of the latest run of this experiment with this model; None if there is none."""
    events = expand_home(config.output_dir) / config.name / "latest" / "events.jsonl"
    try:
        state = Replay.open(events).final_state
    except (OSError, EventError):
        return None
    same_model = state.run is not None and state.run.model in (config.model.name, config.model.path)
    return state if same_model else None


def _output_rows(config: Config) -> Iterator[tuple[str, str]]:
    limit = "all RAM" if config.limit_gb == "auto" else f"{config.limit_gb:g} GB"
    yield "memory limit", limit
    yield "run folder", f"{display_path(Path(config.output_dir) / config.name)}/<date-time>/"
    if config.report_to:
        yield "also sent to", ", ".join(config.report_to)
