"""Memory plan of a run, computed from the layer sizes of its model; nothing is loaded.

Weights, adapter, gradients and optimizer state are always allocated. Sampling adds the key-value cache;
the update adds activations and tiles of the output layer. The terms follow the code of the fast engine and
of the Llama family in transformers. They were validated against the tensors that autograd saves, and the
totals against the process memory of full runs (`benchmarks/memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ida_tui.config import profiles
from ida_tui.config.model_files import ModelShape, inspect_model
from ida_tui.config.precision import PrecisionRecipe, resolve_precision
from ida_tui.config.schema import Config, DeviceName

DTYPE_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
RUNTIME_BYTES = {"cpu": 0.95e9, "mps": 0.9e9, "cuda": 1.0e9}
"""Bytes of Python, torch and the Hugging Face libraries; measured for cpu on Linux, else estimated."""
ALLOCATOR_SLACK = {"cpu": 0.3, "mps": 0.0, "cuda": 0.0}
"""Fragmentation overhead of the allocator, as a share of the memory in use.

Measured for glibc, where it is 0.1 to 0.7 depending on the processor, because temporary tensors differ;
unknown for mps and cuda, where 0 is used.
"""
RECOMPUTED_ALLOCATOR_SLACK = 1.6
"""The same overhead on the CPU with recomputed activations, where little memory is in use, mostly briefly."""
DEFAULT_STORED_DTYPE = "bfloat16"
"""Assumed data type of weight files that are not downloaded yet."""
OPTIMIZER_STATE_FACTOR = {"adafactor": 0.02, "adamw_kahan": 3.0}
"""Optimizer state per trained byte; Kahan summation adds a third tensor to Adam's two moments."""
CHARACTERS_PER_TOKEN = 3.0
"""Characters per token of English with a small vocabulary; a rough value is enough for short prompts."""
TEMPLATE_TOKENS = 24
"""Tokens that a chat template adds to a prompt."""
LM_HEAD_TILE = 8192
"""Columns of the output layer computed at a time (`engine.head`)."""


MemoryPhase = Literal["always", "loading", "sampling", "update"]


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """One item of the memory plan.

    Args:
        name: name of the item.
        size: bytes.
        phase: whether it is allocated always, while loading, while sampling, or in the update.
    """

    name: str
    size: float
    phase: MemoryPhase


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory plan of one run, item by item."""

    items: tuple[MemoryItem, ...]

    @property
    def peak_bytes(self) -> float:
        """Peak memory, in bytes."""
        peak = max(
            self._bytes_in_phase("loading"),
            self._bytes_in_phase("sampling"),
            self._bytes_in_phase("update"),
        )
        return self._bytes_in_phase("always") + peak

    def as_rows(self) -> tuple[tuple[str, MemoryPhase, int], ...]:
        """Name, phase and bytes of every item."""
        return tuple((part.name, part.phase, round(part.size)) for part in self.items)

    def item_bytes(self, name: str) -> float:
        """Total bytes of the items with this name; 0 if there are none."""
        return sum(part.size for part in self.items if part.name == name)

    def _bytes_in_phase(self, phase: str) -> float:
        return sum(part.size for part in self.items if part.phase == phase)


@dataclass(frozen=True, slots=True)
class MemoryReduction:
    """One change of a profile that reduces memory."""

    overrides: str
    """The change as `key=value` overrides."""
    peak_bytes: float
    """Peak memory with the change, in bytes."""


def plan(config: Config, device: DeviceName) -> MemoryPlan | None:
    """The memory plan of a run; None if the model's layer sizes are unknown."""
    files = inspect_model(config.model)
    if files.shape is None:
        return None
    parts = _memory_items(config, device, files.shape, files.stored_dtype)
    return MemoryPlan(tuple(part for part in parts if part.size))


PLANNING_SHARE = 0.7
"""Share of the limit to plan for; the rest is for the system, the judge and the screen."""


