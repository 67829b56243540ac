"""Download of a model from a hub on this machine: its progress, its end in the middle, its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ida_tui.config import embedded
from ida_tui.config.model_files import hub_cache, inspect_model
from ida_tui.config.schema import ModelConfig
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.values import DownloadProgress
from ida_tui.planning import hub_download, hub_models
from ida_tui.planning.hub_download import fetch_small_files, fetch_weights
from tests.support.model_hub import ModelHub, model_hub

TOKEN = "hf_abcdefgh12345678"
TINY = {file.name: file.read_bytes() for file in embedded.model_folder().iterdir()}
WEIGHTS = TINY["model.safetensors"]
MODEL = ModelConfig(path="org/tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub, with an empty cache."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_models, "_known", {})
    with model_hub({"org/tiny": TINY}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_download_that_was_stopped_continues_at_the_byte_where_it_stopped(hub: ModelHub) -> None:
    hub.gated["org/tiny"] = TOKEN
    hub.cut_after = len(WEIGHTS) // 2
    fetch_small_files(MODEL)
    seen: list[DownloadProgress] = []
    with pytest.raises(IdaError) as stopped:
        fetch_weights(
            MODEL,
            on_progress=seen.append,
            stop_requested=lambda: hub.is_cut.is_set() and seen[-1].done > 0,
        )
    assert stopped.value.code is ExitCode.INTERRUPTED
    assert not inspect_model(MODEL).complete
    (part,) = hub_cache().glob("models--org--tiny/blobs/*.incomplete")
    kept = part.stat().st_size
    assert 0 < kept <= hub.cut_after

    hub.cut_after = None
    hub.may_end.set()
    fetch_weights(MODEL, on_progress=seen.append)

    files = inspect_model(MODEL)
    assert files.complete
    assert files.folder is not None
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.file_requests("model.safetensors")
    assert (first.range, second.range) == ("", f"bytes={kept}-")
    # The weights come from another host, which does not get the token.
    assert {request.token for request in (first, second)} == {""}
    assert {r.token for r in hub.requests if "/resolve/" in r.path} == {TOKEN}
    assert seen[-1] == DownloadProgress(len(WEIGHTS), len(WEIGHTS), 0.0)


def test_weights_that_do_not_fit_on_the_disk_are_not_requested(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "free_gb", lambda folder: 0.001)

    with pytest.raises(IdaError, match=r"needs 3\.5 MB more on the disk, but only 1\.0 MB"):
        fetch_weights(MODEL, on_progress=lambda progress: None)

    assert not hub.file_requests("model.safetensors")


def test_a_part_that_another_process_completes_meanwhile_is_not_missed(
    hub: ModelHub, tmp_path: Path
) -> None:
    blobs = tmp_path / "cache" / "hub" / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "gone.ida-tui.incomplete").symlink_to(tmp_path / "gone")

    fetch_small_files(MODEL)
    fetch_weights(MODEL, on_progress=lambda progress: None)

    assert inspect_model(MODEL).complete


def test_a_model_on_this_machine_asks_the_hub_nothing(hub: ModelHub) -> None:
    model = ModelConfig(path="embedded")

    fetch_small_files(model)
    fetch_weights(model, on_progress=lambda progress: None)

    assert not hub.requests
