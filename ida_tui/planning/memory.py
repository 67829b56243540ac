"""How much memory a run will need, from the shape of its model alone; nothing is loaded.

A run holds its weights, adapter, gradients and optimizer state all the time, and on top of them, in turn,
what sampling needs (keys and values) and what the update needs (activations, tiles of the output layer).
The terms below are those of the fast engine's own code and of transformers' Llama family; they were checked
against the tensors that autograd saves, and whole runs against the process (`benchmarks/memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ida_tui.config import profiles
from ida_tui.config.model_files import Shape, weights
from ida_tui.config.precision import Recipe, recipe
from ida_tui.config.schema import Config, DeviceName

BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
RUNTIME = {"cpu": 0.95e9, "mps": 0.9e9, "cuda": 1.0e9}
"""Python, torch and the Hugging Face libraries; measured on Linux with the CPU, an estimate elsewhere."""
SLACK = {"cpu": 0.3, "mps": 0.0, "cuda": 0.0}
"""What the allocator keeps beside what is in use, as a share of it: blocks between longer-lived ones.

Measured for glibc, where it lies between 0.1 and 0.7 by processor (each takes other temporary tensors); not
known for the devices, whose figures are without it.
"""
RECOMPUTED_SLACK = 1.6
"""The same on the CPU where activations are recomputed: little is in use, most of it for a moment."""
USUALLY_STORED = "bfloat16"
"""Number format of the weight files that hubs have, where the files are not here yet."""
MOMENTS = {"adafactor": 0.02, "adamw_kahan": 3.0}
"""State of the optimizer over what it trains: Kahan's sum is a third tensor beside Adam's two moments."""
CHARACTERS_A_TOKEN = 3.0
"""Of English in the smaller vocabularies; prompts are short, so that little hangs on it."""
TEMPLATE_TOKENS = 24
"""What a chat template adds to a prompt."""
HEAD_TILE = 8192
"""Columns of the output layer that are computed at a time (`engine.head`)."""


When = Literal["always", "loading", "sampling", "update"]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that takes memory.

    Args:
        name: what it is.
        size: bytes.
        when: held all the time, or while loading, while sampling, or in the update.
    """

    name: str
    size: float
    when: When


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory of one run, part by part."""

    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """Most that is held at once, in bytes."""
        moments = max(self._held("loading"), self._held("sampling"), self._held("update"))
        return self._held("always") + moments

    def rows(self) -> tuple[tuple[str, When, int], ...]:
        """Name, when it is held, and bytes of every part."""
        return tuple((part.name, part.when, round(part.size)) for part in self.parts)

    def size(self, name: str) -> float:
        """Bytes of the part of this name; 0 where there is none."""
        return sum(part.size for part in self.parts if part.name == name)

    def _held(self, when: str) -> float:
        return sum(part.size for part in self.parts if part.when == when)


@dataclass(frozen=True, slots=True)
class Saving:
    """One change of a profile that needs less memory."""

    setting: str
    """As it is typed: ``key=value``."""
    total: float
    """Bytes at once with it."""


def plan(config: Config, device: DeviceName) -> Plan | None:
    """The memory of a run; None where the shape of its model is not known."""
    files = weights(config.model)
    if files.shape is None:
        return None
    parts = _parts(config, device, files.shape, files.stored)
    return Plan(tuple(part for part in parts if part.size))


COMFORT = 0.7
"""Share of the limit that `chosen` plans for: the system, the judge and the screen are there too."""


def chosen(config: Config, device: DeviceName, most: float) -> Config:
    """The profile with what it leaves to the plan filled in: batch size and checkpointing.

    Of the splits of a step into equal passes, and of keeping activations or not, the quickest whose plan
    stays under `COMFORT` of the limit; all of them train the same step. The smallest where none does.

    Args:
        config: the resolved profile.
        device: where it runs.
        most: the limit, in bytes.
    """
    training = config.training
    splits = _splits(config)
    recomputes = training.gradient_checkpointing
    ways = [False, True] if recomputes == "auto" else [recomputes]
    tried = [_settled(config, rows, way) for way in ways for rows in splits]
    plans = [(made, plan(made, device)) for made in tried]
    fitting = (made for made, found in plans if found and found.total <= COMFORT * most)
    return next(fitting, tried[-1])


def _splits(config: Config) -> list[int]:
    """Batch sizes that the profile allows, the largest first; each divides the step evenly."""
    training, budget = config.training, config.training.token_budget
    if budget is None:
        return [training.per_device_train_batch_size]
    rows = training.completions_per_step
    divisors = [n for n in range(rows, 0, -1) if rows % n == 0]
    if budget == "auto":
        return divisors
    step = _Step.of(config)
    a_row = step.prompt + step.completion
    return [next((n for n in divisors if n * a_row <= budget), 1)]


def _settled(config: Config, rows: int, recomputes: bool) -> Config:
    training = config.training
    changes = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": training.completions_per_step // rows,
        "gradient_checkpointing": recomputes,
        "token_budget": None,
    }
    return config.model_copy(update={"training": training.model_copy(update=changes)})


def limit(config: Config, machine: float) -> float:
    """The memory to stay under, in bytes: the profile's limit, or what the machine has."""
    return machine if config.limit_gb == "auto" else float(config.limit_gb) * 1e9


