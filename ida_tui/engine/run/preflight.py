"""Checks of a training run before its directory is created: device, processes, sinks, vLLM, memory."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.config import precision
from ida_tui.config.conversation import prompt_context
from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import Config, DeviceName
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.config.training_checks.sharding import check_sharding
from ida_tui.engine import libraries
from ida_tui.engine.distributed.environment import (
    SINGLE_PROCESS,
    ProcessInfo,
    per_rank_config,
    sharding_backend,
    split_batch,
    take_over_fsdp,
)
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.planning import memory
from ida_tui.planning.hub_download import fetch_small_files
from ida_tui.planning.hub_models import switch_off_here

if TYPE_CHECKING:
    from ida_tui.engine.model.chat_format import ChatFormat

VLLM_INSTALL = (
    "on Linux: uv sync --extra vllm --no-dev, then uv run --no-sync ida-tui …\n"
    "or pip install 'ida-tui[vllm]'"
)
"""Without the group `dev`, whose torch is newer than the 2.13 that vLLM requires."""
VLLM_SERVE = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config \'{"backend": "nccl"}\''
    " --logprobs-mode processed_logprobs --max-logprobs -1"
)
"""Command that starts a vLLM server as TRL requires it."""
VLLM_DEVICES = ("cuda",)
"""Devices of the training that TRL can send weights to vLLM from."""
SERVER_TIMEOUT_S = 5.0
"""Timeout of a request to the server."""


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """Result of the checks: what the run needs to start."""

    config: Config
    """The profile, with its `auto` values resolved by the memory plan."""
    device: DeviceName
    recipe: PrecisionRecipe
    tokenizer: Any
    limit: float
    """Memory limit, in bytes."""
    threads: int
    """Number of threads that torch computes with."""
    notes: tuple[str, ...] = ()
    """Warnings about memory to show before the run starts."""
    thread_note: str = ""
    """Warning about the number of threads of a resumed run; empty if it is the earlier number."""
    sharding_note: str = ""
    """How the launcher's configuration of FSDP is met; empty without one."""


