"""Models from GGUF files: the weights, the tokenizer and the answers are those of the original."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ida_tui.api import config_for_resume, model_has_changed
from ida_tui.cli.main import main
from ida_tui.config import embedded
from ida_tui.config.model_files import inspect_model
from ida_tui.config.models import gguf
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model import unpack
from ida_tui.engine.model.load import load_model, load_tokenizer
from ida_tui.errors import IdaError
from ida_tui.runs.directory import RunDirectory
from tests.support.gguf_files import write_gguf

TEXTS = (
    "Hello, world!  Two  spaces, don't\tand\r\nnew lines\n\n",
    "In 2024, 1234567 people; 3.14 and ١٢٣ and ½",
    "日本語のテキスト12個 한국어 Привет مرحبا नमस्ते สวัสดี e\u0301 👩‍👩‍👧 🇫🇷",
    "<|im_start|>user\nhi<|im_end|> <|im_end >",
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def original(folder: Path, **settings: Any) -> Any:
    """A small random model of any family, saved with the embedded model's tokenizer."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        **{
            "vocab_size": 1536, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.1, **settings,
        }
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(embedded.model_folder() / name, folder / name)
    return model


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {"model_type": "llama"}),
        ("llama", {"model_type": "llama", "rope_parameters": LLAMA3}),
        ("qwen2", {"model_type": "qwen2", "tie_word_embeddings": False, "head_dim": 16}),
        ("gemma2", {"model_type": "gemma2", "sliding_window": 8, "query_pre_attn_scalar": 32}),
        ("gemma3", {"model_type": "gemma3_text", "sliding_window": 8, "query_pre_attn_scalar": 32}),
    ],
)
def test_an_unpacked_model_computes_exactly_what_the_original_does(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = original(tmp_path / "original", **settings)
    tensors = {}
    if "rope_parameters" in settings:
        scaled = model.model.rotary_emb.inv_freq.double().numpy()
        steps = np.arange(0, 32, 2) / 32
        tensors["rope_freqs.weight"] = (1 / (500_000.0**steps * scaled)).astype(np.float32)
    file = write_gguf(
        tmp_path / "m.gguf", tmp_path / "original", architecture=architecture, tensors=tensors
    )

    config = ModelConfig(path=str(file), attn_implementation="eager")
    unpacked = load_model(config, "float32", load_tokenizer(config))

    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.equal(unpacked(ids).logits, model(ids).logits)
    assert inspect_model(config).parameters == model.num_parameters()


def test_a_quantized_file_has_the_weights_and_tokens_of_its_model_and_is_unpacked_once(
    tmp_path: Path,
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", quantization="Q8_0")
    config, plain = ModelConfig(path=str(file)), ModelConfig(path="embedded")
    tokenizer, expected = load_tokenizer(config), load_tokenizer(plain)

    assert [tokenizer(t)["input_ids"] for t in TEXTS] == [expected(t)["input_ids"] for t in TEXTS]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert tokenizer.decode([2]) == "<|im_end|>"
    assert tokenizer.chat_template == expected.chat_template
    model = load_model(config, "float32", tokenizer)
    reference = load_model(plain, "float32", expected).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, reference[name], rtol=0, atol=0.02)
    assert model.name_or_path == str(file)

    folder = gguf.unpacked_folder(file)
    inode = (folder / "model.safetensors").stat().st_ino
    assert unpack.unpack(file) == folder
    assert (folder / "model.safetensors").stat().st_ino == inode
    assert inspect_model(config).folder == folder
    assert json.loads((folder / gguf.SOURCE_FILE).read_text())["file"] == "tiny.gguf"


def test_an_unpacked_folder_that_was_damaged_is_written_again(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    weights = unpack.unpack(file) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])

    unpack.unpack(file)
    assert weights.read_bytes() == whole


def test_weights_that_are_no_numbers_or_do_not_fit_on_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = {"output_norm.weight": np.full(128, np.nan, np.float32)}
    config = ModelConfig(path=str(write_gguf(tmp_path / "nan.gguf", tensors=spoiled)))
    with pytest.raises(IdaError, match="not finite"):
        load_tokenizer(config)
    assert not [f for f in (tmp_path / "cache/models").iterdir() if f.is_dir()]

    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda folder: SimpleNamespace(free=9))
    with pytest.raises(IdaError, match=r"needs .* of disk space"):
        unpack.unpack(write_gguf(tmp_path / "tiny.gguf"))


def test_a_cache_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IDA_TUI_CACHE_DIR", str(tmp_path / "file"))
    config = ModelConfig(path=str(write_gguf(tmp_path / "tiny.gguf")))

    with pytest.raises(IdaError, match=r"could not be unpacked into .*: Not a directory") as error:
        load_tokenizer(config)
    assert "IDA_TUI_CACHE_DIR" in error.value.hint


def test_a_run_names_its_file_and_says_if_it_resumes_with_another(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", quantization="Q8_0")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    small = ["training.max_steps=1", "training.num_generations=4", "evaluation.enabled=false",
             "training.per_device_train_batch_size=4", "training.max_completion_length=8"]  # fmt: skip
    assert main(["--run", "quickstart", f"model={file}", *small]) == 0

    directory = RunDirectory(Path("outputs/quickstart/latest").resolve())
    adapter = json.loads((directory.path / "adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(file)
    recorded = json.loads(directory.manifest.read_text())["model_file"]
    assert (recorded["file"], recorded["sha256"]) == ("tiny.gguf", sha256)
    assert main(["export", str(directory.path), "--adapter"]) == 0
    exported = directory.path / "export/adapter"
    adapter = json.loads((exported / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "tiny.gguf"
    card = (exported / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert str(tmp_path) not in card

    assert not model_has_changed(directory, config_for_resume(directory, []))
    write_gguf(file, quantization="F32")
    assert model_has_changed(directory, config_for_resume(directory, []))


def test_smollm2_from_its_package_splits_digits_and_answers(smollm2: str) -> None:
    config = ModelConfig(path=smollm2)
    tokenizer = load_tokenizer(config)

    # The tokens that llama.cpp gives for the same file.
    assert tokenizer("Hello  1234 <|im_end|>")["input_ids"] == [19556, 256, 33, 34, 35, 36, 216, 2]
    assert inspect_model(config).parameters == 134_515_008
    model = load_model(config, "float32", tokenizer)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."
