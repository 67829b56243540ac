"""Formulas of the memory plan, compared with the tensors that autograd saves and the decoder's buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import peft
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from ida_tui.config.model_files import ModelShape, inspect_model
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Prompt
from ida_tui.engine.inference import generate as answers
from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.model import load
from ida_tui.engine.rollout import generate as rollout
from ida_tui.engine.rollout.decoder import Decoder
from ida_tui.planning import memory_terms as terms
from ida_tui.planning.memory_terms import AttentionMethod, RowBatch

ROWS, PROMPT, COMPLETION, LAYERS = 4, 32, 128, 2
SHAPE = ModelShape(
    hidden=256, intermediate=512, layers=LAYERS, heads=8, kv_heads=4, head_dim=32,
    vocabulary=512, tied_embeddings=True, qk_norms=True,
)  # fmt: skip


@contextmanager
def saved_tensors() -> Iterator[dict[int, int]]:
    """Storages that autograd saves inside the block: address → bytes. They are kept until its end."""
    kept: dict[int, torch.Tensor] = {}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = tensor
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def qwen3(layers: int, attention: AttentionMethod = "fused") -> Any:
    """A model of `SHAPE` with random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=SHAPE.hidden, intermediate_size=SHAPE.intermediate, num_hidden_layers=layers,
        num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.kv_heads,
        head_dim=SHAPE.head_dim, vocab_size=SHAPE.vocabulary,
        attn_implementation="eager" if attention == "eager" else "sdpa",
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def bytes_saved(attention: AttentionMethod, dtype: torch.dtype) -> int:
    """Bytes that autograd saves for completions that continue from a shared prompt."""
    model = qwen3(LAYERS, attention).to(dtype).model
    prompt, cache = DynamicCache(), DynamicCache()
    model(input_ids=torch.ones(1, PROMPT, dtype=torch.long), past_key_values=prompt)
    for index, layer in enumerate(prompt.layers):
        shape = (ROWS, -1, -1, -1)
        cache.update(layer.keys.expand(shape), layer.values.expand(shape), index)
    mask = torch.ones(ROWS, PROMPT + COMPLETION, dtype=torch.long)
    mask[0, 0] = 0  # with padding the mask is passed to attention
    ids = torch.ones(ROWS, COMPLETION, dtype=torch.long)
    with ExitStack() as stack:
        if attention == "math":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        sizes = stack.enter_context(saved_tensors())
        model(input_ids=ids, attention_mask=mask, past_key_values=cache)
    return sum(sizes.values())


@pytest.mark.parametrize("attention", ["math", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_matrices_are_what_autograd_saves_more_than_with_fused_attention(
    attention: AttentionMethod, dtype: torch.dtype
) -> None:
    length, size = PROMPT + COMPLETION, dtype.itemsize
    planned = terms.attention_bytes(SHAPE, ROWS, COMPLETION, length, attention, size)
    # Fused attention saves its mask and one logarithm per row of the matrix instead.
    fused = ROWS * COMPLETION * length * size + 4 * SHAPE.heads * ROWS * COMPLETION
    measured = bytes_saved(attention, dtype) - bytes_saved("fused", dtype)
    assert measured == LAYERS * (planned - fused)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_layer_of_a_joint_sequence_saves_what_is_planned(method: str) -> None:
    rank, saved = 4, []
    ids = torch.ones(ROWS, PROMPT + COMPLETION, dtype=torch.long)
    tokens = PROMPT + ROWS * (COMPLETION - 1)
    for layers in (1, 2):
        model: Any = qwen3(layers)
        if method == "lora":
            lora = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
            model = peft.get_peft_model(model, lora)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        with saved_tensors() as kept:
            completion_logprobs(
                model, ids, torch.ones_like(ids), COMPLETION, 1.0, with_entropy=False
            )
        saved.append(sum(size for storage, size in kept.items() if storage not in weights))
    planned = terms.joint_layer_bytes(SHAPE, method == "lora", rank, tokens)
    assert saved[1] - saved[0] == pytest.approx(planned, rel=0.02)


def test_attention_matrices_of_a_4b_model_on_metal_by_hand() -> None:
    shape = inspect_model(resolve("oblit-1-mps", []).config.model).shape
    assert shape is not None
    weights = 32 * 4 * 512 * 576 * 4  # heads, rows, queries, keys, float32
    copies = 4 * (512 + 576 + 576) * 32 * 128 * 2  # float32 instead of float16 for q, k and v
    assert terms.attention_bytes(shape, 4, 512, 576, "math", 2) == weights + copies
    assert terms.attention_bytes(shape, 4, 512, 576, "fused", 2) == 0


@pytest.mark.parametrize(
    ("device", "implementation", "expected"),
    [
        ("mps", "sdpa", "math"),
        ("mps", "eager", "eager"),
        ("cpu", "sdpa", "fused"),
        ("cpu", "eager", "eager"),
        ("cuda", "sdpa", "fused"),
        ("cuda", "flash_attention_2", "fused"),
    ],
)
def test_attention_has_matrices_on_metal_and_where_it_is_eager(
    device: Any, implementation: str, expected: str
) -> None:
    config = resolve("dev-mps", [f"model.attn_implementation={implementation}"], verify=False)
    assert terms.attention_method(config.config, device) == expected


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    """The embedded model and its tokenizer."""
    model = resolve("quickstart", []).config.model
    tokenizer = load.load_tokenizer(model)
    return load.load_model(model, "float32", tokenizer), tokenizer


@pytest.mark.parametrize("bucket", [1, 64], ids=["cpu", "metal"])
def test_an_evaluation_samples_as_many_rows_at_a_time_as_planned_with_the_planned_cache(
    embedded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    held: list[tuple[int, int]] = []

    class RecordingDecoder(Decoder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            prompts, own = arguments[1], self._key_values
            tensors = [*prompts.keys, *prompts.values, *own._keys, *own._values]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            held.append((len(prompts.prompt_of), size))

    monkeypatch.setattr(rollout, "Decoder", RecordingDecoder)
    monkeypatch.setattr(answers, "length_bucket", lambda device: bucket)
    config = resolve(
        "quickstart",
        ["training.rollout_rows=5", "evaluation.max_completion_length=16"],
    ).config
    prompts = [Prompt(id="a", text="How do I boil an egg?", kind="harmless")]
    model, tokenizer = embedded
    found = answers.generate_answers(
        model, tokenizer, config, "cpu", prompts, samples=8, seed=0
    )  # fmt: skip
    assert len(found) == 8
    assert [rows for rows, _ in held] == [5, 3]
    prompt_tokens = len(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompts[0].text}], add_generation_prompt=True
        )["input_ids"]
    )
    shape = inspect_model(config.model).shape
    assert shape is not None
    padded = -(-prompt_tokens // bucket) * bucket
    batch = RowBatch(5, 8, padded, -(-16 // bucket) * bucket)
    assert held[0][1] == terms.kv_cache_bytes(shape, batch, 4, shares_prompts=True)
