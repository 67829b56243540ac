"""Memory plan of a run, computed from the layer sizes of its model; nothing is loaded.

Weights, adapter, gradients and optimizer state are always allocated. Sampling and evaluation add their
key-value cache; the update adds activations and tiles of the output layer (`memory_terms`). The peak is that
of the largest phase. The totals were validated against the process memory of full runs
(`benchmarks/memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ida_tui.config import profiles
from ida_tui.config.model_files import ModelShape, inspect_model
from ida_tui.config.precision import resolve_precision
from ida_tui.config.schema import EVERYDAY_TOKENS, Config, DeviceName, Prompt
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import MemoryPeriod, PlanPeriod
from ida_tui.planning import memory_terms as terms
from ida_tui.planning.adapter_size import adapter_parameters
from ida_tui.planning.hub_models import known_hub_model
from ida_tui.planning.memory_terms import DTYPE_BYTES, AttentionMethod, RowBatch
from ida_tui.planning.process_memory import ProcessShare
from ida_tui.planning.vllm_memory import colocated_bytes, vllm_period

RUNTIME_BYTES = {"cpu": 0.95e9, "mps": 0.9e9, "cuda": 1.0e9}
"""Bytes of Python, torch and the Hugging Face libraries; measured for cpu on Linux, else estimated."""
ALLOCATOR_SLACK = {"cpu": 0.3, "mps": 0.0, "cuda": 0.0}
"""Fragmentation overhead of the allocator, as a share of the memory in use.

