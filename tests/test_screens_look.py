"""What every screen looks like, at both sizes, over a recorded run and with the clock standing still.

After a change that was meant: `uv run pytest tests/test_screens_look.py --snapshot-update`, then look at the
pictures in `tests/__snapshots__` before committing them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from typing import Any

import pytest
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from screenshots.make import SCENES

SIZES = {"wide": (120, 40), "small": (80, 24)}


class Svg(SingleFileSnapshotExtension):
    """One picture a file."""

    _file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", [*SCENES, "nothing-yet", "too-small", "error", "question"])
def test_a_screen_looks_as_it_did(
    scene: str, size: str, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(500e9, 400e9, 100e9))

    assert asyncio.run(_picture(scene, SIZES[size])) == snapshot(extension_class=Svg)


async def _picture(scene: str, size: tuple[int, int]) -> str:
    return ""
