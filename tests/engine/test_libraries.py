"""Library defaults that are set before torch is imported; settings of the user win."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import types
from pathlib import Path

import pytest

from ida_tui.engine import libraries
from ida_tui.system.allocator import keep_freed_memory


@pytest.fixture(autouse=True)
def restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the environment after each test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_environment_variables_set_by_the_user_are_not_overridden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.5")

    libraries.set_library_defaults(None)

    assert os.environ["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] == "0.5"


@pytest.mark.parametrize(("policy", "spin"), [(None, "2000"), ("active", None)])
def test_threads_spin_for_a_bounded_time_unless_the_user_has_chosen_how_they_wait(
    policy: str | None, spin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ((libraries.WAIT_POLICY, policy), ("GOMP_SPINCOUNT", None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    libraries.set_library_defaults(None)

    assert os.environ.get("GOMP_SPINCOUNT") == spin
    assert os.environ.get(libraries.WAIT_POLICY) == policy


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (None, None, ("1.0", "0.9")),
        ("0.7", None, ("0.7", "0.7")),
        ("1.4", None, ("1.4", "0.9")),
        ("0.0", None, ("0.0", "0.9")),  # no limit
        (None, "1.2", ("1.2", "1.2")),
        ("0.8", "0.5", ("0.8", "0.5")),
        ("much", None, ("much", "0.9")),
    ],
)
def test_the_low_limit_of_metals_allocator_is_never_above_the_high_one(
    high: str | None, low: str | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {libraries.METAL_HIGH: high, libraries.METAL_LOW: low}
    for name, value in given.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    libraries.set_library_defaults(None)

    assert tuple(os.environ[name] for name in given) == expected


@pytest.mark.parametrize(("folder", "offline"), [(Path("/models/x"), "1"), (None, None)])
def test_a_local_model_turns_the_hub_off(
    folder: Path | None, offline: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    libraries.set_library_defaults(folder)

    assert os.environ.get("HF_HUB_OFFLINE") == offline


def test_freed_memory_is_retained_only_with_glibc() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_the_libraries_do_not_find_the_packages_that_log_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported = types.ModuleType("trackio")
    monkeypatch.setitem(sys.modules, "trackio", imported)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with libraries.without_loggers():
        assert importlib.util.find_spec("wandb") is None
        assert sys.modules["trackio"] is imported, "a package that is in use stays"
    assert "wandb" not in sys.modules
    assert sys.modules["trackio"] is imported