Measured for glibc, where it is 0.1 to 0.7 depending on the processor, because temporary tensors differ;
unknown for mps and cuda, where 0 is used.
"""
RECOMPUTED_ALLOCATOR_SLACK = 1.6
"""The same overhead on the CPU with recomputed activations, where little memory is in use, mostly briefly."""
PACKING_BYTES = 14
"""Bytes for each weight of a layer while bitsandbytes packs it; measured."""
TRAINING_PHASES: tuple[PlanPeriod, ...] = ("loading", "sampling", "update")
DEFAULT_STORED_DTYPE = "bfloat16"
"""Assumed data type of weight files that are not downloaded yet."""
OPTIMIZER_STATE_FACTOR = {"adafactor": 0.02, "adamw_kahan": 3.0}
"""Optimizer state per trained byte; Kahan summation adds a third tensor to Adam's two moments."""


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """One item of the memory plan.

    Args:
        name: name of the item.
        size: bytes.
        phase: whether it is allocated always, or in one phase of a run.
    """

    name: str
    size: float
    phase: PlanPeriod


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory plan of one run, item by item."""

    items: tuple[MemoryItem, ...]

    @property
    def peak_bytes(self) -> float:
        """Peak memory, in bytes: that of the phase that needs most."""
        return max(self.training_peak_bytes, self.phase_bytes("evaluation"))

    @property
    def training_peak_bytes(self) -> float:
        """Peak memory without the evaluation, in bytes."""
        return max(map(self.phase_bytes, TRAINING_PHASES))

    def phase_bytes(self, phase: PlanPeriod) -> float:
        """Memory in a phase, in bytes, including what is always allocated."""
        return sum(part.size for part in self.items if part.phase in ("always", phase))

    def as_rows(self) -> tuple[tuple[str, PlanPeriod, int], ...]:
        """Name, phase and bytes of every item."""
        return tuple((part.name, part.phase, round(part.size)) for part in self.items)

    def training_rows(self) -> tuple[tuple[str, MemoryPeriod, int], ...]:
        """Name, phase and bytes of every item that training uses."""
        return tuple(
            (part.name, part.phase, round(part.size))
            for part in self.items
            if part.phase != "evaluation"
        )

    def evaluation_rows(self) -> tuple[tuple[str, int], ...]:
        """Name and bytes of every item that only the evaluation uses."""
        return tuple((p.name, round(p.size)) for p in self.items if p.phase == "evaluation")

    def item_bytes(self, name: str) -> float:
        """Total bytes of the items with this name; 0 if there are none."""
        return sum(part.size for part in self.items if part.name == name)


@dataclass(frozen=True, slots=True)
class MemoryReduction:
    """One change of a profile that reduces memory."""

    overrides: str
    """The change as `key=value` overrides."""
    peak_bytes: float
    """Peak memory with the change, in bytes."""


def plan(
    config: Config,
    device: DeviceName,
    *,
    processes: int = 1,
    attention: AttentionMethod | None = None,
) -> MemoryPlan | None:
    """The memory plan of a run; None if the model's layer sizes are unknown.

    Args:
        config: the profile, with this process's share of the step.
        device: the device of the run.
        processes: number of processes that train together.
        attention: how attention with gradients is computed; None is what the device uses.
    """
    files = inspect_model(config.model)
    if files.shape is None:
        return None
    attention = attention or terms.attention_method(config, device)
    parts = [
        *_constant_items(config, device, files.shape, processes),
        *conversion_items(config, device, files.shape, files.stored_dtype),
        *_step_items(config, device, files.shape, attention),
    ]
    if config.evaluation.enabled:
        batch = evaluation_batch(
            config, device, config.prompts.held_out(), config.evaluation.samples
        )
        parts += generation_items(config, device, files.shape, batch, "evaluation")
    return MemoryPlan(tuple(part for part in parts if part.size))


def weight_bytes(config: Config, device: DeviceName) -> float | None:
    """Bytes of the weights alone, for a model without a plan; None if their number is unknown."""
    known = known_hub_model(config.model)
    count = inspect_model(config.model).parameters or (known.parameters if known else None)
    return count * DTYPE_BYTES[resolve_precision(config, device).weights] if count else None


def require_weights_fit(config: Config, device: DeviceName, limit: float) -> None:
    """Check the weights of a model without a plan against the memory limit.

    Raises:
        IdaError: they do not fit (exit code 4), and `over_limit` is not `try`.
    """
    least = weight_bytes(config, device)
    if least is not None and least > limit and config.over_limit != "try":
        raise IdaError(
            f"the run does not fit: the weights of {config.model.path} alone need {least / 1e9:.1f} GB,"
            f" the limit is {limit / 1e9:.1f} GB",
            "use a smaller model; list the models with: ida-tui --list models\n"
            "To start anyway: over_limit=try",
            where="limit_gb",
            code=ExitCode.OUT_OF_MEMORY,
        )


def require_fit(
    planned: MemoryPlan | None, limit: float, config: Config, *, subject: str, fix: str
) -> str:
    """Check a plan against the memory limit.

    Args:
        planned: the plan; None, if it is unknown, fits.
        limit: the limit, in bytes.
        config: the profile, whose `over_limit` decides about a plan that does not fit.
        subject: what is planned, such as `run`.
        fix: what to do if it does not fit.

    Returns:
        A warning if the plan does not fit and `over_limit` is `try`; empty if it fits.

    Raises:
        IdaError: the plan does not fit (exit code 4).
    """
    if planned is None or planned.peak_bytes <= limit:
        return ""
    needs = f"it needs about {planned.peak_bytes / 1e9:.1f} GB, the limit is {limit / 1e9:.1f} GB"
    if config.over_limit == "try":
        return f"the {subject} may not fit: {needs}"
    raise IdaError(
        f"the {subject} does not fit: {needs}", fix, where="limit_gb", code=ExitCode.OUT_OF_MEMORY
    )


PLANNING_SHARE = 0.7
"""Share of the limit to plan for; the rest is for the system, the judge and the screen."""


def resolve_auto(
    config: Config, device: DeviceName, limit_bytes: float, *, processes: int = 1
) -> Config:
    """The profile with `auto` settings resolved: batch size and gradient checkpointing.

    Selects the fastest combination whose training is planned to need at most 70% of the limit, or the
    smallest if none is. The evaluation is left out: no combination changes it. All combinations train the
    same step: `config.checks` refuses `auto` for the loss that depends on it.

    Args:
        config: the resolved profile.
        device: the device of the run.
        limit_bytes: the memory limit.
        processes: number of processes that share the model's weights.
    """
    training = config.training
    splits = _batch_sizes(config)
    recomputes = training.gradient_checkpointing
    checkpointing_options = [False, True] if recomputes == "auto" else [recomputes]
    candidates = [
        _with_batch_settings(config, rows, checkpointing)
        for checkpointing in checkpointing_options
        for rows in splits
    ]
    plans = [(candidate, plan(candidate, device, processes=processes)) for candidate in candidates]
    fitting = (
        candidate
        for candidate, candidate_plan in plans
        if candidate_plan and candidate_plan.training_peak_bytes <= PLANNING_SHARE * limit_bytes
    )
    return next(fitting, candidates[-1])


def _batch_sizes(config: Config) -> list[int]:
    """Batch sizes that the profile allows, largest first; each divides the completions of a step evenly."""
    training, budget = config.training, config.training.token_budget
    if budget is None:
        return [training.per_device_train_batch_size]
    rows = training.completions_per_step
    divisors = [n for n in range(rows, 0, -1) if rows % n == 0]
    if budget == "auto":
        return divisors
    step = _training_batch(config, "cpu")
    tokens_per_row = step.prompt_tokens + step.completion_tokens
    return [next((n for n in divisors if n * tokens_per_row <= budget), 1)]


def _with_batch_settings(config: Config, rows: int, recomputes: bool) -> Config:
    training = config.training
    split = training.with_batch(rows, training.completions_per_step // rows)
    changes = {"gradient_checkpointing": recomputes, "token_budget": None}
    return config.model_copy(update={"training": split.model_copy(update=changes)})


def resolve_limit(config: Config, machine_bytes: float) -> float:
    """The memory limit in bytes: the profile's limit, else all memory of the machine."""
    return machine_bytes if config.limit_gb == "auto" else float(config.limit_gb) * 1e9


