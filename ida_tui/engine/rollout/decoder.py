"""One token for every row, straight over the weights: a decoder of the Llama family without its modules.

Generating a token reads every weight once; on a small machine that is what it should cost. The modules of
transformers and PEFT add as much again in dispatch. `Decoder` walks the same weights with the fewest calls:
keys and values live in one buffer for the whole rollout and are written in place, finished rows are dropped,
and an adapter is two thin products on the side (never merged into the base and taken out again: that drifts).

It covers Llama, Mistral, Qwen2 and Qwen3 with full attention, with or without a LoRA adapter; `unsupported`
says why something else is left to transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ida_tui.engine.device.onednn import linear

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
Product = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""One input through several linear layers."""


def unsupported(model: Any) -> str | None:
    """Why this causal language model is not covered, in a few words; None where it is."""
    base = _base(model)
    config = base.config
    if getattr(config, "model_type", "") not in FAMILIES:
        return f"{getattr(config, 'model_type', 'the model')} is not one of {', '.join(FAMILIES)}"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    ):
        return "it attends through a sliding window"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if type(base.lm_head) is not torch.nn.Linear:
        return "its output layer has an adapter"
    for layer in base.model.layers:
        for one in _linears(layer):
            problem = _unsupported_linear(one)
            if problem:
                return problem
    return None


class Decoder:
    """Decodes the rows of one rollout.

    Args:
        model: the policy, in evaluation of its current weights; `unsupported` has nothing to say of it.
        keys: for each layer the prompts' keys, (rows, key-value heads, tokens, head size).
        values: the same for values.
        padding: (rows, tokens), true where a prompt has a token and false where it is padded on its left;
            None where no row is padded.
        room: tokens that may follow the prompt.
        bucket: what is attended to has a length that is a multiple of this. More than 1 is for devices that
            compile, and keep memory, for every length they meet (Metal).
    """

    def __init__(
        self,
        model: Any,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        padding: torch.Tensor | None,
        room: int,
        bucket: int = 1,
    ) -> None:
        base = _base(model)
        config = base.config
        self._kv_heads = config.num_key_value_heads
        self._head = keys[0].shape[-1]
        self._groups = config.num_attention_heads // self._kv_heads
        self._embedding = base.model.embed_tokens.weight
        self._norm = base.model.norm
        self._output = base.lm_head
        self._rotary = base.model.rotary_emb
        self._layers = [_Layer.of(layer) for layer in base.model.layers]
        rows, _, length, _ = keys[0].shape
        self._rows, self._length, self._bucket = rows, length, bucket
        room = _up(length + room, bucket) - length
        self._keys = [_buffer(tensor, room) for tensor in keys]
        self._values = [_buffer(tensor, room) for tensor in values]
        self._mask: torch.Tensor | None = None
        lengths = torch.full((rows,), length, device=keys[0].device)
        if padding is None and bucket > 1:
            padding = torch.ones(rows, length, dtype=torch.bool, device=keys[0].device)
        if padding is not None:
            # In a bucket what has not been written yet is hidden until it is.
            self._mask = functional.pad(padding, (0, room), value=bucket == 1)[:, None, None, :]
            lengths = padding.sum(dim=1)
        self._positions = lengths

    def keep(self, rows: list[int]) -> None:
        """Drop every row but these (in rising order); the rest moves up."""
        length = self._length
        for tensor in (*self._keys, *self._values):
            for to, source in enumerate(rows):
                if to != source:
                    tensor[to, :, :length].copy_(tensor[source, :, :length])
        index = torch.tensor(rows, device=self._positions.device)
        self._positions = self._positions[index]
        if self._mask is not None:
            self._mask = self._mask[index]
        self._rows = len(rows)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """The next logits, (rows, vocabulary), after each row has got its token, (rows,)."""
        rows, at = self._rows, self._length
        self._length += 1
        cos, sin = self._rotary(self._embedding, self._positions[:, None])  # (rows, 1, head size)
        cos, sin = cos.to(self._embedding.dtype), sin.to(self._embedding.dtype)
        self._positions = self._positions + 1
        until = _up(self._length, self._bucket)
        mask = None if self._mask is None else self._mask[:, :, :, :until]
        if mask is not None and self._bucket > 1:
            mask[:, :, :, at] = True
        x = functional.embedding(tokens, self._embedding)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            q, k, v = layer.attention_in(layer.norm_in(x))
            q = layer.norm_q(q.view(rows, -1, self._head))
            k = layer.norm_k(k.view(rows, self._kv_heads, self._head))
            turned = _rotate(torch.cat((q, k), dim=1), cos, sin)
            q, k = torch.split(turned, [q.shape[1], self._kv_heads], dim=1)
            keys[:rows, :, at] = k
            values[:rows, :, at] = v.view(rows, self._kv_heads, self._head)
            # The queries that share a key-value head stand in a row: nothing is repeated in memory.
            seen = functional.scaled_dot_product_attention(
                q.reshape(rows, self._kv_heads, self._groups, self._head),
                keys[:rows, :, :until],
                values[:rows, :, :until],
                attn_mask=mask,
            )
            (out,) = layer.attention_out(seen.reshape(rows, -1))
            x = x + out
            gate, up = layer.mlp_in(layer.norm_mlp(x))
            (down,) = layer.mlp_out(functional.silu(gate).mul_(up))
            x = x + down
        norm = _rms_norm(self._norm)
        return linear(norm(x), self._output.weight, self._output.bias)


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_in: Callable[[torch.Tensor], torch.Tensor]
    attention_in: Product
    norm_q: Callable[[torch.Tensor], torch.Tensor]
    norm_k: Callable[[torch.Tensor], torch.Tensor]
    attention_out: Product
    norm_mlp: Callable[[torch.Tensor], torch.Tensor]
    mlp_in: Product
    mlp_out: Product

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            norm_in=_rms_norm(layer.input_layernorm),
            attention_in=_product(attention.q_proj, attention.k_proj, attention.v_proj),
            norm_q=_rms_norm(getattr(attention, "q_norm", None)),
            norm_k=_rms_norm(getattr(attention, "k_norm", None)),
            attention_out=_product(attention.o_proj),
            norm_mlp=_rms_norm(layer.post_attention_layernorm),
            mlp_in=_product(mlp.gate_proj, mlp.up_proj),
            mlp_out=_product(mlp.down_proj),
        )


