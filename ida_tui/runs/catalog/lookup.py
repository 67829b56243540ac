"""Lookup of runs by name."""

from __future__ import annotations

import re
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import display_path


def find_run(name: str, output_dir: Path) -> RunDirectory:
    """Look up a run by path, `experiment/run-id`, run id, or experiment (which means its newest run).

    Raises:
        UsageError: no run has this name, or several do.
    """
    for path in (Path(name).expanduser(), output_dir / name):
        if (path / "events.jsonl").is_file():
            return RunDirectory(path.resolve())
        if (path / "latest" / "events.jsonl").is_file():
            latest = (path / "latest").resolve()
            if latest.parent != path.resolve():
                raise UsageError(
                    f"{display_path(path)}/latest links to a folder outside of it: {latest}",
                    "specify the run directory itself",
                )
            return RunDirectory(latest)
    matching = sorted(output_dir.glob(f"*/{_escape_glob(name)}/events.jsonl"))
    if len(matching) == 1:
        return RunDirectory(matching[0].parent.resolve())
    if matching:
        candidates = " or ".join(display_path(path.parent) for path in matching[:3])
        raise UsageError(f"several runs are named {name}", f"specify its directory: {candidates}")
    raise UsageError(
        f"there is no run named {name}",
        f"specify its directory, such as {display_path(output_dir)}/quickstart/latest;\n"
        "list all runs with: ida-tui runs",
    )


def newest_run(output_dir: Path) -> RunDirectory:
    """The most recently started run of all experiments.

    Raises:
        UsageError: there is no run.
    """
    runs = [
        path.parent
        for path in output_dir.glob("*/*/events.jsonl")
        if path.parent.name != "latest" and not path.parent.is_symlink()
    ]
    if not runs:
        raise UsageError(
            f"there is no run in {display_path(output_dir)}",
            "start a run: ida-tui --run quickstart",
        )
    # Run directories are named by their start time.
    return RunDirectory(max(runs, key=lambda path: path.name).resolve())


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