def reduction_hint(config: Config, device: DeviceName, limit_bytes: float) -> str:
    """Hint lines with changes that make the plan fit into a number of bytes."""
    options = reductions(config, device)
    fits = next((saving for saving in options if saving.peak_bytes <= limit_bytes), None)
    lines = []
    variant = f"{config.name}-lowmem"
    if variant in profiles.list_profiles("experiments"):
        lines.append(f"use the low-memory variant: ida-tui --run {variant}")
    for saving in [fits] if fits else options[-1:]:
        lines.append(f"{saving.overrides}   (planned: {saving.peak_bytes / 1e9:.1f} GB)")
    if not fits:
        lines.append("or use a smaller model; list the models with: ida-tui --list models")
    return "\n".join(lines)


def reduced_overrides(config: Config, device: DeviceName) -> str:
    """Arguments for `ida-tui resume RUN` that reduce memory: the low-memory variant, or a setting."""
    variant = f"{config.name}-lowmem"
    if variant in profiles.list_profiles("experiments"):
        return f"--with {variant}"
    return next((saving.overrides for saving in reductions(config, device)), "")


def reductions(config: Config, device: DeviceName) -> list[MemoryReduction]:
    """Changes that reduce the plan, mildest first; none of them changes the group size."""
    current = plan(config, device)
    if current is None:
        return []
    training, step_rows = config.training, config.training.completions_per_step
    rollout_rows = training.completions_per_rollout
    changes: list[tuple[str, dict[str, object]]] = []
    options = [*_smaller_evaluation(config, device, current)]
    if training.method == "full":
        changes.append(("training.method=lora", {"method": "lora"}))
    if training.per_device_train_batch_size > 1:
        changes.append((split_overrides(training, 1), dict(training.with_batch(1, step_rows))))
    if training.use_vllm and not training.vllm_enable_sleep_mode:
        key = "vllm_enable_sleep_mode"
        changes.append((f"training.{key}=true", {key: True}))
    if training.gradient_checkpointing is False:
        changes.append(("training.gradient_checkpointing=true", {"gradient_checkpointing": True}))
    if (
        config.engine == "fast"
        and (training.rollout_rows or rollout_rows) > training.num_generations // 2
    ):
        half = training.num_generations // 2
        changes.append((f"training.rollout_rows={half}", {"rollout_rows": half}))
    if training.max_completion_length > 64:
        half = training.max_completion_length // 2
        changes.append((f"training.max_completion_length={half}", {"max_completion_length": half}))
    for setting, change in changes:
        changed = config.model_copy(update={"training": training.model_copy(update=change)})
        reduced = plan(changed, device)
        if reduced is not None and reduced.peak_bytes < current.peak_bytes:
            options.append(MemoryReduction(setting, reduced.peak_bytes))
    return options