def _base(model: Any) -> Any:
    """The causal language model inside an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )


def _unsupported_linear(linear: Any) -> str | None:
    if type(linear) is torch.nn.Linear:
        return None
    adapters = list(getattr(linear, "active_adapters", ()))
    if not hasattr(linear, "lora_A") or type(linear.base_layer) is not torch.nn.Linear:
        return f"a layer is a {type(linear).__name__}"
    if len(adapters) > 1:
        return "several adapters are active"
    for name in adapters:
        if any(getattr(linear, "use_dora", {}).values()) or getattr(linear, "lora_bias", {}).get(
            name
        ):
            return "its adapter is more than LoRA"
    return "its adapter is merged" if linear.merged else None


def _product(*linears: Any) -> Product:
    """One input through these layers; the thin halves of their adapters are one product."""
    bases = [getattr(linear, "base_layer", linear) for linear in linears]
    weights = [(base.weight, base.bias) for base in bases]
    sides = [_adapter(linear) for linear in linears]
    if not any(sides):
        return lambda x: tuple(linear(x, w, b) for w, b in weights)
    dtype = weights[0][0].dtype
    down = torch.cat([side[0] for side in sides if side]).to(dtype)
    ups = [side[1].to(dtype) if side else None for side in sides]
    ranks = [side[0].shape[0] if side else 0 for side in sides]

    def product(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        thin = torch.split(functional.linear(x, down), ranks, dim=-1)
        out = []
        for (weight, bias), side, up in zip(weights, thin, ups, strict=True):
            y = linear(x, weight, bias)
            out.append(y if up is None else y.addmm_(side, up))
        return tuple(out)

    return product


def _adapter(linear: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A, (rank, in), and the scaled and transposed B, (rank, out), of an active adapter."""
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
    """A norm over the last dimension; None is no norm."""
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


def _buffer(prompt: torch.Tensor, room: int) -> torch.Tensor:
    """A tensor with the prompt's keys or values in it, and room for what follows."""
    rows, heads, length, size = prompt.shape
    buffer = prompt.new_zeros(rows, heads, length + room, size)
    buffer[:, :, :length] = prompt
    return buffer


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
