"""A run whose model is downloaded first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config import embedded
from ida_tui.events import types as ev
from ida_tui.events.narration import progress_line
from ida_tui.events.state import RunState, fold
from ida_tui.planning import hub_models
from ida_tui.runs.log.reader import read_events
from tests.support.model_hub import ModelHub, model_hub

SHORT = (
    "quickstart",
    "model=org/tiny",
    "evaluation.enabled=false",
    "training.max_steps=1",
    "training.num_generations=4",
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=1",
    "training.max_completion_length=4",
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_models, "_known", {})
    files = {file.name: file.read_bytes() for file in embedded.model_folder().iterdir()}
    with model_hub({"org/tiny": files}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_run_downloads_its_model_as_events_and_trains_it(
    hub: ModelHub, ida_tui_unprepared: Any
) -> None:
    Path(".env").write_text("HF_TOKEN=hf_abcdefgh12345678\n")
    hub.gated["org/tiny"] = "hf_abcdefgh12345678"

    # The libraries read where the Hub and its cache are when they are imported.
    done = ida_tui_unprepared("--run", *SHORT)

    assert done.code == 0, done.err
    assert "✓ Downloading org/tiny (3.5 MB)" in done.out
    assert "✓ Downloaded org/tiny (3.5 MB in" in done.out
    assert len(hub.file_requests("model.safetensors")) == 1
    run = Path("outputs/quickstart/latest")
    records = list(read_events(run / "events.jsonl"))
    downloads = [
        (number, record.event.download)
        for number, record in enumerate(records)
        if isinstance(record.event, ev.PhaseChanged) and record.event.download
    ]
    last, progress = downloads[-1]
    assert progress.done == progress.total == 3_549_440
    state = RunState()
    for record in records[: last + 1]:
        state = fold(state, record)
    assert progress_line(state, None) == "downloading the model: 3.5 MB of 3.5 MB"  # type: ignore[arg-type]
    assert (
        '"base_model_name_or_path": "org/tiny"'
        in (run / "adapter" / "adapter_config.json").read_text()
    )
    for file in run.rglob("*"):
        assert not file.is_file() or b"hf_abcdefgh12345678" not in file.read_bytes()


def test_a_model_that_needs_too_much_memory_is_refused_before_its_weights_are_downloaded(
    hub: ModelHub, ida_tui_here: Any
) -> None:
    done = ida_tui_here("--run", *SHORT, "limit_gb=0.5")

    assert done.code == 4
    assert "the run does not fit" in done.err
    assert not hub.file_requests("model.safetensors")
    assert not Path("outputs").exists()