def advice(config: Config, device: DeviceName, most: float) -> str:
    """What to change so that the plan is at most so many bytes, as lines of a hint."""
    found = savings(config, device)
    fits = next((saving for saving in found if saving.total <= most), None)
    lines = []
    variant = f"{config.name}-lowmem"
    if variant in profiles.names("experiments"):
        lines.append(f"its low-memory variant: ida-tui --run {variant}")
    for saving in [fits] if fits else found[-1:]:
        lines.append(f"{saving.setting}   (planned: {saving.total / 1e9:.1f} GB)")
    if not fits:
        lines.append("or a smaller model: ida-tui --list models")
    return "\n".join(lines)


def smaller(config: Config, device: DeviceName) -> str:
    """What to add to `ida-tui resume RUN` so that it needs less: the profile's own variant, or a setting."""
    variant = f"{config.name}-lowmem"
    if variant in profiles.names("experiments"):
        return f"--with {variant}"
    return next((saving.setting for saving in savings(config, device)), "")


def savings(config: Config, device: DeviceName) -> list[Saving]:
    """Changes that lower the plan, the mildest first: none of them changes the group of a prompt."""
    now = plan(config, device)
    if now is None:
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
    found = []
    for setting, change in changes:
        changed = config.model_copy(update={"training": training.model_copy(update=change)})
        less = plan(changed, device)
        if less is not None and less.total < now.total:
            found.append(Saving(setting, less.total))
    return found


# --- the parts ------------------------------------------------------------------------------------


def _parts(config: Config, device: DeviceName, shape: Shape, stored: str) -> Iterator[Part]:
    training, numbers = config.training, recipe(config, device)
    lora = training.method == "lora"
    each = BYTES[numbers.weights]
    policy = (config.model.parameters or shape.parameters()) * each
    trained = shape.adapter_parameters(config.lora.r, config.lora.target_modules) if lora else 0
    yield Part("policy", policy, "always")
    # With LoRA the reference is the policy with its adapter switched off.
    yield Part("reference", 0 if lora or not training.beta else policy, "always")
    yield Part("adapter", 4 * trained, "always")
    learned = 4 * trained if lora else policy
    yield Part("gradients", learned, "always")
    yield Part("optimizer", MOMENTS.get(numbers.optim, 2.0) * learned, "always")
    yield Part("runtime", RUNTIME[device], "always")
    if (stored or USUALLY_STORED) != numbers.weights:
        # The largest tensor as it is in its file, beside what it becomes; on the host, whatever the device.
        each_stored = BYTES.get(stored or USUALLY_STORED, 4)
        yield Part("conversion", _largest(shape) * each_stored, "loading")
    step = _Step.of(config)
    compute = 2 if numbers.fp16 or numbers.bf16 else each
    batch = replace(step, rows=training.per_device_train_batch_size)
    at_once = step.rows
    if config.engine == "fast":
        at_once = min(step.rows, training.rollout_rows or step.rows)
    sampled = replace(step, rows=at_once)
    cache, logits = _kv_cache(shape, sampled, each), 6.0 * at_once * shape.vocabulary * 4
    yield Part("KV cache", cache, "sampling")
    yield Part("logits", logits, "sampling")
    yield Part("allocator", SLACK[device] * (cache + logits), "sampling")
    kept, tiles = (
        _activations(config, shape, batch, numbers, compute),
        _tiles(shape, batch, lora, compute),
    )
    yield Part("activations", kept, "update")
    yield Part("LM-head tiles", tiles, "update")
    recomputed = device == "cpu" and training.gradient_checkpointing is not False
    slack = RECOMPUTED_SLACK if recomputed else SLACK[device]
    yield Part("allocator", slack * (kept + tiles), "update")


