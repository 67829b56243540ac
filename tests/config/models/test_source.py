"""What `model.path` can name: files, files in packages, and models of Ollama and LM Studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ida_tui.config.model_files import inspect_model, model_problem
from ida_tui.config.models.source import find_source
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import ModelConfig
from ida_tui.errors import UsageError
from tests.support.gguf_files import write_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


def test_a_file_in_a_package_is_found_without_running_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "weights_in_a_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it ran')\n")
    (package / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(package.parent))

    source = find_source("package:weights_in_a_package/tiny.gguf")
    assert (source.kind, source.place, source.problem) == ("gguf", package / "tiny.gguf", None)
    missing = find_source("package:weights_in_a_package/other.gguf")
    assert missing.problem == (
        "the package weights_in_a_package has no file other.gguf",
        "it has tiny.gguf",
    )


@pytest.mark.parametrize(
    ("path", "problem", "fix"),
    [
        ("package:no_such_package/x.gguf", "is not installed", "if you trust its authors"),
        ("package:json/../secrets.gguf", "names no file", "package:NAME/FILE"),
        ("package:os.path/x.gguf", "names no file", "package:NAME/FILE"),
        ("ollama:../../etc/passwd", "no name of a model", "ollama list"),
        ("ollama:nothing-here:1b", "Ollama has no model", "ollama pull nothing-here:1b"),
        ("lmstudio:one-part", "no name of a model", "lmstudio:PUBLISHER/MODEL"),
        ("lmstudio:a/../../b", "no name of a model", "lmstudio:PUBLISHER/MODEL"),
        ("lmstudio:nobody/nothing", "LM Studio has no model", "lms ls"),
        (
            "https://huggingface.co/Qwen/Qwen3-0.6B/tree/main",
            "is an address",
            "model=Qwen/Qwen3-0.6B",
        ),
        ("hf.co/Qwen/Qwen3-0.6B", "is an address", "model=Qwen/Qwen3-0.6B"),
        ("missing.gguf", "the file missing.gguf does not exist", "check the path"),
    ],
)
def test_a_place_without_a_model_is_refused_with_the_next_step(
    path: str, problem: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    found = model_problem(ModelConfig(path=path))
    assert found is not None
    assert problem in found[0]
    assert fix in found[1]


def _ollama(folder: Path, name: str, layers: object) -> None:
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": layers}))


def test_a_model_of_ollama_is_the_blob_that_its_manifest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = "ab" * 32
    blob = tmp_path / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir()
    blob.write_bytes(b"GGUF")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    model = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    license_layer = {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:0"}
    adapter = {"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:0"}
    _ollama(tmp_path, "registry.ollama.ai/library/llama3.2/1b", [license_layer, model])
    _ollama(tmp_path, "registry.ollama.ai/someone/theirs/latest", [model])
    _ollama(tmp_path, "hf.co/org/repo/Q4_K_M", [model])
    _ollama(tmp_path, "registry.ollama.ai/library/tuned/latest", [model, adapter])
    _ollama(tmp_path, "registry.ollama.ai/library/odd/latest", [{**model, "digest": "../x"}])
    _ollama(tmp_path, "registry.ollama.ai/library/number/latest", 5)

    for name in ("llama3.2:1b", "someone/theirs", "hf.co/org/repo:Q4_K_M"):
        assert find_source(f"ollama:{name}").place == blob
    assert "adapter" in str(find_source("ollama:tuned").problem)
    assert "no single file" in str(find_source("ollama:odd").problem)
    assert "no single file" in str(find_source("ollama:number").problem)
    blob.unlink()
    missing = find_source("ollama:llama3.2:1b").problem
    assert missing == (
        "the weights of ollama:llama3.2:1b are missing",
        "ollama pull llama3.2:1b",
    )


def test_a_model_of_lm_studio_is_its_only_file_or_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".lmstudio/models/org/repo-GGUF"
    folder.mkdir(parents=True)
    for name in ("a-Q4_K_M.gguf", "mmproj-model.gguf"):
        (folder / name).write_bytes(b"GGUF")

    assert find_source("lmstudio:org/repo-GGUF").place == folder / "a-Q4_K_M.gguf"
    (folder / "a-Q8_0.gguf").write_bytes(b"GGUF")
    several = find_source("lmstudio:org/repo-GGUF").problem
    assert several is not None
    assert "model.path=lmstudio:org/repo-GGUF/a-Q4_K_M.gguf" in several[1]
    named = find_source("lmstudio:org/repo-GGUF/a-Q8_0.gguf")
    assert named.place == folder / "a-Q8_0.gguf"


def test_a_folder_of_gguf_files_says_which_file_to_name(file: Path) -> None:
    problem = model_problem(ModelConfig(path=str(file.parent)))
    assert problem is not None
    assert f"model.path={file}" in problem[1]


def test_a_damaged_gguf_file_stops_a_check_with_its_name(file: Path) -> None:
    with pytest.raises(UsageError) as refused:
        resolve("quickstart", [f"model={file}"])
    assert str(file) in refused.value.title
    assert "is truncated" in refused.value.title


def test_a_model_is_known_from_its_header_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    config = resolve("quickstart", [f"model={path}"]).config
    files = inspect_model(config.model)

    assert (files.location, files.complete, files.folder) == ("gguf", True, None)
    assert files.parameters == inspect_model(ModelConfig(path="embedded")).parameters
    assert files.shape == inspect_model(ModelConfig(path="embedded")).shape
    assert files.context_length == 1024
    assert config.model.public_name == "tiny.gguf"


def test_a_template_in_a_gguf_file_that_does_not_end_is_refused(tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
    path = tmp_path / "endless.gguf"
    data = write_gguf(path, template=endless)
    problem = model_problem(ModelConfig(path=str(data)))
    assert problem is not None
    assert "the chat template in" in problem[0]
