"""Python interface of ida-tui: train a profile, or read a run.

    from ida_tui import load_run, run

    trained = run("quickstart", "training.max_steps=5", {"seed": 1})
    print(trained.status, trained.reward_last, trained.weights)

    earlier = load_run("quickstart")              # the newest run; a run directory or a run id works too
    for step in earlier.steps:
        print(step.step, step.reward)

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
from pathlib import Path

from ida_tui.config.profiles import SECTIONS
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config, JudgeKey
from ida_tui.config.trust import consent
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold
from ida_tui.judge.api_key import load_api_key
from ida_tui.runs.catalog.lookup import find_run
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.resume import ResumePoint, find_resume_point
from ida_tui.runs.run import Run
from ida_tui.runs.store import manifest

__all__ = ["Run", "load_run", "run"]

OUTPUTS_FOLDER = Path("outputs")
"""Folder in which runs are searched by name."""
FIXED_ON_RESUME = (
    "model.path",
    "model.revision",
    "model.quantization",
    "training.method",
    "lora",
    "training.num_generations",
)
"""Keys that must not change when a run is resumed: its checkpoints depend on them."""

Override = str | Mapping[str, object]
"""`"training.max_steps=5"` as on the command line, or `{"training.max_steps": 5}`."""


def run(
    profile: str | os.PathLike[str],
    *overrides: Override,
    rewards: str | os.PathLike[str] | Callable[..., object] | None = None,
    key: JudgeKey = None,
    on_event: Callable[[ev.Record], object] | None = None,
    resume: bool = False,
) -> Run:
    """Train a profile; blocks until the run has ended.

    Args:
        profile: an experiment's name, or the path of a .yaml file. With `resume`, a run that stopped early:
            its run directory, its id, or an experiment (its newest run).
        overrides: `"key=value"` strings or mappings; later ones win. In a mapping, `model`, `judge`,
            `rubric` and `prompts` name profiles, and everything else is a value.
        rewards: reward functions instead of the profile's rubric: a Python file (each function is an axis),
            some of its functions as `"FILE.py:NAME,NAME"`, or a function that a file other than the running
            script defines.
        key: the judge's API key; None reads it from the environment or `.env`, as the command does. For a
            panel, a tuple with the key of each judge, or None.
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
    if rewards is not None:
        changes.append(f"rubric={_reward_reference(rewards)}")
    resume_point: ResumePoint | None = None
    if resume:
        resume_point = find_resume_point(find_run(os.fspath(profile), OUTPUTS_FOLDER))
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
        run: its run directory, its id, or an experiment (its newest run), below `outputs/`.

    Raises:
        UsageError: there is no such run, or its events cannot be read.
    """
    return Run.load(find_run(os.fspath(run), OUTPUTS_FOLDER))


def run_session(
    session: Session, state: RunState, on_record: Callable[[RunState, ev.Record], object]
) -> RunState:
    """Start a session and follow it to its end; used by the command line and by `run`.

    Args:
        session: a session that has not started.
        state: the state of the run so far.
        on_record: called with each new state and the record that led to it.

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
        overrides: `key=value` strings, applied to the run's own `config.yaml`.

    Raises:
        UsageError: a value is wrong, or cannot change when a run is resumed.
        ConsentRequired: the run asks for something that the person has not agreed to.
    """
    original = resolve(str(directory.config), [], verify=False).config
    config = resolve(
        str(directory.config), overrides, uses=consent.RESUME_USES, data="download"
    ).config
    for key in FIXED_ON_RESUME:
        if _get_value(original, key) != _get_value(config, key):
            raise UsageError(
                f"{key} cannot change when a run is resumed",
                "start a new run instead: ida-tui --run PROFILE key=value …",
                where=f"command line: {key}",
            )
    return config


def data_has_changed(directory: RunDirectory, config: Config) -> bool:
    """Whether a run resumes with other contents of the same data files."""
    before, after = resolve(str(directory.config), [], verify=False).config.prompts, config.prompts
    same_source = (
        before.source is not None
        and before.trained_on() == after.model_copy(update={"digest": before.digest}).trained_on()
    )
    return same_source and before.digest != after.digest


def model_has_changed(directory: RunDirectory, config: Config) -> bool:
    """Whether a run resumes with another GGUF file than the one it started with."""
    before = manifest.read(directory.manifest).get("model_file")
    now = manifest.model_file(config).get("model_file")
    if not isinstance(before, dict) or not isinstance(now, dict):
        return False
    return before.get("fingerprint") != now.get("fingerprint")


def _stop_session(session: Session) -> None:
    """Make the run save a checkpoint and end; a second Ctrl-C exits immediately."""
    session.request_stop()
    while not session.finished:
        session.drain()
        session.join(0.05)


def _reward_reference(rewards: str | os.PathLike[str] | Callable[..., object]) -> str:
    """Reward functions as the value of `rubric`.

    Raises:
        UsageError: a function is not defined at the top level of an imported file.
    """
    if not callable(rewards):
        return os.fspath(rewards)
    name = getattr(rewards, "__qualname__", "")
    module = sys.modules.get(getattr(rewards, "__module__", ""))
    file = getattr(module, "__file__", None)
    if not name.isidentifier() or file is None or module is sys.modules["__main__"]:
        # A run and its resumption import the file again, which would start the script again.
        raise UsageError(
            f"the reward function {name or type(rewards).__name__} is not in a file of its own",
            "move it to a file, such as rewards.py, and import it from there",
            where="run(): rewards",
        )
    return f"{file}:{name}"


def _override_strings(override: Override) -> list[str]:
    """An override as `key=value` strings."""
    if isinstance(override, str):
        return [override]
    return [f"{key}={_yaml_text(key, value)}" for key, value in _flatten(override)]


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values: `{"training": {"beta": 0}}` is `training.beta`."""
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