def _largest(shape: Shape) -> int:
    """Numbers of the largest tensor."""
    return max(shape.vocabulary, shape.intermediate) * shape.hidden


@dataclass(frozen=True, slots=True)
class _Step:
    """Rows that are held together, and their tokens."""

    rows: int
    group: int
    prompt: int
    completion: int

    @classmethod
    def of(cls, config: Config) -> _Step:
        training = config.training
        longest = max((len(prompt.text) for prompt in config.prompts.train()), default=0)
        return cls(
            training.completions_per_step,
            training.num_generations,
            TEMPLATE_TOKENS + round(longest / CHARACTERS_A_TOKEN),
            training.max_completion_length,
        )

    @property
    def prompts(self) -> int:
        """Different prompts among the rows."""
        return max(1, -(-self.rows // self.group))


def _kv_cache(shape: Shape, step: _Step, each: int) -> float:
    """One buffer for all rows, and the prompts as they were read, for each row once more."""
    a_token = shape.layers * 2 * shape.kv * each
    tokens = step.rows * (2 * step.prompt + step.completion) + step.prompts * step.prompt
    return float(tokens * a_token)


def _activations(
    config: Config, shape: Shape, batch: _Step, numbers: Recipe, compute: int
) -> float:
    """What the forward pass keeps for the backward pass, and what that holds while it goes back."""
    checkpointed = config.training.gradient_checkpointing is not False
    shared = not checkpointed and config.engine == "fast"
    if shared:
        tokens = batch.prompts * batch.prompt + batch.rows * batch.completion
    else:
        tokens = batch.rows * (batch.prompt + batch.completion)
    length = batch.prompt + batch.completion
    queries = batch.completion if shared else length
    lora, autocast = config.training.method == "lora", numbers.fp16 or numbers.bf16
    a_layer = _layer(
        shape, lora, config.lora.r, tokens, batch.rows, queries, length, compute, autocast
    )
    if shared:
        a_layer += 2 * batch.prompts * batch.prompt * shape.kv * compute
    # The gradients of the widest tensors stand beside what was kept for them.
    backward = tokens * (2 * shape.intermediate + 3 * shape.hidden) * compute
    if checkpointed:
        return shape.layers * tokens * shape.hidden * compute + a_layer + backward
    casts = 0.0
    if not lora and BYTES[numbers.weights] > compute:
        casts = shape.parameters() * compute  # autocast keeps its copy of the weights for the pass
    return shape.layers * a_layer + backward + casts


def _layer(
    shape: Shape,
    lora: bool,
    rank: int,
    tokens: int,
    rows: int,
    queries: int,
    length: int,
    compute: int,
    autocast: bool,
) -> float:
    """Bytes that one layer keeps: residuals, projections, attention and the gated feed-forward part."""
    h, q, kv, i = shape.hidden, shape.q, shape.kv, shape.intermediate
    norms = 2 * h + q + kv if shape.head_norms else 2 * h  # kept in float32 whatever is computed in
    rest = 2 * h + 2 * q + 4 * i + (7 * rank if lora else norms)
    casts = 0
    if compute < 4 and lora and autocast:
        casts = compute * (3 * h + q)  # autocast's own copy of the projections' inputs
    elif compute < 4 and lora:
        casts = 4 * (5 * h + q + i)  # PEFT's, in the adapter's float32
    # The prompt's keys and values stand before each row's own, repeated for the heads that share them.
    attention = 2 * rows * length * q * compute + rows * queries * length * 4
    return tokens * (4 * norms + rest * compute + casts) + attention


def _tiles(shape: Shape, batch: _Step, lora: bool, compute: int) -> float:
    """States that reach the output layer, three tiles of logits, and its gradient where it learns."""
    tokens = batch.rows * batch.completion
    tile = min(HEAD_TILE, shape.vocabulary)
    states = 4 * tokens * shape.hidden * compute
    learned = 0 if lora else shape.vocabulary * shape.hidden * compute
    return float(3 * tokens * tile * 4 + states + learned)
