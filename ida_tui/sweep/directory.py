"""Directory of a sweep, `outputs/sweeps/<id>/`; its runs have ordinary run directories.

It holds `sweep.json` (the varied keys, and the planned memory of each run), `configs/001.yaml` … (each
combination as a complete profile), `logs/001.log` … (the output of each run) and, once written, `table.json`.
A search also has `configs/000.yaml` (the profile that its values are set in) and `optuna.sqlite3` (the
study), and gets a combination for each trial. A run belongs to a sweep if its manifest says that it was
started from one of these profiles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ida_tui.errors import UsageError
from ida_tui.runs.store.json_files import read_json
from ida_tui.sweep.ranges import ValueRange, range_as_json, range_from_json
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import find_unsafe_entry, write_text
from ida_tui.util.text import one_line, quoted

SWEEPS_FOLDER = "sweeps"
SWEEP_FILE = "sweep.json"
FORMAT_VERSION = 2
"""Version 2 has searches; a sweep of version 1 is a grid."""
_CONFIG_NAME = r"[0-9]{3,4}\.yaml"


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep."""

    values: Mapping[str, str]
    """Dotted key → value as typed."""
    planned: float | None
    """Planned memory in bytes; None if unknown."""
    limit: float
    """Memory limit in bytes."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The definition of a sweep."""

    path: Path
    profile: str
    """The experiment profile as typed."""
    experiment: str
    """The experiment name of its runs."""
    keys: Mapping[str, tuple[str, ...]]
    """Varied dotted keys → their values as typed; a range counts as one value."""
    fixed: tuple[str, ...]
    """`key=value` overrides that all runs share."""
    combinations: tuple[Combination, ...]
    """All combinations of a grid; those of a search that were suggested."""
    jobs: int | None = 1
    """Maximum number of parallel runs; None for one on each GPU, or one at a time without GPUs."""
    budget: float | None = None
    """Limit for the judge costs of all runs together, in US dollars; None for no limit."""
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)
    """Dotted key → its range, for the keys of a search that have one."""
    trials: int | None = None
    """Number of runs of a search; None for a grid."""
    uses_gpus: bool = False
    """Whether every run gets a GPU to itself, if there are NVIDIA GPUs."""

    @property
    def total_runs(self) -> int:
        """The number of runs when the sweep is finished."""
        return len(self.combinations) if self.trials is None else self.trials

    @property
    def sweep_id(self) -> str:
        """The name of the sweep directory."""
        return self.path.name

    @property
    def outputs(self) -> Path:
        """The output folder, which holds a folder for each experiment."""
        return self.path.parents[1]

    @property
    def runs_folder(self) -> Path:
        """The folder that holds its runs."""
        return self.outputs / self.experiment

    @property
    def study_file(self) -> Path:
        """The file of the Optuna study."""
        return self.path / "optuna.sqlite3"

    @property
    def table_file(self) -> Path:
        """The file of the table as JSON values."""
        return self.path / "table.json"

    def config_file(self, number: int) -> Path:
        """The profile of a combination; numbers start at 0."""
        return self.path / "configs" / f"{number + 1:03}.yaml"

    @property
    def base_config_file(self) -> Path:
        """The profile that a search sets its values in."""
        return self.config_file(-1)

    def log_file(self, number: int) -> Path:
        """The log file with the output of the run."""
        return self.path / "logs" / f"{number + 1:03}.log"

    def lock_file(self, number: int) -> Path:
        """The lock file, locked by the process that trains the combination."""
        return self.path / "logs" / f".{number + 1:03}.lock"

    def failure_file(self, number: int) -> Path:
        """The file that says why the run could not start, if it could not."""
        return self.path / "logs" / f"{number + 1:03}.refused.json"

    def pruned_file(self, number: int) -> Path:
        """The file that says that the run was stopped because of its reward, if it was."""
        return self.path / "logs" / f"{number + 1:03}.pruned.json"

    def number_of(self, command: object) -> int | None:
        """The number of the combination that a run's command line names; None if it is not in this sweep."""
        for argument in command if isinstance(command, list) else ():
            parts = Path(argument).parts[-3:] if isinstance(argument, str) else ()
            if parts[:2] == (self.sweep_id, "configs") and re.fullmatch(_CONFIG_NAME, parts[2]):
                number = int(parts[2].partition(".")[0]) - 1
                return number if 0 <= number < self.total_runs else None
        return None


def create_directory(outputs: Path, started_at: datetime) -> Path:
    """Create the directory of a new sweep, named after the given time.

    Raises:
        UsageError: the directory cannot be created.
    """
    stamp = started_at.strftime("%Y%m%d-%H%M%S")
    parent = outputs / SWEEPS_FOLDER
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for path in _candidate_paths(parent, stamp):
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            (path / "configs").mkdir()
            (path / "logs").mkdir()
            return path.resolve()
        raise FileExistsError(f"{stamp} to {stamp}-999 already exist")
    except OSError as error:
        raise UsageError(
            f"could not create a sweep directory in {display_path(parent)}: {error.strerror or error}",
            "make the folder writable, or choose another folder with output_dir=PATH",
        ) from None


