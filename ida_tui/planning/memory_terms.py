"""Formulas for the memory of a model's parts: key-value cache, activations, attention and output layer.

They follow the code of the fast engine and of the Llama family in transformers. They were validated against
the tensors that autograd saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ida_tui.config.conversation import longest_prompt_characters
from ida_tui.config.devices import (
    MAX_PACKED_WEIGHT,
    METAL_LENGTH_BUCKET,
    PACKED_BYTES,
    decoding_rows,
)
from ida_tui.config.model_files import ModelShape
from ida_tui.config.schema import Config, DeviceName, Prompt, Quantization
from ida_tui.config.sections.training import SamplingWeights

DTYPE_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
CHARACTERS_PER_TOKEN = 3.0
"""Characters per token of English with a small vocabulary; a rough value is enough for short prompts."""
TEMPLATE_TOKENS = 24
"""Tokens that a chat template adds to a prompt."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4: half a byte, one byte of scale for 64, and its float32 scale for 16,384."""
LM_HEAD_TILE = 8192
"""Columns of the output layer that TRL's kernel computes at a time, for all tokens."""
CPU_LM_HEAD_TILE = 2048 * 512
"""Logits computed at a time in float32 on the CPU (`engine.loss.lm_head`)."""
JOINT_SCORES = 2**22
"""Attention scores computed at a time in a joint sequence (`engine.loss.shared_prompt_attention`)."""

AttentionMethod = Literal["fused", "math", "eager"]
"""How attention with gradients is computed: fused (without its matrix), by torch, by transformers."""


