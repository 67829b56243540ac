"""ida-tui from Python: train a profile, or read a run.

    from ida_tui import load_run, run

    trained = run("quickstart", "training.max_steps=5", {"seed": 1})
    print(trained.status, trained.r_ida_last, trained.weights)

    earlier = load_run("quickstart")              # its newest run; a folder or a run id works too
    for step in earlier.steps:
        print(step.step, step.r_ida)

`run` is what `ida-tui --run` is: the same profiles and overrides, the same checks, the same session
(`follow`), the same run directory. It prints nothing. A run that cannot start raises an `IdaError`; one that
has started always ends in a `Run`, whose `exit_code` is the command's.
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
from ida_tui.events import types as ev
from ida_tui.events.state import Completion, RunState, fold
from ida_tui.judge.api_key import load_key
from ida_tui.runs import owner
from ida_tui.runs import resume as resumption
from ida_tui.runs.catalog.summary import RunStatus
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.lines import read_events
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.resume import Resumption
from ida_tui.runs.store import completions, evaluations
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.runs.weights import trained
from ida_tui.util.paths import shown_path

OUTPUTS = Path("outputs")
"""Where runs are looked for by name."""
FIXED = ("model.path", "model.revision", "training.method", "lora", "training.num_generations")
"""What a checkpoint was made with: another value does not fit it."""

Override = str | Mapping[str, object]
"""``"training.max_steps=5"`` as on the command line, or ``{"training.max_steps": 5}``."""


@dataclass(frozen=True)
class Run:
    """A run on the disk, as it was when it was read: live, finished, or broken off."""

    directory: Path
    """The run's folder; `docs/reading-a-run.md` says what lies in it."""
    state: RunState
    """Everything that its events tell: what the app and the printed lines show."""
    status: RunStatus
    """``done``, ``live``, ``died``, ``interrupted``, ``failed``, ``judge_unavailable``, …"""

    @property
    def name(self) -> str:
        """Experiment and run id, as every command takes it."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit status of the command that trained it; None while it has none."""
        return ExitCode(self.state.ended.exit_code) if self.state.ended else None

    @property
    def message(self) -> str:
        """How it ended, in a sentence; empty while it has not."""
        return self.state.ended.message if self.state.ended else ""

    @property
    def steps(self) -> Sequence[ev.StepFinished]:
        """The finished steps with their figures, in order."""
        return tuple(self.state.steps)

    @property
    def r_ida_first(self) -> float | None:
        """Mean reward of the first scored steps, 0 to 1; None where there are none."""
        return self.state.r_ida_first

    @property
    def r_ida_last(self) -> float | None:
        """Mean reward of the last scored steps."""
        return self.state.r_ida_last

    @cached_property
    def config(self) -> Config:
        """The resolved profile.

        Raises:
            UsageError: its ``config.yaml`` is missing or damaged.
        """
        return resolve(str(self._at.config), verify=False).config

    @property
    def weights(self) -> Path | None:
        """The trained adapter or model, or the newest whole checkpoint's; None where nothing is saved."""
        try:
            return trained(self._at, self.config).path
        except UsageError:
            return None

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest judged evaluation of both models; None where there is none."""
        return evaluations.newest(self._at)

    def completions(self, step: int | None = None) -> Iterator[Completion]:
        """The judged completions with their verdicts, read from the disk step by step.

        Args:
            step: only those of this step.

        Raises:
            UsageError: they cannot be read.
        """
        for at, found in completions.stored(self._at):
            if step in (None, at):
                yield from found

    def events(self) -> Iterator[ev.Record]:
        """Every record of the run, in order.

        Raises:
            EventError: a line is no event.
            OSError: the file cannot be read.
        """
        return read_events(self._at.events)

    def raise_if_failed(self) -> Run:
        """This run, where it is done or still goes on.

        Raises:
            IdaError: it ended otherwise; with the exit code and the hint that it ended with.
        """
        ended = self.state.ended
        if ended is not None and ended.exit_code:
            raise IdaError(ended.message, ended.hint, code=ExitCode(ended.exit_code))
        if self.status in ("died", "unreadable"):
            raise IdaError(
                f"the run {self.name} died", f"go on with it: ida-tui resume {self.name}"
            )
        return self

    @property
    def _at(self) -> RunDirectory:
        return RunDirectory(self.directory)


def run(
    profile: str | os.PathLike[str],
    *overrides: Override,
    key: str | None = None,
    on_event: Callable[[ev.Record], object] | None = None,
    resume: bool = False,
) -> Run:
    """Train a profile to its end; blocks until then.

    Args:
        profile: an experiment's name, or the path of a .yaml file. With `resume`, a run that stopped early:
            its folder, its id, or an experiment (its newest run).
        overrides: ``"key=value"`` or mappings; later ones win. In a mapping, ``model``, ``judge``, ``rubric``
            and ``prompts`` name profiles, and everything else is a value.
        key: the judge's API key; None looks for it where the command does (the environment, then ``.env``).
        on_event: takes every record as it comes, on the calling thread. If it raises, the run is stopped
            with a checkpoint first, and the exception goes on.
        resume: go on with a run instead of starting one.

    Returns:
        The run, however it ended. A judge or a memory that ran out is in its `status` and `exit_code`.

    Raises:
        IdaError: the run could not start: a wrong profile, no key, a device that is not there.
        KeyboardInterrupt: Ctrl-C; the run was stopped with a checkpoint first.
    """
    changes = [text for override in overrides for text in _typed(override)]
    found: Resumption | None = None
    if resume:
        found = resumption.resumption(resumption.find(os.fspath(profile), OUTPUTS))
        config = config_to_go_on(found.directory, changes)
    else:
        config = resolve(os.fspath(profile), changes).config
    if key is None:
        key = load_key(config.judge, dotenv_dir=Path.cwd())
    session = Session(config, key=key, argv=sys.argv, resume=found)
    take = on_event or (lambda record: None)
    try:
        state = follow(session, found.state if found else RunState(), lambda _, it: take(it))
    except BaseException:
        _stop(session)
        raise
    if state.run is not None:
        return load_run(state.run.directory)
    # It ended before its first event told where it lies: out of memory while loading, say.
    raise IdaError(
        state.ended.message if state.ended else "the run ended before it began",
        state.ended.hint if state.ended else "",
        code=ExitCode(state.ended.exit_code) if state.ended else ExitCode.FAILED,
    )


def load_run(run: str | os.PathLike[str]) -> Run:
    """Read a run, live or finished; nothing is written.

    Args:
        run: its folder, its id, or an experiment (its newest run), below ``outputs/``.

    Raises:
        UsageError: there is no such run, or its events cannot be read.
    """
    directory = resumption.find(os.fspath(run), OUTPUTS)
    try:
        state = Replay.open(directory.events).end
    except (OSError, ev.EventError) as error:
        raise UsageError(f"{shown_path(directory.path)} cannot be read: {error}") from None
    if state.ended is not None:
        status: RunStatus = state.ended.status
    else:
        status = "live" if owner.alive(directory) else "died"
    return Run(directory.path, state, status)


def follow(
    session: Session, state: RunState, show: Callable[[RunState, ev.Record], object]
) -> RunState:
    """Start a session and follow it to its end; what the command line and `run` stand on.

    Args:
        session: not started yet.
        state: what is known of the run so far.
        show: takes each record, and the state after it.

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
            show(state, record)
    session.raise_if_refused()
    return state


