"""Chat messages saved as a prompts profile in the run directory, so that a later run can train on them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import yaml

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import PromptKind, PromptSet
from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.safe_files import make_directory

FOLDER = "chats"
MAX_HELD_OUT = 1000
"""Maximum held-out prompts in a saved chat."""


def save_chat(
    directory: RunDirectory, messages: Sequence[tuple[str, PromptKind]], created_at: datetime
) -> Path:
    """Write the messages as training prompts, without duplicates; returns the file.

    The file also contains the held-out prompts and the system prompt of the run, so that the next run has the
    same evaluation.

    Args:
        directory: the run whose model answered.
        messages: the user's messages and their kinds.
        created_at: the current time, which names the file.

    Raises:
        OSError: the write failed.
    """
    kinds = dict(messages)  # the last kind of a repeated message counts
    prompts: list[dict[str, object]] = [
        {"id": f"chat-{number}", "kind": kind, "split": "train", "text": text}
        for number, (text, kind) in enumerate(kinds.items(), start=1)
    ]
    run_prompts = _prompts_of_run(directory)
    prompts += [
        prompt.model_dump()
        for prompt in run_prompts.held_out()[:MAX_HELD_OUT]
        if prompt.text not in kinds
    ]
    body: dict[str, object] = {
        "description": f"Messages of a chat with {directory.run_id}",
        "version": 1,
    }
    if run_prompts.system is not None:
        body["system"] = run_prompts.system
    body["prompts"] = prompts
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=100)
    folder = directory.path / FOLDER
    make_directory(folder)
    stamp = created_at.astimezone().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        file = folder / (f"{stamp}.yaml" if number == 1 else f"{stamp}-{number}.yaml")
        with contextlib.suppress(FileExistsError), open(file, "x", encoding="utf-8") as out:
            out.write(text)
            return file
    raise FileExistsError(f"there is already a file for every chat name of {stamp}")


def _prompts_of_run(directory: RunDirectory) -> PromptSet:
    try:
        return resolve(str(directory.config), [], verify=False).config.prompts
    except UsageError:
        return PromptSet(prompts=[])  # the profile of the run is no longer valid