def resolve_auto(config: Config, device: DeviceName, limit_bytes: float) -> Config:
    """The profile with `auto` settings resolved: batch size and gradient checkpointing.

    Selects the fastest combination whose plan is at most 70% of the limit, or the smallest if none
    is. All combinations train the same step: `config.checks` refuses `auto` for the loss that depends on it.

    Args:
        config: the resolved profile.
        device: the device of the run.
        limit_bytes: the memory limit.
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
    plans = [(candidate, plan(candidate, device)) for candidate in candidates]
    fitting = (
        candidate
        for candidate, candidate_plan in plans
        if candidate_plan and candidate_plan.peak_bytes <= PLANNING_SHARE * limit_bytes
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
    step = _RowBatch.from_config(config)
    tokens_per_row = step.prompt_tokens + step.completion_tokens
    return [next((n for n in divisors if n * tokens_per_row <= budget), 1)]


def _with_batch_settings(config: Config, rows: int, recomputes: bool) -> Config:
    training = config.training
    changes = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": training.completions_per_step // rows,
        "gradient_checkpointing": recomputes,
        "token_budget": None,
    }
    return config.model_copy(update={"training": training.model_copy(update=changes)})


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
    changes: list[tuple[str, dict[str, object]]] = []
    if training.method == "full":
        changes.append(("training.method=lora", {"method": "lora"}))
    if training.per_device_train_batch_size > 1:
        changes.append(
            (
                f"training.per_device_train_batch_size=1 training.gradient_accumulation_steps={step_rows}",
                {"per_device_train_batch_size": 1, "gradient_accumulation_steps": step_rows},
            )
        )
    if training.gradient_checkpointing is False:
        changes.append(("training.gradient_checkpointing=true", {"gradient_checkpointing": True}))
    if (
        config.engine == "fast"
        and (training.rollout_rows or step_rows) > training.num_generations // 2
    ):
        half = training.num_generations // 2
        changes.append((f"training.rollout_rows={half}", {"rollout_rows": half}))
    if training.max_completion_length > 64:
        half = training.max_completion_length // 2
        changes.append((f"training.max_completion_length={half}", {"max_completion_length": half}))
    options = []
    for setting, change in changes:
        changed = config.model_copy(update={"training": training.model_copy(update=change)})
        reduced = plan(changed, device)
        if reduced is not None and reduced.peak_bytes < current.peak_bytes:
            options.append(MemoryReduction(setting, reduced.peak_bytes))
    return options


# --- the parts ------------------------------------------------------------------------------------


def _memory_items(
    config: Config, device: DeviceName, shape: ModelShape, stored_dtype: str
) -> Iterator[MemoryItem]:
    training, precision = config.training, resolve_precision(config, device)
    lora = training.method == "lora"
    bytes_per_weight = DTYPE_BYTES[precision.weights]
    policy = (config.model.parameters or shape.parameter_count()) * bytes_per_weight
    adapter_parameters = (
        shape.adapter_parameter_count(config.lora.r, config.lora.target_modules) if lora else 0
    )
    yield MemoryItem("policy", policy, "always")
    # With LoRA, the reference model is the policy without its adapter.
    yield MemoryItem("reference", 0 if lora or not training.beta else policy, "always")
    yield MemoryItem("adapter", 4 * adapter_parameters, "always")
    gradient_bytes = 4 * adapter_parameters if lora else policy
    yield MemoryItem("gradients", gradient_bytes, "always")
    yield MemoryItem(
        "optimizer", OPTIMIZER_STATE_FACTOR.get(precision.optim, 2.0) * gradient_bytes, "always"
    )
    yield MemoryItem("runtime", RUNTIME_BYTES[device], "always")
    if (stored_dtype or DEFAULT_STORED_DTYPE) != precision.weights:
        # The largest tensor in the file's data type exists next to its converted copy, always on the host.
        bytes_per_stored = DTYPE_BYTES.get(stored_dtype or DEFAULT_STORED_DTYPE, 4)
        yield MemoryItem(
            "conversion", _largest_tensor_elements(shape) * bytes_per_stored, "loading"
        )
    step = _RowBatch.from_config(config)
    compute = 2 if precision.fp16 or precision.bf16 else bytes_per_weight
    batch = replace(step, rows=training.per_device_train_batch_size)
    sampled_rows = step.rows
    if config.engine == "fast":
        sampled_rows = min(step.rows, training.rollout_rows or step.rows)
    sampled = replace(step, rows=sampled_rows)
    cache, logits = (
        _kv_cache_bytes(shape, sampled, bytes_per_weight),
        6.0 * sampled_rows * shape.vocabulary * 4,
    )
    yield MemoryItem("KV cache", cache, "sampling")
    yield MemoryItem("logits", logits, "sampling")
    yield MemoryItem("allocator", ALLOCATOR_SLACK[device] * (cache + logits), "sampling")
    activations, tiles = (
        _activation_bytes(config, shape, batch, precision, compute),
        _lm_head_bytes(shape, batch, lora, compute),
    )
    yield MemoryItem("activations", activations, "update")
    yield MemoryItem("LM-head tiles", tiles, "update")
    recomputed = device == "cpu" and training.gradient_checkpointing is not False
    slack = RECOMPUTED_ALLOCATOR_SLACK if recomputed else ALLOCATOR_SLACK[device]
    yield MemoryItem("allocator", slack * (activations + tiles), "update")


def _largest_tensor_elements(shape: ModelShape) -> int:
    """Number of elements of the largest tensor."""
    return max(shape.vocabulary, shape.intermediate) * shape.hidden


@dataclass(frozen=True, slots=True)
class _RowBatch:
    """Rows (completions) processed together, and their token counts."""

    rows: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def from_config(cls, config: Config) -> _RowBatch:
        training = config.training
        longest = max((len(prompt.text) for prompt in config.prompts.train()), default=0)
        return cls(
            training.completions_per_step,
            training.num_generations,
            TEMPLATE_TOKENS + round(longest / CHARACTERS_PER_TOKEN),
            training.max_completion_length,
        )

    @property
    def prompt_count(self) -> int:
        """Number of distinct prompts among the rows."""
        return max(1, -(-self.rows // self.group_size))


def _kv_cache_bytes(shape: ModelShape, step: _RowBatch, bytes_per_value: int) -> float:
    """Bytes of the key-value cache: a buffer for all rows, plus prefilled prompts and a copy per row."""
    bytes_per_token = shape.layers * 2 * shape.kv_width * bytes_per_value
    tokens = (
        step.rows * (2 * step.prompt_tokens + step.completion_tokens)
        + step.prompt_count * step.prompt_tokens
    )
    return float(tokens * bytes_per_token)


def _activation_bytes(
    config: Config, shape: ModelShape, batch: _RowBatch, precision: PrecisionRecipe, compute: int
) -> float:
    """Bytes that the forward pass saves, plus temporary gradients of the backward pass."""
    checkpointed = config.training.gradient_checkpointing is not False
    shared = not checkpointed and config.engine == "fast"
    if shared:
        tokens = batch.prompt_count * batch.prompt_tokens + batch.rows * batch.completion_tokens
    else:
        tokens = batch.rows * (batch.prompt_tokens + batch.completion_tokens)
    length = batch.prompt_tokens + batch.completion_tokens
    queries = batch.completion_tokens if shared else length
    lora, autocast = config.training.method == "lora", precision.fp16 or precision.bf16
    layer_bytes = _layer_activation_bytes(
        shape, lora, config.lora.r, tokens, batch.rows, queries, length, compute, autocast
    )
    if shared:
        layer_bytes += 2 * batch.prompt_count * batch.prompt_tokens * shape.kv_width * compute
    # Gradients of the widest tensors coexist with the saved activations.
    backward = tokens * (2 * shape.intermediate + 3 * shape.hidden) * compute
    if checkpointed:
        return shape.layers * tokens * shape.hidden * compute + layer_bytes + backward
    casts = 0.0
    if not lora and DTYPE_BYTES[precision.weights] > compute:
        # Autocast caches its copy of the weights during the pass.
        casts = shape.parameter_count() * compute
    return shape.layers * layer_bytes + backward + casts


def _layer_activation_bytes(
    shape: ModelShape,
    lora: bool,
    rank: int,
    tokens: int,
    rows: int,
    queries: int,
    length: int,
    compute: int,
    autocast: bool,
) -> float:
    """Bytes saved by one layer: residuals, projections, attention and the gated feed-forward block."""
    h, q, kv, i = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    norms = 2 * h + q + kv if shape.qk_norms else 2 * h  # always saved in float32
    other = 2 * h + 2 * q + 4 * i + (7 * rank if lora else norms)
    casts = 0
    if compute < 4 and lora and autocast:
        casts = compute * (3 * h + q)  # autocast's copy of the projections' inputs
    elif compute < 4 and lora:
        casts = 4 * (5 * h + q + i)  # PEFT's copies in the adapter's float32
    # Prompt keys and values are prepended to those of each row, and repeated for heads that share them.
    attention = 2 * rows * length * q * compute + rows * queries * length * 4
    return tokens * (4 * norms + other * compute + casts) + attention


def _lm_head_bytes(shape: ModelShape, batch: _RowBatch, lora: bool, compute: int) -> float:
    """Bytes of the output layer: hidden states, three tiles of logits, and its gradient if trained."""
    tokens = batch.rows * batch.completion_tokens
    tile = min(LM_HEAD_TILE, shape.vocabulary)
    states = 4 * tokens * shape.hidden * compute
    gradient = 0 if lora else shape.vocabulary * shape.hidden * compute
    return float(3 * tokens * tile * 4 + states + gradient)