def attention_method(config: Config, device: DeviceName) -> AttentionMethod:
    """How attention with gradients is computed on this device.

    On Metal, `scaled_dot_product_attention` takes torch's math path wherever a gradient is needed.
    """
    if config.model.attn_implementation == "eager":
        return "eager"
    return "math" if device == "mps" and config.model.attn_implementation == "sdpa" else "fused"


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows (completions) processed together, and their token counts."""

    rows: int
    group_size: int
    """Rows of the same prompt."""
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of_prompts(
        cls,
        prompts: Sequence[Prompt],
        device: DeviceName,
        *,
        system: str | None,
        rows: int,
        group_size: int,
        completion_tokens: int,
    ) -> RowBatch:
        """Rows whose prompts are as long as the longest of these; Metal rounds all lengths up."""
        longest = longest_prompt_characters(prompts, system)
        bucket = METAL_LENGTH_BUCKET if device == "mps" else 1
        prompt_tokens = TEMPLATE_TOKENS + round(longest / CHARACTERS_PER_TOKEN)
        return cls(
            rows, group_size, _round_up(prompt_tokens, bucket), _round_up(completion_tokens, bucket)
        )

    @property
    def prompt_count(self) -> int:
        """Number of distinct prompts among the rows."""
        return max(1, -(-self.rows // self.group_size))


def packed_weights(shape: ModelShape, quantization: Quantization) -> tuple[int, float]:
    """Number of packed weights, those of all linear layers but the output layer, and their bytes."""
    if quantization == "none":
        return 0, 0.0
    sizes = shape.linear_shapes().values()
    count = shape.layers * sum(inputs * outputs for inputs, outputs in sizes)
    scales = shape.layers * sum(outputs for _, outputs in sizes)
    return count, count * NF4_BYTES if quantization == "nf4" else float(count + 4 * scales)


def unpacked_layer_bytes(
    shape: ModelShape, quantization: Quantization, bytes_per_value: int
) -> float:
    """Bytes of the largest packed layer while it is multiplied; 0 if none is packed."""
    if quantization == "none":
        return 0.0
    return float(max(i * o for i, o in shape.linear_shapes().values()) * bytes_per_value)


def kv_cache_bytes(
    shape: ModelShape, batch: RowBatch, bytes_per_value: int, *, shares_prompts: bool
) -> float:
    """Bytes of the key-value cache of rows that are sampled together.

    Args:
        shape: the model's layer sizes.
        batch: the rows.
        bytes_per_value: those of a key or value.
        shares_prompts: whether the rows share the prompts' keys and values. Otherwise there is a buffer with
            prompt and completion of each row, and a copy of its prompt while that is filled.
    """
    bytes_per_token = shape.layers * 2 * shape.kv_width * bytes_per_value
    prompts = batch.prompt_count * batch.prompt_tokens
    if shares_prompts:
        tokens = prompts + decoding_rows(batch.rows) * batch.completion_tokens
    else:
        tokens = prompts + batch.rows * (2 * batch.prompt_tokens + batch.completion_tokens)
    return float(tokens * bytes_per_token)


def packed_copy_bytes(shape: ModelShape, quantization: Quantization) -> float:
    """Most bytes of the copies of float32 weights that sampling on the CPU multiplies by.

    Layers are copied first, each as far as it is not packed already, then an output layer of moderate size.
    """
    sizes = shape.linear_shapes().values()
    layer = sum(inputs * outputs for inputs, outputs in sizes) if quantization == "none" else 0
    head = 4 * shape.vocabulary * shape.hidden
    copies = 4 * shape.layers * layer + (head if head <= MAX_PACKED_WEIGHT else 0)
    return float(min(copies, PACKED_BYTES))


def sampling_copy_bytes(shape: ModelShape, number_format: SamplingWeights) -> float:
    """Bytes of the weights' copies that `training.sampling_weights` draws with; 0 without it.

    While a weight is copied, it is also there in float32.
    """
    if number_format == "model":
        return 0.0
    sizes = [inputs * outputs for inputs, outputs in shape.linear_shapes().values()]
    head = shape.vocabulary * shape.hidden
    bytes_per_weight = 2 if number_format == "bfloat16" else 1
    return float(bytes_per_weight * (shape.layers * sum(sizes) + head) + 4 * max(head, *sizes))


def sampling_logits_bytes(shape: ModelShape, rows: int) -> float:
    """Bytes of the logits of the next token and of what sampling derives from them, in float32."""
    return 6.0 * rows * shape.vocabulary * 4


def activation_bytes(
    config: Config,
    shape: ModelShape,
    batch: RowBatch,
    attention: AttentionMethod,
    *,
    compute: int,
    weight: int,
    autocast: bool,
    joint: bool = False,
) -> float:
    """Bytes that the forward pass saves, plus temporary gradients of the backward pass.

    Args:
        config: the profile: method, gradient checkpointing, engine and rank of the adapter.
        shape: the model's layer sizes.
        batch: the rows of a pass.
        attention: how attention is computed.
        compute: bytes of a value in the format of the computation.
        weight: bytes of a stored weight.
        autocast: whether weights and inputs are converted to the format of the computation.
        joint: whether all tokens are one sequence (`computes_joint_sequences`).
    """
    checkpointed = config.training.gradient_checkpointing is not False
    shared = not checkpointed and config.engine == "fast"
    if shared:
        tokens = batch.prompt_count * batch.prompt_tokens + batch.rows * batch.completion_tokens
    else:
        tokens = batch.rows * (batch.prompt_tokens + batch.completion_tokens)
    length = batch.prompt_tokens + batch.completion_tokens
    queries = batch.completion_tokens if shared else length
    lora = config.training.method == "lora"
    rank = max(config.lora.r, *config.lora.rank_pattern.values(), 0)
    if joint:
        saved = shape.layers * joint_layer_bytes(shape, lora, rank, tokens)
        temporary = tokens * (3 * shape.hidden + 3 * shape.intermediate)
        return saved + 4 * (temporary + 3 * JOINT_SCORES)
    layer_bytes = _layer_bytes(shape, lora, rank, tokens, compute, autocast)
    if lora and config.lora.use_dora:
        layer_bytes += _dora_layer_bytes(shape, tokens, compute)
    # Prompt keys and values are prepended to those of each row, and repeated for heads that share them.
    layer_bytes += 2 * batch.rows * length * shape.query_width * compute
    if attention == "fused":
        layer_bytes += batch.rows * queries * length * 4  # the mask
    layer_bytes += attention_bytes(shape, batch.rows, queries, length, attention, compute)
    if shared:
        layer_bytes += 2 * batch.prompt_count * batch.prompt_tokens * shape.kv_width * compute
    # Gradients of the widest tensors coexist with the saved activations: those of the feed-forward block or,
    # in float32, those of the attention weights and scores.
    widest = tokens * 2 * shape.intermediate * compute
    if attention != "fused":
        widest = max(widest, 2 * 4 * shape.heads * batch.rows * queries * length)
    backward = tokens * 3 * shape.hidden * compute + widest
    if lora and config.lora.use_dora:
        # The norms of the widest weight: an identity matrix, B·A, W + B·A and their squares.
        backward += 4 * (shape.intermediate**2 + 3 * shape.intermediate * shape.hidden)
    if checkpointed:
        return shape.layers * tokens * shape.hidden * compute + layer_bytes + backward
    casts = 0.0
    if not lora and weight > compute:
        # Autocast caches its copy of the weights during the pass.
        casts = shape.parameter_count() * compute
    return shape.layers * layer_bytes + backward + casts


def computes_joint_sequences(
    config: Config, device: DeviceName, attention: AttentionMethod, compute: int
) -> bool:
    """Whether prompts and completions go through the model as one sequence (`engine.loss.joint_sequence`)."""
    return (
        config.engine == "fast"
        and device == "cpu"
        and compute == 4
        and attention == "fused"
        and config.training.gradient_checkpointing is False
        and not config.lora.use_dora
    )


def joint_layer_bytes(shape: ModelShape, lora: bool, rank: int, tokens: int) -> float:
    """Bytes that one layer saves for a joint sequence, in float32."""
    h, q, kv, i = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    norms = 2 * h + (q + kv if shape.qk_norms else 0)
    scales = 2 + (shape.heads + shape.kv_heads if shape.qk_norms else 0)
    attention = 2 * (q + kv) + shape.heads
    feed_forward = 2 * i if lora else 4 * i
    return 4.0 * tokens * (norms + scales + 2 * h + attention + feed_forward + lora * 7 * rank)


def attention_bytes(
    shape: ModelShape,
    rows: int,
    queries: int,
    length: int,
    attention: AttentionMethod,
    compute: int,
) -> float:
    """Bytes that attention saves in one layer beside its inputs and outputs; 0 if it is fused.

    The math path computes in float32: it saves the attention weights and, in 16 bits, float32 copies of
    queries, keys and values. The eager path saves the weights in float32 and, in 16 bits, once more in 16.
    """
    matrix = shape.heads * rows * queries * length
    if attention == "math":
        copies = rows * (queries + 2 * length) * shape.query_width * (4 - compute)
        return float(4 * matrix + copies)
    if attention == "eager":
        return float((4 if compute == 4 else 4 + compute) * matrix)
    return 0.0


def lm_head_bytes(
    shape: ModelShape, batch: RowBatch, lora: bool, compute: int, on_cpu: bool = False
) -> float:
    """Bytes of the output layer: hidden states, three tiles of logits, and its gradient if trained."""
    tokens = batch.rows * batch.completion_tokens
    tile = CPU_LM_HEAD_TILE if on_cpu else tokens * min(LM_HEAD_TILE, shape.vocabulary)
    states = 4 * tokens * shape.hidden * compute
    gradient = 0 if lora else shape.vocabulary * shape.hidden * compute
    return float(3 * tile * 4 + states + gradient)


def largest_tensor_elements(shape: ModelShape) -> int:
    """Number of elements of the largest tensor."""
    return max(shape.vocabulary, shape.intermediate) * shape.hidden


def _layer_bytes(
    shape: ModelShape, lora: bool, rank: int, tokens: int, compute: int, autocast: bool
) -> float:
    """Bytes saved by one layer without attention: residuals, projections and the feed-forward block."""
    h, q, kv, i = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    norms = 2 * h + q + kv if shape.qk_norms else 2 * h  # always saved in float32
    other = 2 * h + 2 * q + 4 * i + (7 * rank if lora else norms)
    casts = 0
    if compute < 4 and lora and autocast:
        casts = compute * (3 * h + q)  # autocast's copy of the projections' inputs
    elif compute < 4 and lora:
        casts = 4 * (5 * h + q + i)  # PEFT's copies in the adapter's float32
    return float(tokens * (4 * norms + other * compute + casts))


def _dora_layer_bytes(shape: ModelShape, tokens: int, compute: int) -> float:
    """Bytes that DoRA saves in one layer: the output of every linear layer, without and with its adapter."""
    outputs = sum(width for _, width in shape.linear_shapes().values())
    return float(2 * tokens * outputs * compute)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
