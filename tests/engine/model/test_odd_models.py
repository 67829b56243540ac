"""Models whose files do not fit their configuration, or whose outputs are not finite."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from ida_tui.config import embedded
from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model import load
from ida_tui.engine.model.finite_outputs import require_finite_outputs
from ida_tui.engine.run.outcome import NOT_FINITE_PHRASE, not_finite_outcome
from ida_tui.errors import IdaError


def embedded_with(tmp_path: Path, **tensors: torch.Tensor) -> ModelConfig:
    """The embedded model with further tensors in its file."""
    folder = tmp_path / "odd"
    shutil.copytree(embedded.model_folder(), folder)
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})
    return ModelConfig(path=str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.down_proj.scales",
        "model.layers.17.mlp.down_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
    ],
)
def test_a_tensor_of_the_layers_that_the_model_lacks_is_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    model = embedded_with(tmp_path, **{name: torch.zeros(2)})
    tokenizer = load.load_tokenizer(model)

    with pytest.raises(IdaError, match=f"1 tensor .*{name}"):
        load.load_model(model, "float32", tokenizer)


def test_a_model_without_fused_attention_is_refused_with_the_setting_that_loads_it(
    tmp_path: Path,
) -> None:
    tokenizer = load.load_tokenizer(ModelConfig(path="embedded"))
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "head_dim": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    Gemma2ForCausalLM(Gemma2Config(**shape)).save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path))
    with pytest.raises(IdaError) as error:
        load.load_model(model, "float32", tokenizer)
    assert "model.attn_implementation=eager" in error.value.hint
    eager = model.model_copy(update={"attn_implementation": "eager"})
    assert load.load_model(eager, "float32", tokenizer).config.model_type == "gemma2"


def test_tensors_that_a_language_model_does_not_need_are_noted_and_old_buffers_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unused = (
        "vision_tower.layers.0.weight",
        "mtp.layers.0.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    )
    model = embedded_with(tmp_path, **{name: torch.zeros(2) for name in unused})
    tokenizer = load.load_tokenizer(model)

    with caplog.at_level(logging.WARNING, "ida_tui"):
        load.load_model(model, "float32", tokenizer)

    assert [record.getMessage() for record in caplog.records if record.name == "ida_tui"] == [
        "1 tensor of a draft head (MTP) is not loaded",
        "1 tensor of a picture or sound encoder is not loaded",
    ]


@pytest.mark.parametrize(
    ("recipe", "title", "hint"),
    [
        (
            PrecisionRecipe("float16", True, False, "adamw_torch"),
            "does not fit into float16",
            "bfloat16",
        ),
        (
            PrecisionRecipe("float32", True, False, "adamw_torch"),
            "does not fit into float16",
            "bfloat16",
        ),
        (
            PrecisionRecipe("float32", False, False, "adamw_torch"),
            r"damaged: model\.layers\.0\.mlp\.down_proj\.weight",
            "again",
        ),
    ],
)
def test_outputs_that_are_not_finite_name_the_number_format_or_the_damaged_tensor(
    recipe: PrecisionRecipe, title: str, hint: str
) -> None:
    profile = ModelConfig(path="embedded")
    tokenizer = load.load_tokenizer(profile)
    model = load.load_model(profile, "float32", tokenizer)
    require_finite_outputs(model, tokenizer, profile, recipe)

    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = math.inf

    with pytest.raises(IdaError, match=title) as refused:
        require_finite_outputs(model, tokenizer, profile, recipe)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("recipe", "hint"),
    [
        (PrecisionRecipe("float16", True, False, "adamw_torch"), "model.torch_dtype=bfloat16"),
        (PrecisionRecipe("bfloat16", False, True, "adamw_torch"), "training.learning_rate"),
    ],
)
def test_sampling_from_numbers_that_are_not_finite_is_named_as_such(
    recipe: PrecisionRecipe, hint: str
) -> None:
    with pytest.raises(RuntimeError, match=NOT_FINITE_PHRASE):
        torch.multinomial(torch.tensor([math.nan, 1.0]), 1)

    assert hint in not_finite_outcome(recipe).hint


def test_a_damaged_weight_is_named_even_if_the_logits_are_finite() -> None:
    profile = ModelConfig(path="embedded")
    tokenizer = load.load_tokenizer(profile)
    model = load.load_model(profile, "float32", tokenizer)
    model.model.layers[1].self_attn.q_proj.weight.data[3, 3] = math.nan

    with pytest.raises(IdaError, match=r"damaged: model\.layers\.1\.self_attn\.q_proj\.weight"):
        require_finite_outputs(
            model, tokenizer, profile, PrecisionRecipe("float32", False, False, "adamw_torch")
        )


def test_an_output_layer_of_its_own_is_kept_by_an_export_although_the_configuration_ties_it(
    tmp_path: Path,
) -> None:
    rows = load_file(embedded.model_folder() / "model.safetensors")["model.embed_tokens.weight"]
    model = embedded_with(tmp_path, **{"lm_head.weight": rows.flip(0).contiguous()})

    loaded = load.load_model(model, "float32", load.load_tokenizer(model))

    assert torch.equal(loaded.lm_head.weight, rows.flip(0))
    assert not loaded.config.tie_word_embeddings


def test_a_chat_template_with_a_token_that_the_weights_lack_is_refused(tmp_path: Path) -> None:
    model = embedded_with(tmp_path)
    folder = Path(model.path)
    tokenizer = load.load_tokenizer(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = f"<|turn|>{tokenizer.chat_template}"
    tokenizer.save_pretrained(folder)

    with pytest.raises(IdaError, match="tokenizer has 1,537 tokens, but its weights are for 1,536"):
        load.load_model(model, "float32", load.load_tokenizer(model))
