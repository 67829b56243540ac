"""A sweep's own folder: ``outputs/sweeps/<id>/``. Its runs lie where all runs lie.

It holds ``sweep.json`` (what is varied, and what each run is planned to take), ``configs/001.yaml`` … (each
combination as a profile that runs as it is), ``optuna.sqlite3`` (the study), ``logs/001.log`` … (what each
run printed), and ``table.json`` once there is one. A run belongs to a sweep because its manifest says that it
was started from one of these profiles.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ida_tui.errors import UsageError
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.paths import shown_path
from ida_tui.util.text import quoted

FOLDER = "sweeps"
FILE = "sweep.json"
VERSION = 1
_CONFIG = r"[0-9]{3,4}\.yaml"


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep."""

    values: Mapping[str, str]
    """Dotted key → its value as typed."""
    planned: float | None
    """Memory that is planned for it, in bytes; None where that is not known."""
    limit: float
    """Memory to stay under, in bytes."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep is made of."""

    path: Path
    profile: str
    """As it was named."""
    experiment: str
    """The name that its runs go by."""
    keys: Mapping[str, tuple[str, ...]]
    """What is varied."""
    fixed: tuple[str, ...]
    """``key=value`` that all runs share."""
    combinations: tuple[Combination, ...]
    jobs: int = 1
    """Runs at once, at most."""
    budget: float | None = None
    """US dollars that the judges of all runs may cost together; None is no limit."""

    @property
    def sweep_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def outputs(self) -> Path:
        """The folder that holds the experiments' folders."""
        return self.path.parents[1]

    @property
    def runs(self) -> Path:
        """The folder that its runs are made in."""
        return self.outputs / self.experiment

    @property
    def study(self) -> Path:
        """Optuna's study."""
        return self.path / "optuna.sqlite3"

    @property
    def table(self) -> Path:
        """The table, as plain values."""
        return self.path / "table.json"

    def config(self, number: int) -> Path:
        """The profile of a combination, by its number from 0."""
        return self.path / "configs" / f"{number + 1:03}.yaml"

    def log(self, number: int) -> Path:
        """What its run printed."""
        return self.path / "logs" / f"{number + 1:03}.log"

    def lock(self, number: int) -> Path:
        """Locked by the process that runs it."""
        return self.path / "logs" / f".{number + 1:03}.lock"

    def refusal(self, number: int) -> Path:
        """Why its run could not begin, where it could not."""
        return self.path / "logs" / f"{number + 1:03}.refused.json"

    def number_of(self, command: object) -> int | None:
        """The combination that a run's command line names; None where it names none of this sweep's."""
        for word in command if isinstance(command, list) else ():
            parts = Path(word).parts[-3:] if isinstance(word, str) else ()
            if parts[:2] == (self.sweep_id, "configs") and re.fullmatch(_CONFIG, parts[2]):
                number = int(parts[2].partition(".")[0]) - 1
                return number if 0 <= number < len(self.combinations) else None
        return None


def create(outputs: Path, moment: datetime) -> Path:
    """Make a new sweep's folder, named by its moment; never one that exists.

    Raises:
        UsageError: it cannot be made.
    """
    stamp = moment.strftime("%Y%m%d-%H%M%S")
    parent = outputs / FOLDER
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for path in _names(parent, stamp):
            try:
                path.mkdir()
            except FileExistsError:
                continue
            (path / "configs").mkdir()
            (path / "logs").mkdir()
            return path.resolve()
        raise FileExistsError(f"a thousand sweeps named {stamp}")
    except OSError as error:
        raise UsageError(
            f"cannot make a sweep's folder in {shown_path(parent)}: {error.strerror or error}",
            "make the folder writable, or choose another with output_dir=PATH",
        ) from None


def _names(parent: Path, stamp: str) -> Iterator[Path]:
    yield parent / stamp
    yield from (parent / f"{stamp}-{number}" for number in range(2, 1000))


def keep(sweep: Sweep) -> None:
    """Write down what a sweep is made of, in one step.

    Raises:
        UsageError: the disk refused it.
    """
    body = asdict(replace(sweep, path=Path())) | {"v": VERSION}
    del body["path"]
    beside = sweep.path / f".{FILE}-{os.getpid()}"
    try:
        beside.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        beside.replace(sweep.path / FILE)
    except OSError as error:
        where = shown_path(sweep.path)
        raise UsageError(f"{where} cannot be written to: {error.strerror or error}") from None


def read(path: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        UsageError: there is none, it cannot be read, or a newer ida-tui made it.
    """
    where = shown_path(path / FILE)
    try:
        found: Any = read_json(path / FILE)
        version = found["v"]
        if type(version) is int and version > VERSION:
            raise UsageError(f"{where} was written by a newer ida-tui", "update ida-tui")
        budget = found["budget"]
        keys = {str(key): tuple(map(str, values)) for key, values in found["keys"].items()}
        return Sweep(
            path=path.resolve(),
            profile=str(found["profile"]),
            experiment=_name(found["experiment"]),
            keys=keys,
            fixed=tuple(map(str, found["fixed"])),
            combinations=tuple(_combination(one, keys) for one in found["combinations"]),
            jobs=max(1, int(found["jobs"])),
            budget=None if budget is None else float(budget),
        )
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} is no sweep's: {type(error).__name__}") from None


def _combination(found: Any, keys: Collection[str]) -> Combination:
    planned = found["planned"]
    return Combination(
        {key: str(found["values"][key]) for key in keys},
        None if planned is None else float(planned),
        float(found["limit"]),
    )


def _name(found: object) -> str:
    """An experiment's name is a folder below another, never a way out of it."""
    if not isinstance(found, str) or not found or "/" in found or found in (".", ".."):
        raise ValueError("no name of an experiment")
    return found


def is_sweep(path: Path) -> bool:
    """Whether this is a sweep's folder; never raises."""
    try:
        return (path / FILE).is_file()
    except (OSError, ValueError):
        return False


def listed(outputs: Path) -> list[Path]:
    """The folders of all sweeps, newest first; their names are their moments. Never raises."""
    try:
        found = [path for path in (outputs / FOLDER).iterdir() if is_sweep(path)]
    except OSError:
        return []
    return sorted(found, key=lambda path: path.name, reverse=True)


def known(name: str, outputs: Path) -> Path | None:
    """The folder of the sweep of this name or path; None where there is none."""
    try:
        places = (Path(name).expanduser(), outputs / FOLDER / name)
    except RuntimeError:
        places = (Path(name), outputs / FOLDER / name)
    return next((path.resolve() for path in places if is_sweep(path)), None)


def find(name: str, outputs: Path) -> Sweep:
    """The sweep that a person means: a path, an id, an experiment's newest; empty is the newest of all.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if name:
        path = known(name, outputs)
        if path is not None:
            return read(path)
    for path in listed(outputs):
        sweep = read(path)
        if not name or sweep.experiment == name:
            return sweep
    raise UsageError(
        f"there is no sweep {quoted(name)}" if name else "there is no sweep here yet",
        "start one: ida-tui sweep quickstart training.learning_rate=1e-3,2e-3 seed=0,1,2",
    )
