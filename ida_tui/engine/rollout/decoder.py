"""Single-token decoder for Llama-family models that uses their weights without their modules.

Generating a token has to read every weight once. On a small machine the dispatch overhead of the transformers
and PEFT modules doubles that cost. `Decoder` uses the same weights with fewer calls: keys and values are
written in place into one buffer per rollout, finished rows are dropped, and a LoRA adapter is applied as two
low-rank products. The adapter is never merged into the base model, because merging and unmerging drifts.

Supported are Llama, Mistral, Qwen2 and Qwen3 with full attention, with or without a LoRA adapter.
For any other model `unsupported_reason` says why transformers has to generate instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.onednn import linear
from ida_tui.engine.device.packed import PackedLinear, frozen_weight

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
Projection = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Applies several linear layers to one input."""


def unsupported_reason(model: Any) -> str | None:
    """Why `Decoder` does not support this causal language model; None if it does.

    The decoder reads the weights of known modules. Any other module in their place, such as an adapter on the
    embedding or a trained copy of a norm, would be left out, so it is a reason.
    """
    adapter_types = {str(config.peft_type.value) for config in _active_adapters(model)}
    if adapter_types - {"LORA"}:
        return f"the adapter is {', '.join(sorted(adapter_types))}, not LoRA"
    base = _unwrap_peft(model)
    config = base.config
    if getattr(config, "model_type", "") not in FAMILIES:
        model_type = getattr(config, "model_type", "unknown")
        return f"the model type {model_type} is not one of {', '.join(FAMILIES)}"
    if not type(base).__module__.startswith("transformers.models."):
        return f"the model's code is not that of transformers ({type(base).__name__})"
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"} or (
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    ):
        return "the model uses sliding-window attention"
    if config.hidden_act != "silu":
        return f"the activation function is {config.hidden_act}, not silu"
    for name, module in _fixed_modules(base):
        if problem := _unknown_module_reason(base, name, module):
            return problem
    for layer in base.model.layers:
        for projection in _linears(layer):
            problem = _unsupported_linear_reason(projection)
            if problem:
                return problem
    return None


class Decoder:
    """Decodes the rows of one rollout.

    Args:
        model: the policy with its current weights; `unsupported_reason` must return None for it.
        keys: the prompts' keys, one tensor per layer, (rows, key-value heads, tokens, head size).
        values: the prompts' values, in the same shape.
        padding: (rows, tokens), true for a token and false for padding on the left; None if no row is padded.
        max_new_tokens: maximum number of tokens after the prompt.
        bucket: attention lengths are rounded up to a multiple of this. Values above 1 are for devices that
            compile a kernel and reserve memory for every new length (Metal).
    """

    def __init__(
        self,
        model: Any,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        padding: torch.Tensor | None,
        max_new_tokens: int,
        bucket: int = 1,
    ) -> None:
        base = _unwrap_peft(model)
        config = base.config
        self._kv_heads = config.num_key_value_heads
        self._head_size = keys[0].shape[-1]
        self._queries_per_kv_head = config.num_attention_heads // self._kv_heads
        self._embedding = base.model.embed_tokens.weight
        self._norm = base.model.norm
        self._lm_head = base.lm_head
        self._rotary = base.model.rotary_emb
        self._layers = [_DecoderLayer.from_module(layer) for layer in base.model.layers]
        rows, _, length, _ = keys[0].shape
        self._rows, self._length, self._bucket = rows, length, bucket
        max_new_tokens = _round_up(length + max_new_tokens, bucket) - length
        self._keys = [_kv_buffer(tensor, max_new_tokens) for tensor in keys]
        self._values = [_kv_buffer(tensor, max_new_tokens) for tensor in values]
        self._mask: torch.Tensor | None = None
        lengths = torch.full((rows,), length, device=keys[0].device)
        if padding is None and bucket > 1:
            padding = torch.ones(rows, length, dtype=torch.bool, device=keys[0].device)
        if padding is not None:
            # With buckets, positions that are not written yet must be masked.
            self._mask = functional.pad(padding, (0, max_new_tokens), value=bucket == 1)[
                :, None, None, :
            ]
            lengths = padding.sum(dim=1)
        self._positions = lengths

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, given in ascending order, and move them up."""
        length = self._length
        for tensor in (*self._keys, *self._values):
            for target, source in enumerate(rows):
                if target != source:
                    tensor[target, :, :length].copy_(tensor[source, :, :length])
        index = torch.tensor(rows, device=self._positions.device)
        self._positions = self._positions[index]
        if self._mask is not None:
            self._mask = self._mask[index]
        self._rows = len(rows)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,), and return the next logits, (rows, vocabulary)."""
        rows, position = self._rows, self._length
        self._length += 1
        cos, sin = self._rotary(self._embedding, self._positions[:, None])  # (rows, 1, head size)
        cos, sin = cos.to(self._embedding.dtype), sin.to(self._embedding.dtype)
        self._positions = self._positions + 1
        end = _round_up(self._length, self._bucket)
        mask = None if self._mask is None else self._mask[:, :, :, :end]
        if mask is not None and self._bucket > 1:
            mask[:, :, :, position] = True
        x = functional.embedding(tokens, self._embedding)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            q, k, v = layer.attention_in(layer.norm_in(x))
            q = layer.norm_q(q.view(rows, -1, self._head_size))
            k = layer.norm_k(k.view(rows, self._kv_heads, self._head_size))
            rotated = _rotate(torch.cat((q, k), dim=1), cos, sin)
            q, k = torch.split(rotated, [q.shape[1], self._kv_heads], dim=1)
            keys[:rows, :, position] = k
            values[:rows, :, position] = v.view(rows, self._kv_heads, self._head_size)
            # Group the queries by key-value head, so that keys and values are not repeated in memory.
            attended = functional.scaled_dot_product_attention(
                q.reshape(rows, self._kv_heads, self._queries_per_kv_head, self._head_size),
                keys[:rows, :, :end],
                values[:rows, :, :end],
                attn_mask=mask,
            )
            (out,) = layer.attention_out(attended.reshape(rows, -1))
            x = x + out
            gate, up = layer.mlp_in(layer.norm_mlp(x))
            (down,) = layer.mlp_out(functional.silu(gate).mul_(up))
            x = x + down
        norm = _rms_norm(self._norm)
        return linear(norm(x), self._lm_head.weight, self._lm_head.bias)


