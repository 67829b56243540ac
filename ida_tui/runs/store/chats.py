"""What was asked in a chat, kept with its run: a prompts profile, for ``prompts=FILE`` of the next run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import yaml

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Kind, Prompt
from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory

FOLDER = "chats"


def save(directory: RunDirectory, asked: Sequence[tuple[str, Kind]], moment: datetime) -> Path:
    """Write the messages, each text once, as prompts to train on; returns the file.

    The run's held-out prompts are in it too, so that the next run is evaluated on what this one was.

    Args:
        directory: the run that was talked to.
        asked: what the person said, and whether it should be served.
        moment: now, which names the file.

    Raises:
        OSError: the disk refused it.
    """
    kinds = dict(asked)  # of a message that was said twice, what was last said of it
    prompts = [
        {"id": f"chat-{number}", "kind": kind, "split": "train", "text": text}
        for number, (text, kind) in enumerate(kinds.items(), start=1)
    ]
    prompts += [
        {"id": one.id, "kind": one.kind, "split": one.split, "text": one.text}
        for one in _held_out(directory)
        if one.text not in kinds
    ]
    body = {
        "description": f"Asked in a chat with {directory.run_id}",
        "version": 1,
        "prompts": prompts,
    }
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=100)
    folder = directory.path / FOLDER
    folder.mkdir(exist_ok=True)
    stamp = moment.astimezone().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        file = folder / (f"{stamp}.yaml" if number == 1 else f"{stamp}-{number}.yaml")
        with contextlib.suppress(FileExistsError), open(file, "x", encoding="utf-8") as out:
            out.write(text)
            return file
    raise FileExistsError(f"a thousand chats named {stamp}")


def _held_out(directory: RunDirectory) -> list[Prompt]:
    try:
        return resolve(str(directory.config), [], verify=False).config.prompts.held_out()
    except UsageError:
        return []  # its profile cannot be read any more