def split_overrides(training: TrainingConfig, rows: int) -> str:
    """Overrides that split the same steps into batches of this size, as typed."""
    split = training.with_batch(rows, training.completions_per_step // rows)
    names = ["per_device_train_batch_size", "gradient_accumulation_steps"]
    if training.steps_per_generation is not None:
        split = split.model_copy(
            update={"steps_per_generation": training.completions_per_rollout // rows}
        )
        names.append("steps_per_generation")
    return " ".join(f"training.{name}={getattr(split, name)}" for name in names)


def _smaller_evaluation(
    config: Config, device: DeviceName, current: MemoryPlan
) -> Iterator[MemoryReduction]:
    """The largest evaluation batch that needs no more than the training, if the evaluation needs most."""
    rows = config.evaluation_rows
    while current.phase_bytes("evaluation") > current.training_peak_bytes and rows > 1:
        rows //= 2
        evaluation = config.evaluation.model_copy(update={"batch_size": rows})
        smaller = plan(config.model_copy(update={"evaluation": evaluation}), device)
        assert smaller is not None
        if rows == 1 or smaller.phase_bytes("evaluation") <= smaller.training_peak_bytes:
            yield MemoryReduction(f"evaluation.batch_size={rows}", smaller.peak_bytes)
            return


# --- the items ------------------------------------------------------------------------------------


def weight_items(config: Config, device: DeviceName, shape: ModelShape) -> Iterator[MemoryItem]:
    """The weights of the policy and of its adapter, and the libraries."""
    weight_bytes = DTYPE_BYTES[resolve_precision(config, device).weights]
    parameters = config.model.parameters or shape.parameter_count()
    packed, packed_bytes = terms.packed_weights(shape, config.model.quantization)
    policy = (parameters - packed) * weight_bytes + packed_bytes
    yield MemoryItem("policy", policy, "always")
    yield MemoryItem("adapter", 4 * _adapter_parameters(config, shape), "always")
    yield MemoryItem("runtime", RUNTIME_BYTES[device], "always")


def conversion_items(
    config: Config, device: DeviceName, shape: ModelShape, stored_dtype: str
) -> Iterator[MemoryItem]:
    """The largest tensor in its file's data type, next to its converted copy; always on the host."""
    packing = terms.unpacked_layer_bytes(shape, config.model.quantization, PACKING_BYTES)
    yield MemoryItem("packing", packing, "loading")
    stored = stored_dtype or DEFAULT_STORED_DTYPE
    if stored != resolve_precision(config, device).weights:
        size = terms.largest_tensor_elements(shape) * DTYPE_BYTES.get(stored, 4)
        yield MemoryItem("conversion", size, "loading")


def evaluation_batch(
    config: Config, device: DeviceName, prompts: Sequence[Prompt], samples: int
) -> RowBatch:
    """The rows of an evaluation of these prompts that are sampled together."""
    return RowBatch.of_prompts(
        prompts,
        device,
        system=config.prompts.system,
        rows=min(config.evaluation_rows, len(prompts) * samples),
        group_size=samples,
        completion_tokens=max(
            config.evaluation_max_completion_length,
            EVERYDAY_TOKENS if config.evaluation.everyday else 0,
        ),
    )


def generation_items(
    config: Config, device: DeviceName, shape: ModelShape, batch: RowBatch, phase: PlanPeriod
) -> Iterator[MemoryItem]:
    """Key-value cache and logits of rows that are sampled together."""
    weight_bytes = DTYPE_BYTES[resolve_precision(config, device).weights]
    is_fast = config.engine == "fast"
    cache = terms.kv_cache_bytes(
        shape, batch, weight_bytes, shares_prompts=is_fast and device != "cuda"
    )
    logits = terms.sampling_logits_bytes(shape, batch.rows)
    yield MemoryItem("KV cache", cache, phase)
    yield MemoryItem("logits", logits, phase)
    has_own_copies = phase == "sampling" and config.training.sampling_weights != "model"
    is_float32_on_cpu = device == "cpu" and weight_bytes == 4
    if is_fast and is_float32_on_cpu and batch.rows > 1 and not has_own_copies:
        copies = terms.packed_copy_bytes(shape, config.model.quantization)
        yield MemoryItem("packed weights", copies, phase)
    unpacked = terms.unpacked_layer_bytes(shape, config.model.quantization, weight_bytes)
    yield MemoryItem("unpacked layer", unpacked, phase)
    yield MemoryItem("allocator", ALLOCATOR_SLACK[device] * (cache + logits), phase)


def _adapter_parameters(config: Config, shape: ModelShape) -> int:
    if config.training.method != "lora":
        return 0
    return adapter_parameters(shape, config.lora)


def _training_batch(config: Config, device: DeviceName) -> RowBatch:
    """All completions of a rollout."""
    training = config.training
    return RowBatch.of_prompts(
        config.prompts.train(),
        device,
        system=config.prompts.system,
        rows=training.completions_per_rollout,
        group_size=training.num_generations,
        completion_tokens=training.max_completion_length,
    )


def _constant_items(
    config: Config, device: DeviceName, shape: ModelShape, processes: int
) -> Iterator[MemoryItem]:
    """What a run always holds: weights, gradients, optimizer state and libraries."""
    policy, adapter, runtime = weight_items(config, device, shape)
    lora = config.training.method == "lora"
    share = ProcessShare(config, shape, policy.size, processes)
    policy = replace(policy, size=share.policy)
    yield policy
    yield MemoryItem("gathered layers", share.gathered, "always")
    # With LoRA, the reference model is the policy without its adapter.
    reference = 0 if lora or not config.training.beta else policy.size
    yield MemoryItem("reference", reference, "always")
    yield adapter
    gradients = adapter.size if lora else policy.size
    yield MemoryItem("gradients", gradients, "always")
    factor = OPTIMIZER_STATE_FACTOR.get(resolve_precision(config, device).optim, 2.0)
    yield MemoryItem("optimizer", factor * gradients, "always")
    yield MemoryItem("process buffers", share.gradient_buffers(gradients), "always")
    yield runtime


def _step_items(
    config: Config, device: DeviceName, shape: ModelShape, attention: AttentionMethod
) -> Iterator[MemoryItem]:
    """What sampling and the update hold."""
    training, precision = config.training, resolve_precision(config, device)
    weight = DTYPE_BYTES[precision.weights]
    autocast = precision.fp16 or precision.bf16
    compute = 2 if autocast else weight
    step = _training_batch(config, device)
    sampled_rows = step.rows
    if config.engine == "fast":
        sampled_rows = min(step.rows, training.rollout_rows or step.rows)
    if training.use_vllm:
        size = colocated_bytes(config, shape, step, weight)
        yield MemoryItem("vLLM", size, vllm_period(config))
    else:
        rows = replace(step, rows=sampled_rows)
        yield from generation_items(config, device, shape, rows, "sampling")
    copies = terms.sampling_copy_bytes(shape, training.sampling_weights)
    yield MemoryItem("sampling weights", copies, "sampling")
    batch = replace(step, rows=training.per_device_train_batch_size)
    activation_bytes = partial(
        terms.activation_bytes,
        config,
        shape,
        batch,
        compute=compute,
        weight=weight,
        autocast=autocast,
        joint=terms.computes_joint_sequences(config, device, attention, compute),
    )
    activations = activation_bytes(attention)
    tiles = terms.lm_head_bytes(
        shape,
        batch,
        training.method == "lora",
        compute,
        on_cpu=config.engine == "fast" and device == "cpu" and compute == 4,
    )
    yield MemoryItem("activations", activations, "update")
    yield MemoryItem("LM-head tiles", tiles, "update")
    unpacked = terms.unpacked_layer_bytes(shape, config.model.quantization, compute)
    yield MemoryItem("unpacked layer", unpacked, "update")
    recomputed = device == "cpu" and training.gradient_checkpointing is not False
    slack = RECOMPUTED_ALLOCATOR_SLACK if recomputed else ALLOCATOR_SLACK[device]
    # Attention matrices are so large that the allocator returns their pages to the system at once.
    fragmented = min(activations, activation_bytes("fused")) + tiles
    yield MemoryItem("allocator", slack * fragmented, "update")
