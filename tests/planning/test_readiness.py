"""What a check says about a model in a GGUF file before it is unpacked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.planning import memory, readiness
from ida_tui.planning.preview import preview_rows
from tests.support.gguf_files import write_gguf


def test_a_check_shows_the_packed_and_the_unpacked_size_and_unpacks_nothing(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", quantization="Q8_0")
    config = resolve("quickstart", [f"model={file}", "device=cpu"]).config

    weights = dict(preview_rows(config))["weights"]
    assert "tiny.gguf, Q8_0, 1.0 MB" in weights
    assert "to be unpacked once to 3.5 MB in float32" in weights
    embedded = resolve("quickstart", ["device=cpu"]).config
    planned, expected = (memory.plan(c, "cpu") for c in (config, embedded))
    assert planned == expected
    assert not (tmp_path / "cache/models").exists()


def test_a_check_refuses_a_model_that_does_not_fit_on_the_disk_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", quantization="Q8_0")
    config = resolve("quickstart", [f"model={file}", "device=cpu"]).config
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e6))

    errors = [
        f
        for f in readiness.check_readiness(config, folder=tmp_path)
        if (f.severity, f.about) == ("error", "disk")
    ]
    assert "the unpacked model needs" in errors[0].text
    assert "IDA_TUI_CACHE_DIR" in errors[0].fix
