"""Models whose linear layers are packed into 4 or 8 bits: the same weights in every part of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch.nn import functional

from ida_tui.config.checks import check_config
from ida_tui.config.model_files import inspect_model
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import ModelConfig, Quantization
from ida_tui.config.training_checks import quantization as quantization_checks
from ida_tui.engine.device.onednn import use_onednn_linears
from ida_tui.engine.device.packed import Int8Linear, Nf4Linear, PackedLinear
from ida_tui.engine.model import load
from ida_tui.engine.rollout import decoder_support
from ida_tui.planning import memory_terms

PACKED: tuple[Quantization, ...] = ("nf4", "int8")
STEPS = ("training.max_steps=2", "training.save_steps=1", "evaluation.enabled=false", "device=cpu")
ADAPTER = "adapter/adapter_model.safetensors"


def packed_model(quantization: Quantization, dtype: Any = "float32") -> Any:
    model = ModelConfig(path="embedded", quantization=quantization)
    return load.load_model(model, dtype, load.load_tokenizer(model))


def packed_layers(model: Any) -> list[PackedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, PackedLinear)]


@pytest.fixture(scope="module", params=PACKED)
def quantization(request: pytest.FixtureRequest) -> Quantization:
    kind: Quantization = request.param
    return kind


@pytest.fixture(scope="module")
def model(quantization: Quantization) -> Any:
    return packed_model(quantization)


@pytest.fixture(scope="module")
def original() -> Any:
    return packed_model("none")


def test_all_linear_layers_but_the_output_layer_are_packed(model: Any, original: Any) -> None:
    linear = {n for n, m in original.named_modules() if isinstance(m, torch.nn.Linear)}
    packed = {n for n, m in model.named_modules() if isinstance(m, PackedLinear)}
    assert packed == linear - {"lm_head"}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.dtype == torch.float32
    assert load.count_parameters(model).base == load.count_parameters(original).base


def test_packed_weights_are_close_to_the_originals(
    model: Any, original: Any, quantization: Quantization
) -> None:
    for layer, other in zip(packed_layers(model), packed_layers_of(original, model), strict=True):
        difference = (layer.unpacked(torch.float32) - other.weight).norm() / other.weight.norm()
        assert 0 < difference < (0.12 if quantization == "nf4" else 0.02)


def packed_layers_of(original: Any, model: Any) -> list[torch.nn.Linear]:
    names = [name for name, layer in model.named_modules() if isinstance(layer, PackedLinear)]
    return [original.get_submodule(name) for name in names]


def test_weights_are_unpacked_as_bitsandbytes_does() -> None:
    import bitsandbytes

    torch.manual_seed(0)
    weight = torch.randn(96, 128)
    four = bitsandbytes.nn.Linear4bit(128, 96, bias=False, quant_type="nf4")
    four.weight = bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True
    ).to("cpu")
    eight = bitsandbytes.nn.Linear8bitLt(128, 96, bias=False, has_fp16_weights=False)
    eight.weight = bitsandbytes.nn.Int8Params(
        weight, requires_grad=False, has_fp16_weights=False
    ).to("cpu")
    identity = torch.eye(128)
    torch.testing.assert_close(
        Nf4Linear(four, torch.float32).unpacked(torch.float32).T, four.train()(identity)
    )
    torch.testing.assert_close(
        Int8Linear(eight, torch.float32).unpacked(torch.float32).T, eight.train()(identity)
    )


def test_the_product_and_its_gradient_are_those_of_the_unpacked_weight(model: Any) -> None:
    layer = packed_layers(model)[0]
    x = torch.randn(3, layer.in_features, requires_grad=True)
    expected = functional.linear(x, layer.unpacked(torch.float32))
    gradient = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, x, gradient)

    for state in (layer.train(), layer.eval()):
        (actual_gradient,) = torch.autograd.grad(state(x), x, gradient)
        torch.testing.assert_close(state(x), expected)
        torch.testing.assert_close(actual_gradient, expected_gradient)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_the_adapter_is_float32_and_its_fused_layers_compute_what_pefts_do(
    quantization: Quantization,
) -> None:
    profile = resolve("quickstart").config
    torch.manual_seed(0)
    model = get_peft_model(
        packed_model(quantization), load.peft_config(profile.lora, profile.model)
    )
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    for name, parameter in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    assert decoder_support.unsupported_reason(model) is None
    ids = torch.arange(5, 25)[None]

    def gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = model(ids).logits
        return logits.detach(), list(torch.autograd.grad(logits.square().mean(), trained.values()))

    logits, plain = gradients()
    with use_onednn_linears(model):
        fused_logits, fused = gradients()
    torch.testing.assert_close(fused_logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-6)


def test_the_plan_counts_the_bytes_of_packed_weights(
    model: Any, quantization: Quantization
) -> None:
    shape = inspect_model(ModelConfig(path="embedded")).shape
    assert shape is not None
    count, size = memory_terms.packed_weights(shape, quantization)
    layers = packed_layers(model)
    assert count == sum(layer.in_features * layer.out_features for layer in layers)
    held = sum(t.nbytes for layer in layers for t in (layer.weight, *layer.buffers()))
    # The layers of this model are so small that the tables of each one count.
    tables = 1024 * len(layers) if quantization == "nf4" else 0
    assert size == pytest.approx(held - tables, rel=0.02)


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def packed_run(ida_tui_here: Any) -> tuple[Path, Any]:
    """A finished run of two steps on 4 bits, and its output."""
    done = ida_tui_here("--run", "quickstart", "model.quantization=nf4", *STEPS)
    assert done.code == 0, done.err
    return Path("outputs/quickstart/latest").resolve(), done


def test_a_run_on_packed_weights_is_resumed_to_the_same_bytes_and_exported_on_the_original_weights(
    ida_tui_here: Any, packed_run: tuple[Path, Any]
) -> None:
    run, done = packed_run
    assert "nf4 base, unpacked to float32, float32 adapter" in done.out
    assert "log-probabilities agree with TRL's" in done.out
    assert "with the trained weights" in done.out
    assert "TRL's code is used instead" not in done.out
    weights = load_file(run / ADAPTER)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    before = (run / ADAPTER).read_bytes()

    shutil.rmtree(run / "checkpoints/checkpoint-2")
    shutil.rmtree(run / "adapter")
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if 'checkpoint-1"' in line)
    (run / "events.jsonl").write_text("".join(lines[: last + 1]))
    refused = ida_tui_here("resume", str(run), "model.quantization=int8")
    assert "model.quantization cannot change when a run is resumed" in refused.err
    resumed = ida_tui_here("resume", str(run))
    assert resumed.code == 0, resumed.err
    assert (run / ADAPTER).read_bytes() == before

    exported = ida_tui_here("export", str(run), "--merged", "--json")
    assert exported.code == 0, exported.err
    folder = Path(json.loads(exported.out)["folder"])
    assert "on the packed weights of the training" in exported.err
    assert "on the packed weights of the training" in (folder / "README.md").read_text()
    merged = load_file(folder / "model.safetensors")
    name = "layers.0.self_attn.q_proj"
    base = load.load_structure(ModelConfig(path="embedded")).get_submodule(f"model.{name}")
    assert merged[f"model.{name}.weight"].shape == base.weight.shape
    config = resolve(str(run / "config.yaml")).config
    original = packed_model("none").get_submodule(f"model.{name}").weight
    a, b = (weights[f"base_model.model.model.{name}.lora_{part}.weight"] for part in "AB")
    change = config.lora.alpha / config.lora.r * (b @ a)
    torch.testing.assert_close(merged[f"model.{name}.weight"], original + change)


def test_what_packed_layers_do_not_allow_is_refused_with_the_reason() -> None:
    def errors(*overrides: str) -> list[str]:
        settings = ["model.quantization=nf4", "device=cpu", *overrides]
        config = resolve("quickstart", settings, verify=False).config
        return [f.text for f in check_config(config, "cpu") if f.severity == "error"]

    assert errors() == []
    assert errors("training.method=full") == ["packed weights cannot be trained"]
    assert errors("lora.use_dora=true") == [
        "DoRA trains the norms of the weights, which are packed"
    ]
    assert errors("lora.modules_to_save=[mlp.up_proj]") == [
        "mlp.up_proj is packed and cannot be trained in full"
    ]
    assert errors("lora.modules_to_save=[model.norm]") == []
    assert "an adapter on a weight adds to it" in errors("lora.target_parameters=[mlp.up]")[0]
    (text,) = errors("training.optim=adafactor")
    assert text.startswith("lora with nf4 and float32 weights, no autocast and adafactor")


def test_without_bitsandbytes_the_error_tells_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantization_checks, "find_spec", lambda name: None)
    config = resolve("quickstart", ["model.quantization=int8"], verify=False).config
    (finding,) = [f for f in check_config(config, "cpu") if f.severity == "error"]
    assert finding.text == "needs the package bitsandbytes, which is not installed"
    assert "uv sync --extra quantization" in finding.fix