@dataclass(frozen=True, slots=True)
class _DecoderLayer:
    """Functions of one transformer layer."""

    norm_in: Callable[[torch.Tensor], torch.Tensor]
    attention_in: Projection
    norm_q: Callable[[torch.Tensor], torch.Tensor]
    norm_k: Callable[[torch.Tensor], torch.Tensor]
    attention_out: Projection
    norm_mlp: Callable[[torch.Tensor], torch.Tensor]
    mlp_in: Projection
    mlp_out: Projection

    @classmethod
    def from_module(cls, layer: Any) -> _DecoderLayer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            norm_in=_rms_norm(layer.input_layernorm),
            attention_in=_projection(attention.q_proj, attention.k_proj, attention.v_proj),
            norm_q=_rms_norm(getattr(attention, "q_norm", None)),
            norm_k=_rms_norm(getattr(attention, "k_norm", None)),
            attention_out=_projection(attention.o_proj),
            norm_mlp=_rms_norm(layer.post_attention_layernorm),
            mlp_in=_projection(mlp.gate_proj, mlp.up_proj),
            mlp_out=_projection(mlp.down_proj),
        )


def _unwrap_peft(model: Any) -> Any:
    """The causal language model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _active_adapters(model: Any) -> list[Any]:
    """PEFT's configurations of the active adapters; empty for a model without PEFT's wrapper."""
    if not hasattr(model, "get_base_model"):
        return []
    active = model.active_adapters if hasattr(model, "active_adapters") else [model.active_adapter]
    return [model.peft_config[name] for name in active]


def _fixed_modules(base: Any) -> Iterator[tuple[str, Any]]:
    """All modules that the decoder reads or replaces, with their names, except the layers' linears."""
    backbone = base.model
    yield from (("the model", backbone), ("the output layer", base.lm_head))
    yield from (("the embedding", backbone.embed_tokens), ("the last norm", backbone.norm))
    yield ("the rotary embedding", backbone.rotary_emb)
    for layer in base.model.layers:
        yield from (("a layer", layer), ("the attention", layer.self_attn), ("the MLP", layer.mlp))
        attention_norms = (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm"))
        norms = (layer.input_layernorm, layer.post_attention_layernorm, *attention_norms)
        yield from (("a norm", norm) for norm in norms if norm is not None)


def _unknown_module_reason(base: Any, name: str, module: Any) -> str | None:
    """Why a module computes something else than the family's own module does; None if it does not."""
    kind = type(module)
    is_standard = kind in (torch.nn.Embedding, torch.nn.Linear)
    if not is_standard and kind.__module__ != type(base).__module__:
        return f"{name} is of type {kind.__name__}, for example because an adapter changes it"
    return _wrapped_reason(name, module)


def _wrapped_reason(name: str, module: Any) -> str | None:
    """Why a module of a known type computes something else than its type does; None if it does not."""
    if "forward" in vars(module):
        return f"the forward method of {name} is replaced"
    # PEFT's hook on the embedding for gradient checkpointing changes no values.
    hooks = () if isinstance(module, torch.nn.Embedding) else module._forward_hooks
    return f"{name} has a forward hook" if hooks or module._forward_pre_hooks else None


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )


