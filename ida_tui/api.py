"""Python interface of ida-tui: train a profile, or read a run.

    from ida_tui import load_run, run

    trained = run("quickstart", "training.max_steps=5", {"seed": 1})
    print(trained.status, trained.r_ida_last, trained.weights)

    earlier = load_run("quickstart")              # the newest run; a run directory or a run id works too
    for step in earlier.steps:
        print(step.step, step.r_ida)

`run` does what `ida-tui --run` does: same profiles and overrides, same checks, same session (`follow`), same
run directory. It prints nothing. A run that cannot start raises an `IdaError`. A run that has started always
returns a `Run`, and its `exit_code` is the exit code of the command.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ida_tui.config.profiles import SECTIONS
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import Completion, RunState, fold
from ida_tui.judge.api_key import load_api_key
from ida_tui.runs import owner
from ida_tui.runs import resume as resumption
from ida_tui.runs.catalog.summary import RunStatus
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.resume import ResumePoint
from ida_tui.runs.store import completions, evaluations
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.runs.weights import find_weights
from ida_tui.util.paths import display_path

OUTPUTS_FOLDER = Path("outputs")
"""Folder in which runs are searched by name."""
FIXED_ON_RESUME = (
    "model.path",
    "model.revision",
    "training.method",
    "lora",
    "training.num_generations",
)
"""Keys that must not change when a run is resumed: its checkpoints depend on them."""

Override = str | Mapping[str, object]
"""``"training.max_steps=5"`` as on the command line, or ``{"training.max_steps": 5}``."""


@dataclass(frozen=True)
class Run:
    """A run on disk, as it was when it was read: live, finished or interrupted."""

    directory: Path
    """The run directory; `docs/reading-a-run.md` describes its files."""
    state: RunState
    """The state after its last event: everything that the app and the printed lines show."""
    status: RunStatus
    """``done``, ``live``, ``died``, ``interrupted``, ``failed``, ``judge_unavailable``, …"""

    @property
    def name(self) -> str:
        """Experiment and run id, in the form that every command accepts."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code of the command that trained it; None if it has not ended."""
        return ExitCode(self.state.ended.exit_code) if self.state.ended else None

    @property
    def message(self) -> str:
        """How it ended, in one sentence; empty if it has not ended."""
        return self.state.ended.message if self.state.ended else ""

    @property
    def steps(self) -> Sequence[ev.StepFinished]:
        """The finished steps in order, with their metrics."""
        return tuple(self.state.steps)

    @property
    def r_ida_first(self) -> float | None:
        """Mean reward of the first scored steps, from 0 to 1; None if no step was scored."""
        return self.state.r_ida_first

    @property
    def r_ida_last(self) -> float | None:
        """Mean reward of the last scored steps, from 0 to 1; None if no step was scored."""
        return self.state.r_ida_last

    @cached_property
    def config(self) -> Config:
        """The resolved profile.

        Raises:
            UsageError: its ``config.yaml`` is missing or damaged.
        """
        return resolve(str(self._run_directory.config), verify=False).config

    @property
    def weights(self) -> Path | None:
        """Path of the trained weights, else of the newest complete checkpoint; None if there is neither."""
        try:
            return find_weights(self._run_directory, self.config).path
        except UsageError:
            return None

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest judged evaluation of both models; None if there is none."""
        return evaluations.newest_evaluation(self._run_directory)

    def completions(self, step: int | None = None) -> Iterator[Completion]:
        """The judged completions with their verdicts, read from disk step by step.

        Args:
            step: return only the completions of this step.

        Raises:
            UsageError: the completions cannot be read.
        """
        for completed_step, step_completions in completions.read_completions(self._run_directory):
            if step in (None, completed_step):
                yield from step_completions

    def events(self) -> Iterator[ev.Record]:
        """Every record of the run, in order.

        Raises:
            EventError: a line is not an event.
            OSError: the file cannot be read.
        """
        return read_events(self._run_directory.events)

    def raise_if_failed(self) -> Run:
        """Return this run if it is done or still running.

        Raises:
            IdaError: the run failed or died; has the run's own exit code and hint.
        """
        ended = self.state.ended
        if ended is not None and ended.exit_code:
            raise IdaError(ended.message, ended.hint, code=ExitCode(ended.exit_code))
        if self.status in ("died", "unreadable"):
            raise IdaError(f"the run {self.name} died", f"resume with: ida-tui resume {self.name}")
        return self

    @property
    def _run_directory(self) -> RunDirectory:
        return RunDirectory(self.directory)


def run(
    profile: str | os.PathLike[str],
    *overrides: Override,
    key: str | None = None,
    on_event: Callable[[ev.Record], object] | None = None,
    resume: bool = False,
) -> Run:
    """Train a profile; blocks until the run has ended.

    Args:
        profile: an experiment's name, or the path of a .yaml file. With `resume`, a run that stopped early:
            its run directory, its id, or an experiment (its newest run).
        overrides: ``"key=value"`` strings or mappings; later ones win. In a mapping, ``model``, ``judge``,
            ``rubric`` and ``prompts`` name profiles, and everything else is a value.
        key: the judge's API key; None reads it from the environment or ``.env``, as the command does.
        on_event: called with every record, on the calling thread. If it raises, the run first stops and saves
            a checkpoint; then the exception propagates.
        resume: resume a run instead of starting one.

    Returns:
        The run, however it ended. Its `status` and `exit_code` say if the judge failed or memory ran out.

    Raises:
        IdaError: the run could not start, such as for a wrong profile, a missing API key or a missing device.
        KeyboardInterrupt: Ctrl-C; the run first stopped and saved a checkpoint.
    """
    changes = [text for override in overrides for text in _override_strings(override)]
    resume_point: ResumePoint | None = None
    if resume:
        resume_point = resumption.find_resume_point(
            resumption.find_run(os.fspath(profile), OUTPUTS_FOLDER)
        )
        config = config_for_resume(resume_point.directory, changes)
    else:
        config = resolve(os.fspath(profile), changes).config
    if key is None:
        key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    session = Session(config, key=key, argv=sys.argv, resume=resume_point)
    notify = on_event or (lambda record: None)
    try:
        state = run_session(
            session,
            resume_point.state if resume_point else RunState(),
            lambda _, record: notify(record),
        )
    except BaseException:
        _stop_session(session)
        raise
    if state.run is not None:
        return load_run(state.run.directory)
    # It ended before its first event named the run directory, such as out of memory while loading.
    raise IdaError(
        state.ended.message if state.ended else "the run ended before it started",
        state.ended.hint if state.ended else "",
        code=ExitCode(state.ended.exit_code) if state.ended else ExitCode.FAILED,
    )


def load_run(run: str | os.PathLike[str]) -> Run:
    """Read a run, live or finished, without writing anything.

    Args:
        run: its run directory, its id, or an experiment (its newest run), below ``outputs/``.

    Raises:
        UsageError: there is no such run, or its events cannot be read.
    """
    directory = resumption.find_run(os.fspath(run), OUTPUTS_FOLDER)
    try:
        state = Replay.open(directory.events).final_state
    except (OSError, codec.EventError) as error:
        raise UsageError(f"{display_path(directory.path)} cannot be read: {error}") from None
    if state.ended is not None:
        status: RunStatus = state.ended.status
    else:
        status = "live" if owner.is_alive(directory) else "died"
    return Run(directory.path, state, status)


def run_session(
    session: Session, state: RunState, on_record: Callable[[RunState, ev.Record], object]
) -> RunState:
    """Start a session and follow it to its end; used by the command line and by `run`.

    Args:
        session: a session that has not started.
        state: the state of the run so far.
        show: called with each new state and the record that led to it.

    Returns:
        The state after the last record.

    Raises:
        IdaError: the run could not start.
    """
    session.start()
    while not session.finished:
        record = session.next_record(timeout=0.1)
        if record is not None:
            state = fold(state, record)
            on_record(state, record)
    session.raise_start_error()
    return state


def config_for_resume(directory: RunDirectory, overrides: Sequence[str]) -> Config:
    """The config with which a stopped run resumes.

    Args:
        directory: the run.
        overrides: ``key=value`` strings, applied to the run's own ``config.yaml``.

    Raises:
        UsageError: a value is wrong, or cannot change when a run is resumed.
    """
    original = resolve(str(directory.config), [], verify=False).config
    config = resolve(str(directory.config), overrides).config
    for key in FIXED_ON_RESUME:
        if _get_value(original, key) != _get_value(config, key):
            raise UsageError(
                f"{key} cannot change when a run is resumed",
                "start a new run instead: ida-tui --run PROFILE key=value …",
                where=f"command line: {key}",
            )
    return config


def _stop_session(session: Session) -> None:
    """Make the run save a checkpoint and end; a second Ctrl-C exits immediately."""
    session.request_stop()
    while not session.finished:
        session.drain()
        session.join(0.05)


def _override_strings(override: Override) -> list[str]:
    """An override as ``key=value`` strings."""
    if isinstance(override, str):
        return [override]
    return [f"{key}={_yaml_text(key, value)}" for key, value in _flatten(override)]


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values: ``{"training": {"beta": 0}}`` is ``training.beta``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _yaml_text(key: str, value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and (key in SECTIONS or key == "experiment"):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} is {value}, which is not a finite number", where=f"run(): {key}")
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UsageError(
            f"{key} has type {type(value).__name__}, which a profile cannot hold",
            "use strings, numbers, booleans, None, and lists and mappings of these",
            where=f"run(): {key}",
        ) from None


def _get_value(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config