@libraries.without_gc()
def run_preflight(
    config: Config,
    process: ProcessInfo = SINGLE_PROCESS,
    *,
    with_screen: bool = False,
    recorded_threads: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> PreflightResult:
    """Choose the device, check the run and load the tokenizer; imports torch.

    Of a model on the Hub that is not on this machine, all files but the weights are downloaded.

    Args:
        config: the resolved profile.
        process: rank and world size of this process.
        with_screen: whether the app shows the run.
        recorded_threads: the number of threads that a resumed run has computed with, if it is known.
        stop_requested: asked during the download; true ends it.

    Raises:
        IdaError: the device is missing or fails its self-test, a reporter is not installed, the model
            cannot be read, or the run does not fit into its memory limit (exit code 4).
    """
    libraries.set_library_defaults(config.model.folder())
    if not config.model.trust_remote_code:  # its code may load more files
        switch_off_here()
    from ida_tui.engine.device import device
    from ida_tui.engine.device.threads import choose_threads
    from ida_tui.engine.diagnostics import selftest
    from ida_tui.engine.model import load
    from ida_tui.engine.model.adapter_targets import check_adapter_targets
    from ida_tui.engine.model.chat_format import ChatFormat

    device_name = device.choose_device(config.device)
    check_distributed(config, device_name, process)
    config, sharding_note = apply_launcher_sharding(config, device_name, process)
    device.select_cuda_device(device_name, process.local_rank)
    threads = choose_threads(
        with_screen=with_screen,
        device=device_name,
        processes=process.local_world_size,
        recorded=recorded_threads,
    )
    threads.apply()
    _check_reporters(config)
    require_vllm(config, device_name, process)
    require_sampling_weights(config.training)
    fetch_small_files(config.model, stop_requested=stop_requested)
    load.require_safe_files(config.model)
    if device_name != "cpu":
        selftest.require_self_test(device_name)
    limit = memory.resolve_limit(config, device.usable_memory(device_name))
    # Processes on the CPU share the machine's memory; each CUDA device has its own.
    process_limit = limit / process.local_world_size if device_name == "cpu" else limit
    shards = process.world_size if config.training.sharding == "fsdp" else 1
    config = memory.resolve_auto(config, device_name, process_limit, processes=shards)
    rank_config = per_rank_config(config, process.world_size)
    hint = memory.reduction_hint(rank_config, device_name, process_limit)
    planned = memory.plan(rank_config, device_name, processes=process.world_size)
    if planned is None:
        memory.require_weights_fit(rank_config, device_name, process_limit)
    warning = memory.require_fit(
        planned,
        process_limit,
        config,
        subject="run",
        fix=f"{hint}\nTo start anyway: over_limit=try",
    )
    if warning:
        warning += "; a checkpoint is saved after every step"
    if warning and not config.training.save_steps:
        training = config.training.model_copy(update={"save_steps": 1})
        config = config.model_copy(update={"training": training})
    tokenizer = load.load_tokenizer(config.model)
    _check_conversations(config, ChatFormat(tokenizer, config.model))
    check_adapter_targets(config)
    recipe = precision.resolve_precision(config, device_name)
    if config.training.extra:
        check_extra_arguments(rank_config, recipe, device_name)
    return PreflightResult(
        config=config,
        device=device_name,
        recipe=recipe,
        tokenizer=tokenizer,
        limit=limit,
        threads=threads.threads,
        thread_note=threads.warning,
        sharding_note=sharding_note,
        notes=(warning,) if warning else (),
    )


def check_extra_arguments(config: Config, recipe: PrecisionRecipe, device: DeviceName) -> None:
    """Check `training.extra` with TRL itself, and with the model.

    Raises:
        UsageError: TRL refuses a value, or the model has no experts to balance.
    """
    from ida_tui.engine.model import load
    from ida_tui.engine.trainer.arguments import grpo_config

    grpo_config(config, recipe, device, Path(config.output_dir))
    if not config.training.extra.get("router_aux_loss_coef"):
        return
    settings = load.load_structure(config.model).config.get_text_config()
    if not hasattr(settings, "output_router_logits"):
        raise UsageError(
            "router_aux_loss_coef weights the load of experts, but this model has none",
            "remove it; it is for mixture-of-experts models",
            where="training.extra.router_aux_loss_coef",
        )


def _check_conversations(config: Config, chat_format: ChatFormat) -> None:
    """Check that the chat template takes the roles of all conversations, in their order."""
    prompts = {
        prompt_context(prompt, config.prompts.system): prompt.id
        for prompt in reversed(config.prompts.rows())
    }
    if refused := chat_format.find_refused(prompts):
        context, reason = refused
        roles = ", ".join([*(role for role, _ in context), "user"])
        raise IdaError(
            f"the model's chat template refuses the conversation of the prompt {prompts[context]}: {reason}",
            f"its roles are {roles}; most templates take user and assistant in turns, after a system prompt",
            where="prompts",
        )


def _check_reporters(config: Config) -> None:
    for name in config.report_to:
        spec = find_spec(name)
        # A folder of the same name, such as W&B's ./wandb, has a spec without an origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"report_to lists {name}, which is not installed",
                f"install it: uv sync --extra {name}   (or pip install 'ida-tui[{name}]')",
                where="report_to",
            )


def check_distributed(config: Config, device: DeviceName, process: ProcessInfo) -> None:
    """Check that a profile can be trained by the given processes.

    Raises:
        IdaError: the step cannot be divided among the processes, they would share a device, or the launcher
            is configured to shard the model, which is not supported.
    """
    if (backend := sharding_backend()) and backend != "FSDP2":
        raise UsageError(
            f"accelerate is configured for {backend}, which ida-tui does not support; it shards a model with"
            " FSDP2",
            "run accelerate config and choose FSDP, version 2;\n"
            "or use torchrun, with training.sharding=fsdp engine=plain",
        )
    if process.is_single:
        return
    split_batch(config.training, process.world_size)
    if device == "mps":
        raise IdaError(
            f"{process.world_size} processes cannot share the GPU of a Mac",
            "start a single process: ida-tui --run PROFILE;\n"
            "or set device=cpu, which supports several processes",
            code=ExitCode.DEVICE_UNUSABLE,
        )


def apply_launcher_sharding(
    config: Config, device: DeviceName, process: ProcessInfo
) -> tuple[Config, str]:
    """The profile with the launcher's sharding, and a note about it; unchanged, and empty, without one.

    ida-tui shards the model itself, as it loads. accelerate would load all of it in every process first, and
    leaves FSDP out on a CPU.

    Raises:
        UsageError: the profile cannot be trained with parts of the weights in several processes.
    """
    is_configured = sharding_backend() == "FSDP2"
    if is_configured:
        take_over_fsdp()
        training = config.training.model_copy(update={"sharding": "fsdp"})
        config = config.model_copy(update={"training": training})
    if config.training.sharding == "none":
        return config, ""
    if problem := next(check_sharding(config, device), None):
        raise UsageError(problem.text, problem.fix, where=problem.related_keys[0])
    if process.is_single:
        return config, "a single process holds the whole model: nothing is sharded"
    if not is_configured:
        return config, ""
    note = "accelerate is configured for FSDP2: the model is sharded as it loads (training.sharding=fsdp)"
    if device == "cpu":
        note += "; accelerate alone would leave FSDP out on a CPU"
    return config, f"{note}. Its other settings of FSDP are not used."