def _unsupported_linear_reason(linear: Any) -> str | None:
    if problem := _wrapped_reason("a linear layer", linear):
        return problem
    if _is_plain_linear(linear):
        return None
    kind = type(linear)
    is_lora = (kind.__module__, kind.__name__) == ("peft.tuners.lora.layer", "Linear")
    if not is_lora or not _is_plain_linear(linear.base_layer):
        return f"the model has layers of type {kind.__name__}"
    adapters = list(linear.active_adapters)
    if len(adapters) > 1:
        return "several adapters are active"
    for name in adapters:
        if getattr(linear, "lora_variant", {}) or getattr(linear, "lora_bias", {}).get(name):
            return "the adapter uses DoRA, another variant of LoRA, or a LoRA bias"
    return "the adapter is merged into the base model" if linear.merged else None


def _is_plain_linear(layer: Any) -> bool:
    return type(layer) is torch.nn.Linear or isinstance(layer, PackedLinear)


def _projection(*linears: Any) -> Projection:
    """Apply these layers to one input. The A matrices of their adapters are multiplied as one."""
    bases = [getattr(linear, "base_layer", linear) for linear in linears]
    adapters = [_adapter_matrices(linear) for linear in linears]
    if not any(adapters):
        return lambda x: tuple(_product(base, x) for base in bases)
    dtype = bases[0].dtype if isinstance(bases[0], PackedLinear) else bases[0].weight.dtype
    down = torch.cat([adapter[0] for adapter in adapters if adapter]).to(dtype)
    ups = [adapter[1].to(dtype) if adapter else None for adapter in adapters]
    ranks = [adapter[0].shape[0] if adapter else 0 for adapter in adapters]

    def product(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        low_rank = torch.split(functional.linear(x, down), ranks, dim=-1)
        outputs = []
        for base, projected, up in zip(bases, low_rank, ups, strict=True):
            y = _product(base, x)
            outputs.append(y if up is None else y.addmm_(projected, up))
        return tuple(outputs)

    return product


def _product(base: Any, x: torch.Tensor) -> torch.Tensor:
    return linear(x, frozen_weight(base, x.dtype), base.bias)


def _adapter_matrices(linear: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A, (rank, in), and the scaled transposed B, (rank, out), of the active adapter; None without one."""
    names = (
        [] if getattr(linear, "disable_adapters", False) else getattr(linear, "active_adapters", ())
    )
    for name in names:
        if name in getattr(linear, "lora_A", {}):
            scale = linear.scaling[name]
            up = (linear.lora_B[name].weight.detach() * scale).t().contiguous()
            return linear.lora_A[name].weight.detach(), up
    return None


def _rms_norm(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """RMS norm over the last dimension; the identity for None."""
    if norm is None:
        return lambda x: x
    weight, epsilon = norm.weight, norm.variance_epsilon
    shape = tuple(weight.shape)
    if weight.dtype == torch.float32:
        return lambda x: functional.rms_norm(x, shape, weight, epsilon)
    return lambda x: weight * functional.rms_norm(x.float(), shape, None, epsilon).to(x.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (rows, heads, head size)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _kv_buffer(prompt: torch.Tensor, extra_tokens: int) -> torch.Tensor:
    """Copy the prompt's keys or values into a buffer with space for this many more tokens."""
    rows, heads, length, size = prompt.shape
    buffer = prompt.new_zeros(rows, heads, length + extra_tokens, size)
    buffer[:, :, :length] = prompt
    return buffer


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