def _candidate_paths(parent: Path, stamp: str) -> Iterator[Path]:
    yield parent / stamp
    yield from (parent / f"{stamp}-{number}" for number in range(2, 1000))


def save(sweep: Sweep) -> None:
    """Save the definition of a sweep atomically.

    Raises:
        UsageError: the file cannot be written.
    """
    body = asdict(replace(sweep, path=Path())) | {"v": FORMAT_VERSION}
    del body["path"]
    body["ranges"] = {key: range_as_json(value) for key, value in sweep.ranges.items()}
    try:
        write_text(sweep.path / SWEEP_FILE, json.dumps(body, indent=1) + "\n")
    except OSError as error:
        where = display_path(sweep.path)
        raise UsageError(
            f"could not write to {where}: {error.strerror or error}",
            "free up disk space, or make the folder writable",
        ) from None


def read(path: Path) -> Sweep:
    """Read the sweep in a directory.

    Raises:
        UsageError: there is no sweep, it cannot be read, or it was written by a newer ida-tui.
    """
    where = display_path(path / SWEEP_FILE)
    try:
        data: Any = read_json(path / SWEEP_FILE)
        version = data["v"]
        if type(version) is int and version > FORMAT_VERSION:
            raise UsageError(
                f"{where} was written by a newer ida-tui", "update ida-tui to read this sweep"
            )
        budget = data["budget"]
        keys = {str(key): tuple(map(str, values)) for key, values in data["keys"].items()}
        return Sweep(
            path=path.resolve(),
            profile=str(data["profile"]),
            experiment=_experiment_name(data["experiment"]),
            keys=keys,
            fixed=tuple(map(str, data["fixed"])),
            combinations=tuple(_parse_combination(item, keys) for item in data["combinations"]),
            jobs=None if data["jobs"] is None else max(1, int(data["jobs"])),
            budget=None if budget is None else float(budget),
            ranges=_parse_ranges(data.get("ranges", {}), keys),
            trials=_parse_trials(data.get("trials"), len(data["combinations"])),
            uses_gpus=bool(data.get("uses_gpus", False)),
        )
    except OSError as error:
        raise UsageError(f"could not read {where}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} is not a valid sweep file: {type(error).__name__}") from None


def require_safe_files(sweep: Sweep) -> None:
    """Check that a sweep directory contains regular files and folders only, before files in it are written.

    Raises:
        UsageError: it contains a link, a pipe, a device or a text file of absurd size.
    """
    if unsafe := find_unsafe_entry(sweep.path):
        name = one_line(unsafe.name)
        raise UsageError(
            f"{name} in {display_path(sweep.path)} {unsafe.problem}",
            f"remove {name}, or replace it by a regular copy; a sweep writes to its files",
        )


def _parse_combination(data: Any, keys: Collection[str]) -> Combination:
    planned = data["planned"]
    return Combination(
        {key: str(data["values"][key]) for key in keys},
        None if planned is None else float(planned),
        float(data["limit"]),
    )


def _parse_ranges(data: Any, keys: Collection[str]) -> dict[str, ValueRange]:
    return {key: range_from_json(data[key]) for key in keys if key in data}


def _parse_trials(data: Any, existing: int) -> int | None:
    """The number of runs of a search, at least as many as it has combinations; None for a grid."""
    return None if data is None else max(int(data), existing)


def _experiment_name(name: object) -> str:
    """An experiment name that is safe to use as a folder name.

    Raises:
        ValueError: the name is not a string, or would leave its parent folder.
    """
    if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
        raise ValueError("not an experiment name")
    return name


def is_sweep(path: Path) -> bool:
    """Whether this is a sweep directory; never raises."""
    try:
        return (path / SWEEP_FILE).is_file()
    except (OSError, ValueError):
        return False


def list_directories(outputs: Path) -> list[Path]:
    """The directories of all sweeps, newest first; they are named after their start times. Never raises."""
    try:
        directories = [path for path in (outputs / SWEEPS_FOLDER).iterdir() if is_sweep(path)]
    except OSError:
        return []
    return sorted(directories, key=lambda path: path.name, reverse=True)


def find_directory(name: str, outputs: Path) -> Path | None:
    """The sweep directory with this id or path; None if there is none."""
    try:
        candidates = (Path(name).expanduser(), outputs / SWEEPS_FOLDER / name)
    except RuntimeError:
        candidates = (Path(name), outputs / SWEEPS_FOLDER / name)
    return next((path.resolve() for path in candidates if is_sweep(path)), None)


def find_sweep(name: str, outputs: Path) -> Sweep:
    """Find a sweep by path, by id or by experiment (its newest sweep); an empty name is the newest sweep.

    Raises:
        UsageError: there is no such sweep, or it cannot be read.
    """
    if name:
        path = find_directory(name, outputs)
        if path is not None:
            return read(path)
    for path in list_directories(outputs):
        sweep = read(path)
        if not name or sweep.experiment == name:
            return sweep
    raise UsageError(
        f"there is no sweep {quoted(name)}" if name else "there are no sweeps yet",
        "start one with: ida-tui sweep quickstart training.learning_rate=1e-3,2e-3 seed=0,1,2",
    )