def require_vllm(config: Config, device: DeviceName, process: ProcessInfo) -> None:
    """Check that a profile with `training.use_vllm` can generate.

    Raises:
        IdaError: the device is not CUDA (exit code 5), vLLM is not installed, its server does not respond or
            was started without what TRL needs, or its GPUs do not divide the processes.
    """
    training = config.training
    if not training.use_vllm:
        return
    if device not in VLLM_DEVICES:
        raise IdaError(
            f"training.use_vllm needs a CUDA GPU, but this run uses {device}",
            "set training.use_vllm=false to generate with ida-tui's own engine, which runs on any device",
            where="training.use_vllm",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    require_vllm_installed()
    # vLLM compiles its model, which `libraries.LIBRARY_DEFAULTS` switches off.
    os.environ["TORCHDYNAMO_DISABLE"] = "0"
    if training.vllm_mode == "server":
        require_vllm_server(training.vllm_server_base_url, corrects=training.corrects_sampling)
    elif process.world_size % training.vllm_tensor_parallel_size:
        raise UsageError(
            f"vLLM cannot split the model across {training.vllm_tensor_parallel_size} GPUs:"
            f" the run has {process.world_size} process{'es' * (process.world_size > 1)}",
            "set training.vllm_tensor_parallel_size to a divisor of the number of processes,"
            " or start more processes with torchrun",
            where="training.vllm_tensor_parallel_size",
        )


def require_sampling_weights(training: TrainingConfig) -> None:
    """Check that this machine can multiply in the format of `training.sampling_weights`.

    Raises:
        IdaError: it cannot (exit code 5).
    """
    from ida_tui.engine.device.low_precision import unusable_reason

    wanted = training.sampling_weights
    if wanted == "model" or (reason := unusable_reason(wanted)) is None:
        return
    other = "int8, or to model" if wanted == "bfloat16" else "model"
    raise IdaError(
        f"training.sampling_weights cannot be {wanted}: {reason}",
        f"set training.sampling_weights to {other}",
        where="training.sampling_weights",
        code=ExitCode.DEVICE_UNUSABLE,
    )


def require_vllm_installed() -> None:
    """Check that vLLM is installed.

    Raises:
        UsageError: vLLM is not installed.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise UsageError(
            "training.use_vllm needs vLLM, which is not installed",
            f"{VLLM_INSTALL}\nor set training.use_vllm=false",
            where="training.use_vllm",
        )


def require_vllm_server(url: str, *, corrects: bool = True) -> None:
    """Check that the vLLM server responds and was started as TRL needs it.

    Args:
        url: its address.
        corrects: whether the loss is corrected for its policy, which needs log-probabilities of that policy.

    Raises:
        IdaError: the server does not respond, responds with an error, or was started otherwise.
    """
    key, start = "training.vllm_server_base_url", f"start it on other GPUs: {VLLM_SERVE}"
    server = f"{url.rstrip('/')}"
    try:
        with urllib.request.urlopen(f"{server}/health", timeout=SERVER_TIMEOUT_S):
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise IdaError(
            f"no vLLM server responds at {url}: {_reason(error)}",
            f"{start}\nand set {key}; or set training.vllm_mode=colocate (no server)",
            where=key,
        ) from None
    try:
        request = f"{server}/server_info?config_format=json"
        with urllib.request.urlopen(request, timeout=SERVER_TIMEOUT_S) as answer:
            settings = json.load(answer)["vllm_config"]
        transfer, logprobs = (
            settings["weight_transfer_config"],
            settings["model_config"]["logprobs_mode"],
        )
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as error:
        raise IdaError(
            f"the vLLM server at {url} does not say how it was started ({_reason(error)}), so TRL cannot send"
            " it weights",
            f"start it with VLLM_SERVER_DEV_MODE=1 in its environment: {VLLM_SERVE}",
            where=key,
        ) from None
    if transfer is None:
        raise IdaError(f"the vLLM server at {url} takes no weights", start, where=key)
    if corrects and logprobs != "processed_logprobs":
        raise IdaError(
            f"the vLLM server at {url} returns {logprobs}, with which the correction of the loss is wrong",
            start,
            where=key,
        )


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())[:200]
