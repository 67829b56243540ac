"""Check that all machines of a run see the same run directory.

Every process reads its checkpoints there. With a folder of its own on each machine, a run would train and
then fail to resume.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from ida_tui.engine.distributed.process_group import PeerLostError, ProcessGroup
from ida_tui.errors import UsageError

READ_WAIT_S = 5.0
"""How long a network file system may take to show a new file to another machine."""


def require_shared_folder(group: ProcessGroup, folder: Path | None = None) -> None:
    """Check that the first process of every machine reads a file that rank 0 writes. Collective.

    Does nothing if all processes run on one machine.

    Args:
        group: the processes of the run.
        folder: the folder, on rank 0; the other ranks get it from there.

    Raises:
        UsageError: on rank 0: a machine does not see the file, or rank 0 cannot write it.
        PeerLostError: on the other ranks: rank 0 has raised that error.
    """
    if group.process.local_world_size == group.world_size:
        return
    file, token, failure = Path(), secrets.token_hex(16), ""
    if group.is_rank_zero:
        assert folder is not None
        file = folder / f".shared-{token}"
        failure = _write(file, token)
    shown, token, failure = group.broadcast((str(file), token, failure))
    problem = ""
    if not failure and not group.is_rank_zero and not group.process.local_rank:
        problem = _reading_problem(Path(shown), token)
    here = f"{socket.gethostname()} (rank {group.rank}, in {os.getcwd()}): {problem}"  # noqa: PTH109
    problems = [found for found in group.all_gather(here if problem else "") if found]
    if group.is_rank_zero:
        with suppress(OSError):
            file.unlink()
            if problems:
                file.parent.rmdir()  # only if it is empty, such as after a first run
    if not failure and not problems:
        return
    if not group.is_rank_zero:
        raise PeerLostError("the run does not start")
    if failure:
        raise UsageError(
            f"cannot write to {folder}: {failure}", "choose another folder with output_dir=PATH"
        )
    raise UsageError(
        f"{folder} of rank 0 is not seen by {len(problems)} of the other machines: {'; '.join(problems)}",
        "all machines need the same run directory: start in the same folder of a shared file system, or"
        " set output_dir=PATH to a folder there",
        where="output_dir",
    )


def _write(file: Path, token: str) -> str:
    """Write the file; returns why it could not be written, or an empty string."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _reading_problem(file: Path, token: str) -> str:
    """Why this process does not see the file; empty if it does."""
    deadline = time.monotonic() + READ_WAIT_S
    while True:
        try:
            if file.read_text() == token:
                return ""
            problem = "another file of this name is there"
        except OSError as error:
            problem = error.strerror or str(error)
        if time.monotonic() >= deadline:
            return problem
        time.sleep(0.1)
