"""What is set up before torch is imported, and what is left to the user."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from ida_tui.engine import libraries
from ida_tui.system.allocator import keep_freed_memory


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets up here is gone after it."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.5")
    monkeypatch.delenv("PYTORCH_MPS_LOW_WATERMARK_RATIO", raising=False)

    libraries.set_library_defaults(None)

    assert os.environ["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] == "0.5"
    assert os.environ["PYTORCH_MPS_LOW_WATERMARK_RATIO"] == "0.9"


@pytest.mark.parametrize(("folder", "offline"), [(Path("/models/x"), "1"), (None, None)])
def test_a_model_on_this_machine_asks_no_hub(
    folder: Path | None, offline: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    libraries.set_library_defaults(folder)

    assert os.environ.get("HF_HUB_OFFLINE") == offline


def test_glibc_is_told_to_keep_freed_memory_and_other_libraries_are_left_alone() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
