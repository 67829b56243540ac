"""Models of the Hugging Face Hub before their download: what is planned, refused and sent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ida_tui.config import embedded
from ida_tui.config.model_files import inspect_model
from ida_tui.config.schema import ModelConfig
from ida_tui.errors import IdaError
from ida_tui.planning import hub_models
from ida_tui.planning.hub_models import HubModel, HubUnreachable
from tests.support.model_hub import ModelHub, model_hub

TOKEN = "hf_abcdefgh12345678"
TINY = {file.name: file.read_bytes() for file in embedded.model_folder().iterdir()}


def packed_as(quantization: dict[str, object]) -> dict[str, bytes]:
    settings = {**json.loads(TINY["config.json"]), "quantization_config": quantization}
    return {**TINY, "config.json": json.dumps(settings).encode()}


@pytest.fixture(scope="module")
def running_hub() -> Iterator[ModelHub]:
    models = {
        "org/tiny": TINY,
        "org/gated": TINY,
        "org/gptq": packed_as({"quant_method": "gptq", "bits": 4}),
    }
    with model_hub(models) as hub:
        hub.gated["org/gated"] = TOKEN
        hub.base_models["org/gptq"] = "org/original"
        yield hub


@pytest.fixture
def hub(running_hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelHub:
    """The hub, with an empty cache and working directory."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "IDA_TUI_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", running_hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_models, "_known", {})
    running_hub.requests.clear()
    return running_hub


def test_a_model_is_planned_from_its_configuration_without_a_byte_of_its_weights(
    hub: ModelHub,
) -> None:
    model = ModelConfig(path="org/tiny")

    found = hub_models.fetch_settings(model)

    assert found is not None
    assert found.weight_files() == {"model.safetensors": len(TINY["model.safetensors"])}
    files = inspect_model(model)
    assert files.shape == inspect_model(ModelConfig(path="embedded")).shape
    assert not files.complete
    assert not any("safetensors" in request.path for request in hub.requests)


def test_packed_weights_are_refused_before_the_download_with_the_model_to_take(
    hub: ModelHub,
) -> None:
    with pytest.raises(IdaError, match=r"org/gptq are packed with GPTQ \(4 bits\)") as refused:
        hub_models.fetch_settings(ModelConfig(path="org/gptq"))
    assert "org/original" in refused.value.hint
    assert not any("safetensors" in request.path for request in hub.requests)


def test_a_gated_model_names_the_license_and_a_token_in_dotenv_opens_it(
    hub: ModelHub, tmp_path: Path
) -> None:
    model = ModelConfig(path="org/gated")
    with pytest.raises(IdaError, match="org/gated is gated") as refused:
        hub_models.fetch_settings(model)
    assert "https://huggingface.co/org/gated" in refused.value.hint
    assert "HF_TOKEN" in refused.value.hint

    (tmp_path / ".env").write_text(f"HF_TOKEN={TOKEN}\nOPENAI_API_KEY=sk-other\n")
    assert hub_models.fetch_settings(model) is not None
    assert hub.requests[-1].token == TOKEN


def test_a_name_that_the_hub_does_not_know_is_an_error(hub: ModelHub) -> None:
    with pytest.raises(IdaError, match='no model "org/none"'):
        hub_models.find_hub_model(ModelConfig(path="org/none"))


def test_the_hub_is_not_asked_for_a_folder_that_is_missing(hub: ModelHub) -> None:
    model = ModelConfig(path="./weights/mine")

    assert hub_models.fetch_settings(model) is None
    assert not hub.requests


def test_a_hub_that_is_switched_off_by_the_user_is_not_asked(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        hub_models.fetch_settings(ModelConfig(path="org/tiny"))
    assert not hub.requests


def test_switching_the_hub_off_for_the_libraries_does_not_switch_downloads_off(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # restored after the test
    monkeypatch.setenv("IDA_TUI_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("IDA_TUI_HUB_OFFLINE")

    hub_models.switch_off_here()

    assert not hub_models.is_switched_off()


@pytest.mark.parametrize(
    ("endpoint", "sent"),
    [("", True), ("https://mirror.example", True), ("http://mirror.example", False)],
)
def test_the_token_in_dotenv_is_sent_only_encrypted(
    endpoint: str, sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    assert hub_models.hub_token(tmp_path) == (TOKEN if sent else "")


def test_a_token_in_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    monkeypatch.setenv("HF_TOKEN", "hf_another")

    assert hub_models.hub_token(tmp_path) == ""


def test_a_process_that_ends_without_an_answer_is_a_hub_that_cannot_be_reached(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_and_wait(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        process.wait()
        return process

    monkeypatch.setattr(hub_models, "hub_process", SimpleNamespace(__name__="no_such_module"))
    monkeypatch.setattr(subprocess, "Popen", start_and_wait)

    with pytest.raises(HubUnreachable, match="no answer"):
        hub_models.find_hub_model(ModelConfig(path="org/tiny"))


@pytest.mark.parametrize(
    ("files", "title", "hint"),
    [
        (["x-Q4_K_M.gguf", "README.md"], "has only GGUF files: x-Q4_K_M.gguf", "model.path=x-Q4"),
        (["x;$(y).gguf"], "has only GGUF files", "model.path='x;$(y).gguf'"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter", "base model"),
        (["config.json", "pytorch_model.bin"], "no weights in safetensors", "safetensors"),
        (["config.json", "README.md"], "has no weights", "transformers version"),
        (["model.safetensors"], "has no config.json", "transformers version"),
    ],
)
def test_a_repository_without_usable_weights_is_refused_by_its_list_of_files(
    files: list[str], title: str, hint: str
) -> None:
    with pytest.raises(IdaError, match=title) as refused:
        hub_models.require_loadable(HubModel("org/x", None, dict.fromkeys(files, 1)))
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["model.safetensors.index.json", "model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model.safetensors-00001-of-00001.safetensors"],
            ["model.safetensors-00001-of-00001.safetensors"],
        ),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "consolidated.safetensors",
                "onnx/model.safetensors",
            ],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_no_second_copy_of_the_weights_is_downloaded(files: list[str], weights: list[str]) -> None:
    found = HubModel("org/x", None, dict.fromkeys(files, 1))

    assert list(found.weight_files()) == weights


def test_code_is_downloaded_only_for_a_model_whose_code_may_run() -> None:
    names = [
        "config.json",
        "tokenizer.model",
        "modeling_x.py",
        "x.gguf",
        "pytorch_model.bin",
        "a.onnx",
    ]
    found = HubModel("org/x", None, dict.fromkeys(names, 1))

    assert list(found.small_files(with_code=False)) == ["config.json", "tokenizer.model"]
    assert "modeling_x.py" in found.small_files(with_code=True)