def config_to_go_on(directory: RunDirectory, overrides: Sequence[str]) -> Config:
    """The profile that a stopped run goes on with.

    Args:
        directory: the run.
        overrides: ``key=value`` each, over its own ``config.yaml``.

    Raises:
        UsageError: a value is wrong, or cannot change in the middle of a run.
    """
    before = resolve(str(directory.config), [], verify=False).config
    config = resolve(str(directory.config), overrides).config
    for fixed in FIXED:
        if _value(before, fixed) != _value(config, fixed):
            raise UsageError(
                f"{fixed} cannot change in the middle of a run",
                "start a new run for that: ida-tui --run PROFILE key=value ...",
                where=f"command line: {fixed}",
            )
    return config


def _stop(session: Session) -> None:
    """Have the run save a checkpoint and end; a second Ctrl-C leaves at once."""
    session.request_stop()
    while not session.finished:
        session.drain()
        session.join(0.05)


def _typed(override: Override) -> list[str]:
    """An override as it would be typed."""
    if isinstance(override, str):
        return [override]
    return [f"{key}={_text(key, value)}" for key, value in _leaves(override)]


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values: ``{"training": {"beta": 0}}`` is ``training.beta``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(key: str, value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and (key in SECTIONS or key == "experiment"):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} is {value}, which is no finite number", where=f"run(): {key}")
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UsageError(
            f"{key} is of type {type(value).__name__}, which is no value of a profile",
            "values are strings, numbers, booleans, None, lists and mappings of these",
            where=f"run(): {key}",
        ) from None


def _value(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config
